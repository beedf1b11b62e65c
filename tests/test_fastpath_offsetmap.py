"""OffsetMap: the same answers as a plain list of runs, whatever the offsets, in a few bytes per run."""

from __future__ import annotations

import random
import subprocess
import sys
from bisect import bisect_right
from collections.abc import Iterable

import pytest
import reference
from batches import examples
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from eomirror import _fastpath as kernel
from eomirror.ledger import Run, encode_runs

LAST = (1 << 63) - 1
SKIPS = st.sampled_from([0, 0, 1, 1, 2, 15, 16, 300, 70_000, 1 << 33, 1 << 55])
COUNTS = st.sampled_from([1, 1, 2, 100, 1000, 70_000, 1 << 33, 1 << 55])

# Gap before the run on either side, and its length; some continue the last run, some are refused.
steps = st.lists(
    st.tuples(st.sampled_from([0, 0, 1, 5, -1, -3]), st.sampled_from([0, 0, 1, 5, -2]), st.integers(-1, 6)), max_size=40
)


@examples(300)
@given(steps)
def test_answers_are_those_of_the_list(moves: list[tuple[int, int, int]]) -> None:
    got, want = kernel.OffsetMap(), reference.Runs()
    source = target = 3
    for source_gap, target_gap, count in moves:
        run = (source + source_gap, target + target_gap, count)
        outcomes = []
        for offsets in (got, want):
            try:
                offsets.append(*run)  # type: ignore[attr-defined]
                outcomes.append("added")
            except ValueError:
                outcomes.append("refused")
        assert outcomes[0] == outcomes[1], run
        if outcomes[0] == "added":
            source, target = run[0] + count, run[1] + count
    assert list(got.runs()) == want.runs()
    assert len(got) == len(want.runs())
    for offset in range(-1, max(source, target) + 3):
        assert got.to_target(offset) == want.to_target(offset)
        assert got.to_source(offset) == want.to_source(offset)
        assert got.floor(offset) == want.floor(offset)
        assert got.ceiling(offset) == want.ceiling(offset)


class Plain:
    """A list of runs, for offsets too many to be listed."""

    def __init__(self) -> None:
        self.runs: list[tuple[int, int, int]] = []

    def add(self, source_skip: int, target_skip: int, count: int) -> tuple[int, int, int] | None:
        """The run that so begins behind the last one; None, and nothing added, if it passes the last offset."""
        source, target, size = self.runs[-1] if self.runs else (0, 0, 0)
        run = (source + size + source_skip, target + size + target_skip, count)
        if max(run[:2]) + count > LAST:
            return None
        if self.runs and source_skip == target_skip == 0:
            self.runs[-1] = (source, target, size + count)
        else:
            self.runs.append(run)
        return run

    def answers(self, offset: int, side: int) -> tuple[object, object, object]:
        """(the offset on the other side, floor, ceiling)."""
        after = bisect_right(self.runs, offset, key=lambda run: run[side])
        floor = self.runs[after - 1] if after else None
        ceiling = floor if floor and floor[side] == offset else self.runs[after] if after < len(self.runs) else None
        inside = floor is not None and offset < floor[side] + floor[2]
        return floor[1 - side] + offset - floor[side] if floor and inside else None, floor, ceiling


