"""pack: reference == kernel for whatever a broker may send, and each rule once by itself."""

from __future__ import annotations

import struct
from typing import Any

import pytest
import reference
import reference_codecs as codecs
import reference_format as fmt
from batches import PRODUCERS, STAMP, Range, compressed, examples, marker, ranges, stamps
from hypothesis import given
from hypothesis import strategies as st
from reference_format import CONTROL, DELETE_HORIZON, LOG_APPEND_TIME, LZ4, NONE, TRANSACTIONAL

from eomirror import _fastpath as kernel


def packed(data: bytes, position: int = 0, aborted: list[tuple[int, int]] | None = None, **stamp: Any) -> kernel.Packed:
    frame = bytearray(data)
    return kernel.pack(frame, 0, len(frame), position, aborted or [], **{**STAMP, **stamp})


def failure(error: kernel.BatchError | None) -> reference.Failure | None:
    return None if error is None else reference.Failure(error.reason, error.offset, error.next_offset)


def assert_same(got: kernel.Packed, want: reference.Result) -> None:
    """The kernel's answer is the reference's, field by field and byte by byte."""
    assert failure(got.error) == want.error
    assert len(got.batches) == len(want.batches)
    for batch, out in zip(got.batches, want.batches, strict=True):
        data = bytes(batch.view)
        assert out.data in (data, None)
        fields = fmt.HEADER.unpack(data[:61])
        assert (fields[0], fields[1], fields[2], fields[3]) == (0, len(data) - 12, -1, 2)
        assert fields[4] == fmt.crc32c(data[21:])
        assert fields[5:] == out.header
        assert out.records == (data[61:] if out.data else codecs.unpack(data[22] & 7, data[61:]))
        assert (batch.payload_bytes, batch.payload_crc) == (len(data) - 61, fmt.crc32c(data[61:]))
        assert (batch.count, batch.runs, batch.max_timestamp) == (out.count, out.runs, out.max_timestamp)
        assert (batch.source_bytes, batch.reencoded) == (out.source_bytes, out.reencoded)
    for name in (
        "next_offset",
        "next_sequence",
        "last_leader_epoch",
        "records",
        "control_batches",
        "aborted_records",
        "incomplete",
    ):
        assert getattr(got, name) == getattr(want, name), name


@examples(250)
@given(ranges(), stamps)
def test_pack_is_what_the_reference_says(fetched: Range, stamp: dict[str, int]) -> None:
    frame = bytearray(fetched.data)
    got = kernel.pack(frame, fetched.start, fetched.end, fetched.position, fetched.aborted, **stamp)
    want = reference.pack(fetched.data, fetched.start, fetched.end, fetched.position, fetched.aborted, **stamp)
    assert_same(got, want)


@examples(60)
@given(ranges())
def test_only_headers_of_passed_through_batches_are_written(fetched: Range) -> None:
    frame = bytearray(fetched.data)
    got = kernel.pack(frame, fetched.start, fetched.end, fetched.position, fetched.aborted, **STAMP)
    touched = {start + i for start in fetched.starts for i in range(61)}
    assert [i for i, byte in enumerate(frame) if byte != fetched.data[i] and i not in touched] == []
    for batch in got.batches:
        assert (batch.view.obj is frame) is not batch.reencoded


@examples(60)
@given(ranges())
def test_next_offset_walks_the_headers(fetched: Range) -> None:
    want = reference.next_offset(fetched.data, fetched.start, fetched.end, fetched.position)
    assert kernel.next_offset(fetched.data, fetched.start, fetched.end, fetched.position) == want
    got = kernel.pack(bytearray(fetched.data), fetched.start, fetched.end, fetched.position, fetched.aborted, **STAMP)
    if got.error is None:
        assert (got.next_offset, got.last_leader_epoch) == want


@examples(60)
@given(ranges(cut=False), st.data())
def test_two_fetches_give_what_one_gives(fetched: Range, data: st.DataObject) -> None:
    """Packing up to a batch and going on from its next offset loses nothing and doubles nothing."""
    cut = data.draw(st.sampled_from([*fetched.starts, fetched.end]))
    stamp: dict[str, Any] = {**STAMP, "apart": (0, (1 << 63) - 1, 1)}
    whole = kernel.pack(bytearray(fetched.data), fetched.start, fetched.end, fetched.position, [], **stamp)
    first = kernel.pack(bytearray(fetched.data), fetched.start, cut, fetched.position, [], **stamp)
    second = kernel.pack(
        bytearray(fetched.data),
        cut,
        fetched.end,
        first.next_offset,
        [],
        **{**stamp, "base_sequence": first.next_sequence},
    )
    if whole.error is None:
        assert [bytes(b.view) for b in whole.batches] == [bytes(b.view) for b in first.batches + second.batches]
        assert whole.next_offset == second.next_offset


