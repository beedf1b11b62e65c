"""Small neighbours become one batch: reference == kernel, alone and together with everything else that pack does."""

from __future__ import annotations

import struct
from typing import Any

import pytest
import reference
import reference_codecs as codecs
import reference_format as fmt
from batches import STAMP, Range, compressed, examples, marker, ranges, stamps
from hypothesis import given
from hypothesis import strategies as st
from reference_format import GZIP, LOG_APPEND_TIME, LZ4, NONE, TRANSACTIONAL
from reference_rewrite import MERGE_BELOW, MERGE_BELOW_COMPRESSED, MERGE_UP_TO
from test_fastpath_pack import assert_same, failure, packed
from test_fastpath_recipe import recipes

from eomirror import _fastpath as kernel

Runs = list[tuple[tuple[int, int], ...]]


def batch(
    base: int, values: list[bytes], *, codec: int = NONE, attributes: int = 0, timestamp: int = 1000, **header: Any
) -> bytes:
    recs = [fmt.Rec(i, timestamp + i, b"k", value) for i, value in enumerate(values)]
    payload = compressed(b"".join(fmt.write_record(rec, timestamp) for rec in recs), codec)
    fields = {"last_delta": len(values) - 1, "max_timestamp": timestamp + len(values) - 1} | header
    return fmt.write_batch(
        base, payload, count=len(values), attributes=attributes | codec, base_timestamp=timestamp, **fields
    )


def sized(base: int, size: int, fill: int = 0) -> bytes:
    """A batch of one record and so many bytes."""
    data = batch(base, [b"x" * (size - len(batch(base, [b""])) - fill)])
    return data if len(data) == size else sized(base, size, fill + 1)


def runs(got: kernel.Packed) -> Runs:
    assert got.error is None
    return [b.runs for b in got.batches]


@examples(250)
@given(ranges(), stamps, st.one_of(st.none(), recipes), st.data())
def test_everything_together_is_what_the_reference_says(
    fetched: Range, stamp: dict[str, int], steps: Any, data: st.DataObject
) -> None:
    highest = (1 << 63) - 1
    until = data.draw(st.one_of(st.none(), st.integers(fetched.position, min(fetched.position + 60, highest))))
    first = data.draw(st.integers(0, min(fetched.position + 60, highest)))
    following = min(first + data.draw(st.integers(0, 20)), highest)
    apart = data.draw(st.sampled_from([(0, 0, 1), (first, following, data.draw(st.integers(1, 3)))]))
    where = (fetched.start, fetched.end, fetched.position, fetched.aborted)
    recipe = None if steps is None else kernel.Recipe(steps)
    got = kernel.pack(bytearray(fetched.data), *where, **stamp, recipe=recipe, until=until, apart=apart)
    last = highest if until is None else until
    assert_same(got, reference.pack(fetched.data, *where, **stamp, recipe=steps, until=last, apart=apart))
    assert all(first + count <= last for b in got.batches for first, count in b.runs)


@examples(80)
@given(ranges(cut=False), st.data())
def test_stopping_anywhere_and_going_on_loses_nothing(fetched: Range, data: st.DataObject) -> None:
    bases = [int.from_bytes(fetched.data[at : at + 8], "big") for at in fetched.starts]
    until = data.draw(st.sampled_from([*bases, fetched.position])) + data.draw(st.integers(0, 8))
    until = min(max(until, fetched.position), (1 << 63) - 1)
    where = (fetched.start, fetched.end)
    whole = kernel.pack(bytearray(fetched.data), *where, fetched.position, fetched.aborted, **STAMP)
    first = kernel.pack(bytearray(fetched.data), *where, fetched.position, fetched.aborted, **STAMP, until=until)
    stamp = {**STAMP, "base_sequence": first.next_sequence}
    second = kernel.pack(bytearray(fetched.data), *where, first.next_offset, fetched.aborted, **stamp)
    if whole.error is None:
        assert first.next_offset <= max(until, fetched.position)
        assert decoded(whole) == decoded(first) + decoded(second)
        assert (second.next_offset, second.next_sequence) == (whole.next_offset, whole.next_sequence)


def decoded(got: kernel.Packed) -> list[tuple[Any, ...]]:
    """(source offset, timestamp, key, value, headers) of every record that is handed out."""
    out: list[tuple[Any, ...]] = []
    for b in got.batches:
        offsets = [first + i for first, count in b.runs for i in range(count)]
        records = kernel.read_records(b.view, 0, len(b.view), [])
        assert [rec[0] for rec in records] == list(range(b.count))
        assert b.max_timestamp == max(rec[1] for rec in records) or not b.reencoded
        out += [(offset, *rec[1:]) for offset, rec in zip(offsets, records, strict=True)]
    return out


