"""The reading verbs and the fault orders on real clusters: what they answer is what the clusters hold."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from eomirror import logs
from eomirror.cli import app
from eomirror.cli.app import guarded

from .cluster import Cluster
from .process import Eomirror, Finished

NOBODY = "127.0.0.1:1"


@pytest.fixture
def config(flow_config: Callable[..., Path]) -> Path:
    return flow_config(lanes=2, telemetry={"http": {"listen": None}, "logs": {"format": "json"}})


class Asking:
    """The reading verbs in this process: what they print and end with, without the start of an interpreter each."""

    def __init__(self, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
        self._capsys = capsys
        self._monkeypatch = monkeypatch

    def __call__(self, *arguments: str, config: Path) -> Finished:
        self._monkeypatch.setenv("EOMIRROR_CONFIG", str(config))
        self._capsys.readouterr()
        started = time.monotonic()
        code = guarded(app, list(arguments))
        told = self._capsys.readouterr()
        return Finished(arguments, code, told.out, told.err, time.monotonic() - started)


@pytest.fixture
def ask(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Asking]:
    level, style = logs.configured()
    yield Asking(capsys, monkeypatch)
    logs.configure(level, style)  # type: ignore[arg-type]


def produce(cluster: Cluster, topic: str, partition: int, count: int, *, age: float = 0.0, **client: object) -> None:
    """Records whose timestamps lie `age` seconds back."""
    producer = cluster.producer({"acks": "all", "linger.ms": 50, **client})
    at = int((time.time() - age) * 1000)
    for number in range(count):
        producer.produce(topic, b"%d" % number, partition=partition, timestamp=at)
    assert producer.flush(30) == 0


def transaction(cluster: Cluster, topic: str, count: int, *, commit: bool, age: float = 0.0) -> None:
    """One transaction of that many records in partition 0."""
    producer = cluster.producer({"transactional.id": f"{topic}-writer"})
    producer.init_transactions(30)
    producer.begin_transaction()
    for number in range(count):
        producer.produce(topic, b"%d" % number, partition=0, timestamp=int((time.time() - age) * 1000))
    producer.flush(30)
    (producer.commit_transaction if commit else producer.abort_transaction)(30)


def routes(answer: Any) -> dict[tuple[str, int], dict[str, Any]]:
    """The routes of a Status answer by topic and partition."""
    assert (answer["apiVersion"], answer["kind"], len(answer["items"])) == ("eomirror/v1", "Status", 1)
    return {(r["topic"], r["partition"]): r for r in answer["items"][0]["routes"]}


def test_looking_before_the_first_start_changes_nothing(
    source: Cluster, target: Cluster, ask: Asking, config: Path, name: str
) -> None:
    source.create_topic(name, 3)
    produce(source, name, 1, 5)
    before = target.topics()
    plan = ask("run", name, "--dry-run", "-o", "json", config=config).expect(0).json()
    assert plan["kind"] == "Plan"
    item = plan["items"][0]
    assert (item["first_start"], item["topics"], item["routes"], sum(item["routes_per_lane"])) == (True, 1, 3, 3)
    assert [(c["topic"], c["partitions"]) for c in item["creates"]] == [
        (f"__eomirror.{name}.checkpoint", 2),
        (f"__eomirror.{name}.producers", 2),
        (f"__eomirror.{name}.ledger", 2),
        (f"__eomirror.{name}.control", 1),
        (name, 3),
    ]
    status = ask("status", name, "-o", "json", config=config).expect(0).json()
    assert status["items"][0]["started"] is False
    assert {
        key: (r["state"], r["position"], r["source_end"], r["lag_records"]) for key, r in routes(status).items()
    } == {
        (name, 0): (None, None, 0, None),
        (name, 1): (None, None, 5, None),
        (name, 2): (None, None, 0, None),
    }
    assert "never started" in ask("status", name, config=config).expect(0).stdout
    assert "never been started" in ask("lag", name, "--max", "1h", config=config).expect(5).stderr
    assert "never been started" in ask("fault", "list", name, config=config).expect(0).stdout
    assert "is not mirrored" in ask("fault", "accept", name, name, "1", "--yes", config=config).expect(7).stderr
    assert target.topics() == before


def test_what_is_mirrored_is_caught_up_and_a_plan_has_nothing_left(
    source: Cluster, eomirror: Eomirror, ask: Asking, config: Path, name: str
) -> None:
    source.create_topic(name, 2)
    produce(source, name, 0, 100)
    transaction(source, name, 10, commit=True)
    eomirror("run", name, "--until-caught-up", config=config).expect(0)
    status = ask("status", name, "-o", "json", config=config).expect(0).json()
    end = source.end_offsets(name)
    item = status["items"][0]
    assert (item["started"], item["trouble"], [lane["lane"] for lane in item["lanes"]]) == (True, [], [0, 1])
    assert all(lane["owner"]["pid"] > 0 and lane["last_commit"] is not None for lane in item["lanes"])
    assert {
        key: (r["state"], r["position"], r["lag_records"], r["lag_seconds"]) for key, r in routes(status).items()
    } == {
        (name, 0): ("CAUGHT_UP", end[0], 0, 0.0),
        (name, 1): ("CAUGHT_UP", 0, 0, 0.0),
    }
    assert ask("lag", name, "--max", "1ms", config=config).expect(0).stderr == ""
    assert ask("fault", "list", name, config=config).expect(0).stdout == "no faults\n"
    plan = ask("run", name, "--dry-run", "-o", "json", config=config).expect(0).json()["items"][0]
    assert (plan["first_start"], plan["creates"], plan["grows"], plan["routes"]) == (False, [], [], 2)


def test_lag_is_the_age_of_the_oldest_record_that_is_not_mirrored(
    source: Cluster, eomirror: Eomirror, ask: Asking, config: Path, name: str
) -> None:
    source.create_topic(name, 2)
    produce(source, name, 0, 20, age=7200)
    eomirror("run", name, "--until-caught-up", config=config).expect(0)
    transaction(source, name, 30, commit=False, age=5000)

    def lag(*more: str) -> dict[int, tuple[str, int, float]]:
        answer = ask("lag", name, "-o", "json", *more, config=config)
        return {i["partition"]: (i["state"], i["lag_records"], i["lag_seconds"]) for i in answer.json()["items"]}

    # Thirty aborted records and their marker take offsets, and there is nothing to mirror.
    assert lag() == {0: ("CAUGHT_UP", 31, 0.0), 1: ("CAUGHT_UP", 0, 0.0)}
    began = time.time()
    transaction(source, name, 5, commit=True, age=600)
    produce(source, name, 0, 5, age=60)
    produce(source, name, 1, 5000, age=300, **{"compression.type": "lz4"})
    seen = lag()
    assert (seen[0][1], seen[1][1]) == (42, 5000)
    took = time.time() - began
    assert 600 <= seen[0][2] <= 600 + took
    assert 300 <= seen[1][2] <= 300 + took
    over = ask("lag", name, "--max", "400s", config=config).expect(5)
    assert [line.split(" is ")[0] for line in over.stderr.splitlines()] == [f"error: {name}: {name}[0]"]
    ask("lag", name, "--max", "2h", config=config).expect(0)
    eomirror("run", name, "--until-caught-up", config=config).expect(0)
    assert lag("--max", "1ms") == {0: ("CAUGHT_UP", 0, 0.0), 1: ("CAUGHT_UP", 0, 0.0)}


def gap(source: Cluster, eomirror: Eomirror, ask: Asking, config: Path, name: str) -> str:
    """A flow whose partition 0 lost offsets 20 to 29 at the source before they were mirrored; the fault's since."""
    source.create_topic(name, 2)
    produce(source, name, 0, 20)
    eomirror("run", name, "--until-caught-up", config=config).expect(0)
    produce(source, name, 0, 30)
    source.delete_records(name, {0: 30})
    seen = routes(ask("status", name, "-o", "json", config=config).expect(0).json())[name, 0]
    assert (seen["state"], seen["lag_records"], seen["lag_seconds"]) == ("ACTIVE", 30, None)
    assert seen["note"] == "the source starts at 30: offsets 20 to 29 are gone"
    ask("lag", name, "--max", "1d", config=config).expect(5)
    eomirror("run", name, "--until-caught-up", config=config).expect(8)
    faults = ask("fault", "list", name, "-o", "json", config=config).expect(0).json()
    assert (faults["kind"], len(faults["items"])) == ("Faults", 1)
    fault = faults["items"][0]
    assert (fault["topic"], fault["partition"], fault["position"]) == (name, 0, 20)
    assert (fault["reason"], fault["ordered"]) == ("SOURCE_GAP", None)
    assert fault["accept"]["command"] == f"eomirror fault accept {name} {name} 0"
    return str(fault["since"])


