"""A batch above the target's limit becomes several; only a record that does not fit alone stops the walk."""

from __future__ import annotations

import random
from typing import Any

import pytest
import reference
import reference_codecs as codecs
import reference_format as fmt
from batches import STAMP, Range, examples, ranges
from hypothesis import given
from hypothesis import strategies as st
from reference_format import CONTROL, DELETE_HORIZON, LOG_APPEND_TIME, NONE, TRANSACTIONAL, ZSTD
from reference_rewrite import Out
from test_fastpath_merge import batch, decoded
from test_fastpath_pack import assert_same, failure, packed
from test_fastpath_recipe import recipes

from eomirror import _fastpath as kernel


def assert_sound(got: kernel.Packed, sequence: int, limit: int) -> None:
    """Every batch fits, can be sent, and follows the one before it."""
    for b in got.batches:
        data = bytes(b.view)
        fields = fmt.HEADER.unpack(data[:61])
        assert len(data) <= limit
        assert fields[:4] == (0, len(data) - 12, -1, 2)
        assert fields[4] == fmt.crc32c(data[21:])
        assert fields[5] & (TRANSACTIONAL | LOG_APPEND_TIME | CONTROL | DELETE_HORIZON) == TRANSACTIONAL
        assert fields[6] + 1 == fields[12] == b.count == sum(count for _, count in b.runs)
        assert fields[11] == sequence
        sequence = (sequence + b.count) % (1 << 31)
    assert got.next_sequence == sequence


def alone(fetched: Range, offset: int, recipe: kernel.Recipe | None) -> int:
    """The size of a batch with this record only."""
    where = (fetched.start, fetched.end, offset, fetched.aborted)
    (one,) = kernel.pack(bytearray(fetched.data), *where, **STAMP, recipe=recipe, until=offset + 1).batches
    assert one.runs == ((offset, 1),)
    return len(one.view)


def assert_parts(got: kernel.Packed, want: list[Out]) -> None:
    """Each batch is one of the reference's, or, of a compressed one, a part; in order, nothing between left out."""
    parts = iter(got.batches)
    for out in want:
        if out.data is not None:
            assert bytes(next(parts).view) == out.data
            continue
        left = out.count
        while left:
            part = next(parts, None)
            if part is None:
                assert got.error is not None
                return
            assert part.count <= left
            assert part.source_bytes == (out.source_bytes if left == out.count else 0)
            left -= part.count
    assert next(parts, None) is None


@examples(200)
@given(ranges(), st.integers(62, 400), st.one_of(st.none(), recipes))
def test_the_target_s_limit_is_kept(fetched: Range, limit: int, steps: Any) -> None:
    stamp = {**STAMP, "max_batch_bytes": limit}
    where = (fetched.start, fetched.end, fetched.position, fetched.aborted)
    recipe = None if steps is None else kernel.Recipe(steps)
    got = kernel.pack(bytearray(fetched.data), *where, **stamp, recipe=recipe)
    want = reference.pack(fetched.data, *where, **stamp, recipe=steps)
    assert_sound(got, 17, limit)
    if all(out.data for out in want.batches) and (want.error is None or want.error.reason != "RECORD_TOO_LARGE"):
        assert_same(got, want)
        return
    # Where a compressor decides what fits, the reference says what goes into batches, but not where they end.
    unlimited = kernel.pack(bytearray(fetched.data), *where, **STAMP, recipe=recipe)
    everything = decoded(unlimited)
    if got.error is not None and got.error.reason == "RECORD_TOO_LARGE":
        assert (got.next_offset, got.error.next_offset) == (got.error.offset, got.error.offset + 1)
        assert alone(fetched, got.error.offset, recipe) > limit
        assert decoded(got) == [rec for rec in everything if rec[0] < got.error.offset]
        assert_parts(got, [out for out in want.batches if out.runs[0][0] < got.error.offset])
    else:
        assert failure(got.error) == want.error == failure(unlimited.error)
        assert decoded(got) == everything
        assert_parts(got, want.batches)


@examples(80)
@given(ranges(cut=False), st.integers(62, 300))
def test_leaving_out_what_is_too_large_leaves_out_nothing_else(fetched: Range, limit: int) -> None:
    stamp = {**STAMP, "max_batch_bytes": limit}
    position, left_out, kept = fetched.position, set(), []
    for _ in range(100):
        got = kernel.pack(bytearray(fetched.data), fetched.start, fetched.end, position, fetched.aborted, **stamp)
        kept += decoded(got)
        if got.error is None or got.error.reason != "RECORD_TOO_LARGE":
            break
        assert got.error.next_offset is not None
        left_out.add(got.error.offset)
        position = got.error.next_offset
    whole = kernel.pack(bytearray(fetched.data), fetched.start, fetched.end, fetched.position, fetched.aborted, **STAMP)
    assert kept == [rec for rec in decoded(whole) if rec[0] not in left_out]


def noise(count: int, size: int) -> list[bytes]:
    """Values that do not compress."""
    source = random.Random(7)
    return [source.randbytes(size) for _ in range(count)]