class Growing(RuleBasedStateMachine):
    """Appends of all kinds and lookups, interleaved."""

    def __init__(self) -> None:
        super().__init__()
        self.got, self.want = kernel.OffsetMap(), Plain()
        self.chance = random.Random(7)

    def check(self, offset: int) -> None:
        offset = min(max(offset, -1), LAST)
        got = self.got
        want = self.want.answers(offset, 0)
        assert (got.to_target(offset), got.floor(offset), got.ceiling(offset)) == want
        want = self.want.answers(offset, 1)
        assert (got.to_source(offset), got.target_floor(offset), got.target_ceiling(offset)) == want

    def add(self, source_skip: int, target_skip: int, count: int) -> None:
        run = self.want.add(source_skip, target_skip, count)
        if run is not None:
            self.got.append(*run)

    @rule(source_skip=SKIPS, target_skip=SKIPS, count=COUNTS)
    def one(self, source_skip: int, target_skip: int, count: int) -> None:
        self.add(source_skip, target_skip, count)

    @rule(number=st.integers(1, 200), source_skip=SKIPS, target_skip=SKIPS, count=COUNTS)
    def many_alike(self, number: int, source_skip: int, target_skip: int, count: int) -> None:
        for _ in range(number):
            self.add(source_skip, target_skip, count)

    @rule(number=st.integers(1, 300), most=st.sampled_from([3, 200, 1000]))
    def many_that_differ(self, number: int, most: int) -> None:
        for _ in range(number):
            self.add(self.chance.choice([0, 0, 1, 40]), 1, self.chance.randint(1, most))

    @precondition(lambda self: self.want.runs)
    @rule(data=st.data(), nudge=st.integers(-2, 2))
    def look_around(self, data: st.DataObject, nudge: int) -> None:
        runs = self.want.runs
        first_of_a_block = st.integers(0, (len(runs) - 1) // 64).map(lambda block: block * 64)
        source, target, count = runs[data.draw(st.integers(0, len(runs) - 1) | first_of_a_block)]
        for offset in (source, source + count, target, target + count, source + count // 2):
            self.check(offset + nudge)

    @rule(offset=st.integers(-1, LAST))
    def look_anywhere(self, offset: int) -> None:
        self.check(offset)

    @invariant()
    def is_as_long(self) -> None:
        assert len(self.got) == len(self.want.runs)

    def teardown(self) -> None:
        assert list(self.got.runs()) == self.want.runs
        for source, target, count in self.want.runs[:: 1 + len(self.want.runs) // 300]:
            self.check(source + count - 1)
            self.check(target)


TestGrowing = Growing.TestCase
TestGrowing.settings = settings(max_examples=50, stateful_step_count=20, deadline=None)


def _filled(runs: Iterable[tuple[int, int, int]]) -> kernel.OffsetMap:
    offsets = kernel.OffsetMap()
    for run in runs:
        offsets.append(*run)
    return offsets


def test_many_runs_are_found_both_ways() -> None:
    offsets = _filled((1000 + 10 * i, 7 * i, 5) for i in range(100_000))
    assert len(offsets) == 100_000
    for i in (0, 1, 63, 64, 1023, 1024, 49_999, 99_999):
        assert offsets.to_target(1000 + 10 * i + 4) == 7 * i + 4
        assert offsets.to_source(7 * i + 4) == 1000 + 10 * i + 4
        assert offsets.to_target(1000 + 10 * i + 5) is None
        assert offsets.to_source(7 * i + 5) is None
        assert offsets.floor(1000 + 10 * i + 9) == (1000 + 10 * i, 7 * i, 5)
        assert offsets.ceiling(1000 + 10 * i - 4) == (1000 + 10 * i, 7 * i, 5)
        assert offsets.target_floor(7 * i + 6) == (1000 + 10 * i, 7 * i, 5)
        assert offsets.target_ceiling(7 * i - 1) == (1000 + 10 * i, 7 * i, 5)
    assert offsets.ceiling(1000 + 10 * 100_000) is None
    assert offsets.target_ceiling(7 * 100_000) is None
    assert (offsets.floor(999), offsets.target_floor(-1)) == (None, None)


def test_a_run_may_end_at_the_last_offset_and_not_beyond_it() -> None:
    offsets = kernel.OffsetMap()
    offsets.append(LAST - 5, 0, 5)
    assert (offsets.to_target(LAST - 1), offsets.to_target(LAST)) == (4, None)
    for run in ((LAST, 5, 1), (LAST - 4, 5, 1), (0, LAST, 1), (1, 1, LAST)):
        with pytest.raises(ValueError, match=r"passes the last offset|not beyond the last"):
            offsets.append(*run)
    assert list(offsets.runs()) == [(LAST - 5, 0, 5)]


def test_the_numbers_of_a_sealed_block_may_span_all_offsets() -> None:
    runs = [(i, i * 2, 1) for i in range(63)] + [(LAST - 200, LAST - 200, 100), (LAST - 90, LAST - 80, 70)]
    offsets = _filled(runs)
    assert list(offsets.runs()) == runs
    assert offsets.to_target(LAST - 101) == LAST - 101
    assert offsets.floor(LAST - 201) == runs[62]


@examples(100)
@given(st.lists(st.tuples(SKIPS, SKIPS, COUNTS), max_size=150), st.integers(0, 150))
def test_runs_are_taken_as_the_ledger_writes_them(triples: list[tuple[int, int, int]], cut: int) -> None:
    plain = Plain()
    added = [run for run in (plain.add(*triple) for triple in triples) if run is not None]
    offsets = kernel.OffsetMap()
    for part in (added[:cut], added[cut:]):
        offsets.extend(encode_runs(Run(*run) for run in part))
    assert list(offsets.runs()) == plain.runs


@pytest.mark.parametrize(
    ("flat", "message"),
    [
        ((1, 2), "runs end within a triple"),
        ((9, 9, 1, 4), "runs end within a triple"),
        ((9, 9, 1, -1, 0, 1), "not a run"),
        ((9, 9, 1, 0, -1, 1), "not a run"),
        ((9, 9, 1, 0, 0, 0), "not a run"),
        ((9, 9, 1, LAST, 0, 1), "passes the last offset"),
        ((9, 9, 1, 0, LAST - 10, 1), "passes the last offset"),
        ((0, 9, 1), "not beyond the last one"),
    ],
)
def test_what_is_not_a_run_is_refused_and_those_before_it_stay(flat: tuple[int, ...], message: str) -> None:
    offsets = kernel.OffsetMap()
    offsets.append(5, 5, 1)
    with pytest.raises(ValueError, match=message):
        offsets.extend(flat)
    kept = [(5, 5, 1), (9, 9, 1)] if len(flat) % 3 == 0 and flat[0] == 9 else [(5, 5, 1)]
    assert list(offsets.runs()) == kept


def test_offsets_beyond_64_bits_are_no_offsets() -> None:
    offsets = _filled([(0, 0, 5)])
    for ask in (offsets.to_target, offsets.to_source, offsets.floor, offsets.target_ceiling):
        with pytest.raises(OverflowError):
            ask(LAST + 1)


@pytest.mark.parametrize(
    ("most", "source_skips", "limit"), [(1000, [1], 3.0), (1000, [0] * 9 + [1, 2, 50], 5.0), (3, [0], 2.0)]
)
def test_a_run_takes_a_few_bytes(most: int, source_skips: list[int], limit: float) -> None:
    chance = random.Random(3)
    number = 200_000
    flat = [1] * (3 * number)
    flat[0::3] = chance.choices(source_skips, k=number)
    flat[2::3] = chance.choices(range(1, most + 1), k=number)
    offsets = kernel.OffsetMap()
    offsets.extend(flat)
    assert len(offsets) == number
    assert offsets.nbytes / number < limit
    assert kernel.OffsetMap().nbytes < 2000


FULL = """
import resource
from eomirror import _fastpath as kernel

offsets, size = kernel.OffsetMap(), 0
held = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (held + 24_000_000, resource.RLIM_INFINITY))
try:
    while True:
        offsets.append(size << 38, size << 37, 1)
        size += 1
except MemoryError:
    resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
assert size > 100_000 and len(offsets) == size, (size, len(offsets))
offsets.append(size << 38, size << 37, 1)
assert all(run == (i << 38, i << 37, 1) for i, run in enumerate(offsets.runs()))
assert all(offsets.to_source(i << 37) == i << 38 for i in range(0, size, 97))
print(len(offsets) - size)
"""


def test_without_memory_the_map_stays_whole() -> None:
    done = subprocess.run([sys.executable, "-c", FULL], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout, done.stderr) == (0, "1\n", "")
