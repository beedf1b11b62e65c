"""When a lane commits: never sooner than the floor, never later than it should, whatever comes."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eomirror.ledger import LEDGER_SECONDS
from eomirror.pacing import AUTO_SECONDS, BEHIND_TIMES, IDLE_PROGRESS_SECONDS, Pace, Pacing
from tests.fakes import Clock

relaxed = settings(deadline=None)
MOST = 0.5
SLACK = 1e-5  # the clock counts in floats


def _pacing(interval: float | None = None, max_bytes: int = 1000, max_age: float = 1.0) -> tuple[Pacing, Clock]:
    clock = Clock()
    return Pacing(Pace(interval, max_bytes, max_age), clock), clock


def _commit(pacing: Pacing, *, seconds: float = 0.0, ledgered: bool = True, ledger_pending: bool = False) -> None:
    pacing.committed(seconds=seconds, ledgered=ledgered, ledger_pending=ledger_pending)


def test_nothing_to_say_is_never_due() -> None:
    pacing, clock = _pacing()
    clock.now += 1e6
    assert not pacing.due(drained=True)
    assert pacing.patience(MOST) == MOST


def test_a_single_batch_is_committed_as_soon_as_the_source_is_drained() -> None:
    pacing, clock = _pacing()
    clock.now += 1.0
    assert pacing.rest(MOST) == 0.0
    pacing.wrote(10)
    assert not pacing.due(drained=False)
    assert pacing.due(drained=True)


def test_the_interval_is_a_floor_between_commits() -> None:
    pacing, clock = _pacing(interval=0.1)
    pacing.wrote(10)
    assert not pacing.due(drained=True)
    assert pacing.rest(MOST) == pytest.approx(0.1)
    assert pacing.rest(0.04) == pytest.approx(0.04)
    clock.now += 0.1 + SLACK
    assert pacing.rest(MOST) == 0.0
    assert pacing.due(drained=True)
    _commit(pacing)
    pacing.wrote(10)
    assert not pacing.due(drained=True)


def test_the_ceilings_do_not_wait_for_the_floor() -> None:
    pacing, clock = _pacing(interval=1.0, max_bytes=100)
    pacing.wrote(99)
    assert not pacing.due(drained=False)
    pacing.wrote(1)
    assert pacing.due(drained=False)
    _commit(pacing)
    pacing.wrote(1)
    clock.now += 1.0
    assert pacing.due(drained=False)


def test_a_fault_is_committed_at_once() -> None:
    pacing, _ = _pacing(interval=1.0)
    pacing.urgent()
    assert pacing.due(drained=False)
    assert pacing.patience(MOST) == pacing.rest(MOST) == 0.0
    _commit(pacing)
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
    _commit(pacing, ledgered=False, ledger_pending=True)
    assert not pacing.ledger_due()
    clock.now += LEDGER_SECONDS / 2
    pacing.wrote(10)
    _commit(pacing, ledgered=False, ledger_pending=True)
    assert pacing.patience(MOST) == pytest.approx(LEDGER_SECONDS / 2)
    clock.now += LEDGER_SECONDS / 2
    assert pacing.ledger_due()
    assert pacing.due(drained=True)
    _commit(pacing)
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
    """A cycle in small: rests, reads, writes what came, commits when due. What comes and how long it takes is given."""

    def __init__(self, interval: float | None, max_bytes: int, max_age: float) -> None:
        self.pacing, self.clock = _pacing(interval, max_bytes, max_age)
        self.commits: list[tuple[float, bool]] = []  # when, and whether the floor did not bind it
        self.since: float | None = None
        self.size = 0
        self.max_age = max_age
        self.max_bytes = max_bytes

    def cycle(self, arrives_in: float, size: int, behind: bool, urgent: bool, seconds: float) -> None:
        if not behind:
            self.clock.now += self.pacing.rest(MOST)
        takes = self.pacing.open and not behind  # what has come already, and waits for nothing
        patience = 0.0 if takes else self.pacing.patience(MOST, behind=behind)
        assert 0.0 <= patience <= MOST + SLACK
        came = arrives_in <= patience and size > 0
        self.clock.now += min(arrives_in, patience)
        if came:
            self.pacing.consumed()
            self.pacing.wrote(size)
            self.since = self.clock.now if self.since is None else self.since
            self.size += size
        if urgent:
            self.pacing.urgent()
        if self.pacing.due(drained=not came, behind=behind):
            old = self.since is not None and self.clock.now >= self.since + self.max_age
            self.commits.append((self.clock.now, urgent or old or self.size >= self.max_bytes))
            self.clock.now += seconds
            _commit(self.pacing, seconds=seconds)
            self.since, self.size = None, 0
        elif self.since is not None:
            assert self.clock.now < self.since + self.max_age, "a transaction is older than it may be"


Cycle = tuple[float, int, bool, bool, float]
commit_seconds = st.just(0.0) | st.floats(0, 0.5)
arrivals = st.lists(
    st.tuples(st.floats(0, 0.7), st.integers(0, 400), st.booleans(), st.booleans(), commit_seconds),
    min_size=1,
    max_size=80,
)
calm = st.lists(
    st.tuples(st.floats(0, 0.02), st.integers(0, 400), st.just(False), st.just(False), commit_seconds),
    min_size=1,
    max_size=200,
)


@relaxed
@given(st.floats(0, 1.0), arrivals | calm)
def test_the_floor_holds_and_nothing_grows_old(interval: float, cycles: list[Cycle]) -> None:
    lane = Lane(interval, 1000, 1.0)
    for cycle in cycles:
        lane.cycle(*cycle)
    for (before, _), (after, unbound) in itertools.pairwise(lane.commits):
        assert unbound or after - before >= interval - SLACK


@relaxed
@given(arrivals | calm)
def test_in_auto_nothing_grows_old_and_the_rate_is_bound(cycles: list[Cycle]) -> None:
    lane = Lane(None, 1 << 40, 1.0)
    for cycle in cycles:
        lane.cycle(*cycle)
    for (before, _), (after, unbound) in itertools.pairwise(lane.commits):
        assert unbound or after - before >= AUTO_SECONDS[0] - SLACK


@pytest.mark.parametrize("seconds", [0.0, 0.001, 0.008, 0.03, 2.0])
def test_a_busy_lane_leaves_as_long_between_commits_as_they_take(seconds: float) -> None:
    lane = Lane(None, 1 << 40, 10.0)
    while len(lane.commits) < 60:
        lane.cycle(0.0, 1, behind=False, urgent=False, seconds=seconds)
        lane.cycle(1.0, 0, behind=False, urgent=False, seconds=seconds)
    (before, _), (after, _) = lane.commits[-2:]
    least, most = AUTO_SECONDS
    pause = min(max(least, seconds), most)
    # What came while it rested is written as soon as it is read, and then found to be all there is.
    assert after - before - seconds == pytest.approx(pause, rel=0.02)


def test_one_slow_commit_does_not_slow_the_next_ones_down_for_long() -> None:
    pacing, _ = _pacing()
    _commit(pacing, seconds=30.0)
    assert pacing.rest(MOST) == pytest.approx(AUTO_SECONDS[1])
    for _ in range(100):
        _commit(pacing, seconds=0.001)
    assert pacing.rest(MOST) == pytest.approx(AUTO_SECONDS[0])


def test_few_commits_never_wait() -> None:
    lane = Lane(None, 1 << 40, 1.0)
    for number in range(1, 51):
        lane.cycle(0.02, 1, behind=False, urgent=False, seconds=0.001)
        began = lane.clock.now
        lane.cycle(0.0, 0, behind=False, urgent=False, seconds=0.001)
        assert len(lane.commits) == number
        assert lane.commits[-1][0] == began


def test_a_lane_that_is_behind_commits_less_often_and_by_the_ceilings() -> None:
    lane = Lane(None, 1000, 1.0)
    for _ in range(400):
        lane.cycle(0.0, 1, behind=True, urgent=False, seconds=0.001)
        lane.cycle(0.004, 0, behind=True, urgent=False, seconds=0.001)
    pauses = [after - before for (before, _), (after, _) in itertools.pairwise(lane.commits)]
    assert pauses
    assert min(pauses) >= BEHIND_TIMES * AUTO_SECONDS[0] - SLACK
    commits = len(lane.commits)
    lane.cycle(0.0, 1000, behind=True, urgent=False, seconds=0.001)
    assert len(lane.commits) == commits + 1
    for _ in range(150):
        lane.cycle(0.0, 1, behind=True, urgent=False, seconds=0.001)  # never without a block
        lane.clock.now += 0.01
    assert len(lane.commits) == commits + 2


def test_what_a_poll_waits_for_ends_with_the_floor_or_the_transactions_age() -> None:
    pacing, clock = _pacing(interval=0.2, max_age=0.3)
    pacing.wrote(1)
    assert pacing.patience(MOST) == pytest.approx(0.2)
    assert pacing.patience(MOST, behind=True) == pytest.approx(0.3)
    clock.now += 0.25
    assert pacing.patience(MOST) == 0.0
    assert pacing.patience(MOST, behind=True) == pytest.approx(0.05)


def test_a_floor_longer_than_the_transaction_may_last_does_not_hold_it() -> None:
    pacing, _clock = _pacing(interval=5.0, max_age=0.3)
    _commit(pacing)
    pacing.wrote(1)
    assert pacing.rest(MOST) == pytest.approx(0.3)