@pytest.mark.parametrize("codec", range(5))
def test_neighbours_of_any_kind_become_one_batch_of_their_codec(codec: int) -> None:
    """CreateTime, LogAppendTime, a gap inside, a gap between, markers and aborted batches between."""
    data = (
        batch(0, [b"a"], codec=codec, timestamp=50)
        + batch(1, [b"b", b"c"], codec=codec, attributes=LOG_APPEND_TIME, timestamp=10, max_timestamp=900)
        + marker(3, 7, 1)
        + batch(4, [b"d", b"e"], codec=codec, last_delta=3, timestamp=20)
        + batch(8, [b"no"], codec=codec, attributes=TRANSACTIONAL, producer_id=8)
        + marker(9, 8, 0)
        + batch(12, [b"f"], codec=codec, timestamp=30)
    )
    got = packed(data, 0, [(8, 8)])
    (one,) = got.batches
    assert (one.reencoded, one.runs) == (True, ((0, 3), (4, 2), (12, 1)))
    assert (got.next_offset, got.records, got.control_batches, got.aborted_records) == (13, 6, 2, 1)
    assert one.source_bytes == sum(
        len(d)
        for d in (
            batch(0, [b"a"], codec=codec, timestamp=50),
            batch(1, [b"b", b"c"], codec=codec, timestamp=10),
            batch(4, [b"d", b"e"], codec=codec, timestamp=20),
            batch(12, [b"f"], codec=codec, timestamp=30),
        )
    )
    assert [(rec[0], rec[1], rec[3]) for rec in decoded(got)] == [
        (0, 50, b"a"),
        (1, 900, b"b"),
        (2, 900, b"c"),
        (4, 20, b"d"),
        (5, 21, b"e"),
        (12, 30, b"f"),
    ]
    assert one.max_timestamp == 900
    assert fmt.HEADER.unpack(bytes(one.view[:61]))[5] == codec | TRANSACTIONAL
    assert codecs.unpack(codec, bytes(one.view[61:]))


def test_a_batch_without_small_neighbours_passes_through() -> None:
    for data in (
        batch(0, [b"a"]),
        batch(0, [b"a"], codec=LZ4) + batch(1, [b"b"], codec=4) + batch(2, [b"c"], codec=LZ4),
    ):
        frame = bytearray(data)
        got = kernel.pack(frame, 0, len(frame), 0, [], **STAMP)
        assert all(b.view.obj is frame and not b.reencoded for b in got.batches)
        assert got.records == len(got.batches)


@pytest.mark.parametrize("codec", range(1, 5))
@pytest.mark.parametrize("first", [0, 1])
def test_uncompressed_neighbours_join_a_codec(codec: int, first: int) -> None:
    """Producers leave a batch uncompressed that would not get smaller."""
    data = b"".join(batch(i, [b"%d" % i], codec=codec if i % 2 == first else NONE) for i in range(9))
    got = packed(data)
    (one,) = got.batches
    assert one.runs == ((0, 9),)
    assert fmt.HEADER.unpack(bytes(one.view[:61]))[5] == codec | TRANSACTIONAL
    assert [rec[3] for rec in decoded(got)] == [b"%d" % i for i in range(9)]
    assert_same(got, reference.pack(data, 0, len(data), 0, [], **STAMP))
    other = batch(9, [b"9"], codec=codec % 4 + 1)
    assert runs(packed(data + other)) == [((0, 9),), ((9, 1),)]


def test_unknown_attribute_bits_are_not_mixed() -> None:
    data = batch(0, [b"a"]) + batch(1, [b"b"], attributes=0x4000) + batch(2, [b"c"], attributes=0x4000)
    got = packed(data)
    assert runs(got) == [((0, 1),), ((1, 2),)]
    assert [fmt.HEADER.unpack(bytes(b.view[:61]))[5] for b in got.batches] == [TRANSACTIONAL, TRANSACTIONAL | 0x4000]


def test_a_large_batch_is_not_reencoded_because_a_small_one_lies_beside_it() -> None:
    data = sized(0, 100) + sized(1, 100) + sized(2, MERGE_BELOW) + sized(3, MERGE_BELOW - 1) + sized(4, 100)
    got = packed(data)
    assert runs(got) == [((0, 2),), ((2, 1),), ((3, 2),)]
    assert [b.reencoded for b in got.batches] == [True, False, True]
    assert_same(got, reference.pack(data, 0, len(data), 0, [], **STAMP))


