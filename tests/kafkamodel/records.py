"""Record batches, magic 2, as the model needs them: the 61-byte header, and records for what tests write and compare.

Plain and slow on purpose, and shares no code with what it judges.
"""

from __future__ import annotations

import functools
import struct
from collections.abc import Sequence
from typing import Final, NamedTuple

import cramjam

HEADER: Final = struct.Struct(">qiibIhiqqqhii")
HEADER_SIZE: Final = 61
LENGTH_AT: Final = 8
BODY_AT: Final = 12  # what the length field counts begins here
CRC_AT: Final = 17
CRC_FROM: Final = 21  # the CRC covers attributes to the end

CODEC_MASK: Final = 0x07
LOG_APPEND_TIME: Final = 0x08
TRANSACTIONAL: Final = 0x10
CONTROL: Final = 0x20
DELETE_HORIZON: Final = 0x40

Headers = tuple[tuple[bytes, bytes | None], ...]


class Record(NamedTuple):
    """One record as a consumer sees it; `offset` is its place in the log, `timestamp` in ms."""

    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: Headers = ()

    @property
    def content(self) -> tuple[int, bytes | None, bytes | None, Headers]:
        """All but the offset: what must be equal in a mirror."""
        return self.timestamp, self.key, self.value, self.headers


class BatchHeader(NamedTuple):
    base_offset: int
    length: int
    leader_epoch: int
    magic: int
    crc: int
    attributes: int
    last_offset_delta: int
    base_timestamp: int
    max_timestamp: int
    producer_id: int
    producer_epoch: int
    base_sequence: int
    count: int

    @property
    def last_offset(self) -> int:
        return self.base_offset + self.last_offset_delta

    @property
    def transactional(self) -> bool:
        return bool(self.attributes & TRANSACTIONAL)

    @property
    def control(self) -> bool:
        return bool(self.attributes & CONTROL)

    @property
    def last_sequence(self) -> int:
        """Sequences wrap after 2^31 - 1 to 0; -1 for a batch without one."""
        return -1 if self.base_sequence < 0 else (self.base_sequence + self.last_offset_delta) & 0x7FFFFFFF


def read_header(data: bytes | memoryview, at: int = 0) -> BatchHeader:
    return BatchHeader._make(HEADER.unpack_from(data, at))


def _crc_table() -> list[int]:
    table = []
    for byte in range(256):
        value = byte
        for _ in range(8):
            value = (value >> 1) ^ (0x82F63B78 if value & 1 else 0)
        table.append(value)
    return table


_TABLE: Final = _crc_table()


def crc32c(data: bytes | memoryview) -> int:
    """The Castagnoli CRC, byte by byte."""
    crc = 0xFFFFFFFF
    table = _TABLE
    for byte in data:
        crc = table[(crc ^ byte) & 0xFF] ^ (crc >> 8)
    return crc ^ 0xFFFFFFFF


def _varint(value: int) -> bytes:
    """Zigzag varint, as record fields are written."""
    raw = (value << 1) ^ (value >> 63)
    out = bytearray()
    while raw & ~0x7F:
        out.append(raw & 0x7F | 0x80)
        raw >>= 7
    out.append(raw)
    return bytes(out)


def _read_varint(data: bytes, at: int) -> tuple[int, int]:
    raw = shift = 0
    while True:
        byte = data[at]
        at += 1
        raw |= (byte & 0x7F) << shift
        if byte < 0x80:
            return (raw >> 1) ^ -(raw & 1), at
        shift += 7


def _field(data: bytes | None) -> bytes:
    return _varint(-1) if data is None else _varint(len(data)) + data


def _read_field(data: bytes, at: int) -> tuple[bytes | None, int]:
    size, at = _read_varint(data, at)
    return (None, at) if size < 0 else (data[at : at + size], at + size)


