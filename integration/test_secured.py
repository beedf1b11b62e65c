"""A flow over SASL_SSL on both sides keeps every promise; what is not in order ends before anything is written."""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from .certificates import Authority
from .cluster import Cluster
from .process import Background, Eomirror, Finished
from .promise import SMALL, Load, Loading, assert_promise, catch_up, contents, log_events, wait_until
from .secured import PASSWORD, USER, Secured, launch

Topics = dict[str, int]
STARTS = 5
LISTENER_HINT = "See that this is the port of a SASL_SSL listener"
# A host that is written as a name: the certificate names it too, and the broker advertises the address.
BY_NAME = ("127.0.0.1", "localhost")


@pytest.fixture(scope="module")
def pair(work_folder: Path) -> Iterator[tuple[Secured, Secured]]:
    """Source and target, each with a CA of its own."""
    # A process that takes tests of this file from another one after it has left the file makes them once more.
    folder = Path(tempfile.mkdtemp(prefix="secured-", dir=work_folder))
    launched: list[Secured] = []
    try:
        for name in ("source", "target"):
            launched.append(launch(name, folder / name, Authority(folder / f"{name}-ca")))
        for one in launched:
            one.cluster.wait_ready()
        yield launched[0], launched[1]
    finally:
        for one in launched:
            one.cluster.kill()


@pytest.fixture
def source(pair: tuple[Secured, Secured]) -> Cluster:
    return pair[0].cluster


@pytest.fixture
def target(pair: tuple[Secured, Secured]) -> Cluster:
    return pair[1].cluster


@pytest.fixture
def topics(source: Cluster, name: str) -> Topics:
    wanted = {f"{name}.zstd": 2, f"{name}.lz4.tx": 2}
    for topic, partitions in wanted.items():
        source.create_topic(topic, partitions)
    return wanted


def sections(pair: tuple[Secured, Secured]) -> dict[str, Any]:
    return {"source": pair[0].section(pair[0].secured.replace(*BY_NAME)), "target": pair[1].section()}


def test_a_flow_over_sasl_ssl_on_both_sides(
    pair: tuple[Secured, Secured],
    source: Cluster,
    target: Cluster,
    eomirror: Eomirror,
    flow_config: Callable[..., Path],
    name: str,
    topics: Topics,
) -> None:
    config = flow_config(clusters=sections(pair), **SMALL)
    load = Load(source, name)
    load(topics, 600)
    said = [catch_up(eomirror, config)]
    load(topics, 60)
    said.append(catch_up(eomirror, config))
    count = assert_promise(eomirror, config, source, target, topics, least=1320)

    def ask(*words: str) -> Any:
        said.append(eomirror(*words, "-o", "json", config=config).expect(0))
        return said[-1].json()["items"][0]

    assert {route["state"] for route in ask("status", name)["routes"]} == {"CAUGHT_UP"}
    assert ask("verify", name)["verdict"] == "equal"
    assert ask("verify", name)["equal"] == count
    place = (f"{name}.zstd", 0)
    end, last = source.end_offsets(place[0])[0], contents(target, [place[0]])[place][-1][0]
    assert ask("translate", name, place[0], "0", str(end))["target_offset"] == last + 1
    said.append(eomirror("lag", name, "--max", "1h", config=config).expect(0))
    said.append(eomirror("config", "show", config=config).expect(0))
    assert USER in said[-1].stdout
    assert all(PASSWORD not in one.stdout + one.stderr for one in said)


def test_sessions_that_the_broker_ends_cost_nothing_but_time(
    pair: tuple[Secured, Secured],
    source: Cluster,
    target: Cluster,
    eomirror: Eomirror,
    flow_config: Callable[..., Path],
    name: str,
    topics: Topics,
) -> None:
    """KIP-368: the broker closes a connection at the first request after its session."""
    clusters = {"source": pair[0].section(pair[0].brief), "target": pair[1].section(pair[1].brief)}
    config = flow_config(clusters=clusters, **SMALL)
    load = Load(source, name)
    load(topics, 100)
    loading = Loading(load, topics)
    for _ in range(STARTS):
        running = eomirror.background("run", config=config)
        wait_until(functools.partial(_ended_or_cut_off, running), 120, "sessions that end")
        if running.running:
            break
        running.wait().expect(4)  # a session ended before the lanes began: as with any broker that goes away then
    loading.end()
    running.term()
    running.wait(60).expect(0)
    lasting = flow_config(clusters=sections(pair), file="lasting.yaml", **SMALL)
    catch_up(eomirror, lasting)
    assert_promise(eomirror, lasting, source, target, topics, least=200)