@st.composite
def histories(draw: st.DrawFn) -> tuple[bytes, list[tuple[int, int]], set[int]]:
    """A log of interleaved transactions, the broker's aborted index for it, and the offsets that are committed."""
    data, base = b"", 0
    opened: dict[int, tuple[int, list[int]]] = {}
    aborted: list[tuple[int, int]] = []
    committed: set[int] = set()
    for _ in range(draw(st.integers(1, 20))):
        producer_id = draw(st.sampled_from(PRODUCERS))
        move = draw(st.sampled_from(["write", "write", "abort", "commit", "plain"]))
        if move == "plain" or (move == "write" and draw(st.booleans())):
            transactional = move == "write"
            count = draw(st.integers(1, 3))
            records = b"".join(fmt.write_record(fmt.Rec(i, 0, None, b"%d" % (base + i)), 0) for i in range(count))
            data += fmt.write_batch(
                base,
                records,
                count=count,
                last_delta=count - 1,
                attributes=TRANSACTIONAL * transactional,
                producer_id=producer_id,
            )
            offsets = list(range(base, base + count))
            if transactional:
                opened.setdefault(producer_id, (base, []))[1].extend(offsets)
            else:
                committed.update(offsets)
            base += count
        elif move in ("abort", "commit") and producer_id in opened:
            first, offsets = opened.pop(producer_id)
            data += marker(base, producer_id, 0 if move == "abort" else 1)
            base += 1
            if move == "abort":
                aborted.append((producer_id, first))
            else:
                committed.update(offsets)
    for producer_id, (first, _) in opened.items():
        data += marker(base, producer_id, 0)
        aborted.append((producer_id, first))
        base += 1
    return data, draw(st.permutations(aborted)), committed


@examples(120)
@given(histories())
def test_committed_records_and_no_others_are_kept(history: tuple[bytes, list[tuple[int, int]], set[int]]) -> None:
    data, aborted, committed = history
    got = packed(data, 0, aborted)
    assert got.error is None
    runs = [run for batch in got.batches for run in batch.runs]
    assert sorted(first + i for first, count in runs for i in range(count)) == sorted(committed)
    values = [rec[3] for rec in kernel.read_records(data, 0, len(data), aborted)]
    assert values == [b"%d" % offset for offset in sorted(committed)]


def simple(base: int, count: int = 3, *, codec: int = NONE, attributes: int = 0, value: bytes = b"v") -> bytes:
    payload = b"".join(fmt.write_record(fmt.Rec(i, 1000 + i, b"k", value), 1000) for i in range(count))
    payload = compressed(payload, codec)
    return fmt.write_batch(
        base,
        payload,
        count=count,
        last_delta=count - 1,
        attributes=attributes | codec,
        base_timestamp=1000,
        max_timestamp=1000 + count - 1,
    )


def test_base_sequences_wrap_after_the_last_one_to_0() -> None:
    got = packed(simple(0, codec=3) + simple(3, codec=4) + simple(6, codec=3), base_sequence=(1 << 31) - 4)
    assert [fmt.HEADER.unpack(bytes(b.view[:61]))[11] for b in got.batches] == [(1 << 31) - 4, (1 << 31) - 1, 2]
    assert got.next_sequence == 5


@pytest.mark.parametrize("flags", [0, LOG_APPEND_TIME, DELETE_HORIZON, TRANSACTIONAL])
@pytest.mark.parametrize("codec", range(5))
def test_what_goes_out_is_transactional_create_time_data(flags: int, codec: int) -> None:
    (batch,) = packed(simple(5, codec=codec, attributes=flags), 5).batches
    assert fmt.HEADER.unpack(bytes(batch.view[:61]))[5] == TRANSACTIONAL | codec


