"""Writes tests/corpus: `python -m checks.seeds`. For each target one small input per kind of batch that a log can hold.

The inputs are what `tests/fuzztargets.py` takes: a few bytes of choices, then bytes as they come from a broker.
"""

from __future__ import annotations

import random
import shutil
import struct
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "tests"), str(ROOT)]

import cramjam  # noqa: E402
import reference_format as fmt  # noqa: E402
from fuzztargets import APART, COMPRESS, CORPUS, RECIPE, REPAIR, SMALL, UNTIL  # noqa: E402
from reference_format import (  # noqa: E402
    CONTROL,
    DELETE_HORIZON,
    GZIP,
    LOG_APPEND_TIME,
    LZ4,
    NONE,
    SNAPPY,
    TRANSACTIONAL,
    ZSTD,
)

RAW = {"cut", "cut-first", "bad-crc"}
CODECS = {"none": NONE, "gzip": GZIP, "snappy": SNAPPY, "lz4": LZ4, "zstd": ZSTD}
HEADERS = ((b"id", b"\x01\x02"), (b"id", None), (b"", b""), (b"region", b"eu"))
RECORDS = (
    fmt.Rec(0, 1000, b"key", b"value", HEADERS),
    fmt.Rec(1, 1003, None, b"", ()),
    fmt.Rec(2, 990, b"", None, ((b"x-trace", b"t" * 40),)),
)


def batch(base: int = 0, records: tuple[fmt.Rec, ...] = RECORDS, codec: int = NONE, **fields: Any) -> bytes:
    """A right batch of these records."""
    payload = packed(b"".join(fmt.write_record(rec, 1000) for rec in records), codec)
    fields = {"count": len(records), "last_delta": records[-1].delta if records else 2, **fields}
    fields["attributes"] = fields.get("attributes", 0) | codec
    return fmt.write_batch(base, payload, base_timestamp=1000, max_timestamp=1003, leader_epoch=5, **fields)


def packed(payload: bytes, codec: int) -> bytes:
    if codec == LZ4:
        return fmt.write_lz4(payload, size=True, content_sum=True)
    compress = {GZIP: cramjam.gzip.compress, SNAPPY: cramjam.snappy.compress_raw, ZSTD: cramjam.zstd.compress}
    return bytes(compress[codec](payload)) if codec else payload


def xerial(payload: bytes) -> bytes:
    """Snappy as Java clients write it: a head, then blocks."""
    block = bytes(cramjam.snappy.compress_raw(payload))
    return b"\x82SNAPPY\x00" + struct.pack(">iii", 1, 1, len(block)) + block


def marker(base: int, producer: int, kind: int) -> bytes:
    """A transaction marker: 0 abort, 1 commit."""
    record = fmt.Rec(0, 1000, struct.pack(">hh", 0, kind), bytes(6))
    return batch(base, (record,), attributes=TRANSACTIONAL | CONTROL, producer_id=producer)


def message(offset: int, magic: int, attributes: int, value: bytes | None, key: bytes | None = None) -> bytes:
    """One log entry of the format before Kafka 0.11."""
    body = struct.pack(">bb", magic, attributes) + (struct.pack(">q", 1234) if magic else b"")
    for part in (key, value):
        body += struct.pack(">i", -1) if part is None else struct.pack(">i", len(part)) + part
    body = struct.pack(">I", zlib.crc32(body)) + body
    return struct.pack(">qi", offset, len(body)) + body


def wrapper(last: int, magic: int, codec: int, attributes: int = 0) -> bytes:
    """Three old messages in a compressed one: inner offsets are absolute in magic 0, relative in magic 1."""
    first = last - 2 if magic == 0 else 0
    inner = b"".join(message(first + i, magic, 0, b"v%d" % i, b"k") for i in range(3))
    return message(last, magic, codec | attributes, packed(inner, codec))


def zstd_bomb(size: int) -> bytes:
    """A frame of no known size whose blocks each repeat one byte: 4 bytes for 128 KiB."""
    block = 1 << 17
    blocks = size // block
    out = b"\x28\xb5\x2f\xfd\x00\x38"
    for i in range(blocks):
        out += (block << 3 | 1 << 1 | (i == blocks - 1)).to_bytes(3, "little") + b"\0"
    return out


