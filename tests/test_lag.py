"""The age of what is not mirrored yet: what a read_committed consumer would be given next, from headers alone."""

from __future__ import annotations

import struct
from dataclasses import dataclass, replace

import kafka_old
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eomirror.lag import Oldest, Walk, behind, walk

TRANSACTIONAL, CONTROL, LOG_APPEND_TIME = 1 << 4, 1 << 5, 1 << 3


@dataclass(frozen=True)
class Logged:
    """A batch of a log and what becomes of it."""

    base: int
    count: int
    producer: int
    attributes: int
    first_ms: int
    committed: bool

    @property
    def last(self) -> int:
        return self.base + self.count - 1

    @property
    def age_ms(self) -> int:
        """The timestamp that counts: with LogAppendTime that of the whole batch."""
        return self.first_ms + 7 if self.attributes & LOG_APPEND_TIME else self.first_ms

    def encoded(self) -> bytes:
        body = b"payload"
        return (
            struct.pack(
                ">qiibIhiqqqhii",
                self.base,
                49 + len(body),
                0,
                2,
                0,
                self.attributes,
                self.count - 1,
                self.first_ms,
                self.first_ms + 7,
                self.producer,
                0,
                -1,
                self.count,
            )
            + body
        )


@st.composite
def logs(draw: st.DrawFn) -> tuple[list[Logged], list[tuple[int, int, int]]]:
    """A log up to its last stable offset, and its aborted transactions as (producer id, first offset)."""
    batches: list[Logged] = []
    opened: dict[int, list[int]] = {}  # producer -> indexes of its open transaction's batches
    aborted: list[tuple[int, int, int]] = []
    offset = draw(st.integers(0, 5))
    for number, (producer, count, ending) in enumerate(
        draw(st.lists(st.tuples(st.integers(0, 2), st.integers(1, 4), st.sampled_from(["", "commit", "abort"]))))
    ):
        offset += draw(st.sampled_from([0, 0, 0, 2]))  # compaction leaves gaps
        at = 1_000 + number * 10
        if producer == 0:
            attributes = draw(st.sampled_from([0, LOG_APPEND_TIME]))
            batches.append(Logged(offset, count, -1, attributes, at, True))
        elif producer not in opened or not ending:
            opened.setdefault(producer, []).append(len(batches))
            batches.append(Logged(offset, count, producer, TRANSACTIONAL, at, True))
        else:
            members = opened.pop(producer)
            if ending == "abort":
                aborted.append((producer, batches[members[0]].base, offset))
                for index in members:
                    batches[index] = replace(batches[index], committed=False)
            count = 1
            batches.append(Logged(offset, 1, producer, TRANSACTIONAL | CONTROL, at, False))
        offset += count
    open_from = min((batches[members[0]].base for members in opened.values()), default=None)
    stable = [b for b in batches if open_from is None or b.base < open_from]
    return stable, [entry for entry in aborted if open_from is None or entry[1] < open_from]


def index(aborted: list[tuple[int, int, int]], position: int) -> list[tuple[int, int]]:
    """The aborted transactions of an answer: those whose marker is not below the position, as brokers do."""
    return [(producer, first) for producer, first, marker in aborted if marker >= position]


def answer(log: list[Logged], position: int) -> bytes:
    return b"".join(b.encoded() for b in log if b.last >= position)


@given(log_and_aborted=logs(), position=st.integers(0, 60))
def test_the_first_committed_batch_is_found_wherever_one_looks_from(
    log_and_aborted: tuple[list[Logged], list[tuple[int, int, int]]], position: int
) -> None:
    log, aborted = log_and_aborted
    expected = next((b for b in log if b.committed and b.last >= position), None)
    ends = [b.last + 1 for b in log if b.last >= position]
    seen = walk(memoryview(answer(log, position)), position, index(aborted, position))
    if expected is None:
        assert seen == Walk(False, -1, ends[-1] if ends else position)
    else:
        assert seen == Walk(True, expected.age_ms, expected.last + 1)


def test_an_abort_ends_with_its_marker_and_not_with_its_producer() -> None:
    log = [
        Logged(0, 2, 1, TRANSACTIONAL, 1_000, False),
        Logged(2, 1, 1, TRANSACTIONAL | CONTROL, 1_010, False),
        Logged(3, 4, 1, TRANSACTIONAL, 1_020, True),
        Logged(7, 1, 1, TRANSACTIONAL | CONTROL, 1_030, False),
    ]
    assert walk(memoryview(answer(log, 0)), 0, [(1, 0)]) == Walk(True, 1_020, 7)


@given(log_and_aborted=logs(), position=st.integers(0, 60), cut=st.integers(0, 600))
def test_a_cut_answer_finds_the_same_or_says_where_to_look_on(
    log_and_aborted: tuple[list[Logged], list[tuple[int, int, int]]], position: int, cut: int
) -> None:
    log, aborted = log_and_aborted
    whole = walk(memoryview(answer(log, position)), position, index(aborted, position))
    seen = walk(memoryview(answer(log, position)[:cut]), position, index(aborted, position))
    if not seen.found:
        assert position <= seen.next_offset <= whole.next_offset
        # Asked anew from there, as the next fetch does, it comes to the same.
        seen = walk(memoryview(answer(log, seen.next_offset)), seen.next_offset, index(aborted, seen.next_offset))
    assert seen == whole


@pytest.mark.parametrize("name", kafka_old.BATCHES)
@pytest.mark.parametrize("position", [0, 1000, 1002])
def test_old_formats_have_an_age_where_they_tell_it(name: str, position: int) -> None:
    """Magic 0 has no timestamps, and a compressed message of magic 1 has its newest record's."""
    data = kafka_old.BATCHES[name]
    seen = walk(memoryview(data + Logged(1004, 2, -1, 0, 9_000, True).encoded()), position, [])
    if name.endswith(".append"):
        age = kafka_old.APPEND_TIME
    elif name == "magic1.none":
        age = next(rec[1] for rec in kafka_old.APPENDED if rec[0] >= position)
    else:
        age = -1
    after = max(1001, position + 1) if ".none" in name else 1004
    assert seen == Walk(True, age, after)
    assert walk(memoryview(data), 1004, []) == Walk(False, -1, 1004)


@pytest.mark.parametrize("broken", [b"\0" * 16 + b"\1" + b"\0" * 60, b"\xff" * 80])
def test_what_is_no_batch_is_an_error_and_not_an_age(broken: bytes) -> None:
    with pytest.raises(ValueError, match="at offset 5"):
        walk(memoryview(broken), 5, [])


@pytest.mark.parametrize(
    ("records", "found", "expected"),
    [
        (None, Oldest(1_000), None),
        (0, None, 0.0),
        (5, None, None),
        (5, Oldest(None), 0.0),
        (5, Oldest(7_500), 2.5),
        (5, Oldest(99_000), 0.0),
    ],
)
def test_seconds_behind(records: int | None, found: Oldest | None, expected: float | None) -> None:
    assert behind(records, found, 10_000) == expected
