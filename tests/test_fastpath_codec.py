"""Compressed payloads: whatever a producer writes is read, whatever the kernel writes is read by others, and neither
garbage nor a bomb becomes records, a crash or more memory than was agreed."""

from __future__ import annotations

import gzip
import struct
import tracemalloc
from collections.abc import Iterator

import pytest
import reference
import reference_codecs as codecs
import reference_format as fmt
from batches import FORMS, compressed, examples, zstd_stream
from hypothesis import given
from hypothesis import strategies as st
from reference_format import GZIP, LZ4, MAX_UNPACKED, SNAPPY, ZSTD
from test_fastpath_pack import failure, packed

from eomirror import _fastpath as kernel

CODECS = (GZIP, SNAPPY, LZ4, ZSTD)
EACH_FORM = pytest.mark.parametrize(("codec", "form"), [(codec, form) for codec in FORMS for form in FORMS[codec]])
EACH_PACKED_FORM = pytest.mark.parametrize(
    ("codec", "form"), [(codec, form) for codec in CODECS for form in FORMS[codec]]
)


def payload_of(values: list[bytes | None]) -> bytes:
    return b"".join(fmt.write_record(fmt.Rec(i, i, b"k%d" % i, value), 0) for i, value in enumerate(values))


def batch_of(payload: bytes, codec: int, count: int) -> bytes:
    """A batch at offset 0 whose CRC the kernel computes: the reference would take seconds for megabytes."""
    data = fmt.write_batch(0, b"", count=count, last_delta=count - 1, attributes=codec)
    data = data[:8] + struct.pack(">i", 49 + len(payload)) + data[12:] + payload
    return data[:17] + struct.pack(">I", kernel.crc32c(data[21:])) + data[21:]


def read_values(data: bytes) -> list[bytes | None]:
    return [value for _, _, _, value, _ in kernel.read_records(data, 0, len(data), [])]


def refusal(payload: bytes, codec: int, count: int = 2) -> kernel.BatchError:
    """What both ways into a payload say of it; the position is inside the batch, so it has to be unpacked."""
    data = batch_of(payload, codec, count)
    with pytest.raises(kernel.BatchError) as caught:
        kernel.read_records(data, 0, len(data), [])
    got = packed(data, 1)
    assert got.error is not None
    assert (got.batches, got.next_offset, got.records) == ([], 1, 0)
    assert failure(got.error) == reference.Failure(got.error.reason, 0, count)
    assert (got.error.reason, got.error.detail) == (caught.value.reason, caught.value.detail)
    return got.error


contents = st.lists(
    st.one_of(
        st.none(),
        st.binary(max_size=60),
        st.tuples(st.binary(min_size=1, max_size=9), st.integers(1, 20_000)).map(lambda pair: pair[0] * pair[1]),
    ),
    min_size=1,
    max_size=5,
)


@pytest.mark.parametrize("codec", FORMS)
@examples(25)
@given(contents, st.data())
def test_what_others_write_is_read_and_what_is_written_others_read(
    codec: int, values: list[bytes | None], data: st.DataObject
) -> None:
    payload = payload_of(values)
    form = data.draw(st.sampled_from(list(FORMS[codec])))
    source = batch_of(compressed(payload, codec, form), codec, len(values))
    assert read_values(source) == values
    left = data.draw(st.integers(1, len(values)))
    got = packed(source, left)
    assert got.error is None
    for batch in got.batches:
        assert batch.reencoded
        again = codecs.unpack(codec, bytes(batch.view[61:]))
        kept = [fmt.Rec(i, left + i, b"k%d" % (left + i), value) for i, value in enumerate(values[left:])]
        assert again == b"".join(fmt.write_record(rec, left) for rec in kept)
        assert read_values(bytes(batch.view)) == values[left:]
    assert got.records == len(values) - left


def test_what_is_written_is_what_every_client_reads() -> None:
    """Kafka's Java readers refuse dependent lz4 blocks; snappy goes in snappy-java's stream, in chunks of 32 KiB."""
    values: list[bytes | None] = [b"left out", bytes(100_000), b"last"]
    head = {GZIP: b"\x1f\x8b\x08", SNAPPY: codecs.XERIAL_HEAD, LZ4: b"\x04\x22\x4d\x18\x60\x40\x82"}
    head[ZSTD] = struct.pack("<I", 0xFD2FB528)
    for codec in CODECS:
        (batch,) = packed(batch_of(compressed(payload_of(values), codec), codec, 3), 1).batches
        payload = bytes(batch.view[61:])
        assert payload.startswith(head[codec])
        if codec == SNAPPY:
            sizes = [fmt.Reader(chunk).unsigned(32) for chunk in codecs.chunks(payload)]
            assert (sizes[:-1], sum(sizes)) == ([32768] * 3, len(codecs.unpack(SNAPPY, payload)))
        if codec == GZIP:
            assert gzip.decompress(payload) == codecs.unpack(GZIP, payload)


