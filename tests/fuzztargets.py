"""What is fuzzed: each target turns some bytes into one call of the kernel and says what must be true of the answer.

`make fuzz` feeds them by coverage, `test_fastpath_corpus` feeds them the seeds of tests/corpus. A target returns for
any input whatever; an exception is a finding. Frames have their exact size, without the byte that bytes objects have
behind their end, so that a sanitizer sees a read of one byte too many.
"""

from __future__ import annotations

import array
import bisect
import struct
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cramjam
import reference
import reference_recipe
from reference_format import CONTROL, DELETE_HORIZON, GZIP, HEADER, LOG_APPEND_TIME, LZ4, SNAPPY, TRANSACTIONAL, ZSTD

from eomirror import _fastpath as kernel

CORPUS = Path(__file__).parent / "corpus"
INT64_MAX = (1 << 63) - 1
REASONS = {"CORRUPT_BATCH", "UNKNOWN_CODEC", "RECORD_TOO_LARGE"}
REPAIR, COMPRESS, SMALL, RECIPE, UNTIL, APART = 1, 2, 4, 8, 16, 32  # bits of the first byte of a range
STAMP: dict[str, int] = {"producer_id": 41, "producer_epoch": 3, "base_sequence": (1 << 31) - 3}
NAMES = (b"", b"id", b"\xff", b"a*b", b"region")


