"""What could lose or double records is refused before the first byte, with a message that says what to do."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from .cluster import Cluster, free_ports
from .process import Eomirror
from .promise import SMALL, Load, assert_promise, catch_up, contents


@pytest.fixture
def mirrored(
    source: Cluster, target: Cluster, eomirror: Eomirror, flow_config: Callable[..., Path], name: str
) -> Iterator[tuple[Path, dict[str, int]]]:
    """A flow that has mirrored something; whatever was refused, what the target held is as it was."""
    topics = {f"{name}.plain": 2}
    source.create_topic(f"{name}.plain", 2)
    Load(source, name)(topics, 100)
    config = flow_config(**SMALL)
    catch_up(eomirror, config)
    before = contents(target, topics)
    yield config, topics
    after = contents(target, topics)
    assert {place: records[: len(before[place])] for place, records in after.items()} == before


@pytest.mark.usefixtures("mirrored")
def test_another_cluster_behind_the_address(
    source: Cluster,
    target: Cluster,
    eomirror: Eomirror,
    flow_config: Callable[..., Path],
    name: str,
    tmp_path: Path,
) -> None:
    with Cluster.start("other", tmp_path / "other", heap_mb=256) as other:
        addresses = {"source": other.bootstrap, "target": target.bootstrap}
        run = eomirror("run", config=flow_config(file="other.yaml", clusters=addresses, **SMALL)).expect(7)
    assert (
        f"flow {name}: source source is cluster {other.cluster_id}, the flow was started with {source.cluster_id}"
        in run.stderr
    )
    assert "Another cluster answers at this address." in run.stderr


@pytest.mark.usefixtures("mirrored")
def test_another_lane_count(eomirror: Eomirror, flow_config: Callable[..., Path], name: str) -> None:
    run = eomirror("run", config=flow_config(**SMALL | {"lanes": 3})).expect(7)
    assert f"flow {name}: lanes is 3 in the configuration, the flow was started with 2" in run.stderr
    assert "Set lanes: 2." in run.stderr


def test_a_missing_checkpoint_never_means_start_from_zero(
    mirrored: tuple[Path, dict[str, int]], target: Cluster, eomirror: Eomirror, name: str
) -> None:
    config, _ = mirrored
    target.delete_topic(f"__eomirror.{name}.checkpoint")
    run = eomirror("run", config=config).expect(7)
    assert f"__eomirror.{name}.checkpoint is missing, but __eomirror.{name}.ledger holds what this flow" in run.stderr
    assert f"__eomirror.{name}.checkpoint" not in target.topics()


def test_an_emptied_checkpoint_never_means_start_from_zero(
    mirrored: tuple[Path, dict[str, int]], target: Cluster, eomirror: Eomirror, name: str
) -> None:
    config, _ = mirrored
    target.delete_topic(f"__eomirror.{name}.checkpoint")
    target.create_topic(f"__eomirror.{name}.checkpoint", 2, {"cleanup.policy": "compact"})
    run = eomirror("run", config=config).expect(7)
    assert f"flow {name} has no checkpoint on target, but {name}.plain[0]" in run.stderr
    assert "Starting from zero could double them." in run.stderr


@pytest.mark.parametrize("part", ["producers", "ledger", "control"])
def test_a_missing_internal_topic(
    part: str, mirrored: tuple[Path, dict[str, int]], target: Cluster, eomirror: Eomirror, name: str
) -> None:
    config, _ = mirrored
    target.delete_topic(f"__eomirror.{name}.{part}")
    run = eomirror("run", config=config).expect(7)
    assert f"internal topic __eomirror.{name}.{part} is missing" in run.stderr


def test_an_internal_topic_that_vanishes_while_the_flow_runs(
    mirrored: tuple[Path, dict[str, int]], source: Cluster, target: Cluster, eomirror: Eomirror, name: str
) -> None:
    config, _ = mirrored
    run = eomirror.background("run", config=config)
    run.wait_for_text("lane.taken")
    target.delete_topic(f"__eomirror.{name}.ledger")
    Load(source, f"{name}.more")({f"{name}.plain": 2}, 100)
    ended = run.wait(30).expect(7)
    assert f"internal topic __eomirror.{name}.ledger is missing" in ended.stderr


def test_a_stranger_in_the_checkpoint(
    mirrored: tuple[Path, dict[str, int]], target: Cluster, eomirror: Eomirror, name: str
) -> None:
    config, _ = mirrored
    stranger = target.producer()
    stranger.produce(f"__eomirror.{name}.checkpoint", b"{}", b"not ours", 1)
    assert stranger.flush(30) == 0
    run = eomirror("run", config=config).expect(7)
    assert "not a record of eomirror" in run.stderr


def test_a_transaction_of_a_stranger_in_the_checkpoint(
    mirrored: tuple[Path, dict[str, int]], target: Cluster, eomirror: Eomirror, name: str
) -> None:
    config, _ = mirrored
    stranger = target.producer({"transactional.id": f"stranger.{name}", "transaction.timeout.ms": 60000})
    stranger.init_transactions(30)
    stranger.begin_transaction()
    stranger.produce(f"__eomirror.{name}.checkpoint", b"{}", b'["lane"]', 1)
    assert stranger.flush(30) == 0
    run = eomirror("run", config=config).expect(7)
    assert f"__eomirror.{name}.checkpoint[1]: a transaction is open at offset" in run.stderr
    stranger.abort_transaction(30)
    catch_up(eomirror, config)


def test_the_first_start_does_not_mix_with_what_is_there(
    source: Cluster, target: Cluster, eomirror: Eomirror, flow_config: Callable[..., Path], name: str
) -> None:
    topics = {f"{name}.plain": 1}
    for cluster in (source, target):
        cluster.create_topic(f"{name}.plain", 1)
        Load(cluster, name)(topics, 10)
    run = eomirror("run", config=flow_config(**SMALL)).expect(7)
    assert f"flow {name} has no checkpoint on target, but {name}.plain[0] there hold records" in run.stderr
    assert not [topic for topic in target.topics() if topic.startswith(f"__eomirror.{name}.")]


def test_the_same_cluster_on_both_sides(
    source: Cluster, eomirror: Eomirror, flow_config: Callable[..., Path], name: str
) -> None:
    addresses = {"source": source.bootstrap, "target": source.bootstrap.replace("127.0.0.1", "localhost")}
    run = eomirror("run", config=flow_config(clusters=addresses, **SMALL)).expect(4)
    assert f"flow {name}: source and target are the same cluster ({source.cluster_id})" in run.stderr
    assert "Topics keep their names, so a flow needs two clusters." in run.stderr


@pytest.mark.parametrize("side", ["source", "target"])
def test_a_cluster_that_is_away(
    side: str, source: Cluster, target: Cluster, eomirror: Eomirror, flow_config: Callable[..., Path]
) -> None:
    nobody = f"127.0.0.1:{free_ports(1)[0]}"
    addresses = {"source": source.bootstrap, "target": target.bootstrap, side: nobody}
    run = eomirror("run", config=flow_config(clusters=addresses, **SMALL)).expect(4)
    assert f"cluster {side}: no broker answers ({nobody}: Connection refused)" in run.stderr
    assert "Traceback" not in run.stderr


def test_after_a_refusal_the_flow_goes_on_where_it_was(
    mirrored: tuple[Path, dict[str, int]],
    source: Cluster,
    target: Cluster,
    eomirror: Eomirror,
    flow_config: Callable[..., Path],
) -> None:
    config, topics = mirrored
    eomirror("run", config=flow_config(file="wrong.yaml", **SMALL | {"lanes": 3})).expect(7)
    assert_promise(eomirror, config, source, target, topics, least=100)