def test_a_compressed_batch_is_large_earlier() -> None:
    def after_a_small_one(size: int) -> bytes:
        """One batch of at least so many bytes, and one before it."""
        values: list[bytes] = []
        while len(data := batch(1, values or [b""], codec=LZ4)) < size:
            values.append(struct.pack(">QQ", hash((len(values), 1)) % (1 << 64), hash((len(values), 2)) % (1 << 64)))
        return batch(0, [b"a"], codec=LZ4) + data

    large = after_a_small_one(MERGE_BELOW_COMPRESSED)
    assert [b.reencoded for b in packed(large).batches] == [False, False]
    small = after_a_small_one(MERGE_BELOW_COMPRESSED - 100)
    assert [b.reencoded for b in packed(small).batches] == [True]


def test_what_is_reencoded_anyway_is_gathered_whatever_its_size() -> None:
    big = sized(0, MERGE_BELOW + 5) + sized(1, MERGE_BELOW + 5)
    assert len(packed(big).batches) == 2
    assert len(packed(big, recipe=kernel.Recipe([])).batches) == 1
    logged = batch(0, [b"x" * MERGE_BELOW], attributes=LOG_APPEND_TIME) + batch(1, [b"y"])
    assert len(packed(logged).batches) == 1


def test_a_gathering_has_a_limit() -> None:
    many = [sized(i, 16_000) for i in range(20)]
    count = MERGE_UP_TO // 16_000
    assert runs(packed(b"".join(many))) == [((0, count),), ((count, 20 - count),)]
    exact = [*many[:count], sized(count, MERGE_UP_TO - 16_000 * count - 300), sized(count + 1, 300)]
    assert runs(packed(b"".join(exact))) == [((0, count + 2),)]
    over = [*exact[:-1], sized(count + 1, 301)]
    assert runs(packed(b"".join(over))) == [((0, count + 1),), ((count + 1, 1),)]
    for data in (many, exact, over):
        joined = b"".join(data)
        assert_same(packed(joined), reference.pack(joined, 0, len(joined), 0, [], **STAMP))


def test_a_gathering_stays_within_the_target_s_limit() -> None:
    data = b"".join(batch(i, [b"x" * 50]) for i in range(10))
    size = len(data) // 10
    got = packed(data, max_batch_bytes=3 * size)
    assert runs(got) == [((0, 3),), ((3, 3),), ((6, 3),), ((9, 1),)]
    assert all(len(b.view) <= 3 * size for b in got.batches)


def test_timestamps_further_apart_than_int64_begin_a_new_batch() -> None:
    low, high = -(1 << 63), (1 << 63) - 1
    stamps = [low, low + 5, high, 0, high - 1, low, -1]
    data = b"".join(batch(i, [b"%d" % i], timestamp=t) for i, t in enumerate(stamps))
    got = packed(data)
    assert [rec[1] for rec in decoded(got)] == stamps
    assert runs(got) == [((0, 2),), ((2, 3),), ((5, 2),)]
    assert [b.max_timestamp for b in got.batches] == [low + 5, high, -1]
    assert_same(got, reference.pack(data, 0, len(data), 0, [], **STAMP))


def bad_ones(codec: int) -> dict[str, bytes]:
    """Batches with offset 3 that cannot be re-encoded: by CRC, by payload, by a record, by codec."""
    good = batch(3, [b"a", b"b"], codec=codec)
    delta = batch(3, [b"a", b"b"], codec=NONE)
    late = fmt.write_record(fmt.Rec(0, 0), 0) + fmt.write_record(fmt.Rec(5, 0), 0)
    return {
        "crc": good[:-1] + bytes([good[-1] ^ 1]),
        "payload": fmt.with_right_crc(good[:61] + bytes(len(good) - 61)),
        "record": fmt.write_batch(3, compressed(late, codec), count=2, last_delta=1, attributes=codec),
        "count": fmt.write_batch(3, compressed(delta[61:], codec), count=3, last_delta=2, attributes=codec),
        "codec": fmt.with_right_crc(good[:22] + bytes([7]) + good[23:]),
    }


@pytest.mark.parametrize("codec", range(5))
@pytest.mark.parametrize("how", ["crc", "payload", "record", "count", "codec"])
def test_what_was_gathered_before_a_bad_batch_is_delivered(codec: int, how: str) -> None:
    bad = bad_ones(codec)[how]
    before = batch(0, [b"x"], codec=codec) + batch(1, [b"y"], codec=codec) + marker(2, 7, 1)
    data = before + bad + batch(6, [b"z"], codec=codec)
    got = packed(data, recipe=kernel.Recipe([]))
    want = reference.pack(data, 0, len(data), 0, [], **STAMP, recipe=())
    assert got.error is not None
    assert (got.error.offset, got.next_offset, got.control_batches, got.last_leader_epoch) == (3, 3, 1, 4)
    assert [b.runs for b in got.batches] == [((0, 2),)]
    assert_same(got, want)
    again = kernel.pack(bytearray(data), 0, len(data), got.error.next_offset or 0, [], **STAMP)
    assert failure(again.error) == reference.pack(data, 0, len(data), got.error.next_offset or 0, [], **STAMP).error


