"""The formats before Kafka 0.11 (magic 0 and 1) in slow plain Python: log entries written right or wrong, and read."""

from __future__ import annotations

import dataclasses
import struct
import zlib
from collections.abc import Sequence

import reference_codecs
from reference_format import LOG_APPEND_TIME, LZ4, NONE, Malformed, Reader, varint, xxh32
from reference_rewrite import Parsed


@dataclasses.dataclass(frozen=True)
class Old:
    """One message; offset is what stands in it, which inside a wrapper of magic 1 is relative."""

    offset: int
    magic: int
    attributes: int
    timestamp: int
    key: bytes | None
    value: bytes | None


def write_message(message: Old) -> bytes:
    """One entry: a message by itself, inside a wrapper, or around others."""
    body = struct.pack(">bB", message.magic, message.attributes)
    body += struct.pack(">q", message.timestamp) if message.magic else b""
    for part in (message.key, message.value):
        body += struct.pack(">i", -1) if part is None else struct.pack(">i", len(part)) + part
    return struct.pack(">qiI", message.offset, 4 + len(body), zlib.crc32(body)) + body


def with_right_crc(entry: bytes) -> bytes:
    """An entry whose length and CRC are made to fit what is in it."""
    return entry[:8] + struct.pack(">iI", len(entry) - 12, zlib.crc32(entry[16:])) + entry[16:]


def write_wrapper(
    offset: int, magic: int, codec: int, payload: bytes, *, attributes: int = 0, timestamp: int = -1
) -> bytes:
    """A wrapper around a payload that is already compressed; offset is the last message's."""
    return write_message(Old(offset, magic, codec | attributes, timestamp, None, payload))


def as_first_written(frame: bytes) -> bytes:
    """An LZ4 frame with the header checksum of magic 0, which also covers the magic number."""
    at = 14 if frame[4] & 8 else 6
    return frame[:at] + bytes([xxh32(frame[:at]) >> 8 & 255]) + frame[at + 1 :]


def _with_right_checksum(frame: bytes) -> bytes:
    at = 14 if len(frame) > 4 and frame[4] & 8 else 6
    if len(frame) <= at:
        raise Malformed("header")
    return frame[:at] + bytes([xxh32(frame[4:at]) >> 8 & 255]) + frame[at + 1 :]


def read_message(reader: Reader) -> Old:
    start = reader.at
    offset = reader.integer(8)
    body = Reader(reader.take(reader.integer(4)))
    crc = int.from_bytes(body.take(4), "big")
    if crc != zlib.crc32(reader.data[start + 16 : reader.at]):
        raise Malformed("crc")
    magic, attributes = body.integer(1), body.take(1)[0]
    if magic not in (0, 1):
        raise Malformed("magic")
    timestamp = body.integer(8) if magic else -1
    parts = []
    for _ in range(2):
        size = body.integer(4)
        parts.append(None if size == -1 else body.take(size))
    body.end()
    return Old(offset, magic, attributes, timestamp, parts[0], parts[1])


def codec_of(entry: bytes) -> int:
    return entry[17] & 7


def absolute(entry: bytes, lowest: int) -> list[Old]:
    """The messages of one entry with their absolute offsets and their timestamps; lowest: what the first may have."""
    reader = Reader(entry)
    outer = read_message(reader)
    if codec_of(entry) == NONE:
        return [outer]
    if outer.value is None:
        raise Malformed("no value")
    frame = _with_right_checksum(outer.value) if codec_of(entry) == LZ4 and outer.magic == 0 else outer.value
    inner = Reader(reference_codecs.unpack(codec_of(entry), frame))
    found: list[Old] = []
    while inner.at < len(inner.data):
        message = read_message(inner)
        if message.attributes & 7 or message.offset < 0 or (found and message.offset <= found[-1].offset):
            raise Malformed("inner message")
        found.append(message)
    if not found:
        raise Malformed("no messages")
    shift = outer.offset - found[-1].offset
    if shift < 0:
        raise Malformed("inner offset behind the wrapper's")
    shift *= outer.magic
    if found[0].offset + shift < lowest or outer.offset - found[0].offset - shift >= 1 << 31:
        raise Malformed("inner offsets")
    stamped = outer.magic == 1 and outer.attributes & LOG_APPEND_TIME
    out = []
    for message in found:
        timestamp = outer.timestamp if stamped and message.magic else message.timestamp
        if not -(1 << 63) <= timestamp - (out[0].timestamp if out else timestamp) < 1 << 63:
            raise Malformed("timestamp")
        out.append(dataclasses.replace(message, offset=message.offset + shift, timestamp=timestamp))
    return out


def records(entry: bytes, lowest: int) -> list[Parsed]:
    """What a re-encode makes of one entry."""
    return [_parsed(message) for message in absolute(entry, lowest)]


def _parsed(message: Old) -> Parsed:
    parts: Sequence[bytes | None] = (message.key, message.value)
    fields = b"".join(varint(-1) if part is None else varint(len(part)) + part for part in parts)
    return Parsed(message.offset, message.timestamp, 0, message.key, message.value, [], fields + varint(0), fields)
