"""Record k of one side is record k of the other, and where the ledger cannot say which that is, there is no answer."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable
from typing import NamedTuple

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eomirror import ledger, records, translation
from eomirror.errors import BrokerError, Reason, Refused
from eomirror.ledger import Before, Run, Trail, encode_runs, gather
from eomirror.model import RouteKey
from eomirror.records import Fault, FlowRecord, Gap, LaneRecord, LedgerRoute, PositionRecord, State, Tally
from eomirror.route import pinned
from eomirror.translation import Found, RouteMap, look, translate
from tests.fakes import NEW, FakeBrokers, Log, lane_record, position

KEY: RouteKey = ("orders", 0)
OTHER: RouteKey = ("orders", 1)
LEDGER = "__eomirror.dr.ledger"


class Written(NamedTuple):
    """What a lane has left behind: its ledger, its head, and where the route stands; `pairs` are the (source, target)
    offsets of the records that still count, `missing` the source offsets between them that were left out, `before` says
    why there may have been others."""

    values: list[bytes]
    head: LaneRecord
    position: int
    target_end: int | None
    pending: Tally
    pairs: list[tuple[int, int]]
    before: Before
    missing: set[int]


class Lane:
    """Writes down a route's history as a lane does: runs and gaps in tallies, tallies in a chain."""

    def __init__(self, first: int = 0, start: int = 0) -> None:
        self.head = lane_record(n=0, announced={})
        self.values: list[bytes] = []
        self.pairs: list[tuple[int, int]] = []
        self.missing = set(range(first, start))
        self.before = Before.NOTHING
        self.source, self.target = start, 0
        self.gaps = pinned("", "", first, start).pending.gaps
        self.target_end: int | None = None
        self.runs: list[Run] = []

    def mirror(self, source_skip: int, target_skip: int, size: int) -> None:
        self.source, self.target = self.source + source_skip, self.target + target_skip
        self.runs.append(Run(self.source, self.target, size))
        self.pairs += [(self.source + i, self.target + i) for i in range(size)]
        self.source, self.target = self.source + size, self.target + size
        self.target_end = self.target

    def pass_over(self, offsets: int) -> None:
        """Control batches, aborted records."""
        self.source += offsets

    def tally(self, *gaps: Gap) -> Tally:
        runs, self.runs = encode_runs(self.runs), []
        gaps, self.gaps = self.gaps + gaps, ()
        return Tally(runs=runs, gaps=gaps)

    def write_down(self, tally: Tally, route: RouteKey = KEY) -> None:
        shares = (LedgerRoute(*OTHER, *OTHER, Tally((5, 5, 5), 5)), LedgerRoute(*route, *route, tally))
        value, digest = ledger.chain(0, self.head, shares, written_at_ms=5, rewinds={})
        self.values.append(value)
        sequence = self.head.ledger_sequence + 1
        self.head = msgspec.structs.replace(
            self.head, n=self.head.n + 1, ledger_sequence=sequence, ledger_hash=digest, ledger_n=self.head.n
        )

    def accept(self, reason: Reason, offset: int) -> None:
        """What is pending goes to the ledger first, then the gap, as when a lane obeys."""
        self.write_down(self.tally())
        gap = Gap(self.source, offset, reason, "ada")
        if reason is Reason.SOURCE_RECREATED:
            self.pairs, self.missing, self.before = [], set(), Before.NOTHING
        elif reason is Reason.TARGET_RECREATED:
            self.pairs, self.missing, self.before = [], set(), Before.LOST
            self.target, self.target_end = 0, None
        else:
            self.pairs = [pair for pair in self.pairs if pair[0] < offset]
            self.missing = {m for m in self.missing if m < offset} | set(range(self.source, offset))
        self.source = offset
        self.write_down(self.tally(gap))

    def left(self) -> Written:
        return Written(
            self.values,
            self.head,
            self.source,
            self.target_end,
            self.tally(),
            list(self.pairs),
            self.before,
            set(self.missing),
        )


@st.composite
def histories(draw: st.DrawFn) -> Written:
    first = draw(st.integers(0, 2))
    lane = Lane(first, first + draw(st.integers(0, 3)))
    small = st.integers(0, 4)
    for _ in range(draw(st.integers(0, 14))):
        match draw(st.sampled_from("mmmmpwtsrg")):
            case "m":
                lane.mirror(draw(small), draw(small), draw(st.integers(1, 6)))
            case "p":
                lane.pass_over(draw(small))
            case "w":
                lane.write_down(lane.tally())
            case "t":
                lane.accept(Reason.SOURCE_TRUNCATED, draw(st.integers(0, lane.source)))
            case "s":
                lane.accept(Reason.SOURCE_RECREATED, draw(small))
            case "r":
                lane.accept(Reason.TARGET_RECREATED, lane.source)
            case _:
                lane.accept(Reason.CORRUPT_BATCH, lane.source + draw(small))
    return lane.left()