def build_batch(
    records: Sequence[Record],
    *,
    producer_id: int = -1,
    producer_epoch: int = -1,
    base_sequence: int = -1,
    attributes: int = 0,
    last_offset_delta: int | None = None,
) -> bytes:
    """One batch of these records. Offsets of the records count from the first; codecs none and lz4 (3).

    `last_offset_delta` above the last record's makes the gap at the end that compaction leaves.
    """
    base_offset = records[0].offset
    base_timestamp = records[0].timestamp
    body = bytearray()
    for record in records:
        inner = b"\0" + _varint(record.timestamp - base_timestamp) + _varint(record.offset - base_offset)
        inner += _field(record.key) + _field(record.value) + _varint(len(record.headers))
        for name, value in record.headers:
            inner += _field(name) + _field(value)
        body += _varint(len(inner)) + inner
    if attributes & CODEC_MASK == 3:
        body = bytearray(cramjam.lz4.compress(bytes(body)))
    delta = records[-1].offset - base_offset if last_offset_delta is None else last_offset_delta
    newest = max(r.timestamp for r in records)
    header = HEADER.pack(
        base_offset,
        HEADER_SIZE - BODY_AT + len(body),
        0,
        2,
        0,
        attributes,
        delta,
        base_timestamp,
        newest,
        producer_id,
        producer_epoch,
        base_sequence,
        len(records),
    )
    return with_crc(bytearray(header + body))


def control_batch(
    offset: int, timestamp: int, producer_id: int, producer_epoch: int, *, commit: bool, coordinator_epoch: int
) -> bytes:
    """A transaction's end marker."""
    key = struct.pack(">hh", 0, int(commit))
    value = struct.pack(">hi", 0, coordinator_epoch)
    return build_batch(
        [Record(offset, timestamp, key, value)],
        producer_id=producer_id,
        producer_epoch=producer_epoch,
        attributes=TRANSACTIONAL | CONTROL,
    )


def with_crc(batch: bytearray) -> bytes:
    struct.pack_into(">I", batch, CRC_AT, crc32c(memoryview(batch)[CRC_FROM:]))
    return bytes(batch)


def placed(batch: bytes, offset: int, leader_epoch: int) -> bytes:
    """The batch as the leader stores it: base offset and leader epoch lie outside the CRC."""
    return struct.pack(">q", offset) + batch[LENGTH_AT:BODY_AT] + struct.pack(">i", leader_epoch) + batch[16:]


def stamped(batch: bytes, timestamp: int) -> bytes:
    """The batch as a topic with LogAppendTime stores it."""
    out = bytearray(batch)
    attributes = struct.unpack_from(">h", out, CRC_FROM)[0]
    struct.pack_into(">h", out, CRC_FROM, attributes | LOG_APPEND_TIME)
    struct.pack_into(">q", out, 35, timestamp)
    return with_crc(out)


@functools.lru_cache(maxsize=4096)
def read_records(batch: bytes) -> tuple[Record, ...]:
    """The records of one batch, with their offsets in the log. Codecs none and lz4."""
    header = read_header(batch)
    codec = header.attributes & CODEC_MASK
    body = batch[HEADER_SIZE:]
    if codec == 3:
        body = bytes(cramjam.lz4.decompress(body))
    elif codec != 0:
        raise ValueError(f"the model reads codecs none and lz4, not {codec}")
    append_time = header.attributes & LOG_APPEND_TIME
    records = []
    at = 0
    for _ in range(header.count):
        size, at = _read_varint(body, at)
        end = at + size
        at += 1
        timestamp, at = _read_varint(body, at)
        delta, at = _read_varint(body, at)
        key, at = _read_field(body, at)
        value, at = _read_field(body, at)
        count, at = _read_varint(body, at)
        headers = []
        for _ in range(count):
            name, at = _read_field(body, at)
            content, at = _read_field(body, at)
            headers.append((name or b"", content))
        if at != end:
            raise ValueError(f"record at {header.base_offset + delta} has {end - at} bytes too many")
        when = header.max_timestamp if append_time else header.base_timestamp + timestamp
        records.append(Record(header.base_offset + delta, when, key, value, tuple(headers)))
    if at != len(body):
        raise ValueError(f"batch at {header.base_offset} has {len(body) - at} bytes too many")
    return tuple(records)
