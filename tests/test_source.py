"""The pure part of reading: where in an answer a lane has to stop."""

from __future__ import annotations

import struct

from hypothesis import given, settings
from hypothesis import strategies as st

from eomirror.source import reaching

lots = st.lists(
    st.tuples(st.integers(0, 3), st.integers(0, 5), st.integers(0, 40), st.sampled_from([2, 2, 1, 0])), max_size=8
)


def _batch(base: int, delta: int, payload: int, magic: int = 2) -> bytes:
    """A record batch as far as its last offset delta, and some bytes behind it; an old entry as far as its magic."""
    if magic < 2:
        return struct.pack(">qiIb", base + delta, 14 + payload, 0, magic) + bytes(9 + payload)
    return struct.pack(">qiibIhi", base, 15 + payload, 0, 2, 0, 0, delta) + bytes(payload)


@settings(deadline=None)
@given(lots, st.integers(0, 60), st.integers(0, 9), st.integers(0, 26))
def test_everything_before_the_batch_that_holds_an_offset(
    sizes: list[tuple[int, int, int, int]], wanted: int, before: int, cut: int
) -> None:
    frame = bytearray(b"\xff" * before)
    expected, offset = None, 0
    for skip, delta, payload, magic in sizes:
        offset += skip
        if expected is None and offset + delta >= wanted:
            expected = len(frame)
        frame += _batch(offset, delta, payload, magic)
        offset += delta + 1
    end = len(frame)
    frame += _batch(offset, 0, 0)[:cut]  # the broker cuts the last one anywhere, here within its header
    assert reaching(frame, before, end + cut, wanted) == (end + cut if expected is None else expected)
