"""What lies between our batches on the target: markers of our own are never taken for somebody else's records."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from eomirror.ends import REMEMBERED_GAPS, Ends, Foreign

KEY = ("orders", 3)


class Log:
    """A partition with our transactions, whose markers come late or at once, and what others write."""

    def __init__(self, end: int = 0) -> None:
        self.end = end
        self.owed: list[int] = []
        self.foreign: list[int] = []
        self.ends = Ends()
        self.ends.expect(*KEY, end)

    def batch(self, number: int, count: int = 2, *, late: bool = False) -> None:
        """Ours. The marker of `number` - 1 is in before it, unless it is late; all older ones are."""
        for owed in list(self.owed):
            if owed < number - 1 or not late:
                self.marker(owed)
        self.ends.appended(number, *KEY, self.end, count)
        self.end += count

    def marker(self, number: int) -> None:
        self.owed.remove(number)
        self.end += 1

    def commit(self, number: int, *, wrote: bool = True) -> None:
        self.ends.committed(number)
        if wrote:
            self.owed.append(number)

    def write(self, count: int) -> None:
        """Somebody else."""
        self.foreign += range(self.end, self.end + count)
        self.end += count


# Of one transaction: (batches of ours, is the marker before it late, records of others before the first batch, and
# before the second one)
TRANSACTION = st.tuples(st.integers(0, 3), st.booleans(), st.integers(0, 2), st.integers(0, 2))


def run(transactions: Sequence[tuple[int, bool, int, int]], *, others: bool) -> Log:
    log = Log(end=7)
    for number, (batches, late, before, within) in enumerate(transactions, start=41):
        for i in range(batches):
            if others and i < 2:
                log.write(before if i == 0 else within)
            log.batch(number, late=late and i == 0)
        log.commit(number, wrote=batches > 0)
    last = 41 + len(transactions)
    log.batch(last)
    return log


@given(st.lists(TRANSACTION, max_size=12))
def test_markers_of_our_own_are_never_foreign(transactions: list[tuple[int, bool, int, int]]) -> None:
    assert run(transactions, others=False).ends.foreign() == []


@given(st.lists(TRANSACTION, max_size=REMEMBERED_GAPS - 1))
def test_each_range_that_is_told_holds_something_foreign(transactions: list[tuple[int, bool, int, int]]) -> None:
    log = run(transactions, others=True)
    told = log.ends.foreign()
    assert bool(told) == bool(log.foreign)
    behind = 0
    for foreign in told:
        assert (foreign.topic, foreign.partition) == KEY
        assert any(foreign.first <= offset < foreign.next for offset in log.foreign)
        assert behind <= foreign.first
        behind = foreign.next


def test_the_range_is_exact_when_no_marker_is_on_its_way() -> None:
    log = Log(end=100)
    log.write(3)
    log.batch(8)
    assert log.ends.foreign() == [Foreign(*KEY, 100, 103)]
    assert log.ends.foreign() == []


def test_a_foreign_record_that_was_taken_for_a_late_marker_shows_with_that_marker() -> None:
    log = Log()
    log.batch(4)
    log.commit(4)
    log.write(1)
    log.batch(5, late=True)
    assert log.ends.foreign() == []
    log.marker(4)
    log.batch(5)
    assert log.ends.foreign() == [Foreign(*KEY, 2, 6)]


def test_a_take_over_starts_the_count_at_the_logs_end() -> None:
    """What a rewind left behind is ours and counts nowhere; what was told of others is not forgotten by it."""
    log = Log()
    log.write(2)
    log.batch(4)
    log.ends.forget()
    assert log.ends.known(*KEY) == 0
    log.end += 5  # an aborted batch and its marker
    log.ends.expect(*KEY, log.end)
    log.batch(4)
    assert log.ends.known(*KEY) == log.end == 11
    assert log.ends.foreign() == [Foreign(*KEY, 0, 2)]
