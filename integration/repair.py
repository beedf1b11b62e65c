"""What docs/operations.md says to do about MARKER_LOST, done: the marker that the fault's detail names is written.

A leader that goes away between the answer to EndTxn and the writing of a marker loses the marker (KAFKA-20734). Tests
that take a single broker away meet that now and then, for there is no replica that could lead instead.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from kio.schema.write_txn_markers.v1.request import WritableTxnMarker, WritableTxnMarkerTopic, WriteTxnMarkersRequest

from eomirror.brokers import Brokers
from eomirror.errors import Reason
from eomirror.wire import Address, TcpNetwork

from .cluster import Cluster
from .process import Background, Eomirror, Finished
from .promise import (
    Place,
    assert_promise,
    configured,
    contents,
    faulted_events,
    faults,
    positions,
    settle_fault,
    wait_until,
)

REPAIRS = 5
DETAIL = re.compile(r"producer (\d+) epoch (\d+) has .* that was (committed|aborted); .*\(coordinator epoch (\d+)\)")


def repair(config: Path, target: Cluster, place: Place) -> None:
    """Writes the marker that a partition lacks, and lets it try again."""
    fault = positions(config)[place].fault
    found = DETAIL.search(fault.detail) if fault is not None else None
    assert found is not None, fault
    producer, epoch, decided, coordinator_epoch = found.groups()
    topic, partition = place
    brokers = Brokers("target", [Address("127.0.0.1", target.port)], "repair", TcpNetwork())
    leader = brokers.metadata([topic]).topics[topic].partitions[partition].node
    assert leader is not None
    marker: Any = WritableTxnMarker(
        producer_id=int(producer),  # type: ignore[arg-type]
        producer_epoch=int(epoch),  # type: ignore[arg-type]
        coordinator_epoch=int(coordinator_epoch),  # type: ignore[arg-type]
        transaction_result=decided == "committed",
        topics=(WritableTxnMarkerTopic(name=topic, partition_indexes=(partition,)),),  # type: ignore[arg-type]
    )
    connection = brokers.dial(brokers.address(leader))
    response = connection.request(WriteTxnMarkersRequest(markers=(marker,)), brokers.deadline())
    assert [int(p.error_code) for m in response.markers for t in m.topics for p in t.partitions] == [0]
    connection.close()
    brokers.close()
    settle_fault(config, place, "retry")


def goes_on(run: Background, config: Path, load: Callable[[], None], least: int = 50) -> Finished:
    """The run, stopped by SIGTERM after the target came back and it mirrored that many records more of that load; or
    after it has said which marker is lost."""
    goal = sum(p.next_offset for p in positions(config).values()) + least
    load()  # after the goal is set: what was there before may be mirrored by now
    wait_until(
        lambda: not run.running or faults(config) or sum(p.next_offset for p in positions(config).values()) > goal,
        60,
        "it goes on by itself",
    )
    run.term()
    ended = run.wait(30)
    assert {reason for *_, reason in faulted_events(ended)} <= {"MARKER_LOST"}
    return ended.expect(7 if _refused(ended, config) else 0)


def recovers(
    eomirror: Eomirror, config: Path, source: Cluster, target: Cluster, topics: Iterable[str], *, least: int = 1
) -> None:
    """The flow goes on after the target was away, and everything is equal. Lost markers are written by hand.

    Where the lost marker is that of the lane's own checkpoint or ledger, the flow is refused by that name; then the
    target holds a beginning of the source, exactly once.
    """
    topics = list(topics)
    for _ in range(REPAIRS):
        run = eomirror("run", "--until-caught-up", config=config)
        if run.code == 0:
            assert_promise(eomirror, config, source, target, topics, least=least)
            return
        run.expect(7)
        if _refused(run, config):
            _assert_beginning(source, target, topics)
            return
        lost = faults(config)
        assert set(lost.values()) == {Reason.MARKER_LOST}, run.stderr
        for place in lost:
            repair(config, target, place)
    raise AssertionError(f"not repaired in {REPAIRS} rounds")


def _refused(run: Finished, config: Path) -> bool:
    """Did it end because one of a lane's own partitions lacks a marker?"""
    own = re.escape(f"__eomirror.{configured(config).flows[0].name}.")
    return re.search(rf"{own}[a-z]+\[\d+\]: .*the partition lacks its marker", run.stderr) is not None


def _assert_beginning(source: Cluster, target: Cluster, topics: list[str]) -> None:
    """What a read_committed reader gets from each target partition is how the source begins."""
    theirs = contents(target, topics, stable_only=True)
    for place, records in contents(source, topics).items():
        there = [content for _, content in theirs[place]]
        assert there == [content for _, content in records][: len(there)]