def known_from(written: Written, first: int = 0) -> RouteMap:
    """What a reader makes of it who finds the ledger records from `first` on."""
    trail = gather(LEDGER, written.head, 0, KEY, written.pending, enumerate(written.values[first:], first))
    return RouteMap("dr", KEY, trail, written.position, written.target_end, (written.target_end or 0) + 3)


def asked(known: RouteMap, offset: int, *, reverse: bool) -> tuple[int, Found] | None:
    try:
        answer = translate(known, offset, reverse=reverse)
    except Refused:
        return None
    assert answer.offset == offset
    return answer.translated, answer.found


@settings(deadline=None, max_examples=300)
@given(histories(), st.integers(0, 4))
def test_record_k_is_record_k(written: Written, cut: int) -> None:
    cut = min(cut, len(written.values))
    known = known_from(written, cut)
    pairs = written.pairs
    if cut and known.trail.before is Before.UNKNOWN:
        # The oldest runs are gone; every other is what it was.
        pairs = [(s + i, t + i) for s, t, size in known.trail.offsets.runs() for i in range(size)]
        assert pairs == written.pairs[len(written.pairs) - len(pairs) :]
    else:
        assert known.trail.before is written.before
    sources, targets = [s for s, _ in pairs], [t for _, t in pairs]
    sure = known.trail.before is Before.NOTHING
    for own, other, end, top, reverse in (
        (sources, targets, written.target_end, written.position, False),
        (targets, sources, written.position, known.target_reach, True),
    ):
        last = written.position if not reverse else written.target_end
        for offset in range(top + 2):
            index = bisect_left(own, offset)
            expected: tuple[int, Found] | None
            if index < len(own):
                expected = (other[index], Found.EXACT if own[index] == offset else Found.GAP)
            else:
                expected = None if end is None else (end, Found.END)
            old = offset < own[0] if own else last is None or offset < last
            if offset > top or (old and not sure):
                expected = None
            assert asked(known, offset, reverse=reverse) == expected, (offset, reverse)


@settings(deadline=None, max_examples=300)
@given(histories(), st.integers(0, 4))
def test_what_is_passed_over_because_it_was_left_out_is_named(written: Written, cut: int) -> None:
    known = known_from(written, min(cut, len(written.values)))
    sources = [s + i for s, _, size in known.trail.offsets.runs() for i in range(size)]
    targets = [t + i for _, t, size in known.trail.offsets.runs() for i in range(size)]
    for reverse, top in ((False, written.position), (True, known.target_reach)):
        for offset in range(top + 1):
            if asked(known, offset, reverse=reverse) is None:
                continue
            answer = translate(known, offset, reverse=reverse)
            below = bisect_left(targets, offset) - 1
            if reverse and below < 0 and known.trail.before is Before.UNKNOWN:
                continue  # what came before is not in the ledger any more
            if reverse:
                first, end = (sources[below] + 1 if below >= 0 else 0), answer.translated
            else:
                index = bisect_left(sources, offset)
                first, end = offset, sources[index] if index < len(sources) else written.position
            passed = set(range(first, end))
            named = {o for gap in answer.left_out for o in range(gap.first, gap.next)}
            assert named & passed == written.missing & passed
            assert named <= written.missing
            assert all(passed & set(range(gap.first, gap.next)) for gap in answer.left_out)


# --- what is said


