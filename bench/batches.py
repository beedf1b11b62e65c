"""Frames of record batches for the benchmarks: what a source broker would send, written here."""

from __future__ import annotations

import random
import struct
from collections.abc import Iterator

import cramjam

from eomirror import _fastpath as kernel

HEADER = struct.Struct(">qiibIhiqqqhii")
LZ4 = 3
TIMESTAMP = 1_700_000_000_000


def varint(value: int) -> bytes:
    """A zigzag varint."""
    value = value << 1 ^ value >> 63
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


def record(delta: int, size: int, rng: random.Random) -> bytes:
    """One record of exactly `size` bytes with an 8-byte key; its value is hexadecimal, so it compresses to half."""
    key = rng.randbytes(8)
    head = b"\0" + varint(delta % 100) + varint(delta) + varint(len(key)) + key
    value = size - len(head) - 5
    body = head + varint(value) + rng.randbytes(value // 2 + 1).hex().encode()[:value] + b"\0"
    out = varint(len(body)) + body
    assert len(out) == size, (len(out), size)
    return out


def lz4_frame(data: bytes) -> bytes:
    """The frame that Java clients write: version 1, independent blocks of at most 64 KiB, nothing else."""
    out = b"\x04\x22\x4d\x18\x60\x40\x82"
    for at in range(0, len(data), 65536):
        block = bytes(cramjam.lz4.compress_block(data[at : at + 65536], store_size=False))
        out += struct.pack("<I", len(block)) + block
    return out + bytes(4)


def batch(base: int, payload: bytes, count: int, codec: int = 0) -> bytes:
    """One magic 2 batch of a producer without transactions; 100 ms of timestamps."""
    if codec == LZ4:
        payload = lz4_frame(payload)
    timestamps = (TIMESTAMP, TIMESTAMP + (99 if count > 1 else 0))
    fields = (base, 49 + len(payload), 4, 2, 0, codec, count - 1, *timestamps, -1, -1, -1, count)
    out = HEADER.pack(*fields) + payload
    return out[:17] + struct.pack(">I", kernel.crc32c(out[21:])) + out[21:]


def frame(batches: int, records: int, size: int, codec: int = 0) -> bytes:
    """So many batches of so many records of `size` bytes, their offsets contiguous."""
    rng = random.Random(1)
    # A few different payloads are enough: the kernel keeps nothing from one batch to the next.
    payloads = [b"".join(record(i, size, rng) for i in range(records)) for _ in range(min(batches, 50))]
    return b"".join(batch(i * records, payloads[i % len(payloads)], records, codec) for i in range(batches))


def runs(count: int) -> Iterator[list[int]]:
    """Runs as a ledger holds them, 100 000 at a time: flat triples of skipped at the source, at the target, records.

    Transactions of 1 to 1000 records, a marker between them, gaps at the source. Each piece counts from 0.
    """
    rng = random.Random(2)
    source = target = 0
    for at in range(0, count, 100_000):
        size = min(100_000, count - at)
        flat = [1] * 3 * size
        flat[0::3] = rng.choices((0, 1, 1, 7), k=size)
        flat[2::3] = rng.choices(range(1, 1001), k=size)
        flat[0] += source
        flat[1] += target
        source = sum(flat[0::3]) + sum(flat[2::3])
        target = sum(flat[1::3]) + sum(flat[2::3])
        yield flat