def ranges() -> Iterator[tuple[str, bytes, int, list[tuple[int, int]]]]:
    """Name, bytes, position minus first offset, aborted transactions (producer, offset minus first offset)."""
    for name, codec in CODECS.items():
        yield f"{name}-pass", batch(100, codec=codec), 0, []
        yield f"{name}-inside", batch(100, codec=codec), 1, []
        yield f"{name}-gaps", batch(100, (RECORDS[0], RECORDS[2]), codec), 0, []
        yield f"{name}-append-time", batch(100, codec=codec, attributes=LOG_APPEND_TIME), 0, []
        yield f"{name}-singles", b"".join(batch(100 + i, (RECORDS[0],), codec) for i in range(5)), 0, []
        yield f"{name}-mixed", batch(100, codec=codec) + batch(104, (RECORDS[0],)) + batch(109, codec=codec), 0, []
        for magic in (0, 1) if codec != ZSTD else ():
            if codec == NONE:
                old = b"".join(message(100 + i, magic, 0, b"v", b"k") for i in range(3))
                yield f"{name}-magic{magic}", old, 1, []
                yield f"{name}-magic{magic}-null", message(100, magic, 0, None) + batch(101), 0, []
            else:
                yield f"{name}-magic{magic}", wrapper(102, magic, codec), 0, []
                yield f"{name}-magic{magic}-append-time", wrapper(102, magic, codec, 8), 0, []
    yield "snappy-xerial", forged(xerial(records_bytes()), SNAPPY), 1, []
    yield "empty", batch(100, (), last_delta=4) + batch(105), 0, []
    yield "delete-horizon", batch(100, attributes=DELETE_HORIZON), 0, []
    yield "attributes-7", batch(100, attributes=7), 0, []
    transaction = batch(100, producer_id=7, attributes=TRANSACTIONAL)
    yield "committed", transaction + marker(103, 7, 1), 0, []
    yield "aborted", transaction + marker(103, 7, 0) + batch(104, producer_id=7, attributes=TRANSACTIONAL), 0, [(7, 0)]
    yield "cut", batch(100) + batch(103)[:70], 0, []
    yield "cut-first", batch(100)[:70], 0, []
    yield "bad-crc", batch(100) + batch(103)[:-1] + b"?", 0, []
    yield "last-offset", batch((1 << 63) - 4), 0, []
    yield "far-timestamps", batch(100, (fmt.Rec(0, 1 << 62), fmt.Rec(1, -(1 << 62)), fmt.Rec(2, 0))), 1, []
    yield "long-varints", forged(b"\x80" * 40, NONE), 1, []
    yield "hostile-length", forged(fmt.varint((1 << 31) - 1) + records_bytes(), NONE), 1, []
    yield "many-headers", batch(100, (fmt.Rec(0, 1000, None, None, ((b"", None),) * 3000),), last_delta=1), 0, []


def records_bytes() -> bytes:
    return b"".join(fmt.write_record(rec, 1000) for rec in RECORDS)


def forged(payload: bytes, codec: int) -> bytes:
    return fmt.write_batch(100, payload, count=3, last_delta=2, attributes=codec, base_timestamp=1000)


def range_input(flags: int, ahead: int, aborted: list[tuple[int, int]], data: bytes, choices: bytes = b"") -> bytes:
    head = bytes([flags, ahead + 2, len(aborted)]) + b"".join(bytes([p - 6, offset]) for p, offset in aborted)
    return head + choices + data


def range_inputs() -> Iterator[tuple[str, bytes]]:
    # What is right already is not changed by a repair, but what a fuzzer makes of it gets beyond the checksum.
    for name, data, ahead, aborted in ranges():
        yield name, range_input(0 if name in RAW else REPAIR, ahead, aborted, data)
    plain = batch(100) + batch(103, codec=ZSTD) + batch(106, (RECORDS[0],))
    # Records stand there as they are and are compressed only when the target runs, so that they can be mutated.
    for name, codec in CODECS.items():
        bare = fmt.write_batch(100, records_bytes(), count=3, last_delta=2, attributes=codec, base_timestamp=1000)
        yield f"{name}-records", range_input(REPAIR | COMPRESS, 1, [], bare + bare[:7] + b"\x67" + bare[8:])
    yield "repaired", range_input(REPAIR, 0, [], plain)
    yield "small-target", range_input(REPAIR | SMALL, 1, [], batch(100, RECORDS[:1]) + batch(101))
    operations = bytes([3, 3, 4, 0, 20, 2, 2, 1, 4, 1, 4, 1, 1, 3])
    yield "recipe", range_input(REPAIR | RECIPE, 0, [], plain, operations)
    yield "until", range_input(REPAIR | UNTIL, 0, [], plain, bytes([4]))
    yield "apart", range_input(REPAIR | APART, 1, [], plain)
    yield "recipe-small", range_input(REPAIR | RECIPE | SMALL, 0, [], plain, operations)


