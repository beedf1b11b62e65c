"""A target leader that dies between the decision of a transaction and its commit marker: nothing is lost or doubled."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from eomirror.errors import Reason
from eomirror.topology import internal_creates

from .cluster import Cluster
from .fleet import OLD_TARGET, SOURCE, Fleet, Kind, both_versions, wide_target
from .process import Background, Eomirror
from .promise import (
    SMALL,
    assert_promise,
    catch_up,
    configured,
    faulted_events,
    faults,
    positions,
    produce,
    values,
)
from .repair import repair

# A transaction stays open until it holds more than a few small records.
HELD = SMALL | {
    "lanes": 1,
    "commit": {"interval": "40s", "max_age": "40s", "max_bytes": "16KiB", "transaction_timeout": "50s"},
}


@pytest.fixture
def kind(transaction_version: int) -> Kind:
    """What sort of target."""
    return wide_target(transaction_version)


@pytest.fixture
def clusters(fleet: Fleet, kind: Kind) -> tuple[Cluster, ...]:
    """A source, and a target of two nodes."""
    return fleet.up(SOURCE, kind)


def decided_while_a_leader_hangs(
    source: Cluster, target: Cluster, eomirror: Eomirror, flow_config: Callable[..., Path], name: str
) -> tuple[Background, Path]:
    """A flow at work whose last transaction is decided, but node 2, which leads `<name>.data`, cannot have written its
    marker: node 2 is stopped since before the decision. All else is on node 1."""
    data, fine = f"{name}.data", f"{name}.fine"
    for topic, node in ((data, 2), (fine, 1)):
        source.create_topic(topic, 1)
        target.create_topic(topic, replicas=[[node]])
        produce(source, topic, (b"k", b"before"))
    # It asks the first broker that it has met about topics; that must not be the one that hangs.
    addresses = {"source": source.bootstrap, "target": target.nodes[1].address}
    config = flow_config(clusters=addresses, **SMALL | {"lanes": 1})
    for create in internal_creates(configured(config).flows[0]):
        target.create_topic(create.topic, config=create.configs, replicas=[[1]] * create.partitions)
    catch_up(eomirror, config)
    run = eomirror.background("run", config=flow_config(file="held.yaml", clusters=addresses, **HELD))
    run.wait_for_text("lane.taken")
    committed = target.end_offsets(data)
    produce(source, data, *((b"k", b"decided-%d" % n) for n in range(4)))
    run.wait_for(lambda: target.end_offsets(data) == {0: committed[0] + 4}, 40, "all four in the open transaction")
    assert target.end_offsets(data, committed=True) == committed
    target.pause(node=2)
    produce(source, fine, *((b"k", b"%d" % n + b"x" * 10_000) for n in range(3)))
    run.wait_for(lambda: positions(config)[data, 0].next_offset == 5, 40, "the decision")
    return run, config


def leader_comes_back(source: Cluster, target: Cluster, data: str) -> None:
    """Node 2 leads its partition again, and three more records are written."""
    target.restart(node=2)
    target.await_leader(data, 0, 2)
    produce(source, data, *((b"k", b"after-%d" % n) for n in range(3)))


@both_versions
def test_a_leader_dies_before_its_marker(
    source: Cluster, target: Cluster, eomirror: Eomirror, flow_config: Callable[..., Path], name: str
) -> None:
    data, fine = f"{name}.data", f"{name}.fine"
    run, config = decided_while_a_leader_hangs(source, target, eomirror, flow_config, name)
    target.kill(node=2)
    leader_comes_back(source, target, data)
    run.wait_for(lambda: faults(config) == {(data, 0): Reason.MARKER_LOST}, 60, "the fault")
    produce(source, fine, (b"k", b"goes on"))
    run.term()
    run.wait(30).expect(0)
    assert faulted_events(run) == [(data, 0, "MARKER_LOST")]
    assert positions(config)[data, 0].next_offset == 5
    catch_up(eomirror, config, code=7)
    assert values(target, fine) == values(source, fine)
    repair(config, target, (data, 0))
    catch_up(eomirror, config)
    assert faults(config) == {}
    assert_promise(eomirror, config, source, target, [data, fine], least=13)


@pytest.mark.parametrize("kind", [OLD_TARGET], ids=["3.9"])
def test_a_coordinator_that_keeps_its_markers_is_waited_for(
    source: Cluster, target: Cluster, eomirror: Eomirror, flow_config: Callable[..., Path], name: str
) -> None:
    """Kafka 3.9 keeps the marker that 4.3 gives up when the leader dies: the lane waits, and says for what."""
    data, fine = f"{name}.data", f"{name}.fine"
    run, config = decided_while_a_leader_hangs(source, target, eomirror, flow_config, name)
    target.kill(node=2)
    produce(source, fine, (b"k", b"goes on"))

    def shown() -> dict[str, tuple[str, str | None]]:
        (flow,) = eomirror("status", name, "-o", "json", config=config).expect(0).json()["items"]
        return {route["topic"]: (route["state"], route["note"]) for route in flow["routes"]}

    run.wait_for(lambda: {state for state, _ in shown().values()} == {"BLOCKED"}, 60, "both partitions are blocked")
    assert f"{data}[0]" in (shown()[data][1] or "")
    leader_comes_back(source, target, data)
    run.wait_for(lambda: positions(config)[data, 0].next_offset == 8, 60, "the lane goes on")
    run.term()
    run.wait(30).expect(0)
    assert faulted_events(run) == []
    catch_up(eomirror, config)
    assert_promise(eomirror, config, source, target, [data, fine], least=13)