class Taker:
    """Small numbers off the front of an input; an input that is used up gives zeros."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.at = 0

    def byte(self) -> int:
        self.at += 1
        return self.data[self.at - 1] if self.at <= len(self.data) else 0

    def number(self) -> int:
        """0 to 2^64: a byte of width, then so many bytes."""
        width = self.byte() % 9
        return int.from_bytes(bytes(self.byte() for _ in range(width)), "big")

    def rest(self) -> bytes:
        return self.data[self.at :]

    @property
    def empty(self) -> bool:
        return self.at >= len(self.data)


def exact(data: bytes) -> array.array[int]:
    """A writable buffer of exactly these bytes."""
    frame = array.array("B", b"\0") * len(data)
    if data:
        memoryview(frame)[:] = data
    return frame


# ---- ranges


def repaired(data: bytes, compress: bool) -> bytes:
    """The batches of a range with right lengths and checksums; payloads compressed as their attributes say."""
    out = bytearray()
    while len(data) >= 27:
        size = 12 + max(14, int.from_bytes(data[8:12], "big", signed=True))
        batch, data = bytearray(data[:size]), data[size:]
        if batch[16] == 2 and len(batch) >= 61:
            if compress:
                batch[61:] = compressed(bytes(batch[61:]), batch[22] & 7)
            batch[17:21] = struct.pack(">I", kernel.crc32c_table(batch[21:]))
        elif batch[16] < 2:
            batch[12:16] = struct.pack(">I", zlib.crc32(batch[16:]))
        batch[8:12] = struct.pack(">i", len(batch) - 12)
        out += batch
    return bytes(out) + data


def compressed(payload: bytes, codec: int) -> bytes:
    if codec == GZIP:
        return bytes(cramjam.gzip.compress(payload))
    if codec == SNAPPY:
        return bytes(cramjam.snappy.compress_raw(payload))
    if codec == LZ4:
        return bytes(cramjam.lz4.compress(payload))
    return bytes(cramjam.zstd.compress(payload)) if codec == ZSTD else payload


class Hostile:
    """A range and what a lane would say of it, as an input tells."""

    def __init__(self, data: bytes) -> None:
        taker = Taker(data)
        self.flags, ahead, entries = taker.byte(), taker.byte(), taker.byte() % 4
        marks = [(6 + taker.byte() % 4, taker.byte()) for _ in range(entries)]
        self.recipe = recipe_of(taker) if self.flags & RECIPE else None
        reach = taker.byte() if self.flags & UNTIL else None
        data = taker.rest()
        self.data = repaired(data, bool(self.flags & COMPRESS)) if self.flags & REPAIR else data
        first = int.from_bytes(data[:8], "big", signed=True)
        self.position = min(max(0, first + ahead - 2), INT64_MAX)
        self.until = None if reach is None else min(self.position + reach, INT64_MAX)
        self.aborted = [(producer, min(max(0, first + mark), INT64_MAX)) for producer, mark in marks]


def recipe_of(taker: Taker) -> kernel.Recipe | None:
    """A compiled recipe of up to three operations, or None when its operations are refused."""
    operations: list[tuple[Any, ...]] = []
    for _ in range(taker.byte() % 4):
        kind, name, other = taker.byte() % 5, NAMES[taker.byte() % len(NAMES)], NAMES[taker.byte() % len(NAMES)]
        if kind == 0:
            operations.append(("remove", name))
        elif kind == 1:
            operations.append(("remove_matching", bytes([*name, *b"*"[: taker.byte() % 2], *other])))
        elif kind == 2:
            operations.append(("rename", name, other))
        else:
            parts = (b"x" * taker.byte(), *("offset", "timestamp")[: taker.byte() % 3])
            operations.append(("set" if kind == 3 else "add", name, parts))
    try:
        return kernel.Recipe(operations)
    except ValueError:
        return None


def pack(data: bytes) -> None:
    """The batches that come out may be sent, and hold what went in."""
    hostile = Hostile(data)
    limit = 200 if hostile.flags & SMALL else 1 << 30
    frame = exact(hostile.data)
    ahead = kernel.next_offset(frame, 0, len(frame), hostile.position)
    read = reading(frame, hostile)
    packed = kernel.pack(
        frame,
        0,
        len(frame),
        hostile.position,
        hostile.aborted,
        **STAMP,
        max_batch_bytes=limit,
        recipe=hostile.recipe,
        until=hostile.until,
        apart=(hostile.position, 1 << 62, 1) if hostile.flags & APART else None,
    )
    check_packed(packed, hostile.position, limit)
    if packed.error is None:
        assert hostile.until is not None or (packed.next_offset, packed.last_leader_epoch) == ahead
    else:
        check_error(packed.error, hostile.position)
        assert packed.next_offset <= ahead[0] or packed.error.next_offset is None
    if read is not None and packed.error is None:
        check_same_records(packed, read, hostile.recipe, hostile.until)


def reading(frame: array.array[int], hostile: Hostile) -> list[Any] | None:
    try:
        return kernel.read_records(frame, 0, len(frame), hostile.aborted, hostile.position)
    except kernel.BatchError as error:
        check_error(error, hostile.position)
        return None


def check_error(error: kernel.BatchError, position: int) -> None:
    assert error.reason in REASONS
    assert error.detail
    assert error.next_offset is None or error.next_offset > max(error.offset, position)


def check_packed(packed: kernel.Packed, position: int, limit: int) -> None:
    """Counts, sequences, runs, headers and checksums of what is to be sent."""
    assert packed.next_offset >= position
    assert packed.records == sum(batch.count for batch in packed.batches)
    sequence, at = STAMP["base_sequence"], position
    for batch in packed.batches:
        written = bytes(batch.view)
        head = HEADER.unpack(written[:61])
        assert head[:4] == (0, len(written) - 12, -1, 2)
        assert head[4] == kernel.crc32c_table(written[21:])
        assert head[5] & (TRANSACTIONAL | LOG_APPEND_TIME | CONTROL | DELETE_HORIZON) == TRANSACTIONAL
        assert head[6] == batch.count - 1 >= 0
        assert head[8:] == (batch.max_timestamp, 41, 3, sequence, batch.count)
        assert len(written) <= limit
        assert batch.payload_crc == kernel.crc32c_table(written[61:])
        assert batch.payload_bytes == len(written) - 61
        for first, count in batch.runs:
            assert first >= at
            assert count > 0
            at = first + count
        assert sum(count for _, count in batch.runs) == batch.count
        sequence = (sequence + batch.count) & (1 << 31) - 1
    assert at <= packed.next_offset
    assert packed.next_sequence == sequence


def check_same_records(
    packed: kernel.Packed, read: list[Any], recipe: kernel.Recipe | None = None, until: int | None = None
) -> None:
    """What was packed, read again, is what was read before, after the recipe: every field of every record."""
    got: list[Any] = []
    for batch in packed.batches:
        view = exact(bytes(batch.view))
        records = kernel.read_records(view, 0, len(view), [])
        assert [record[0] for record in records] == list(range(batch.count))
        if batch.reencoded:
            assert max(record[1] for record in records) == batch.max_timestamp
        offsets = (first + i for first, count in batch.runs for i in range(count))
        got += [(offset, *record[1:]) for offset, record in zip(offsets, records, strict=True)]
    operations = recipe.operations if recipe else ()
    assert got == [
        (*record[:4], reference_recipe.apply(operations, record[4], offset=record[0], timestamp=record[1]))
        for record in read
        if until is None or record[0] < until
    ]


def read_records(data: bytes) -> None:
    """Offsets rise from the position on; nothing is read that is not in the range."""
    hostile = Hostile(data)
    frame = exact(hostile.data)
    before = bytes(frame)
    at = hostile.position
    for offset, timestamp, key, value, headers in reading(frame, hostile) or []:
        assert offset >= at
        at = offset + 1
        assert -(1 << 63) <= timestamp <= INT64_MAX
        assert all(part is None or isinstance(part, bytes) for part in (key, value, *(pair[1] for pair in headers)))
        assert all(isinstance(name, bytes) for name, _ in headers)
    assert bytes(frame) == before


def codec(data: bytes) -> None:
    """A compressed payload behind a right header: read as records, and re-encoded into the same ones."""
    taker = Taker(data)
    number, count = taker.byte() % 8, 1 + taker.byte()
    payload = taker.rest()
    fields = (0, 49 + len(payload), 0, 2, 0, number | LOG_APPEND_TIME, count - 1, 0, 77, -1, -1, -1, count)
    batch = bytearray(HEADER.pack(*fields) + payload)
    batch[17:21] = struct.pack(">I", kernel.crc32c_table(batch[21:]))
    frame = exact(bytes(batch))
    try:
        read = kernel.read_records(frame, 0, len(frame), [])
    except kernel.BatchError as error:
        check_error(error, 0)
        read = None
    packed = kernel.pack(frame, 0, len(frame), 0, [], **STAMP, max_batch_bytes=1 << 30)
    check_packed(packed, 0, 1 << 30)
    assert (packed.error is None) == (read is not None)
    if read is not None:
        assert len(read) == count
        check_same_records(packed, read)
        if len(payload) < 1000 and sum(len(record[2] or b"") + len(record[3] or b"") for record in read) < 10_000:
            assert reference.read_records(bytes(batch), 0, len(batch), []) == read


# ---- messages and maps


def fetch_response(data: bytes) -> None:
    """A response or a FrameError; every partition's records lie inside the frame."""
    taker = Taker(data)
    version = 12 + taker.byte() % 6
    frame = exact(taker.rest())
    try:
        response = kernel.fetch_response(frame, version)
    except kernel.FrameError:
        return
    at = 0
    for partition in response.partitions:
        assert at <= partition.start <= partition.end <= len(frame)
        at = partition.end
        assert (partition.topic is None) == (version > 12)
        kernel.next_offset(frame, partition.start, partition.end, 0)
    assert repr(response)


