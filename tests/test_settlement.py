"""What a lane writes about itself: one lane record per transaction, positions beside their data, ledger when due."""

from __future__ import annotations

import hashlib

import msgspec
import pytest

from eomirror import ledger, records
from eomirror.checkpoint import LaneState
from eomirror.errors import Reason, Refused
from eomirror.model import Lease
from eomirror.records import Gap, LaneRecord, LedgerRecord, LedgerRoute, Owner, ProducerRecord, Tally
from eomirror.settlement import Settlement, announcement, opening_head, settlement
from eomirror.transaction import Write
from tests.fakes import OWNER, batch, identities, lane_record, position, route

LEASE = Lease("dr", 2, "S", Owner("other", 7, "beef", 5), "c" * 32)
CHECKPOINT, LEDGER, PRODUCERS = (f"__eomirror.dr.{part}" for part in ("checkpoint", "ledger", "producers"))


def _settle(head: LaneRecord, *routes: object, due: bool = False) -> Settlement:
    return settlement(LEASE, head, {r.key: r for r in routes}, {"epoch": 1}, 77, ledger_due=due)


def test_the_first_owner_of_a_lane_begins_with_transaction_0() -> None:
    head = opening_head(LEASE, LaneState(None, None, {}))
    assert head == LaneRecord(v=1, n=0, generation=1, owner=LEASE.owner, announced={})


def test_a_new_owner_is_the_next_generation_and_changes_nothing_else() -> None:
    before = lane_record(5, ledger_hash="abc", ledger_n=3, ledger_sequence=2, pinned_ms=9)
    head = opening_head(LEASE, LaneState(None, before, {("orders", 0): position()}))
    assert head == msgspec.structs.replace(before, generation=4, owner=LEASE.owner)


def test_positions_without_a_lane_record_are_refused() -> None:
    with pytest.raises(Refused) as caught:
        opening_head(LEASE, LaneState(None, None, {("orders", 0): position()}))
    assert caught.value.message == "__eomirror.dr.checkpoint[2]: positions without a lane record"
    assert caught.value.hint == (
        "Records of this topic were deleted; where the lane stands is unknown. Restore the topic."
    )


def test_an_announcement_holds_nothing_but_itself_and_the_lane_record() -> None:
    identity = identities(b=(95, 0)).identities["b"]
    settled = announcement(LEASE, lane_record(5), identity, 77)
    following = lane_record(6, announced={"a": 70, "b": 95})
    told = ProducerRecord(v=1, flow="dr", source_cluster_id="S", lane=2, identity="b", announced_at_ms=77)
    assert settled == Settlement(
        following,
        {},
        [
            Write(CHECKPOINT, 2, [(b'["lane"]', records.encode(following))]),
            Write(PRODUCERS, 2, [(b"[95]", records.encode(told))]),
        ],
        ledgered=False,
    )


def test_only_the_lane_record_when_nothing_moved() -> None:
    settled = _settle(lane_record(5), due=True)
    following = lane_record(6)
    writes = [Write(CHECKPOINT, 2, [(b'["lane"]', records.encode(following))])]
    assert settled == Settlement(following, {}, writes, ledgered=False)


def test_a_route_that_moved_writes_its_position_with_its_runs() -> None:
    moving, resting = route(10), route(20, ("orders", 1))
    moving.wrote(batch((10, 3)), 100)
    moving.next_offset = 13
    settled = _settle(lane_record(5), moving, resting)
    expected = position(13, transaction=5, target_end=103, pending=moving.book.tally())
    assert settled.moved == {("orders", 0): expected}
    assert not settled.ledgered
    assert settled.writes == [
        Write(
            CHECKPOINT,
            2,
            [
                (b'["pos","orders",0]', records.encode(expected)),
                (b'["lane"]', records.encode(lane_record(6))),
            ],
        )
    ]


def test_the_ledger_takes_the_runs_of_every_route_out_of_the_checkpoint() -> None:
    """Runs that waited in an older position record are in the ledger record, and their position is written anew."""
    waiting = route(13, ("orders", 1), pending=Tally(runs=(10, 90, 3), records=3, bytes=9))
    moving, empty = route(10), route(1, ("orders", 2))
    moving.wrote(batch((10, 3)), 100)
    empty.changed = True
    moving.source_lso = 99
    head = lane_record(8, ledger_n=4, ledger_sequence=6, ledger_hash="feed")
    settled = _settle(head, moving, waiting, empty, due=True)
    assert settled.ledgered
    assert {key: p.pending for key, p in settled.moved.items()} == {
        ("orders", 0): Tally(),
        ("orders", 1): Tally(),
        ("orders", 2): Tally(),
    }
    assert [w.topic for w in settled.writes] == [LEDGER, CHECKPOINT]
    [(key, value)] = settled.writes[0].records
    assert key == b"2"
    assert msgspec.json.decode(value, type=LedgerRecord) == LedgerRecord(
        v=1,
        lane=2,
        sequence=6,
        previous="feed",
        first_n=5,
        last_n=8,
        written_at_ms=77,
        routes=(
            LedgerRoute("orders", 0, "orders", 0, moving.book.tally(), 99),
            LedgerRoute("orders", 1, "orders", 1, waiting.book.tally()),
        ),
        rewinds={"epoch": 1},
    )
    assert settled.following == lane_record(
        9, ledger_n=8, ledger_sequence=7, ledger_hash=hashlib.sha256(value).hexdigest()
    )


def test_the_first_ledger_record_begins_the_chain_and_covers_all_before_it() -> None:
    moving = route(10)
    moving.wrote(batch((10, 1)), 0)
    settled = _settle(lane_record(5), moving, due=True)
    record = msgspec.json.decode(settled.writes[0].records[0][1], type=LedgerRecord)
    assert (record.sequence, record.previous, record.first_n, record.last_n) == (0, "", 0, 5)


@pytest.mark.parametrize(
    ("runs", "ledgered"), [(ledger.MAX_RUNS_PER_ROUTE - 1, False), (ledger.MAX_RUNS_PER_ROUTE, True)]
)
def test_a_route_with_many_runs_brings_the_ledger_forward(runs: int, ledgered: bool) -> None:
    moving = route(0)
    for number in range(runs):
        moving.wrote(batch((number * 2, 1)), number)
    assert _settle(lane_record(5), moving).ledgered is ledgered


def test_an_accepted_gap_is_in_the_ledger_although_no_record_was_written() -> None:
    skipping = route(10)
    gap = Gap(10, 20, Reason.CORRUPT_BATCH, "ada")
    skipping.skip_to(20, gap)
    settled = _settle(lane_record(5), skipping, due=True)
    record = msgspec.json.decode(settled.writes[0].records[0][1], type=LedgerRecord)
    assert [r.tally.gaps for r in record.routes] == [(gap,)]
    assert settled.moved[skipping.key].next_offset == 20


def test_settling_changes_nothing_in_memory() -> None:
    moving = route(10)
    moving.wrote(batch((10, 3)), 100)
    before = (moving.book.tally(), moving.changed, moving.position(1, ledgered=False))
    head = lane_record(5, owner=OWNER)
    first, second = _settle(head, moving, due=True), _settle(head, moving, due=True)
    assert first == second
    assert (moving.book.tally(), moving.changed, moving.position(1, ledgered=False)) == before