def test_a_gap_that_was_accepted_is_named_from_either_side() -> None:
    """Mirrored 20..24 -> 0..4, left out 25..27, mirrored 30..31 -> 6..7, left out 32; what lies below 20 was never
    wanted. The source began at 5."""
    lane = Lane(5, 20)
    lane.mirror(0, 0, 5)
    lane.accept(Reason.TARGET_REFUSED, 28)
    lane.mirror(2, 1, 2)
    lane.accept(Reason.CORRUPT_BATCH, 33)
    known = known_from(lane.left())
    start, refused, corrupt = (
        Gap(5, 20),
        Gap(25, 28, Reason.TARGET_REFUSED, "ada"),
        Gap(32, 33, Reason.CORRUPT_BATCH, "ada"),
    )

    def named(offset: int, *, reverse: bool = False) -> list[Gap]:
        return list(translate(known, offset, reverse=reverse).left_out)

    assert [named(0), named(19), named(20), named(24)] == [[start], [start], [], []]
    assert [named(25), named(27), named(28), named(30)] == [[refused], [refused], [], []]
    assert [named(32), named(33)] == [[corrupt], []]
    assert [named(offset, reverse=True) for offset in (0, 1, 5, 6, 7)] == [[start], [], [refused], [refused], []]
    assert [named(8, reverse=True), named(9, reverse=True)] == [[corrupt], [corrupt]]


def lane_of_two_runs() -> Lane:
    """Source 2..4 -> target 0..2, and source 7..8 -> target 4..5; the position is 10."""
    lane = Lane()
    lane.mirror(2, 0, 3)
    lane.mirror(2, 1, 2)
    lane.pass_over(1)
    lane.write_down(lane.tally())
    return lane


@pytest.mark.parametrize(
    ("offset", "reverse", "expected"),
    [
        (0, False, (0, Found.GAP, Run(2, 0, 3))),
        (3, False, (1, Found.EXACT, Run(2, 0, 3))),
        (5, False, (4, Found.GAP, Run(7, 4, 2))),
        (8, False, (5, Found.EXACT, Run(7, 4, 2))),
        (9, False, (6, Found.END, None)),
        (10, False, (6, Found.END, None)),
        (2, True, (4, Found.EXACT, Run(2, 0, 3))),
        (3, True, (7, Found.GAP, Run(7, 4, 2))),
        (6, True, (10, Found.END, None)),
        (9, True, (10, Found.END, None)),
    ],
)
def test_exact_gap_and_end(offset: int, reverse: bool, expected: tuple[int, Found, Run | None]) -> None:
    answer = translate(known_from(lane_of_two_runs().left()), offset, reverse=reverse)
    assert (answer.translated, answer.found, answer.run) == expected


def refusal(call: Callable[[], object]) -> str:
    with pytest.raises(Refused) as caught:
        call()
    assert caught.value.hint
    return caught.value.message


def test_what_cannot_be_answered_says_where_answers_begin_and_end() -> None:
    lane = lane_of_two_runs()
    lane.mirror(0, 1, 4)
    lane.write_down(lane.tally())
    known = known_from(lane.left(), 1)
    assert (
        refusal(lambda: translate(known, 15)) == "orders[0]: source offset 15 is not mirrored yet: the position is 14"
    )
    assert refusal(lambda: translate(known, 9)) == (
        "orders[0]: source offset 9 is older than the ledger, which begins at source offset 10"
    )
    assert refusal(lambda: translate(known, 6, reverse=True)) == (
        "orders[0]: target offset 6 is older than the ledger, which begins at target offset 7"
    )
    assert refusal(lambda: translate(known, 15, reverse=True)) == (
        "orders[0]: target offset 15 is beyond the target's last stable offset 14"
    )
    bare = known_from(lane.left(), 2)
    assert (translate(bare, 14).translated, translate(bare, 11, reverse=True).translated) == (11, 14)
    assert refusal(lambda: translate(bare, 13)).endswith("older than the ledger, which begins at source offset 14")
    assert refusal(lambda: translate(bare, 10, reverse=True)).endswith("which begins at target offset 11")


def test_a_target_that_was_created_again_vouches_for_nothing_old() -> None:
    lane = lane_of_two_runs()
    lane.accept(Reason.TARGET_RECREATED, lane.source)
    nothing = known_from(lane.left())
    assert refusal(lambda: translate(nothing, 10)).startswith("orders[0]: nothing is mirrored yet")
    assert "what counts begins at what comes next" in refusal(lambda: translate(nothing, 0, reverse=True))
    lane.mirror(1, 2, 5)
    known = known_from(lane.left())
    assert [translate(known, 11 + i).translated for i in range(6)] == [2, 3, 4, 5, 6, 7]
    assert refusal(lambda: translate(known, 10)) == (
        "orders[0]: source offset 10 is older than the target: it was created again or lost records, and what counts "
        "begins at source offset 11"
    )


def test_nothing_mirrored_has_no_target_offset() -> None:
    known = known_from(Lane().left())
    assert refusal(lambda: translate(known, 0)).startswith("orders[0]: nothing is mirrored yet")
    assert translate(known, 2, reverse=True).translated == 0


