"""Reads a broker's own segment files: what really lies on disk, before any client has interpreted it.

Written from Kafka's description of the record batch (magic 2) and sharing no code with eomirror, so that it can testify
for both sides: that the hard cases are in the source (`survey`), and how far the target has come (`Tail`).
"""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import cramjam

# base offset, length, leader epoch, magic, crc, attributes, last offset delta, base timestamp, max timestamp,
# producer id, producer epoch, base sequence, record count
HEADER = struct.Struct(">qiibIhiqqqhii")
LENGTH_FROM = 12  # the length field counts the bytes behind itself
CODECS = ("none", "gzip", "snappy", "lz4", "zstd")
XERIAL = (
    b"\x82SNAPPY\x00"  # Java's snappy: this, two int32, then blocks with their int32 length; others write one raw block
)
TINY = 3  # records; a batch that holds no more is tiny
COMMIT = 1  # control record type; 0 is abort


class LogError(Exception):
    """A segment file does not hold what Kafka writes."""


@dataclass(frozen=True, slots=True)
class Batch:
    """One record batch header as stored, and where it lies."""

    path: Path
    position: int  # byte offset in the file
    size: int  # bytes with the header
    base_offset: int
    attributes: int
    last_delta: int
    base_timestamp: int  # ms
    max_timestamp: int  # ms
    producer_id: int
    count: int

    @property
    def last_offset(self) -> int:
        """The offset that the batch occupies last, whether or not a record is there."""
        return self.base_offset + self.last_delta

    @property
    def codec(self) -> str:
        """Name of the compression."""
        return CODECS[self.attributes & 7]

    @property
    def log_append_time(self) -> bool:
        """True if the broker set the timestamps."""
        return bool(self.attributes & 8)

    @property
    def transactional(self) -> bool:
        """True if the records count only once their transaction is committed."""
        return bool(self.attributes & 16)

    @property
    def control(self) -> bool:
        """True for a transaction marker."""
        return bool(self.attributes & 32)

    @property
    def delete_horizon(self) -> bool:
        """True once the cleaner has noted when tombstones may go."""
        return bool(self.attributes & 64)

    def payload(self) -> bytes:
        """The bytes behind the header, decompressed."""
        with self.path.open("rb") as file:
            file.seek(self.position + HEADER.size)
            stored = file.read(self.size - HEADER.size)
        match self.codec:
            case "none":
                return stored
            case "lz4":
                return bytes(cramjam.lz4.decompress(stored))
            case "gzip":
                return bytes(cramjam.gzip.decompress(stored))
            case "zstd":
                return bytes(cramjam.zstd.decompress(stored))
            case "snappy":
                return _unsnappy(stored)
        raise LogError(f"{self.path.name}: offset {self.base_offset}: no reader for {self.codec}")


@dataclass(frozen=True, slots=True)
class Record:
    """One record as stored."""

    offset: int
    timestamp: int  # ms
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[bytes, bytes | None], ...]


def segments(folder: Path) -> list[Path]:
    """The segment files of one partition folder, oldest first."""
    return sorted(folder.glob("*.log"))


def batches(path: Path, position: int = 0) -> Iterator[Batch]:
    """The whole batches of a segment from a byte position on. A batch that is still being written ends the walk."""
    size = path.stat().st_size
    with path.open("rb") as file:
        while position + HEADER.size <= size:
            file.seek(position)
            head = file.read(HEADER.size)
            base, length, _, magic, _, attributes, last_delta, first, latest, pid, _, _, count = HEADER.unpack(head)
            if magic != 2 or length < HEADER.size - LENGTH_FROM:
                raise LogError(f"{path}: no batch of magic 2 at byte {position}")
            if position + LENGTH_FROM + length > size:
                return
            yield Batch(path, position, LENGTH_FROM + length, base, attributes, last_delta, first, latest, pid, count)
            position += LENGTH_FROM + length


def partition_batches(folder: Path) -> Iterator[Batch]:
    """All whole batches of a partition folder in offset order."""
    for path in segments(folder):
        yield from batches(path)


def records(batch: Batch) -> Iterator[Record]:
    """The records of a batch; a marker's too. Raises LogError when count and bytes disagree."""
    data = batch.payload()
    position = 0
    for _ in range(batch.count):
        length, position = _varint(data, position)
        end = position + length
        timestamp, position = _varint(data, position + 1)  # one byte of record attributes is unused
        delta, position = _varint(data, position)
        key, position = _bytes(data, position)
        value, position = _bytes(data, position)
        headers = []
        number, position = _varint(data, position)
        for _ in range(number):
            name, position = _bytes(data, position)
            content, position = _bytes(data, position)
            headers.append((name or b"", content))
        if position != end:
            raise LogError(f"{batch.path}: offset {batch.base_offset + delta}: record ends at {position}, not {end}")
        stamp = batch.max_timestamp if batch.log_append_time else batch.base_timestamp + timestamp
        yield Record(batch.base_offset + delta, stamp, key, value, tuple(headers))
    if position != len(data):
        raise LogError(f"{batch.path}: offset {batch.base_offset}: {len(data) - position} bytes behind the last record")


def _unsnappy(stored: bytes) -> bytes:
    if not stored.startswith(XERIAL):
        return bytes(cramjam.snappy.decompress_raw(stored))
    parts, position = [], len(XERIAL) + 8
    while position < len(stored):
        (length,) = struct.unpack_from(">i", stored, position)
        position += 4 + length
        parts.append(bytes(cramjam.snappy.decompress_raw(stored[position - length : position])))
    return b"".join(parts)


