"""A route from one committed position to the next."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from eomirror import records
from eomirror.errors import Faulted, Reason
from eomirror.records import Fault, Gap, LedgerRoute, PositionRecord, State, Tally
from eomirror.route import Route, pinned
from tests.fakes import NEW, OLD, batch, position, route


def _packed(next_offset: int, epoch: int = 4, control: int = 0, aborted: int = 0) -> SimpleNamespace:
    return SimpleNamespace(
        next_offset=next_offset, last_leader_epoch=epoch, control_batches=control, aborted_records=aborted
    )


FULL = position(
    50,
    transaction=9,
    leader_epoch=3,
    target_end=70,
    target_topic_id=NEW,
    state=State.FAULTED,
    fault=Fault(Reason.SOURCE_GAP, "gone", 5, 60),
    pending=Tally(runs=(40, 60, 10), records=10, bytes=99, digest="01020304"),
)


@pytest.mark.parametrize("committed", [position(), FULL, pinned(OLD, NEW, 7, 7)])
def test_a_position_survives_being_read_and_written(committed: PositionRecord) -> None:
    assert Route(("orders", 0), committed).position(committed.transaction, ledgered=False) == committed


def test_a_fresh_position_knows_nothing_it_has_not_seen() -> None:
    fresh = pinned(OLD, NEW, 7, 7)
    assert fresh == PositionRecord(
        v=records.VERSION, next_offset=7, source_topic_id=OLD, target_topic_id=NEW, transaction=0
    )
    assert (fresh.leader_epoch, fresh.target_end, fresh.fault) == (None, None, None)


def test_a_batch_without_an_epoch_takes_the_epoch_of_the_one_before_it_away() -> None:
    moving = route(10, leader_epoch=2)
    moving.consumed(_packed(15, epoch=-1))
    assert (moving.next_offset, moving.leader_epoch) == (15, None)


def test_what_was_read_and_written_moves_the_position() -> None:
    moving = route(10, leader_epoch=2)
    assert not moving.changed
    moving.consumed(_packed(15, epoch=4, control=1, aborted=2))
    moving.wrote(batch((10, 3), payload=b"abc", newest=8), 100)
    assert moving.changed
    digest = moving.book.tally().digest
    assert moving.position(5, ledgered=False) == position(
        15,
        transaction=5,
        leader_epoch=4,
        target_end=103,
        pending=Tally(
            runs=(10, 100, 3),
            records=3,
            bytes=64,
            digest=digest,
            max_timestamp_ms=8,
            control_batches=1,
            aborted_records=2,
        ),
    )


@pytest.mark.parametrize("ledgered", [False, True])
def test_a_commit_forgets_the_runs_only_when_the_ledger_has_them(ledgered: bool) -> None:
    moving = route(10)
    moving.wrote(batch((10, 3)), 100)
    pending = moving.book.tally()
    assert moving.position(1, ledgered=ledgered).pending == (Tally() if ledgered else pending)
    moving.committed(ledgered=ledgered)
    assert not moving.changed
    assert moving.book.tally() == (Tally() if ledgered else pending)


def test_a_fault_stands_with_its_reason_until_it_is_released() -> None:
    standing = route(10)
    assert not standing.standing
    standing.faulted(Faulted("orders", 0, Reason.CORRUPT_BATCH, "bad", offset=10, next_offset=20), 77)
    assert standing.standing
    assert standing.changed
    assert standing.position(1, ledgered=True) == position(
        10, transaction=1, state=State.FAULTED, fault=Fault(Reason.CORRUPT_BATCH, "bad", 77, 20)
    )
    standing.released()
    assert standing.position(1, ledgered=True) == position(10, transaction=1)


@pytest.mark.parametrize("state", State)
def test_only_faulted_and_paused_routes_stand_still(state: State) -> None:
    assert route(state=state).standing is (state in (State.FAULTED, State.PAUSED))


def test_a_skip_forgets_the_epoch_and_keeps_the_gap() -> None:
    """The batch before the new position is not one that was read, so its epoch is unknown."""
    skipping = route(10, leader_epoch=3, state=State.FAULTED, fault=Fault(Reason.SOURCE_GAP, "gone", 5))
    gap = Gap(10, 30, Reason.SOURCE_GAP, "ada")
    skipping.skip_to(30, gap)
    assert skipping.position(2, ledgered=False) == position(30, transaction=2, pending=Tally(gaps=(gap,)))


def test_the_ledger_names_both_sides() -> None:
    moving = route(10, ("orders", 3))
    moving.source_lso = 40
    moving.wrote(batch((10, 3)), 100)
    assert moving.ledger() == LedgerRoute("orders", 3, "orders", 3, moving.book.tally(), 40)


@pytest.mark.parametrize(("offset", "stands"), [(None, True), (9, False), (10, True), (11, False), (40, False)])
def test_a_refused_batch_faults_its_route_only_when_the_route_has_come_there(offset: int | None, stands: bool) -> None:
    """What lies before the batch was never refused: accepting the fault must not leave it out. Below the route, it was
    dealt with already."""
    halting = route(10)
    halting.leader = 1
    fault = Faulted("orders", 0, Reason.TARGET_REFUSED, "no", offset=offset, next_offset=50)
    halting.halts(fault, 77)
    assert halting.standing is stands
    assert halting.changed is stands
    assert halting.halt is (fault if offset in (11, 40) else None)
    assert halting.leader == (None if stands else 1)
    assert halting.fault == (Fault(Reason.TARGET_REFUSED, "no", 77, 50) if stands else None)