@pytest.mark.parametrize("codec", range(5))
@pytest.mark.parametrize("start", [20, 21])
def test_a_batch_is_split_where_it_must_be_and_nowhere_else(codec: int, start: int) -> None:
    data = batch(20, [value + bytes(25) for value in noise(40, 25)], codec=codec)
    whole = packed(data, start, recipe=kernel.Recipe([]))
    size = len(whole.batches[0].view)
    fitting = packed(data, start, max_batch_bytes=size, recipe=kernel.Recipe([]))
    assert [bytes(b.view) for b in fitting.batches] == [bytes(whole.batches[0].view)]
    got = packed(data, start, max_batch_bytes=size - 1, recipe=kernel.Recipe([]))
    assert got.error is None
    assert len(got.batches) == 2
    assert decoded(got) == decoded(whole)
    assert_sound(got, 17, size - 1)


@pytest.mark.parametrize("codec", range(1, 5))
def test_what_fits_only_uncompressed_is_left_uncompressed(codec: int) -> None:
    (value,) = noise(1, 500)
    limit = len(batch(20, [value]))
    got = packed(batch(20, [value], codec=codec), 20, max_batch_bytes=limit, recipe=kernel.Recipe([]))
    assert got.error is None
    (one,) = got.batches
    assert (len(one.view), fmt.HEADER.unpack(bytes(one.view[:61]))[5]) == (limit, TRANSACTIONAL)
    assert decoded(got)[0][3] == value
    assert packed(batch(20, [value], codec=codec), 20, max_batch_bytes=limit - 1, recipe=kernel.Recipe([])).error


@pytest.mark.parametrize("codec", range(5))
def test_a_batch_that_passes_through_only_when_it_fits(codec: int) -> None:
    data = batch(20, noise(4, 50), codec=codec)
    assert not packed(data, 20, max_batch_bytes=len(data)).batches[0].reencoded
    assert all(b.reencoded for b in packed(data, 20, max_batch_bytes=len(data) - 1).batches)


@pytest.mark.parametrize("codec", range(5))
def test_many_times_too_large_becomes_about_as_many_parts(codec: int) -> None:
    data = batch(0, noise(2000, 100), codec=codec)
    got = packed(data, max_batch_bytes=10_000)
    assert (got.error, got.records, got.next_offset) == (None, 2000, 2000)
    assert_sound(got, 17, 10_000)
    assert len(data) // 10_000 <= len(got.batches) <= 2 * len(data) // 10_000
    assert decoded(got) == decoded(packed(data))


@pytest.mark.parametrize("codec", range(5))
@pytest.mark.parametrize("at", [0, 1, 5, 9])
def test_one_record_that_is_too_large_is_named_and_its_neighbours_are_not(codec: int, at: int) -> None:
    values = noise(10, 30)
    values[at] = noise(1, 3000)[0]
    data = batch(7, [b"before"], codec=codec) + batch(100, values, codec=codec, leader_epoch=3)
    got = packed(data, max_batch_bytes=2000)
    assert failure(got.error) == reference.Failure("RECORD_TOO_LARGE", 100 + at, 101 + at)
    assert "2000 bytes" in str(got.error)
    assert (got.next_offset, got.last_leader_epoch) == (100 + at, 3 if at else 0)
    assert [rec[0] for rec in decoded(got)] == [7, *range(100, 100 + at)]
    rest = packed(data, 101 + at, max_batch_bytes=2000)
    assert [rec[0] for rec in decoded(rest)] == list(range(101 + at, 110))
    assert packed(data, 100 + at, max_batch_bytes=2000).last_leader_epoch == -1


@pytest.mark.parametrize("codec", range(5))
def test_nothing_is_delivered_of_a_batch_that_is_bad_further_on(codec: int) -> None:
    """Also when records before the bad one would fill batches, or one of them is too large."""
    for large in (100, 3000):
        recs = [fmt.Rec(i, 5, b"k", value) for i, value in enumerate([*noise(60, 100), *noise(1, large)])]
        payload = b"".join(fmt.write_record(rec, 5) for rec in recs) + fmt.write_record(fmt.Rec(60, 5), 5)
        data = batch(0, [b"a"], codec=codec) + batch(1, [b"b"], codec=codec)
        form = codecs_of(codec)
        data += fmt.write_batch(2, form(payload), count=62, last_delta=61, attributes=codec, base_timestamp=5)
        got = packed(data, max_batch_bytes=2000)
        assert failure(got.error) == reference.Failure("CORRUPT_BATCH", 2, 64)
        assert [rec[0] for rec in decoded(got)] == [0, 1]
        assert got.next_offset == 2
        assert_sound(got, 17, 2000)


def codecs_of(codec: int) -> Any:
    return [bytes, codecs.write_gzip, codecs.write_xerial, fmt.write_lz4, codecs.write_zstd][codec]