def commits(batch: Batch) -> bool:
    """Whether a control batch is a commit marker (else it aborts)."""
    for record in records(batch):
        return struct.unpack_from(">hh", record.key or b"")[1] == COMMIT
    raise LogError(f"{batch.path}: offset {batch.base_offset}: a control batch without a record")


def _varint(data: bytes, position: int) -> tuple[int, int]:
    shift = value = 0
    while True:
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return (value >> 1) ^ -(value & 1), position
        shift += 7


def _bytes(data: bytes, position: int) -> tuple[bytes | None, int]:
    length, position = _varint(data, position)
    if length < 0:
        return None, position
    return data[position : position + length], position + length


class Tail:
    """Follows one partition and counts the records that a read_committed reader gets; reads only what is new.

    For logs that nobody cleans meanwhile: a segment that the cleaner swaps under it would be counted from its old end.
    """

    def __init__(self, folder: Path) -> None:
        self.committed = 0
        self._folder = folder
        self._open: Counter[int] = Counter()
        self._segment: Path | None = None
        self._position = 0

    @property
    def open_records(self) -> int:
        """Records of transactions that are neither committed nor aborted yet."""
        return self._open.total()

    def advance(self) -> int:
        """Reads on to the present end and returns the count of committed records."""
        for path in segments(self._folder):
            if self._segment is not None and path.name < self._segment.name:
                continue
            if path != self._segment:
                self._segment, self._position = path, 0
            for batch in batches(path, self._position):
                self._position = batch.position + batch.size
                self._count(batch)
        return self.committed

    def _count(self, batch: Batch) -> None:
        if batch.control:
            held = self._open.pop(batch.producer_id, 0)
            if held and commits(batch):
                self.committed += held
        elif batch.transactional:
            self._open[batch.producer_id] += batch.count
        else:
            self.committed += batch.count


class Tails:
    """The tails of several topics of one cluster, summed. Topics may appear while it follows."""

    def __init__(self, log_dir: Path, topics: Iterable[str]) -> None:
        self._log_dir = log_dir
        self._topics = frozenset(topics)
        self._tails: dict[str, Tail] = {}

    def advance(self) -> int:
        """Committed records of all partitions up to now."""
        for path in self._log_dir.iterdir():
            if path.name not in self._tails and path.name.rpartition("-")[0] in self._topics:
                self._tails[path.name] = Tail(path)
        return sum(tail.advance() for tail in self._tails.values())

    @property
    def open_records(self) -> int:
        """Records in open transactions as of the last `advance`."""
        return sum(tail.open_records for tail in self._tails.values())

    def by_partition(self) -> dict[str, int]:
        """`topic-partition` -> committed records as of the last `advance`."""
        return {name: tail.committed for name, tail in sorted(self._tails.items())}


@dataclass
class Survey:
    """How often each hard case was met; those of records in a sample of the batches, those of batches in all."""

    cases: Counter[str] = field(default_factory=Counter)

    def missing(self, wanted: Iterable[str]) -> list[str]:
        """Those of the wanted cases that were never met."""
        return [case for case in wanted if not self.cases[case]]


RECORD_CASES: dict[str, Callable[[Record], bool]] = {
    "null keys": lambda record: record.key is None,
    "empty keys": lambda record: record.key == b"",
    "tombstones": lambda record: record.key is not None and record.value is None,
    "null key and value": lambda record: record.key is None and record.value is None,
    "empty values": lambda record: record.value == b"",
    "headers": lambda record: bool(record.headers),
    "repeated header names": lambda record: len({name for name, _ in record.headers}) < len(record.headers),
    "null header values": lambda record: any(content is None for _, content in record.headers),
    "values over 1 KiB": lambda record: record.value is not None and len(record.value) > 1024,
}


def survey(folders: Iterable[Path], sample: int = 25) -> Survey:
    """Looks at every batch of the folders, and into the first `sample` data batches of each codec and folder."""
    found = Survey()
    for folder in folders:
        _survey_partition(folder, sample, found.cases)
    return found


def _survey_partition(folder: Path, sample: int, cases: Counter[str]) -> None:
    open_batches: Counter[int] = Counter()
    looked: Counter[str] = Counter()
    expected = min(
        (int(path.stem) for path in segments(folder)), default=0
    )  # a segment is named after its first offset
    for batch in partition_batches(folder):
        if batch.base_offset > expected:
            cases["gaps between batches"] += 1
        expected = batch.last_offset + 1
        if batch.control:
            held = open_batches.pop(batch.producer_id, 0)
            committed = commits(batch) if batch.count else True
            cases["commit markers" if committed else "abort markers"] += 1
            cases["committed batches" if committed else "aborted batches"] += held
            continue
        cases["batches"] += 1
        cases["records"] += batch.count
        cases[f"codec {batch.codec}"] += 1
        cases["plain batches"] += batch.producer_id < 0
        cases["idempotent batches"] += batch.producer_id >= 0 and not batch.transactional
        cases["gaps inside batches"] += 0 < batch.count < batch.last_delta + 1
        cases["empty batches"] += batch.count == 0
        cases["tiny batches"] += 0 < batch.count <= TINY
        cases["LogAppendTime batches"] += batch.log_append_time
        cases["batches with a delete horizon"] += batch.delete_horizon
        if batch.transactional:
            open_batches[batch.producer_id] += 1
        looked[batch.codec] += 1
        if looked[batch.codec] <= sample:
            latest = -1
            for record in records(batch):
                for case, holds in RECORD_CASES.items():
                    cases[case] += holds(record)
                cases["timestamps out of order"] += record.timestamp < latest
                latest = record.timestamp