# --- the chain


def gathered(values: list[bytes | None], head: LaneRecord, first: int = 0) -> Trail:
    return gather(LEDGER, head, 0, KEY, Tally(), enumerate(values, first))


def chain_of(count: int) -> Lane:
    lane = Lane()
    for _ in range(count):
        lane.mirror(1, 1, 2)
        lane.write_down(lane.tally())
    return lane


def test_only_what_the_head_knows_of_is_read() -> None:
    lane = chain_of(2)
    head, pending = lane.head, Tally((7, 7, 1), 1)
    lane.mirror(1, 1, 2)
    lane.write_down(lane.tally())

    def until_the_head() -> list[tuple[int, bytes | None]]:
        yield from enumerate(lane.values[:2])  # type: ignore[misc]
        raise AssertionError("read beyond the head's last record")

    trail = gather(LEDGER, head, 0, KEY, pending, until_the_head())
    assert list(trail.offsets.runs()) == [(1, 1, 2), (4, 4, 2), (7, 7, 1)]


def test_without_ledger_records_nothing_is_read() -> None:
    assert gathered([b"never looked at"], lane_record(ledger_sequence=0)).before is Before.NOTHING


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda v: [v[0], v[2], v[3]], "@1: ledger record 2 does not follow record 0"),
        (lambda v: [v[0], v[1].replace(b'"written_at_ms":5', b'"written_at_ms":6'), *v[2:]], "@2: ledger record 2"),
        (lambda v: v[:3], "the ledger's last record is 2, the checkpoint names record 3 with hash"),
        (lambda v: [*v[:3], v[3].replace(b'"written_at_ms":5', b'"written_at_ms":6')], "the ledger's last record is 3"),
        (lambda v: [v[0], None, *v[1:]], "@1: a record without a value"),
        (lambda v: [v[0].replace(b'"lane":0', b'"lane":3'), *v[1:]], "@0: a record of lane 3"),
        (lambda v: [b"{}", *v[1:]], "@0: not a record of eomirror"),
        (lambda v: [v[0], b'{"v":2}', *v[1:]], "@1: LedgerOutline has layout 2"),
    ],
)
def test_a_broken_chain_is_refused(damage: Callable[[list[bytes]], list[bytes | None]], message: str) -> None:
    lane = chain_of(4)
    assert f"{LEDGER}[0]" in refusal(lambda: gathered(damage(lane.values), lane.head))
    assert message in refusal(lambda: gathered(damage(lane.values), lane.head))


@pytest.mark.parametrize(
    "runs", [(0, 0, 1), (2, 5, 1), (5, 2, 1), (1,), (1, 2, 0), (9, -1, 1), (1 << 62, 1 << 62, 1 << 62), (1 << 64, 0, 1)]
)
def test_runs_that_do_not_go_on_are_refused(runs: tuple[int, ...]) -> None:
    lane = chain_of(2)
    lane.write_down(Tally(runs))
    assert refusal(lambda: gathered(list(lane.values), lane.head)).startswith(f"{LEDGER}[0]@2: ")


@pytest.mark.parametrize("left", range(5))
def test_retention_may_take_any_number_from_the_beginning(left: int) -> None:
    lane = chain_of(4)
    trail = gathered(list(lane.values[4 - left :]), lane.head, first=4 - left)
    assert [run[0] for run in trail.offsets.runs()] == [1, 4, 7, 10][4 - left :]
    assert trail.before is (Before.NOTHING if left == 4 else Before.UNKNOWN)


# --- asking the target


FLOW = FlowRecord(v=1, flow="dr", source_cluster_id="S", target_cluster_id="T", lanes=1, created_ms=9)


def target_with(lane: Lane, **fields: object) -> FakeBrokers:
    """A target whose lane 0 has left this behind, and whose topic ends where the last run does."""
    brokers = FakeBrokers()
    for part in ("checkpoint", "ledger", "producers", "control"):
        brokers.add(f"__eomirror.dr.{part}", Log())
    brokers.append("__eomirror.dr.checkpoint", records.flow_key(), records.encode(FLOW))
    commit(brokers, lane, **fields)
    for value in lane.values:
        brokers.append(LEDGER, records.ledger_key(0), value)
    brokers.add("orders", Log(0, (lane.target_end or 0) + 1))
    return brokers


