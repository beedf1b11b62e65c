"""Kafka's and LZ4's bytes in slow plain Python: checksums, varints, frames, record batches right or wrong."""

from __future__ import annotations

import dataclasses
import functools
import struct

NONE, GZIP, SNAPPY, LZ4, ZSTD = range(5)
LOG_APPEND_TIME, TRANSACTIONAL, CONTROL, DELETE_HORIZON = 0x08, 0x10, 0x20, 0x40
MAX_UNPACKED = 256 << 20
HEADER = struct.Struct(">qiibIhiqqqhii")
assert HEADER.size == 61

Header = tuple[bytes, bytes | None]


class Malformed(Exception):
    """Bytes that break the format."""


class TooLarge(Exception):
    """A payload that could unpack to more than the kernel allows."""


# ---- checksums


@functools.cache
def _crc_table() -> list[int]:
    table = []
    for byte in range(256):
        for _ in range(8):
            byte = byte >> 1 ^ (0x82F63B78 if byte & 1 else 0)
        table.append(byte)
    return table


def crc32c(data: bytes, crc: int = 0) -> int:
    table = _crc_table()
    crc ^= 0xFFFFFFFF
    for byte in data:
        crc = crc >> 8 ^ table[(crc ^ byte) & 255]
    return crc ^ 0xFFFFFFFF


def xxh32(data: bytes) -> int:
    """xxHash, 32 bits, seed 0: what the LZ4 frame uses for its checksums."""
    p1, p2, p3, p4, p5 = 2654435761, 2246822519, 3266489917, 668265263, 374761393
    mask = 0xFFFFFFFF

    def rotated(x: int, r: int) -> int:
        return (x << r | x >> 32 - r) & mask

    at = 0
    if len(data) >= 16:
        lanes = [(p1 + p2) & mask, p2, 0, -p1 & mask]
        while at + 16 <= len(data):
            words = struct.unpack_from("<4I", data, at)
            lanes = [
                rotated((lane + word * p2) & mask, 13) * p1 & mask for lane, word in zip(lanes, words, strict=True)
            ]
            at += 16
        h = sum(rotated(lane, r) for lane, r in zip(lanes, (1, 7, 12, 18), strict=True)) & mask
    else:
        h = p5
    h = (h + len(data)) & mask
    while at + 4 <= len(data):
        h = rotated((h + struct.unpack_from("<I", data, at)[0] * p3) & mask, 17) * p4 & mask
        at += 4
    for byte in data[at:]:
        h = rotated((h + byte * p5) & mask, 11) * p1 & mask
    h = (h ^ h >> 15) * p2 & mask
    h = (h ^ h >> 13) * p3 & mask
    return h ^ h >> 16


# ---- varints