class Runs:
    """What an offset map should hold, as plain lists."""

    def __init__(self) -> None:
        self.runs: list[tuple[int, int, int]] = []
        self.firsts: tuple[list[int], list[int]] = ([], [])

    def append(self, run: tuple[int, int, int]) -> None:
        if self.runs and run[:2] == (self.end(0), self.end(1)):
            self.runs[-1] = (*self.runs[-1][:2], self.runs[-1][2] + run[2])
            return
        self.runs.append(run)
        for side in (0, 1):
            self.firsts[side].append(run[side])

    def end(self, side: int) -> int:
        return self.runs[-1][side] + self.runs[-1][2] if self.runs else 0

    def floor(self, side: int, offset: int) -> tuple[int, int, int] | None:
        at = bisect.bisect_right(self.firsts[side], offset)
        return self.runs[at - 1] if at else None

    def ceiling(self, offset: int) -> tuple[int, int, int] | None:
        at = bisect.bisect_left(self.firsts[0], offset)
        return self.runs[at] if at < len(self.runs) else None

    def across(self, side: int, offset: int) -> int | None:
        """The offset of the other side."""
        run = self.floor(side, offset)
        return run[1 - side] + offset - run[side] if run and offset < run[side] + run[2] else None


def offset_map(data: bytes) -> None:
    """Runs appended and looked up, as plain lists would have it."""
    taker = Taker(data)
    real, model = kernel.OffsetMap(), Runs()
    while not taker.empty:
        if taker.byte() % 2:
            append(real, model, taker)
        else:
            look_up(real, model, taker.number())
    assert list(real.runs()) == model.runs
    assert len(real) == len(model.runs)
    for source, target, count in model.runs[:: 1 + len(model.runs) // 50]:
        for offset in (source - 1, source, source + count - 1, source + count, target, target + count):
            look_up(real, model, offset)


def append(real: kernel.OffsetMap, model: Runs, taker: Taker) -> None:
    run = (model.end(0) + taker.number(), model.end(1) + taker.number(), 1 + taker.number())
    try:
        real.append(*run)
    except (ValueError, OverflowError):
        assert max(run[:2]) + run[2] > INT64_MAX
    else:
        assert max(run[:2]) + run[2] <= INT64_MAX
        model.append(run)


def look_up(real: kernel.OffsetMap, model: Runs, offset: int) -> None:
    if 0 <= offset <= INT64_MAX:
        assert real.floor(offset) == model.floor(0, offset)
        assert real.ceiling(offset) == model.ceiling(offset)
        assert real.to_target(offset) == model.across(0, offset)
        assert real.to_source(offset) == model.across(1, offset)


TARGETS: dict[str, Callable[[bytes], None]] = {
    "fetch_response": fetch_response,
    "pack": pack,
    "read_records": read_records,
    "codec": codec,
    "offset_map": offset_map,
}


def seeds(target: str) -> Iterator[tuple[str, bytes]]:
    """The checked-in inputs of a target, by name."""
    for path in sorted((CORPUS / target).iterdir()):
        yield path.name, path.read_bytes()