@EACH_PACKED_FORM
def test_a_payload_cut_anywhere_is_an_error(codec: int, form: str) -> None:
    values: list[bytes | None] = [b"one", b"a" * 90, None, b"another value"]
    payload = compressed(payload_of(values), codec, form)
    assert read_values(batch_of(payload, codec, 4)) == values
    for size in range(1, len(payload)):
        assert refusal(payload[:size], codec, 4).reason == "CORRUPT_BATCH"


@EACH_PACKED_FORM
@pytest.mark.parametrize("tail", [b"\x00", b"\x00" * 8, b"x", b"trailing bytes"])
def test_bytes_behind_the_payload_are_an_error(codec: int, form: str, tail: bytes) -> None:
    payload = compressed(payload_of([b"one", b"two"]), codec, form)
    assert refusal(payload + tail, codec).reason == "CORRUPT_BATCH"
    assert (
        refusal(compressed(payload_of([b"one", b"two"]) + tail, codec, form), codec).detail
        == "there are bytes left over"
    )


def test_no_payload_at_all_is_an_error() -> None:
    for codec in CODECS:
        data = fmt.write_batch(0, b"", count=2, last_delta=1, attributes=codec)
        assert failure(packed(data, 1).error) == reference.Failure("CORRUPT_BATCH", 0, 2)


# ---- bombs


def told() -> Iterator[tuple[str, int, bytes]]:
    """Payloads that say themselves that they are too large."""
    yield "gzip", GZIP, (gzip.compress(bytes(8 << 20)) * 33)[:-4] + struct.pack("<I", MAX_UNPACKED + 1)
    block = codecs.write_snappy(bytes(1 << 20))
    yield "snappy", SNAPPY, codecs.XERIAL_HEAD + (struct.pack(">i", len(block)) + block) * 257
    frame = fmt.write_lz4(bytes(1 << 18), block=5, size=True)
    head = b"\x68\x50" + struct.pack("<Q", MAX_UNPACKED + 1)
    yield "lz4", LZ4, frame[:4] + head + bytes([fmt.xxh32(head) >> 8 & 255]) + frame[15:-4] * 1025 + bytes(4)
    yield "zstd", ZSTD, codecs.write_zstd(bytes(1 << 17), size=4) * 2049


def untold() -> Iterator[tuple[str, int, bytes]]:
    """Payloads that turn out to be too large."""
    yield "gzip", GZIP, gzip.compress(bytes(8 << 20)) * 32 + gzip.compress(bytes(10))
    frame = fmt.write_lz4(bytes(1 << 18), block=5)
    yield "lz4", LZ4, frame[:7] + frame[7:-4] * 1025 + bytes(4)
    yield "zstd", ZSTD, codecs.write_zstd(bytes(1 << 17)) * 2049


def peak_of(data: bytes) -> int:
    """The most memory that Python's allocators held while the batch was judged; it must be too large."""
    tracemalloc.start()
    try:
        got = packed(data, 1)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert failure(got.error) == reference.Failure("RECORD_TOO_LARGE", 0, 2)
    with pytest.raises(kernel.BatchError, match="RECORD_TOO_LARGE at offset 0: the payload unpacks to"):
        kernel.read_records(data, 0, len(data), [])
    return peak


@pytest.mark.parametrize(("codec", "payload"), [pytest.param(c, p, id=name) for name, c, p in told()])
def test_a_bomb_that_says_so_costs_nothing(codec: int, payload: bytes) -> None:
    assert peak_of(batch_of(payload, codec, 2)) < 3 * len(payload) + 100_000


@pytest.mark.parametrize(("codec", "payload"), [pytest.param(c, p, id=name) for name, c, p in untold()])
def test_a_bomb_that_lies_costs_what_was_agreed(codec: int, payload: bytes) -> None:
    assert peak_of(batch_of(payload, codec, 2)) < MAX_UNPACKED + 3 * len(payload) + 100_000