def test_an_accepted_gap_goes_on_under_a_running_worker(
    source: Cluster, target: Cluster, eomirror: Eomirror, ask: Asking, config: Path, name: str
) -> None:
    gap(source, eomirror, ask, config, name)
    accept = ["fault", "accept", name, name, "0"]
    assert "not faulted" in ask("fault", "retry", name, name, "1", "--yes", config=config).expect(7).stderr
    assert "--yes" in ask(*accept, config=config).expect(2).stderr
    assert ask(*accept, "--dry-run", config=config).expect(0).stdout.endswith("dry run: nothing was changed\n")
    assert target.end_offsets(f"__eomirror.{name}.control") == {0: 0}
    running = eomirror.background("run", name, config=config)
    order = ask(*accept, "--yes", "--why", "drill", "-o", "json", config=config).expect(0).json()
    assert (order["kind"], order["items"][0]["action"], order["items"][0]["dry_run"]) == ("FaultOrder", "accept", False)

    def state() -> tuple[str, int]:
        seen = routes(ask("status", name, "-o", "json", config=config).expect(0).json())[name, 0]
        return seen["state"], seen["position"]

    running.wait_for(lambda: state() == ("CAUGHT_UP", 50), 30, "the accepted partition goes on")
    running.term()
    running.wait(30).expect(0)
    assert ask("fault", "list", name, config=config).expect(0).stdout == "no faults\n"
    assert "not faulted" in ask(*accept, "--yes", config=config).expect(7).stderr


