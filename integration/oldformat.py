"""Writes segments as brokers before 0.11 did (message formats 0 and 1), which nothing that is sold today can do.

    OldLog(magic=1).add([Message(...), ...], codec="gzip").write(cluster.log_dir / "old-0")   # while the broker is down

Written from Kafka's description of the old message sets, and sharing no code with eomirror. A 4.x broker serves such
segments as they are, and librdkafka's consumers read them.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cramjam

CODECS = ("none", "gzip", "snappy", "lz4")  # zstd came later than magic 2
LOG_APPEND_TIME = 8
LZ4_MAGIC, LZ4_DESCRIPTOR = b"\x04\x22\x4d\x18", b"\x60\x40"  # version 1, independent blocks of 64 KiB
LZ4_BLOCK = 65536


@dataclass(frozen=True)
class Message:
    """One message; magic 0 has no place for its timestamp, neither has any for headers."""

    key: bytes | None
    value: bytes | None
    timestamp: int = -1  # ms


class OldLog:
    """The bytes of one segment, grown entry by entry from offset 0."""

    def __init__(self, magic: int) -> None:
        self.magic = magic
        self.data = b""
        self.next_offset = 0

    def add(self, messages: Sequence[Message], codec: str = "none", append_time: int | None = None) -> OldLog:
        """Appends the messages: one entry each, or all of them in one compressed wrapper.

        With `append_time` (ms; magic 1, compressed) the wrapper's time counts for all of them.
        """
        first = self.next_offset
        self.next_offset += len(messages)
        if codec == "none":
            self.data += b"".join(self._entry(first + n, one, 0) for n, one in enumerate(messages))
            return self
        # Magic 0 numbers the inner messages by their own offsets, magic 1 from 0.
        base = first if self.magic == 0 else 0
        inner = b"".join(self._entry(base + n, one, 0) for n, one in enumerate(messages))
        stamp = max(one.timestamp for one in messages) if append_time is None else append_time
        attributes = CODECS.index(codec) | (0 if append_time is None else LOG_APPEND_TIME)
        wrapper = Message(None, self._compressed(codec, inner), stamp)
        self.data += self._entry(self.next_offset - 1, wrapper, attributes)
        return self

    def write(self, folder: Path) -> None:
        """Puts the segment into the folder of an empty partition whose broker is down; the broker makes the indexes."""
        for path in folder.glob("0*"):
            path.unlink()
        (folder / f"{0:020d}.log").write_bytes(self.data)

    def _entry(self, offset: int, message: Message, attributes: int) -> bytes:
        body = struct.pack(">bb", self.magic, attributes)
        if self.magic == 1:
            body += struct.pack(">q", message.timestamp)
        for part in (message.key, message.value):
            body += struct.pack(">i", -1) if part is None else struct.pack(">i", len(part)) + part
        return struct.pack(">qiI", offset, len(body) + 4, zlib.crc32(body)) + body

    def _compressed(self, codec: str, data: bytes) -> bytes:
        match codec:
            case "gzip":
                return bytes(cramjam.gzip.compress(data))
            case "snappy":  # as Java writes it
                block = bytes(cramjam.snappy.compress_raw(data))
                return b"\x82SNAPPY\x00" + struct.pack(">iii", 1, 1, len(block)) + block
            case "lz4":
                # The first Java writers took the checksum of the descriptor over the magic number too; it stayed so for
                # magic 0.
                checked = LZ4_DESCRIPTOR if self.magic else LZ4_MAGIC + LZ4_DESCRIPTOR
                assert len(data) <= LZ4_BLOCK
                block = bytes(cramjam.lz4.compress_block(data, store_size=False))
                checksum = bytes([xxh32(checked) >> 8 & 255])
                size = struct.pack("<I", len(block))
                return LZ4_MAGIC + LZ4_DESCRIPTOR + checksum + size + block + bytes(4)
        raise ValueError(f"no codec {codec} in message format {self.magic}")


def xxh32(data: bytes) -> int:
    """The 32-bit xxHash with seed 0 of fewer than 16 bytes."""
    assert len(data) < 16
    one, two, three, four, five = 2654435761, 2246822519, 3266489917, 668265263, 374761393
    value = five + len(data)
    words = len(data) // 4
    for word in struct.unpack_from(f"<{words}I", data):
        value = _rotated(value + word * three, 17) * four
    for byte in data[4 * words :]:
        value = _rotated(value + byte * five, 11) * one
    value &= 0xFFFFFFFF
    value = (value ^ value >> 15) * two & 0xFFFFFFFF
    value = (value ^ value >> 13) * three & 0xFFFFFFFF
    return value ^ value >> 16


def _rotated(value: int, bits: int) -> int:
    value &= 0xFFFFFFFF
    return (value << bits | value >> (32 - bits)) & 0xFFFFFFFF