def _ended_or_cut_off(run: Background) -> bool:
    return not run.running or run.stderr.count("closed by the broker") >= 4


def refusal(run: Finished) -> dict[str, Any]:
    """What a run said about its end, in the one line that it logged."""
    told = [event for event in log_events(run) if event["event"] == "run.refused"]
    assert len(told) == 1, run.stderr
    return told[0]


# What is wrong, at which address, with which client keys; and what is said about it.
WRONG: dict[str, tuple[str, dict[str, str | None], str, str]] = {
    "password": (
        "secured",
        {"sasl_password": "another-s3cret"},
        f'login as "{USER}" failed: SASL_AUTHENTICATION_FAILED (58)',
        "sasl.password",
    ),
    "user": (
        "secured",
        {"sasl_username": "nobody"},
        'login as "nobody" failed: SASL_AUTHENTICATION_FAILED (58)',
        "sasl.username",
    ),
    "ca": ("secured", {"ssl_ca_location": "other"}, "the broker's certificate is not trusted: ", "ssl.ca.location"),
    "host name": ("misnamed", {}, "the broker's certificate is not for this host", "subjectAltName"),
    "tls at a plain port": ("plain", {}, "the broker closed the connection in the TLS handshake", LISTENER_HINT),
    "plain at a tls port": (
        "secured",
        dict.fromkeys(("security_protocol", "ssl_ca_location", "sasl_mechanism", "sasl_username", "sasl_password")),
        "not a Kafka response",
        "SASL_SSL",
    ),
}


@pytest.mark.parametrize("side", ["source", "target"])
@pytest.mark.parametrize("wrong", WRONG)
def test_what_is_wrong_is_told_and_nothing_is_written(
    pair: tuple[Secured, Secured],
    source: Cluster,
    target: Cluster,
    eomirror: Eomirror,
    flow_config: Callable[..., Path],
    name: str,
    wrong: str,
    side: str,
) -> None:
    number = ("source", "target").index(side)
    where, changed, cause, hint = WRONG[wrong]
    one, other = pair[number], pair[1 - number]
    address = {"secured": one.secured, "misnamed": one.misnamed, "plain": one.cluster.bootstrap}[where]
    changed = {key: str(other.authority.ca) if value == "other" else value for key, value in changed.items()}
    config = flow_config(clusters={**sections(pair), side: one.section(address, **changed)}, **SMALL)
    source.create_topic(name)
    before = target.topics()
    run = eomirror("run", config=config).expect(4)
    told = str(refusal(run))
    assert f"cluster {side}: no broker answers ({address}: {cause}" in told
    assert hint in told
    # Without the source the target's checkpoint can still be read.
    ended = eomirror("status", name, config=config).expect(0 if side == "source" else 4)
    assert f"cluster {side}: no broker answers ({address}: {cause}" in ended.stdout + ended.stderr
    assert side == "source" or hint in ended.stderr.partition("hint: ")[2]
    assert "s3cret" not in run.stdout + run.stderr + ended.stdout + ended.stderr
    assert target.topics() == before


@pytest.mark.parametrize("mechanism", ["PLAIN", "OAUTHBEARER", "GSSAPI"])
def test_a_mechanism_that_was_not_tried_is_refused(
    pair: tuple[Secured, Secured], eomirror: Eomirror, flow_config: Callable[..., Path], mechanism: str
) -> None:
    config = flow_config(clusters={**sections(pair), "source": pair[0].section(sasl_mechanism=mechanism)})
    run = eomirror("run", config=config).expect(2)
    assert f'client["sasl.mechanism"]: "{mechanism}" has not been tried, so it is refused' in run.stderr
    assert "what works: security.protocol PLAINTEXT, or SASL_SSL with sasl.mechanism SCRAM-SHA-512" in run.stderr