def test_an_order_without_a_worker_waits_for_the_next_start(
    source: Cluster, eomirror: Eomirror, ask: Asking, config: Path, name: str
) -> None:
    since = gap(source, eomirror, ask, config, name)
    ask("fault", "accept", name, name, "0", "--yes", "--why", "drill", config=config).expect(0)
    waiting = ask("fault", "list", name, "-o", "json", config=config).expect(0).json()["items"][0]
    assert (waiting["since"], waiting["ordered"]["action"], waiting["ordered"]["why"]) == (since, "accept", "drill")
    eomirror("run", name, "--until-caught-up", config=config).expect(0)
    assert ask("fault", "list", name, "-o", "json", config=config).expect(0).json()["items"] == []


def test_a_cluster_that_is_away_is_unknown_and_not_zero(
    source: Cluster,
    target: Cluster,
    eomirror: Eomirror,
    ask: Asking,
    config: Path,
    flow_config: Callable[..., Path],
    name: str,
) -> None:
    source.create_topic(name, 1)
    produce(source, name, 0, 10)
    eomirror("run", name, "--until-caught-up", config=config).expect(0)
    no_source = flow_config(lanes=2, clusters={"source": NOBODY, "target": target.bootstrap}, file="no-source.yaml")
    status = ask("status", name, "-o", "json", config=no_source).expect(0).json()
    seen = routes(status)[name, 0]
    assert (seen["position"], seen["source_end"], seen["lag_records"], seen["lag_seconds"]) == (10, None, None, None)
    assert status["items"][0]["trouble"] == [f"cluster source: no broker answers ({NOBODY}: Connection refused)"]
    assert "unknown" in ask("lag", name, config=no_source).expect(4).stdout
    ask("lag", name, "--max", "1d", config=no_source).expect(5)
    no_target = flow_config(lanes=2, clusters={"source": source.bootstrap, "target": NOBODY}, file="no-target.yaml")
    for verb in (["status"], ["lag"], ["fault", "list"], ["run"]):
        away = ask(*verb, name, config=no_target).expect(4)
        assert (away.stdout, NOBODY in away.stderr) == ("", True)


def test_another_cluster_behind_the_source_address_is_told_and_not_measured(
    source: Cluster,
    target: Cluster,
    eomirror: Eomirror,
    ask: Asking,
    config: Path,
    flow_config: Callable[..., Path],
    name: str,
) -> None:
    source.create_topic(name, 1)
    produce(source, name, 0, 10)
    eomirror("run", name, "--until-caught-up", config=config).expect(0)
    alias = target.bootstrap.replace("127.0.0.1", "localhost")
    swapped = flow_config(lanes=2, clusters={"source": alias, "target": target.bootstrap}, file="swapped.yaml")
    status = ask("status", name, "-o", "json", config=swapped).expect(0).json()
    assert (routes(status)[name, 0]["source_end"], len(status["items"][0]["trouble"])) == (None, 1)
    assert "the flow was started with" in status["items"][0]["trouble"][0]


def test_exit_codes_reach_the_shell(eomirror: Eomirror, config: Path, name: str) -> None:
    good = eomirror("config", "validate", config=config).expect(0)
    assert (good.stdout, good.stderr) == (f"{config}: ok, 2 clusters, 1 flow\n", "")
    bad = eomirror("status", f"{name}-x", config=config).expect(2)
    assert (bad.stdout, bad.stderr.splitlines()[1]) == ("", f'hint: did you mean "{name}"?')