@pytest.mark.parametrize("codec", range(5))
@pytest.mark.parametrize("how", ["payload", "record", "count"])
@pytest.mark.parametrize("small_ones_before", [0, 2])
def test_what_was_only_to_be_gathered_and_cannot_be_read_is_sent_as_it_is(
    codec: int, how: str, small_ones_before: int
) -> None:
    """Brokers take such batches, and other readers may be more lenient than we are."""
    bad = bad_ones(codec)[how]
    data = b"".join(batch(i, [b"x"], codec=codec) for i in range(small_ones_before)) + bad
    data += b"".join(batch(i, [b"z"], codec=codec) for i in (6, 7))
    got = packed(data)
    assert_same(got, reference.pack(data, 0, len(data), 0, [], **STAMP))
    assert got.error is None
    assert got.next_offset == 8
    (sent,) = [b for b in got.batches if b.runs[0][0] == 3]
    assert (sent.reencoded, bytes(sent.view[61:])) == (False, bad[61:])
    assert [b.runs for b in got.batches if b.reencoded] == ([((0, 2),)] if small_ones_before else [])


@pytest.mark.parametrize("codec", range(1, 5))
def test_what_compresses_well_costs_a_bounded_time(codec: int) -> None:
    """Small batches that unpack to much are gathered up to a bound, and sent as they are from there on."""
    most = (33_554_432 >> 20) + 1
    one = batch(0, [bytes(1 << 20)], codec=codec)
    data = b"".join(i.to_bytes(8, "big") + one[8:] for i in range(most + 5))
    got = packed(data)
    assert got.error is None
    sent = [b for b in got.batches if not b.reencoded]
    assert got.records == most + 5
    if len(one) < 4096:
        assert [b.runs for b in sent] == [((i, 1),) for i in range(32, most + 5)]
        assert sum(b.count for b in got.batches if b.reencoded) == 32
    else:
        assert len(sent) == most + 5


def test_a_gathering_wraps_the_sequence_once() -> None:
    data = b"".join(batch(i, [b"x"]) for i in range(5)) + sized(5, MERGE_BELOW)
    got = packed(data, base_sequence=(1 << 31) - 2)
    assert [fmt.HEADER.unpack(bytes(b.view[:61]))[11] for b in got.batches] == [(1 << 31) - 2, 3]
    assert got.next_sequence == 4


@examples(8)
@given(st.lists(st.sampled_from([90, 2047, 2048, 16_383, 16_384, 120_000, 300_000]), max_size=12), st.booleans())
def test_sizes_around_the_limits_are_grouped_as_the_reference_says(sizes: list[int], logged: bool) -> None:
    data = b"".join(sized(i, size) for i, size in enumerate(sizes))
    got = packed(data, max_batch_bytes=200_000, recipe=kernel.Recipe([]) if logged else None)
    want = reference.pack(
        data, 0, len(data), 0, [], **{**STAMP, "max_batch_bytes": 200_000}, recipe=() if logged else None
    )
    assert failure(got.error) == want.error
    assert [(b.runs, b.reencoded, b.source_bytes) for b in got.batches] == [
        (o.runs, o.reencoded, o.source_bytes) for o in want.batches
    ]


def test_views_live_on_without_the_frame() -> None:
    got = packed(b"".join(batch(i, [b"v%d" % i]) for i in range(50)), aborted=[])
    views = [b.view for b in got.batches]
    assert all(view.readonly for view in views)
    del got
    (view,) = views
    assert [rec[3] for rec in kernel.read_records(view, 0, len(view), [])] == [b"v%d" % i for i in range(50)]


def test_a_gathering_of_batches_that_unpack_to_much_is_cut_between_them() -> None:
    """Each is small as it comes and unpacks to 1 MiB."""
    data = b"".join(
        batch(i, [bytes(1 << 20)], codec=GZIP, attributes=LOG_APPEND_TIME, timestamp=i, max_timestamp=i)
        for i in range(6)
    )
    got = packed(data)
    assert runs(got) == [((0, 4),), ((4, 2),)]
    assert_same(got, reference.pack(data, 0, len(data), 0, [], **STAMP))
