"""Durations and sizes as people write them: `20ms`, `15s`, `8MiB`.

A value carries its unit from the file to the place of use: a `Duration` is asked for `.ms` or `.seconds`, so a
time-out in milliseconds can never be handed to a call that takes seconds. Sizes are plain integers, always bytes. An
`Instant` is a point in time as Kafka counts it: milliseconds since 1970 in UTC.
"""

from __future__ import annotations

import datetime
import re
import time
from dataclasses import dataclass

DURATION_PATTERN = r"^[0-9]{1,12}(ms|s|m|h|d)$"
SIZE_PATTERN = r"^[0-9]{1,15}(B|KiB|MiB|GiB|TiB)$"

_EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
_MS = {"ms": 1, "s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
_BYTES = {"B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40}


@dataclass(frozen=True, order=True, slots=True)
class Duration:
    """A span of time, whole milliseconds."""

    ms: int

    @property
    def seconds(self) -> float:
        """The same span in seconds, as Python's own time-outs take it."""
        return self.ms / 1000

    def __str__(self) -> str:
        """The shortest exact spelling: `90s`, not `90000ms`; `2m`, not `120s`."""
        return _spell(self.ms, _MS, "s")


@dataclass(frozen=True, order=True, slots=True)
class Instant:
    """A point in time, whole milliseconds since 1970-01-01T00:00:00Z, as record timestamps are."""

    ms: int

    def __str__(self) -> str:
        when = _EPOCH + datetime.timedelta(milliseconds=self.ms)
        return when.isoformat(timespec="milliseconds" if self.ms % 1000 else "seconds").replace("+00:00", "Z")


def parse_instant(text: str) -> Instant:
    """An ISO 8601 timestamp with its zone, `2026-03-01T06:00:00Z` or `...+02:00`.

    Parts of a millisecond are rounded up: "from there on" must not let in a record of the millisecond before. Raises
    ValueError for anything else, a time without a zone or before 1970 included (negative timestamps are the
    protocol's words for earliest and latest).
    """
    when = datetime.datetime.fromisoformat(text)
    if when.tzinfo is None:
        raise ValueError("a time without a zone")
    try:
        when = when.astimezone(datetime.UTC)
    except OverflowError:
        raise ValueError("a time beyond the year 9999") from None
    micros = (when - _EPOCH) // datetime.timedelta(microseconds=1)
    if micros < 0:
        raise ValueError("a time before 1970")
    return Instant(-(-micros // 1000))


def parse_duration(text: str) -> Duration:
    """`20ms`, `15s`, `5m`, `2h`, `1d` as a Duration.

    Raises ValueError for anything else, a number without a unit included.
    """
    number, unit = _split(text, DURATION_PATTERN, "a duration")
    return Duration(number * _MS[unit])


def parse_size(text: str) -> int:
    """`512B`, `64KiB`, `8MiB`, `1GiB`, `2TiB` in bytes.

    Raises ValueError for anything else, `8MB` included: it is not 8 MiB.
    """
    number, unit = _split(text, SIZE_PATTERN, "a size")
    return number * _BYTES[unit]


def size_text(size: int) -> str:
    """The shortest exact spelling of a number of bytes: `8MiB`, `1025B`."""
    return _spell(size, _BYTES, "B")


def _split(text: str, pattern: str, what: str) -> tuple[int, str]:
    match = re.fullmatch(pattern, text)
    if match is None:
        raise ValueError(f"not {what}")
    unit = match.group(1)
    return int(text.removesuffix(unit)), unit


def _spell(value: int, units: dict[str, int], zero: str) -> str:
    if value == 0:
        return f"0{zero}"
    unit = next(name for name in reversed(units) if value % units[name] == 0)
    return f"{value // units[unit]}{unit}"


def wall_ms() -> int:
    """The wall clock in milliseconds since the epoch, as Kafka counts."""
    return time.time_ns() // 1_000_000