def test_an_error_keeps_what_came_before_it() -> None:
    bad = bytearray(simple(3))
    bad[-1] ^= 1
    got = packed(simple(0) + bytes(bad) + simple(6))
    assert failure(got.error) == reference.Failure("CORRUPT_BATCH", 3, 6)
    assert (got.records, got.next_offset, got.next_sequence, len(got.batches)) == (3, 3, 20, 1)
    assert str(got.error) == "CORRUPT_BATCH at offset 3: the CRC-32C does not match"


@pytest.mark.parametrize("codec", [5, 6, 7])
def test_an_attribute_that_names_no_codec_stops_the_walk(codec: int) -> None:
    assert failure(packed(simple(10, attributes=codec), 10).error) == reference.Failure("UNKNOWN_CODEC", 10, 13)


def test_offsets_that_go_back_stop_the_walk() -> None:
    for second in (0, 2):
        got = packed(simple(0) + simple(second))
        assert failure(got.error) == reference.Failure("CORRUPT_BATCH", 3, None)
    assert packed(simple(0) + simple(3)).error is None


def test_a_cut_batch_ends_the_walk_only_behind_a_whole_one() -> None:
    data = simple(0) + simple(3)[:-1]
    got = packed(data)
    assert (got.incomplete, got.error, got.next_offset) == (True, None, 3)
    got = packed(simple(0)[:-1])
    assert (got.incomplete, failure(got.error)) == (True, reference.Failure("CORRUPT_BATCH", 0, None))
    assert packed(b"").error is None


def test_a_control_batch_must_be_a_readable_marker() -> None:
    good = marker(0, 7, 1)
    assert packed(good).control_batches == 1
    for payload, attributes in (
        (fmt.write_record(fmt.Rec(0, 0, b"\x00\x00\x00"), 0), 0),
        (fmt.write_record(fmt.Rec(0, 0, None), 0), 0),
        (fmt.write_record(fmt.Rec(0, 0, b"\xff\xff\x00\x00"), 0), 0),
        (compressed(good[61:], LZ4), LZ4),
    ):
        data = fmt.write_batch(0, payload, count=1, last_delta=0, attributes=TRANSACTIONAL | CONTROL | attributes)
        assert failure(packed(data).error) == reference.Failure("CORRUPT_BATCH", 0, 1)


@pytest.mark.parametrize("codec", range(5))
def test_large_records_and_many_headers_are_reencoded(codec: int) -> None:
    """More than one 64 KiB block, over the size from which other threads may run, and lengths of four varint bytes."""
    headers = tuple((b"h", None) for _ in range(65_535))
    large = bytes(range(256)) * (10 << 12)
    recs = [fmt.Rec(0, 5), fmt.Rec(1, 6, b"k", large), fmt.Rec(2, 7, None, b"v", headers)]
    payload = b"".join(fmt.write_record(rec, 5) for rec in recs)
    payload = compressed(payload, codec, "cramjam") if codec else payload
    data = kernel_batch(payload, codec)
    got = packed(data, 1)
    assert got.error is None
    view = got.batches[0].view
    read = kernel.read_records(view, 0, len(view), [])
    assert read == [(0, 6, b"k", large, []), (1, 7, None, b"v", list(headers))]


def kernel_batch(payload: bytes, codec: int) -> bytes:
    """A batch of three records whose CRC the kernel computes: the reference would take seconds for ten megabytes."""
    data = fmt.write_batch(0, b"", count=3, last_delta=2, attributes=codec, base_timestamp=5, max_timestamp=7)
    data = data[:8] + struct.pack(">i", 49 + len(payload)) + data[12:] + payload
    return data[:17] + struct.pack(">I", kernel.crc32c(data[21:])) + data[21:]


def test_arguments_out_of_their_range_are_refused() -> None:
    data = simple(0)
    for name in ("producer_id", "producer_epoch", "base_sequence"):
        with pytest.raises(ValueError, match="start at 0"):
            packed(data, **{name: -1})
    with pytest.raises(ValueError, match="start at 0"):
        packed(data, -1)
    for start, end in ((-1, 5), (5, 4), (0, len(data) + 1)):
        with pytest.raises(ValueError, match="not inside"):
            kernel.pack(bytearray(data), start, end, 0, [], **STAMP)
        with pytest.raises(ValueError, match="not inside"):
            kernel.read_records(data, start, end, [])
        with pytest.raises(ValueError, match="not inside"):
            kernel.next_offset(data, start, end, 0)
    with pytest.raises(BufferError):
        kernel.pack(data, 0, len(data), 0, [], **STAMP)
