"""OffsetMap: the same answers as a list of every mirrored offset."""

from __future__ import annotations

import pytest
import reference
from batches import examples
from hypothesis import given
from hypothesis import strategies as st

from eomirror import _fastpath as kernel

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


def test_many_runs_are_found_both_ways() -> None:
    offsets = kernel.OffsetMap()
    for i in range(100_000):
        offsets.append(1000 + 10 * i, 7 * i, 5)
    assert len(offsets) == 100_000
    for i in (0, 1, 49_999, 99_999):
        assert offsets.to_target(1000 + 10 * i + 4) == 7 * i + 4
        assert offsets.to_source(7 * i + 4) == 1000 + 10 * i + 4
        assert offsets.to_target(1000 + 10 * i + 5) is None
        assert offsets.to_source(7 * i + 5) is None
        assert offsets.floor(1000 + 10 * i + 9) == (1000 + 10 * i, 7 * i, 5)
        assert offsets.ceiling(1000 + 10 * i - 4) == (1000 + 10 * i, 7 * i, 5)
    assert offsets.ceiling(1000 + 10 * 100_000) is None
    assert offsets.floor(999) is None


def test_a_run_may_end_at_the_last_offset_and_not_beyond_it() -> None:
    last = (1 << 63) - 1
    offsets = kernel.OffsetMap()
    offsets.append(last - 5, 0, 5)
    assert (offsets.to_target(last - 1), offsets.to_target(last)) == (4, None)
    for run in ((last, 5, 1), (last - 4, 5, 1), (0, last, 1), (1, 1, last)):
        with pytest.raises(ValueError, match=r"passes the last offset|not beyond the last"):
            offsets.append(*run)
    assert list(offsets.runs()) == [(last - 5, 0, 5)]