def uvarint(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes(out) + bytes([value])


def varint(value: int) -> bytes:
    """Zigzag, both int32 and int64: the encoding is the same."""
    return uvarint(value << 1 if value >= 0 else (-value << 1) - 1)


class Reader:
    """Takes values off the front of some bytes; Malformed when there are too few."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.at = 0

    def take(self, size: int) -> bytes:
        if size < 0 or size > len(self.data) - self.at:
            raise Malformed("too few bytes")
        self.at += size
        return self.data[self.at - size : self.at]

    def integer(self, size: int) -> int:
        return int.from_bytes(self.take(size), "big", signed=True)

    def unsigned(self, bits: int) -> int:
        value = shift = 0
        while True:
            byte = self.take(1)[0]
            value |= (byte & 127) << shift
            if value >> bits or (shift + 7 > bits and byte > 127):
                raise Malformed("varint overflow")
            if byte < 128:
                return value
            shift += 7

    def varint(self, bits: int = 32) -> int:
        value = self.unsigned(bits)
        return value >> 1 if value % 2 == 0 else -(value + 1 >> 1)

    def sized(self, *, nullable: bool) -> bytes | None:
        size = self.varint()
        if size == -1 and nullable:
            return None
        return self.take(size)

    def end(self) -> None:
        if self.at != len(self.data):
            raise Malformed("bytes left over")


# ---- lz4 frames


def write_lz4(
    data: bytes,
    *,
    block: int = 4,
    independent: bool = True,
    block_sum: bool = False,
    size: bool = False,
    content_sum: bool = False,
) -> bytes:
    """A valid frame of stored or run-length blocks, with any of the format's options."""
    flags = 0x40 | independent << 5 | block_sum << 4 | size << 3 | content_sum << 2
    head = bytes([flags, block << 4]) + (struct.pack("<Q", len(data)) if size else b"")
    out = struct.pack("<I", 0x184D2204) + head + bytes([xxh32(head) >> 8 & 255])
    step = 1 << 8 + 2 * block
    for at in range(0, len(data), step):
        raw = data[at : at + step]
        packed = _lz4_block(raw)
        stored = len(packed) >= len(raw)
        body = raw if stored else packed
        out += struct.pack("<I", len(body) | stored << 31) + body
        out += struct.pack("<I", xxh32(body)) if block_sum else b""
    return out + bytes(4) + (struct.pack("<I", xxh32(data)) if content_sum else b"")


def _lz4_block(raw: bytes) -> bytes:
    """Runs of one byte become matches at distance 1; the format wants five literals at the end."""
    out = bytearray()
    at = literal = 0
    while at + 12 < len(raw):
        stop = at + 1
        while stop < len(raw) - 5 and raw[stop] == raw[at]:
            stop += 1
        if stop - at < 8:
            at = stop
            continue
        out += _lz4_sequence(raw[literal : at + 1], stop - at - 1)
        at = literal = stop
    return bytes(out) + _lz4_sequence(raw[literal:], None)


def _lz4_sequence(literals: bytes, match: int | None) -> bytes:
    def more(value: int) -> bytes:
        return b"" if value < 15 else b"\xff" * ((value - 15) // 255) + bytes([(value - 15) % 255])

    token = min(15, len(literals)) << 4 | (0 if match is None else min(15, match - 4))
    out = bytes([token]) + more(len(literals)) + literals
    return out if match is None else out + b"\x01\x00" + more(match - 4)


def unpack_lz4(data: bytes) -> bytes:
    """Exactly one whole frame (lz4_Frame_format.md). A size that the frame gives is judged before its content."""
    frame = Reader(data)
    if frame.take(4) != b"\x04\x22\x4d\x18":
        raise Malformed("magic")
    flags, descriptor = frame.take(2)
    if flags >> 6 != 1 or flags & 3 or descriptor & 0x8F or descriptor >> 4 < 4:
        raise Malformed("descriptor")
    content_size = int.from_bytes(frame.take(8), "little") if flags & 8 else None
    check = frame.take(1)[0]
    block_max = 1 << 8 + 2 * (descriptor >> 4)
    blocks: list[tuple[bool, bytes, bytes | None]] = []
    bound = 0
    while word := int.from_bytes(frame.take(4), "little"):
        stored, size = bool(word >> 31), word & 0x7FFFFFFF
        if size > block_max:
            raise Malformed("block size")
        body = frame.take(size)
        blocks.append((stored, body, frame.take(4) if flags & 16 else None))
        bound += min(block_max, size if stored else 255 * size)
    content_sum = frame.take(4) if flags & 4 else None
    frame.end()
    if content_size is not None and min(bound, content_size) > MAX_UNPACKED:
        raise TooLarge
    if check != xxh32(data[4 : 14 if flags & 8 else 6]) >> 8 & 255:
        raise Malformed("header checksum")
    out = bytearray()
    for stored, body, block_sum in blocks:
        if block_sum is not None and block_sum != struct.pack("<I", xxh32(body)):
            raise Malformed("block checksum")
        before = len(out)
        if stored:
            out += body
        else:
            _unpack_block(body, out, before if flags & 32 else 0)
        if len(out) - before > block_max:
            raise Malformed("block content size")
        if len(out) > MAX_UNPACKED:
            raise TooLarge
    if content_size not in (None, len(out)):
        raise Malformed("content size")
    if content_sum is not None and content_sum != struct.pack("<I", xxh32(bytes(out))):
        raise Malformed("content checksum")
    return bytes(out)


def _unpack_block(body: bytes, out: bytearray, floor: int) -> None:
    """Append one block's content; matches may reach back to floor."""
    block = Reader(body)

    def length(nibble: int) -> int:
        if nibble < 15:
            return nibble
        total = 15
        while True:
            byte = block.take(1)[0]
            total += byte
            if byte < 255:
                return total

    while True:
        token = block.take(1)[0]
        out += block.take(length(token >> 4))
        if block.at == len(body):
            return
        distance = int.from_bytes(block.take(2), "little")
        if not 0 < distance <= len(out) - floor:
            raise Malformed("match distance")
        for _ in range(length(token & 15) + 4):
            out.append(out[-distance])


# ---- record batches


@dataclasses.dataclass(frozen=True)
class Rec:
    """One record to be written; delta is its offset minus the batch's base offset."""

    delta: int
    timestamp: int
    key: bytes | None = None
    value: bytes | None = None
    headers: tuple[Header, ...] = ()
    attributes: int = 0


def write_record(rec: Rec, base_timestamp: int) -> bytes:
    def sized(data: bytes | None) -> bytes:
        return varint(-1) if data is None else varint(len(data)) + data

    body = bytes([rec.attributes]) + varint(rec.timestamp - base_timestamp) + varint(rec.delta)
    body += sized(rec.key) + sized(rec.value) + varint(len(rec.headers))
    body += b"".join(sized(name) + sized(value) for name, value in rec.headers)
    return varint(len(body)) + body


def write_batch(
    base_offset: int,
    payload: bytes,
    *,
    count: int,
    last_delta: int,
    attributes: int = 0,
    leader_epoch: int = 0,
    base_timestamp: int = 0,
    max_timestamp: int = 0,
    producer_id: int = -1,
    producer_epoch: int = -1,
    sequence: int = -1,
) -> bytes:
    """One magic 2 batch around a finished payload, with a right length and CRC and whatever else it is told."""
    checked = HEADER.pack(
        base_offset,
        49 + len(payload),
        leader_epoch,
        2,
        0,
        attributes,
        last_delta,
        base_timestamp,
        max_timestamp,
        producer_id,
        producer_epoch,
        sequence,
        count,
    )
    return checked[:17] + struct.pack(">I", crc32c(checked[21:] + payload)) + checked[21:] + payload


def with_right_crc(batch: bytes) -> bytes:
    return batch[:17] + struct.pack(">I", crc32c(batch[21:])) + batch[21:]