def commit(brokers: FakeBrokers, lane: Lane, *, stable: bool = True, **fields: object) -> None:
    left = lane.left()
    lane.head = msgspec.structs.replace(lane.head, n=lane.head.n + 1)
    record: PositionRecord = position(left.position, target_end=left.target_end, pending=left.pending, **fields)
    for key, value in ((records.position_key(*KEY), record), (records.lane_key(), left.head)):
        brokers.append("__eomirror.dr.checkpoint", key, records.encode(value), stable=stable)


def test_the_route_is_read_from_checkpoint_and_ledger() -> None:
    lane = lane_of_two_runs()
    lane.mirror(0, 1, 2)
    known = look("dr", KEY, target_with(lane))
    assert list(known.trail.offsets.runs()) == [(2, 0, 3), (7, 4, 2), (10, 7, 2)]
    assert (known.position, known.target_end, known.target_reach, known.note) == (12, 9, 9, None)


def test_a_target_offset_behind_the_last_run_waits_for_what_is_open() -> None:
    lane = lane_of_two_runs()
    brokers = target_with(lane)
    brokers.logs[KEY] = Log(0, 12)
    assert look("dr", KEY, brokers, target_offset=6).target_reach == 6  # nothing to wait for
    lane.mirror(0, 1, 2)
    commit(brokers, lane, stable=False)
    checkpoint = brokers.logs["__eomirror.dr.checkpoint", 0]
    began = brokers.clock.now
    assert refusal(lambda: look("dr", KEY, brokers, target_offset=8)) == (
        "__eomirror.dr.checkpoint[0]: a transaction of this lane is open"
    )
    assert brokers.clock.now - began >= translation.DECISION_SECONDS
    sleep = brokers.network.sleep

    def decided(seconds: float) -> None:
        checkpoint.stable = checkpoint.end
        sleep(seconds)

    brokers.network.sleep = decided
    known = look("dr", KEY, brokers, target_offset=8)
    assert (known.target_end, known.target_reach) == (9, 12)
    assert translate(known, 8, reverse=True).translated == 11


def test_what_the_target_does_not_hold_is_refused() -> None:
    never = FakeBrokers()
    assert refusal(lambda: look("dr", KEY, never)) == "flow dr has never been started on dublin"
    brokers = target_with(lane_of_two_runs())
    assert refusal(lambda: look("dr", ("orders", 7), brokers)) == "flow dr: orders[7] is not mirrored by this flow"
    brokers.logs[KEY] = Log(0, 4)
    assert refusal(lambda: look("dr", KEY, brokers)) == (
        "cluster dublin: orders[0]: ends at offset 4, 2 records before what was committed there"
    )
    brokers.ids["orders"] = NEW
    assert refusal(lambda: look("dr", KEY, brokers)) == (
        "cluster dublin: orders[0]: the topic was deleted and created again"
    )
    del brokers.ids["orders"]
    assert refusal(lambda: look("dr", KEY, brokers)) == "cluster dublin: orders[0]: the topic is gone"


@pytest.mark.parametrize("reason", Reason)
def test_a_fault_is_told_where_it_changes_what_offsets_mean(reason: Reason) -> None:
    brokers = target_with(lane_of_two_runs(), state=State.FAULTED, fault=Fault(reason, "detail", 5, 9))
    if reason is Reason.TARGET_RECREATED:
        assert refusal(lambda: look("dr", KEY, brokers)) == "cluster dublin: orders[0]: TARGET_RECREATED: detail"
    else:
        told = reason in (Reason.SOURCE_RECREATED, Reason.SOURCE_TRUNCATED)
        assert (look("dr", KEY, brokers).note is not None) == told


def test_a_leader_that_is_away_is_an_error_and_no_answer() -> None:
    for topic in ("__eomirror.dr.checkpoint", LEDGER, "orders"):
        brokers = target_with(lane_of_two_runs())
        brokers.away.add((topic, 0))
        with pytest.raises(BrokerError):
            look("dr", KEY, brokers)
    brokers = target_with(lane_of_two_runs())
    del brokers.ids["orders"]
    brokers.errors["orders"] = 29
    with pytest.raises(BrokerError, match="describing orders: TOPIC_AUTHORIZATION_FAILED"):
        look("dr", KEY, brokers)


def test_a_missing_ledger_is_never_an_empty_one() -> None:
    brokers = target_with(lane_of_two_runs())
    del brokers.ids[LEDGER]
    assert refusal(lambda: look("dr", KEY, brokers)) == f"cluster dublin: internal topic {LEDGER} is missing"