def test_runs_and_timestamps_of_parts_are_exact() -> None:
    """Gaps inside the source batch end up in the part where they lie."""
    recs = [fmt.Rec(delta, 1000 - delta, b"k", bytes([delta]) * 300) for delta in (0, 1, 5, 6, 7, 20, 21)]
    payload = b"".join(fmt.write_record(rec, 1000) for rec in recs)
    for codec in (NONE, ZSTD):
        data = fmt.write_batch(
            50,
            codecs_of(codec)(payload),
            count=7,
            last_delta=30,
            attributes=codec,
            base_timestamp=1000,
            max_timestamp=9999,
        )
        limit = 61 + 3 * 320 if codec == NONE else 61 + 40
        got = packed(data, 50, max_batch_bytes=limit)
        assert got.error is None
        assert got.next_offset == 81
        assert len(got.batches) > 1
        joined = [run for b in got.batches for run in b.runs]
        offsets = [first + i for first, count in joined for i in range(count)]
        assert offsets == [50, 51, 55, 56, 57, 70, 71]
        firsts = [b.runs[0][0] for b in got.batches]
        assert [b.max_timestamp for b in got.batches] == [1000 - (first - 50) for first in firsts]
        assert sum(b.source_bytes for b in got.batches) == len(data) == got.batches[0].source_bytes
    got = packed(fmt.write_batch(50, payload, count=7, last_delta=30), 50, max_batch_bytes=61 + 3 * 320)
    assert [b.runs for b in got.batches] == [((50, 2), (55, 1)), ((56, 2), (70, 1)), ((71, 1),)]


def test_a_gathering_whose_records_grow_is_split() -> None:
    data = b"".join(batch(i, [b"v"]) for i in range(100))
    recipe = kernel.Recipe([("add", b"h", (b"x" * 100, "offset"))])
    got = packed(data, max_batch_bytes=1000, recipe=recipe)
    assert_sound(got, 17, 1000)
    assert [rec[4] for rec in decoded(got)] == [[(b"h", b"x" * 100 + b"%d" % i)] for i in range(100)]
    assert_same(
        got, reference.pack(data, 0, len(data), 0, [], **{**STAMP, "max_batch_bytes": 1000}, recipe=recipe.operations)
    )


def test_a_limit_below_a_header_lets_nothing_through() -> None:
    data = batch(0, [b"a"])
    for limit in (0, 1, 60, 61):
        got = packed(data, max_batch_bytes=limit)
        assert failure(got.error) == reference.Failure("RECORD_TOO_LARGE", 0, 1)
        assert (got.batches, got.next_offset) == ([], 0)


@pytest.mark.parametrize("codec", [NONE, ZSTD])
def test_what_expands_to_much_more_than_the_limit_is_written_in_bounded_pieces(codec: int) -> None:
    """A recipe that makes each small record a hundred times as large: far more than is held at a time."""
    count = 20_000
    payload = b"".join(fmt.write_record(fmt.Rec(i, 0), 0) for i in range(count))
    data = fmt.write_batch(0, codecs_of(codec)(payload), count=count, last_delta=count - 1, attributes=codec)
    recipe = kernel.Recipe([("add", b"", (noise(1, 800)[0],))])
    got = packed(data, max_batch_bytes=1 << 20, recipe=recipe)
    assert (got.error, got.records, got.next_sequence) == (None, count, 17 + count)
    assert sum(len(b.view) for b in got.batches) > (count * 800 if codec == NONE else 0)
    assert all(len(b.view) <= 1 << 20 for b in got.batches)


@pytest.mark.parametrize("codec", range(5))
@pytest.mark.parametrize("at", [0, 700, 1999])
def test_one_large_record_among_many_small_ones_fits_by_itself(codec: int, at: int) -> None:
    """It takes halving after halving to find, and then the rest still goes in few batches."""
    values = noise(2000, 20)
    values[at] = noise(1, 1900)[0]
    data = batch(0, values, codec=codec)
    got = packed(data, max_batch_bytes=2020)
    assert (got.error, got.records) == (None, 2000)
    assert_sound(got, 17, 2020)
    assert decoded(got) == decoded(packed(data))
    assert len(got.batches) <= 3 * len(data) // 2020


@pytest.mark.parametrize("codec", range(1, 5))
def test_parts_begin_anew_where_timestamps_lie_too_far_apart(codec: int) -> None:
    """All are within int64 of the first record of the batch, but not of the first record of a part."""
    far = (1 << 62) + 5
    stamps = [0, *([-far, far] * 20)]
    recs = [fmt.Rec(i, t, b"k", value) for i, (t, value) in enumerate(zip(stamps, noise(41, 60), strict=True))]
    payload = b"".join(fmt.write_record(rec, 0) for rec in recs)
    data = fmt.write_batch(0, codecs_of(codec)(payload), count=41, last_delta=40, attributes=codec)
    got = packed(data, max_batch_bytes=1000)
    assert (got.error, got.records) == (None, 41)
    assert_sound(got, 17, 1000)
    assert [rec[1] for rec in decoded(got)] == stamps
    for b in got.batches:
        ((first, count),) = b.runs
        assert b.max_timestamp == max(stamps[first : first + count])