def codec_inputs() -> Iterator[tuple[str, bytes]]:
    for name, codec in CODECS.items():
        yield name, bytes([codec, 2]) + packed(records_bytes(), codec)
        yield f"{name}-cut", bytes([codec, 2]) + packed(records_bytes(), codec)[:-3]
        yield f"{name}-rest", bytes([codec, 2]) + packed(records_bytes(), codec) + b"\0"
        yield (
            f"{name}-twice",
            bytes([codec, 2]) + packed(records_bytes()[:20], codec) + packed(records_bytes()[20:], codec),
        )
        yield f"{name}-empty", bytes([codec, 0]) + packed(b"", codec)
    yield "snappy-xerial", bytes([SNAPPY, 2]) + xerial(records_bytes())
    yield "snappy-declares", bytes([SNAPPY, 2]) + fmt.uvarint((1 << 32) - 1) + b"\0\0"
    long = fmt.write_record(fmt.Rec(0, 1000, b"key", bytes(70_000) + b"end"), 1000)
    yield "lz4-linked", bytes([LZ4, 0]) + fmt.write_lz4(long, independent=False)
    yield "lz4-checked", bytes([LZ4, 2]) + fmt.write_lz4(records_bytes(), block=7, block_sum=True)
    stream = cramjam.zstd.Compressor()
    stream.compress(records_bytes())
    yield "zstd-no-size", bytes([ZSTD, 2]) + bytes(stream.finish())
    yield "zstd-declares", bytes([ZSTD, 2]) + b"\x28\xb5\x2f\xfd\xe0" + b"\xff" * 7 + b"\x3f\x01\0\0"
    yield "zstd-bomb", bytes([ZSTD, 2]) + zstd_bomb(257 << 20)
    yield "zstd-zeros", bytes([ZSTD, 2]) + zstd_bomb(1 << 20)
    yield "gzip-zeros", bytes([GZIP, 2]) + bytes(cramjam.gzip.compress(bytes(4 << 20)))
    yield "codec-7", bytes([7, 2]) + records_bytes()


def response(version: int, records: bytes | None) -> bytes:
    """A Fetch response of one topic and two partitions, with an aborted transaction and tagged fields."""

    def compact(data: bytes | None) -> bytes:
        return fmt.uvarint(0) if data is None else fmt.uvarint(len(data) + 1) + data

    def partition(index: int, data: bytes | None, tags: bytes) -> bytes:
        aborted = b"\x02" + struct.pack(">qq", 7, 100) + b"\0"
        return struct.pack(">ihqqq", index, 0, 106, 106, 0) + aborted + struct.pack(">i", -1) + compact(data) + tags

    diverging = b"\x00\x0d" + struct.pack(">iq", 4, 90) + b"\0"
    leader = b"\x01\x09" + struct.pack(">ii", 2, 5) + b"\0"
    topic = compact(b"orders") if version == 12 else bytes(range(16))
    partitions = partition(0, records, b"\x02" + diverging + leader) + partition(1, None, b"\0")
    return struct.pack(">ibihi", 9, 0, 0, 0, 0) + b"\x02" + topic + b"\x03" + partitions + b"\0" + b"\0"


def fetch_inputs() -> Iterator[tuple[str, bytes]]:
    for version in (12, 13, 17):
        yield f"version-{version}", bytes([version - 12]) + response(version, batch(100) + batch(103, codec=LZ4))
        yield f"version-{version}-empty", bytes([version - 12]) + response(version, None)
    yield "cut", bytes([1]) + response(13, batch(100))[:-40]
    yield "many-topics", bytes([1]) + struct.pack(">ibihi", 9, 0, 0, 0, 0) + b"\xff\xff\xff\xff\x0f"


def offset_map_inputs() -> Iterator[tuple[str, bytes]]:
    rng = random.Random(4)

    def number(value: int) -> bytes:
        width = (value.bit_length() + 7) // 8
        return bytes([width]) + value.to_bytes(width, "big")

    def filled(runs: int, gap: int, count: int) -> bytes:
        out = b""
        for _ in range(runs):
            steps = (rng.randrange(gap), rng.randrange(gap), rng.randrange(count))
            out += b"\x01" + b"".join(map(number, steps))
        return out

    yield "few", filled(3, 4, 9) + b"\0" + number(5)
    for name, gap, count in (("bytes", 3, 200), ("words", 300, 40_000), ("wide", 1 << 40, 1 << 40)):
        yield f"blocks-{name}", filled(200, gap, count)
    yield "at-the-end", filled(70, 4, 9) + b"\x01" + number((1 << 63) - 99_999) + number(0) + number(0)


INPUTS = {
    "fetch_response": fetch_inputs,
    "pack": range_inputs,
    "read_records": range_inputs,
    "codec": codec_inputs,
    "offset_map": offset_map_inputs,
}


def main() -> None:
    """Replace the corpus."""
    shutil.rmtree(CORPUS, ignore_errors=True)
    total = 0
    for target, inputs in INPUTS.items():
        folder = CORPUS / target
        folder.mkdir(parents=True)
        for name, data in inputs():
            (folder / name).write_bytes(data)
            total += len(data)
        print(f"{target}: {len(list(folder.iterdir()))} inputs")
    print(f"{total} bytes")


if __name__ == "__main__":
    main()
