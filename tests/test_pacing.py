"""When a lane commits: never sooner than the floor, never later than it should, whatever comes."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eomirror.ledger import LEDGER_SECONDS
from eomirror.pacing import AUTO_BURST, AUTO_RATE, IDLE_PROGRESS_SECONDS, Pace, Pacing
from tests.fakes import Clock

relaxed = settings(deadline=None)
MOST = 0.5
SLACK = 1e-6  # the clock counts in floats


def _pacing(interval: float | None = None, max_bytes: int = 1000, max_age: float = 1.0) -> tuple[Pacing, Clock]:
    clock = Clock()
    return Pacing(Pace(interval, max_bytes, max_age), clock), clock


def test_nothing_to_say_is_never_due() -> None:
    pacing, clock = _pacing()
    clock.now += 1e6
    assert not pacing.due(drained=True)
    assert pacing.patience(MOST) == MOST


def test_a_single_batch_is_committed_as_soon_as_the_source_is_drained() -> None:
    pacing, _ = _pacing()
    pacing.wrote(10)
    assert not pacing.due(drained=False)
    assert pacing.patience(MOST) == 0.0
    assert pacing.due(drained=True)


def test_the_interval_is_a_floor_between_commits() -> None:
    pacing, clock = _pacing(interval=0.1)
    pacing.wrote(10)
    assert not pacing.due(drained=True)
    assert pacing.patience(MOST) == pytest.approx(0.1)
    clock.now += 0.1
    assert pacing.due(drained=True)
    pacing.committed(ledgered=True, ledger_pending=False)
    pacing.wrote(10)
    assert not pacing.due(drained=True)


def test_the_ceilings_do_not_wait_for_the_floor() -> None:
    pacing, clock = _pacing(interval=1.0, max_bytes=100)
    pacing.wrote(99)
    assert not pacing.due(drained=False)
    pacing.wrote(1)
    assert pacing.due(drained=False)
    pacing.committed(ledgered=True, ledger_pending=False)
    pacing.wrote(1)
    clock.now += 1.0
    assert pacing.due(drained=False)


def test_a_fault_is_committed_at_once() -> None:
    pacing, _ = _pacing(interval=1.0)
    pacing.urgent()
    assert pacing.due(drained=False)
    assert pacing.patience(MOST) == 0.0
    pacing.committed(ledgered=True, ledger_pending=False)
    assert not pacing.due(drained=True)


def test_progress_without_records_is_committed_every_few_seconds() -> None:
    pacing, clock = _pacing()
    pacing.consumed()
    clock.now += IDLE_PROGRESS_SECONDS - 0.2
    pacing.consumed()
    assert not pacing.due(drained=True)
    assert pacing.patience(MOST) == pytest.approx(0.2)
    clock.now += 0.2
    assert pacing.due(drained=True)


def test_the_ledger_is_due_a_second_after_its_first_run() -> None:
    pacing, clock = _pacing()
    pacing.wrote(10)
    pacing.committed(ledgered=False, ledger_pending=True)
    assert not pacing.ledger_due()
    clock.now += LEDGER_SECONDS / 2
    pacing.wrote(10)
    pacing.committed(ledgered=False, ledger_pending=True)
    assert pacing.patience(MOST) == pytest.approx(LEDGER_SECONDS / 2)
    clock.now += LEDGER_SECONDS / 2
    assert pacing.ledger_due()
    assert pacing.due(drained=True)
    pacing.committed(ledgered=True, ledger_pending=False)
    clock.now += 10 * LEDGER_SECONDS
    assert not pacing.ledger_due()
    assert not pacing.due(drained=True)


def test_a_rewind_forgets_what_was_uncommitted() -> None:
    pacing, clock = _pacing()
    pacing.wrote(10_000)
    pacing.consumed()
    pacing.urgent()
    pacing.reset()
    clock.now += 100
    assert not pacing.due(drained=True)
    assert pacing.patience(MOST) == MOST


class Lane:
    """A cycle in small: polls, writes what came, commits when due. What comes and how long it takes is given."""

    def __init__(self, interval: float | None, max_bytes: int, max_age: float) -> None:
        self.pacing, self.clock = _pacing(interval, max_bytes, max_age)
        self.commits: list[tuple[float, bool]] = []  # when, and whether the floor did not bind it
        self.since: float | None = None
        self.size = 0
        self.max_age = max_age
        self.max_bytes = max_bytes

    def cycle(self, arrives_in: float, size: int, urgent: bool) -> None:
        patience = self.pacing.patience(MOST)
        assert 0.0 <= patience <= MOST
        drained = arrives_in > patience or size == 0
        self.clock.now += min(arrives_in, patience)
        if not drained:
            self.pacing.consumed()
            self.pacing.wrote(size)
            self.since = self.clock.now if self.since is None else self.since
            self.size += size
        if urgent:
            self.pacing.urgent()
        if self.pacing.due(drained=drained):
            old = self.since is not None and self.clock.now >= self.since + self.max_age
            self.commits.append((self.clock.now, urgent or old or self.size >= self.max_bytes))
            self.pacing.committed(ledgered=True, ledger_pending=False)
            self.since, self.size = None, 0
        elif self.since is not None:
            assert self.clock.now < self.since + self.max_age, "a transaction is older than it may be"


arrivals = st.lists(st.tuples(st.floats(0, 0.7), st.integers(0, 400), st.booleans()), min_size=1, max_size=80)
calm = st.lists(st.tuples(st.floats(0, 0.02), st.integers(0, 400), st.just(False)), min_size=1, max_size=200)


@relaxed
@given(st.floats(0, 1.0), arrivals | calm)
def test_the_floor_holds_and_nothing_grows_old(interval: float, cycles: list[tuple[float, int, bool]]) -> None:
    lane = Lane(interval, 1000, 1.0)
    for cycle in cycles:
        lane.cycle(*cycle)
    for (before, _), (after, unbound) in itertools.pairwise(lane.commits):
        assert unbound or after - before >= interval - SLACK


@relaxed
@given(arrivals | calm)
def test_in_auto_nothing_grows_old_and_the_rate_is_bound(cycles: list[tuple[float, int, bool]]) -> None:
    lane = Lane(None, 1 << 40, 1.0)
    for arrives_in, size, _ in cycles:
        lane.cycle(arrives_in, size, urgent=False)
    for first, (at, _) in enumerate(lane.commits):
        for count, (until, _) in enumerate(lane.commits[first:], 1):
            assert count <= AUTO_BURST + (until - at) * AUTO_RATE + 1 + SLACK


def test_a_free_running_lane_is_held_to_the_rate() -> None:
    lane = Lane(None, 1 << 40, 1.0)
    while lane.clock.now < 1010.0:
        lane.cycle(1e-4, 1, urgent=False)
        lane.cycle(1.0, 0, urgent=False)
    seconds = lane.clock.now - 1000.0
    assert len(lane.commits) == pytest.approx(AUTO_BURST + AUTO_RATE * seconds, rel=0.03)


def test_few_commits_never_wait() -> None:
    lane = Lane(None, 1 << 40, 1.0)
    for number in range(1, 51):
        lane.cycle(0.02, 1, urgent=False)
        lane.cycle(1.0, 0, urgent=False)
        assert len(lane.commits) == number


def test_many_ceilings_in_a_row_leave_no_debt_behind() -> None:
    """Commits by size may come faster than the automatic rate; what comes then waits for one refill, no longer."""
    pacing, _clock = _pacing(max_bytes=1, max_age=0.3)
    for _ in range(1000):
        pacing.wrote(1)
        assert pacing.due(drained=False)
        pacing.committed(ledgered=True, ledger_pending=False)
    pacing.wrote(0)
    assert pacing.patience(MOST) == pytest.approx(1 / AUTO_RATE)


def test_a_floor_longer_than_the_transaction_may_last_does_not_hold_it() -> None:
    pacing, _clock = _pacing(interval=5.0, max_age=0.3)
    pacing.committed(ledgered=True, ledger_pending=False)
    pacing.wrote(1)
    assert pacing.patience(MOST) == pytest.approx(0.3)
