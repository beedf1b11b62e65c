"""A source partition whose leader moves is read on; one whose new leader lacks what was mirrored is told by name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from eomirror.errors import Reason

from .cluster import Cluster
from .fleet import WIDE_SOURCE, Fleet, single_target
from .process import Eomirror
from .promise import (
    SMALL,
    Load,
    Loading,
    assert_promise,
    catch_up,
    doubts,
    ends,
    faulted_events,
    faults,
    gaps,
    positions,
    produce,
    settled,
    values,
)


@pytest.fixture
def clusters(fleet: Fleet, transaction_version: int) -> tuple[Cluster, ...]:
    """A source of three nodes, and the target."""
    return fleet.up(WIDE_SOURCE, single_target(transaction_version))


def test_leaders_move_and_nothing_is_read_twice(
    source: Cluster, target: Cluster, eomirror: Eomirror, flow_config: Callable[..., Path], name: str
) -> None:
    topics = {f"{name}.plain": 2, f"{name}.lz4.tx": 2}
    for topic in topics:
        source.create_topic(topic, replicas=[[2, 1], [1, 2]])
    load = Load(source, name)
    load(topics, 400)
    config = flow_config(**SMALL)
    run = eomirror.background("run", config=config)
    run.wait_for(lambda: ends(target, topics, committed=True) >= 400, 40, "records on the target")
    run.wait_for(lambda: [p.leader_epoch is None for p in positions(config).values()] == [False] * 4, 40, "all begun")
    seen = {place: position.leader_epoch for place, position in positions(config).items()}
    loading = Loading(load, topics)

    def mirrored(least: int = 200) -> None:
        before = {place: position.next_offset for place, position in positions(config).items()}
        run.wait_for(
            lambda: all(p.next_offset > before[place] + least // 4 for place, p in positions(config).items()),
            60,
            "every partition goes on",
        )

    source.kill(node=2)
    for topic in topics:
        source.await_leader(topic, 0, 1)
    mirrored()
    source.restart(node=2)
    for topic in topics:
        source.await_in_sync(topic, 0, {1, 2})
        source.elect(topic, 0)
        source.await_leader(topic, 0, 2)
    mirrored()
    loading.end()
    goal = sum(end for _, end in settled(source, topics).values())
    run.wait_for(lambda: sum(p.next_offset for p in positions(config).values()) == goal, 60, "all that there is")
    for topic in topics:
        known, epoch = seen[topic, 0], positions(config)[topic, 0].leader_epoch
        assert known is not None
        assert epoch is not None
        assert epoch >= known + 2
    run.term()
    run.wait(30).expect(0)
    assert faulted_events(run) == []
    assert doubts(run) == []  # a leader that moves at the source is no reason to doubt what was written
    assert_promise(eomirror, config, source, target, topics, least=1600)


def test_a_log_is_truncated_below_the_position(
    source: Cluster, target: Cluster, eomirror: Eomirror, flow_config: Callable[..., Path], name: str
) -> None:
    cut, fine = f"{name}.cut", f"{name}.fine"
    unclean = {"unclean.leader.election.enable": "true", "min.insync.replicas": 1}
    source.create_topic(cut, config=unclean, replicas=[[2, 3]])
    source.create_topic(fine, replicas=[[1]])
    produce(source, cut, *((b"k", b"kept-%d" % n) for n in range(5)))
    source.await_in_sync(cut, 0, {2, 3})
    config = flow_config(**SMALL | {"lanes": 1})
    run = eomirror.background("run", config=config)
    run.wait_for_text("lane.taken")  # a flow that starts gives up on a broker that dies just then
    source.kill(node=3)
    source.await_in_sync(cut, 0, {2})
    produce(source, cut, *((b"k", b"lost-%d" % n) for n in range(4)))
    run.wait_for(lambda: (cut, 0) in positions(config) and positions(config)[cut, 0].next_offset == 9, 40, "all of it")
    source.kill(node=2)
    source.restart(node=3)
    source.await_leader(cut, 0, 3)
    assert source.end_offsets(cut) == {0: 5}
    produce(source, cut, *((b"k", b"new-%d" % n) for n in range(6)))  # beyond the position again
    produce(source, fine, (b"k", b"1"))
    run.wait_for(lambda: faults(config) == {(cut, 0): Reason.SOURCE_TRUNCATED}, 40, "the fault")
    run.wait_for(lambda: positions(config)[fine, 0].next_offset == 1, 40, "the others go on")
    fault = positions(config)[cut, 0].fault
    assert fault is not None
    assert "ends before offset 9 (epoch" in fault.detail
    assert "ends at 5): it was truncated after an unclean leader election" in fault.detail
    assert values(target, cut)[5:] == [b"lost-%d" % n for n in range(4)]

    eomirror("fault", "accept", name, cut, "0", "--yes", config=config).expect(0)
    # Orders are read between two discoveries, and one of them may be waiting for the broker that is away.
    run.wait_for(lambda: positions(config)[cut, 0].next_offset == 11, 100, "it goes on where it was cut")
    source.restart(node=2)
    source.await_in_sync(cut, 0, {2, 3})
    source.elect(cut, 0)
    source.await_leader(cut, 0, 2)
    produce(source, cut, (b"k", b"the old leader again"))
    run.wait_for(lambda: positions(config)[cut, 0].next_offset == 12, 40, "it goes on")
    run.term()
    run.wait(30).expect(0)
    assert faulted_events(run) == [(cut, 0, "SOURCE_TRUNCATED")]
    kept, lost = [b"kept-%d" % n for n in range(5)], [b"lost-%d" % n for n in range(4)]
    new = [*(b"new-%d" % n for n in range(6)), b"the old leader again"]
    assert values(source, cut) == kept + new
    assert values(target, cut) == kept + lost + new
    assert gaps(config, target) == {(cut, 0): [(9, 5, Reason.SOURCE_TRUNCATED)]}
    catch_up(eomirror, config)
    assert_promise(eomirror, config, source, target, [fine])