def test_a_block_that_may_be_large_and_is_not_is_read() -> None:
    """Flushed again and again, a frame's headers allow for more than MAX_UNPACKED; only what is in it counts."""
    values: list[bytes | None] = [b"abcdefgh" * 8000, b"hgfedcba" * 16000]
    payload = payload_of(values)
    frame = zstd_stream(payload)
    assert codecs.zstd_frames(frame)[0] > MAX_UNPACKED
    assert read_values(batch_of(frame, ZSTD, 2)) == values


# ---- hostile sizes


def lying() -> Iterator[tuple[str, int, bytes]]:
    """Payloads of a few bytes whose headers ask for gigabytes."""
    yield "gzip trailer", GZIP, gzip.compress(b"abc")[:-4] + b"\xff" * 4
    yield "gzip name without end", GZIP, b"\x1f\x8b\x08\x08" + b"n" * 40
    yield "gzip extra field beyond the end", GZIP, b"\x1f\x8b\x08\x04" + bytes(6) + b"\xff\xff" + bytes(20)
    yield "snappy length", SNAPPY, b"\xff\xff\xff\xff\x0f\x00a"
    yield "snappy length of six bytes", SNAPPY, b"\xff\xff\xff\xff\xff\x01\x00a"
    yield "snappy literal", SNAPPY, b"\x10\xfc\xff\xff\xff\xffabcdefgh"
    yield "snappy copy of nothing", SNAPPY, b"\x04\x0d\x01abcdefgh"
    yield "snappy copy from before the start", SNAPPY, b"\x08\x04ab\x0d\x09"
    for size in (-1, 0, -(1 << 31), (1 << 31) - 1, 8):
        yield f"xerial chunk of {size}", SNAPPY, codecs.XERIAL_HEAD + struct.pack(">i", size) + b"\x04\x0cabcd\x00"
    yield "xerial size cut", SNAPPY, codecs.XERIAL_HEAD + b"\x00\x00\x00"
    yield "xerial head cut", SNAPPY, codecs.XERIAL_HEAD[:15]
    head = b"\x68\x40" + b"\xff" * 8
    yield "lz4 content size", LZ4, b"\x04\x22\x4d\x18" + head + bytes([fmt.xxh32(head) >> 8 & 255]) + bytes(4)
    for content in (b"stored", b"r" * 90):
        right = fmt.write_lz4(content, size=True)
        for size in (0, len(content) - 1, len(content) + 1):
            head = b"\x68\x40" + struct.pack("<Q", size)
            frame = right[:4] + head + bytes([fmt.xxh32(head) >> 8 & 255]) + right[15:]
            yield f"lz4 content size of {size}, not {len(content)}", LZ4, frame
            yield f"lz4 header checksum with {size}, not {len(content)}", LZ4, right[:4] + head + b"?" + right[15:]
    yield "lz4 block", LZ4, b"\x04\x22\x4d\x18\x60\x40\x82" + b"\xff\xff\xff\x7f" + bytes(9)
    for size in (2, 4, 8):
        frame = codecs.write_zstd(b"x" * 300, size=size)
        yield f"zstd content size of {size} bytes", ZSTD, frame[:6] + b"\xff" * size + frame[6 + size :]
    yield "zstd window", ZSTD, codecs.write_zstd(b"abc")[:5] + b"\xff" + codecs.write_zstd(b"abc")[6:]
    yield "zstd reserved bit", ZSTD, codecs.write_zstd(b"abc")[:4] + b"\x08" + codecs.write_zstd(b"abc")[5:]
    yield "zstd reserved block", ZSTD, codecs.write_zstd(b"")[:6] + b"\x07\x00\x00"
    yield "zstd block beyond the end", ZSTD, codecs.write_zstd(b"")[:6] + b"\xf9\xff\xff" + bytes(9)
    yield "zstd run above the block's limit", ZSTD, codecs.write_zstd(b"")[:6] + b"\xfb\xff\xffa"
    yield "zstd dictionary", ZSTD, codecs.write_zstd(b"abc", dictionary=True).replace(b"\x38\x00", b"\x38\x07")
    yield "zstd skippable frame beyond the end", ZSTD, struct.pack("<II", 0x184D2A50, 0xFFFFFFFF) + bytes(9)
    yield "zstd skippable frame alone", ZSTD, struct.pack("<II", 0x184D2A5F, 4) + bytes(4)


@pytest.mark.parametrize(("codec", "payload"), [pytest.param(c, p, id=name) for name, c, p in lying()])
def test_hostile_sizes_are_errors_and_cost_nothing(codec: int, payload: bytes) -> None:
    tracemalloc.start()
    try:
        assert refusal(payload, codec).reason == "CORRUPT_BATCH"
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 3_000_000
