"""Markers that never came: a partition where something of ours is still open is not written again."""

from __future__ import annotations

import msgspec
import pytest

from eomirror import markers
from eomirror.brokers import Producing
from eomirror.checkpoint import InternalTopics
from eomirror.errors import BrokerError, Reason, Rewind
from eomirror.markers import Checks
from eomirror.records import PositionRecord
from tests.fakes import NEW, OLD, FakeBrokers, Log, identities, lane_record, position

KEY, OTHER = ("orders", 0), ("orders", 1)
TOPICS = InternalTopics.of("dr")


def _target(*producers: Producing) -> FakeBrokers:
    brokers = FakeBrokers()
    brokers.add("orders", Log(), Log())
    brokers.logs[KEY].producers = list(producers)
    return brokers


def _check(brokers: FakeBrokers, here: PositionRecord | None = None, **announced: int) -> Checks:
    positions = {KEY: here or position(40), OTHER: position(50)}
    head = lane_record(announced=announced or {"a": 70, "b": 71})
    return markers.check(brokers, brokers.metadata(), positions, head, identities())


def test_nothing_open_means_that_both_can_be_written() -> None:
    quiet = _target(Producing(70, 9, None), Producing(71, 3, None))
    assert _check(quiet) == Checks({KEY: 1, OTHER: 1}, {})


def test_a_strangers_transaction_is_none_of_ours() -> None:
    assert _check(_target(Producing(500, 0, 3))) == Checks({KEY: 1, OTHER: 1}, {})


@pytest.mark.parametrize("epoch", [0, 8, 9])
def test_a_transaction_of_ours_that_is_still_open_faults_its_partition_only(epoch: int) -> None:
    checks = _check(_target(Producing(71, epoch, 33)))
    assert checks.leaders == {OTHER: 1}
    [(key, fault)] = checks.faults.items()
    assert (key, fault.reason, fault.offset, fault.next_offset) == (KEY, Reason.MARKER_LOST, 40, 40)
    assert fault.message == (
        f"orders[0]: MARKER_LOST: producer 71 epoch {epoch} has a transaction open from target offset 33 that was "
        "aborted; the partition lacks its ABORT marker (coordinator epoch 0)"
    )


def test_what_the_checkpoint_counts_as_written_lacks_its_commit_marker() -> None:
    written = msgspec.structs.replace(position(40), target_end=34)
    [fault] = _check(_target(Producing(71, 8, 33, 2)), written).faults.values()
    assert fault.message == (
        "orders[0]: MARKER_LOST: producer 71 epoch 8 has a transaction open from target offset 33 that was "
        "committed; the partition lacks its COMMIT marker (coordinator epoch 2)"
    )


def test_a_producer_id_that_was_used_before_a_rollover_still_counts() -> None:
    checks = _check(_target(Producing(60, 32766, 33)), a=60, b=71)
    assert {key: fault.reason for key, fault in checks.faults.items()} == {KEY: Reason.MARKER_LOST}


def test_a_newer_epoch_is_a_newer_owner_at_work_and_not_a_lost_marker() -> None:
    with pytest.raises(Rewind) as caught:
        _check(_target(Producing(70, 10, 33)))
    assert (caught.value.cause, caught.value.message) == ("epoch", "orders[0]: a newer owner has a transaction open")


def test_several_open_producers_are_one_fault() -> None:
    checks = _check(_target(Producing(70, 9, 3), Producing(71, 9, 4)))
    assert (set(checks.leaders), set(checks.faults)) == ({OTHER}, {KEY})


def test_a_target_topic_created_again_is_not_written() -> None:
    checks = _check(_target(), position(40, target_topic_id=NEW))
    assert checks.leaders == {OTHER: 1}
    assert checks.faults[KEY].message == (
        f"orders[0]: TARGET_RECREATED: the target's topic has id {OLD}, the checkpoint is of {NEW}: "
        "it was deleted and created again"
    )
    assert (checks.faults[KEY].offset, checks.faults[KEY].next_offset) == (40, 40)


def test_without_a_leader_or_an_answer_or_a_topic_there_is_nothing_to_write_to() -> None:
    leaderless, silent, gone = _target(), _target(), _target()
    leaderless.leaderless.add(KEY)
    silent.away.add(KEY)
    del gone.logs[KEY]
    for brokers in (leaderless, silent, gone):
        assert _check(brokers) == Checks({OTHER: 1}, {})
    gone.ids.clear()
    assert _check(gone) == Checks({}, {})


@pytest.mark.parametrize(
    ("producing", "newer"),
    [
        (Producing(70, 10, 5), True),
        (Producing(71, 10, 5), True),
        (Producing(70, 10, None), False),
        (Producing(70, 9, 5), False),
        (Producing(500, 10, 5), False),
    ],
)
def test_whose_transaction_is_open_on_the_checkpoint(producing: Producing, newer: bool) -> None:
    brokers = FakeBrokers()
    brokers.add(TOPICS.checkpoint, Log())
    brokers.logs[TOPICS.checkpoint, 0].producers = [producing]
    assert markers.newer_owner(brokers, brokers.metadata(), TOPICS, 0, identities()) is newer


def test_a_leader_that_cannot_say_is_an_error() -> None:
    brokers = FakeBrokers()
    brokers.add(TOPICS.checkpoint, Log())
    brokers.away.add((TOPICS.checkpoint, 0))
    with pytest.raises(BrokerError, match=r"NOT_LEADER_OR_FOLLOWER \(6\)"):
        markers.newer_owner(brokers, brokers.metadata(), TOPICS, 0, identities())
