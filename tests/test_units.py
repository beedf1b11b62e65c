"""Durations, sizes and instants read back as they are spelled."""

from __future__ import annotations

import re

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from eomirror.config import Duration, Instant
from eomirror.units import parse_duration, parse_instant, parse_size, size_text

relaxed = settings(deadline=None)


@relaxed
@given(st.integers(0, 10**12 - 1))
def test_a_duration_reads_back_as_it_is_spelled(ms: int) -> None:
    assert parse_duration(str(Duration(ms))) == Duration(ms)


@relaxed
@given(st.integers(0, 10**15 - 1))
def test_a_size_reads_back_as_it_is_spelled(size: int) -> None:
    assert parse_size(size_text(size)) == size


@relaxed
@given(st.integers(0, 253_402_300_799_999))
def test_an_instant_reads_back_as_it_is_spelled(ms: int) -> None:
    assert parse_instant(str(Instant(ms))) == Instant(ms)


@pytest.mark.parametrize(
    ("text", "ms"), [("20ms", 20), ("15s", 15_000), ("2m", 120_000), ("2h", 7_200_000), ("1d", 86_400_000), ("0s", 0)]
)
def test_duration_units(text: str, ms: int) -> None:
    assert parse_duration(text) == Duration(ms)
    assert parse_duration(text).seconds == ms / 1000


@pytest.mark.parametrize(
    ("text", "size"), [("7B", 7), ("64KiB", 65536), ("8MiB", 8 << 20), ("1GiB", 1 << 30), ("2TiB", 1 << 41)]
)
def test_size_units(text: str, size: int) -> None:
    assert (parse_size(text), size_text(size)) == (size, text)


@relaxed
@given(st.text())
@example("1")
@example("1.5s")
@example("-1s")
@example("1S")
@example("\u0661s")
@example("1s\n")
@example(" 1s")
@example("1MB")
@example("1mb")
def test_what_is_not_a_number_with_a_unit_is_no_duration_and_no_size(text: str) -> None:
    if not re.fullmatch(r"[0-9]+(ms|s|m|h|d)", text, re.ASCII):
        with pytest.raises(ValueError, match="not a duration"):
            parse_duration(text)
    if not re.fullmatch(r"[0-9]+([KMGT]i)?B", text, re.ASCII):
        with pytest.raises(ValueError, match="not a size"):
            parse_size(text)
