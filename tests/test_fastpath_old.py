"""Magic 0 and 1: what old logs hold is mirrored as records of magic 2, and nothing else is made of it."""

from __future__ import annotations

import dataclasses
import random
import struct
import tracemalloc

import kafka_old
import pytest
import reference
import reference_codecs as codecs
import reference_format as fmt
import reference_old as old
from batches import FORMS, OLD_CODECS, compressed, examples, maybe_bytes, old_payload
from hypothesis import given
from hypothesis import strategies as st
from reference_format import GZIP, LOG_APPEND_TIME, LZ4, MAX_UNPACKED, NONE, SNAPPY, TRANSACTIONAL, ZSTD
from test_fastpath_pack import failure, packed, simple

from eomirror import _fastpath as kernel

Record = tuple[int, int, bytes | None, bytes | None]
PACKED = (GZIP, SNAPPY, LZ4)
EACH = pytest.mark.parametrize(("magic", "codec"), [(magic, codec) for magic in (0, 1) for codec in PACKED])


def mirrored(got: kernel.Packed) -> list[Record]:
    """What the produced batches hold, with the source offsets that their runs say; read by the reference."""
    out: list[Record] = []
    for batch in got.batches:
        assert batch.reencoded
        data = bytes(batch.view)
        offsets = [first + i for first, count in batch.runs for i in range(count)]
        found = reference.read_records(data, 0, len(data), [])
        assert [rec[0] for rec in found] == list(range(len(offsets)))
        assert all(rec[4] == [] for rec in found)
        assert fmt.HEADER.unpack(data[:61])[8] == max(rec[1] for rec in found) == batch.max_timestamp
        out += [(offset, *rec[1:4]) for offset, rec in zip(offsets, found, strict=True)]
    return out


def messages(magic: int, count: int = 3, first: int = 0, value: bytes = b"v") -> list[old.Old]:
    return [old.Old(first + i, magic, 0, 1000 + i, b"k%d" % i, value) for i in range(count)]


def wrapped(magic: int, codec: int, inner: list[old.Old], last: int, **more: int) -> bytes:
    return old.write_wrapper(last, magic, codec, old_payload(inner, magic, codec), **more)


def refusal(data: bytes, position: int = 0) -> kernel.BatchError:
    got = packed(data, position)
    assert got.error is not None
    assert (got.batches, got.next_offset) == ([], position)
    want = reference.pack(data, 0, len(data), position, [], **STAMP)
    assert failure(got.error) == want.error
    return got.error


STAMP = {"producer_id": 41, "producer_epoch": 3, "base_sequence": 17, "max_batch_bytes": 1 << 30}


@pytest.mark.parametrize("name", kafka_old.BATCHES)
@pytest.mark.parametrize("position", [0, 1000, 1002])
def test_what_kafka_wrote_is_mirrored(name: str, position: int) -> None:
    data = kafka_old.BATCHES[name]
    want = [rec for rec in kafka_old.APPENDED if rec[0] >= position]
    if name.endswith(".append"):
        want = [(offset, kafka_old.APPEND_TIME, key, value) for offset, _, key, value in want]
    elif name.startswith("magic0"):
        want = [(offset, -1, key, value) for offset, _, key, value in want]
    got = packed(data, position)
    assert (got.error, got.next_offset, got.last_leader_epoch, got.incomplete) == (None, 1004, -1, False)
    assert mirrored(got) == want
    (batch,) = got.batches
    codec = 0 if ".none" in name else data[17] & 7
    assert fmt.HEADER.unpack(bytes(batch.view[:61]))[5] == TRANSACTIONAL | codec
    assert kernel.next_offset(data, 0, len(data), position) == (1004, -1)


@pytest.mark.parametrize("name", [name for name in kafka_old.BATCHES if ".none" not in name])
def test_the_reference_writes_and_reads_what_kafka_wrote(name: str) -> None:
    data = kafka_old.BATCHES[name]
    message = old.read_message(fmt.Reader(data))
    assert old.write_message(message) == data
    assert message.value is not None
    if "lz4" in name:
        plain = compressed(b"", LZ4)
        magic0 = old.as_first_written(plain)
        assert message.value[:7] == (magic0 if message.magic == 0 else plain)[:7]
        assert magic0[:7] != plain[:7]


@st.composite
def logs(draw: st.DrawFn) -> tuple[bytes, list[Record]]:
    """Entries of both magics, wrapped or not, with gaps; and what is in them."""
    data, want, offset = b"", [], draw(st.sampled_from([0, 5, 1 << 40]))
    for _ in range(draw(st.integers(1, 6))):
        magic, codec = draw(st.sampled_from([0, 1])), draw(st.sampled_from(OLD_CODECS))
        deltas = [0]
        for _ in range(draw(st.integers(0, 4)) if codec else 0):
            deltas.append(deltas[-1] + draw(st.sampled_from([1, 1, 2])))
        stamped = draw(st.booleans()) if magic else False
        base = offset if magic == 0 or codec == NONE else draw(st.integers(0, min(3, offset)))
        flag = LOG_APPEND_TIME if stamped else 0
        found = [
            old.Old(base + delta, magic, flag, draw(st.integers(-1, 1 << 41)), draw(maybe_bytes), draw(maybe_bytes))
            for delta in deltas
        ]
        time = draw(st.integers(0, 1 << 41))
        for message, delta in zip(found, deltas, strict=True):
            seen = -1 if magic == 0 else time if stamped and codec else message.timestamp
            want.append((offset + delta, seen, message.key, message.value))
        if codec:
            payload = old_payload(found, magic, codec, draw(st.sampled_from(list(FORMS[codec]))))
            data += old.write_wrapper(offset + deltas[-1], magic, codec, payload, attributes=flag, timestamp=time)
        else:
            data += old.write_message(found[0])
        offset += deltas[-1] + draw(st.sampled_from([1, 1, 1, 4]))
    return data, want


@examples(150)
@given(logs(), st.data())
def test_every_message_comes_through_once(log: tuple[bytes, list[Record]], data: st.DataObject) -> None:
    entries, records = log
    position = data.draw(st.integers(records[0][0], records[-1][0] + 1))
    got = packed(
        entries, position, apart=data.draw(st.sampled_from([None, (0, 1 << 62, 1), (position, position + 2, 2)]))
    )
    assert got.error is None
    assert mirrored(got) == [rec for rec in records if rec[0] >= position]
    assert got.next_offset == records[-1][0] + 1
    assert kernel.next_offset(entries, 0, len(entries), position) == (max(position, got.next_offset), -1)


def test_single_messages_become_one_batch_and_stay_apart_from_newer_ones() -> None:
    singles = b"".join(old.write_message(message) for magic in (0, 1) for message in messages(magic, first=3 * magic))
    got = packed(singles + simple(6) + b"".join(map(old.write_message, messages(1, first=9))))
    assert got.error is None
    assert [batch.runs for batch in got.batches] == [((0, 6),), ((6, 3),), ((9, 3),)]
    assert [batch.reencoded for batch in got.batches] == [True, False, True]
    assert got.last_leader_epoch == -1
    (batch,) = packed(singles).batches
    assert batch.source_bytes == len(singles)


def test_offsets_inside_a_wrapper_of_magic_1_are_counted_from_its_own() -> None:
    """A log that was compacted has gaps there, and may have lost the first messages."""
    inner = [
        dataclasses.replace(message, offset=offset) for message, offset in zip(messages(1), (2, 5, 6), strict=True)
    ]
    got = packed(wrapped(1, GZIP, inner, 106))
    assert [run for batch in got.batches for run in batch.runs] == [(102, 1), (105, 2)]
    assert packed(wrapped(1, GZIP, inner, 6)).batches[0].runs == ((2, 1), (5, 2))
    assert refusal(wrapped(1, GZIP, inner, 5)).reason == "CORRUPT_BATCH"


def test_offsets_inside_a_wrapper_of_magic_0_stand_as_they_are() -> None:
    inner = messages(0, first=100)
    assert packed(wrapped(0, GZIP, inner, 102)).batches[0].runs == ((100, 3),)
    got = packed(wrapped(0, GZIP, inner, 110))
    assert (got.batches[0].runs, got.next_offset) == (((100, 3),), 111)
    assert refusal(wrapped(0, GZIP, inner, 101)).reason == "CORRUPT_BATCH"


def test_a_wrapper_that_reaches_back_into_the_batch_before_it_is_an_error() -> None:
    got = packed(simple(0) + wrapped(0, GZIP, messages(0, first=2), 4))
    assert failure(got.error) == reference.Failure("CORRUPT_BATCH", 3, 5)
    got = packed(simple(0) + wrapped(1, GZIP, messages(1), 4))
    assert failure(got.error) == reference.Failure("CORRUPT_BATCH", 3, 5)
    assert packed(simple(0) + wrapped(1, GZIP, messages(1), 5)).error is None


def test_the_wrapper_s_time_counts_when_the_broker_has_stamped_it() -> None:
    inner = [*messages(1), old.Old(3, 0, 0, -1, None, b"of magic 0")]
    stamped = packed(wrapped(1, LZ4, inner, 3, attributes=LOG_APPEND_TIME, timestamp=77))
    assert [rec[1] for rec in mirrored(stamped)] == [77, 77, 77, -1]
    created = packed(wrapped(1, LZ4, inner, 3, timestamp=77))
    assert [rec[1] for rec in mirrored(created)] == [1000, 1001, 1002, -1]
    alone = packed(old.write_message(old.Old(5, 1, LOG_APPEND_TIME, 77, b"k", b"v")))
    assert [rec[1] for rec in mirrored(alone)] == [77]


def test_lz4_of_magic_0_has_a_header_checksum_of_its_own_and_that_of_magic_1_is_checked() -> None:
    for form, write in FORMS[LZ4].items():
        payload = write(b"".join(map(old.write_message, messages(0))))
        for broken in (payload, old.as_first_written(payload)):
            assert packed(old.write_wrapper(2, 0, LZ4, broken)).records == 3, form
        broken = old.as_first_written(write(b"".join(map(old.write_message, messages(1)))))
        assert refusal(old.write_wrapper(2, 1, LZ4, broken)).reason == "CORRUPT_BATCH", form


@EACH
def test_a_position_inside_a_wrapper_leaves_out_what_is_below(magic: int, codec: int) -> None:
    data = wrapped(magic, codec, messages(magic, first=10 if magic == 0 else 0), 12)
    for position in range(10, 13):
        assert [rec[0] for rec in mirrored(packed(data, position))] == list(range(position, 13))
    for until in range(10, 13):
        got = packed(data, 10, until=until)
        assert ([rec[0] for rec in mirrored(got)], got.next_offset) == (list(range(10, until)), until)


@EACH
def test_a_wrapper_is_split_when_the_target_takes_less(magic: int, codec: int) -> None:
    noise = random.Random(1)
    inner = [dataclasses.replace(message, value=noise.randbytes(512)) for message in messages(magic, 40)]
    data = wrapped(magic, codec, inner, 39)
    whole = mirrored(packed(data))
    got = packed(data, max_batch_bytes=1000)
    assert len(got.batches) > 1
    assert all(len(batch.view) <= 1000 for batch in got.batches)
    assert mirrored(got) == whole


@pytest.mark.parametrize("magic", [0, 1])
@pytest.mark.parametrize("codec", OLD_CODECS)
def test_a_message_of_10_mib_is_mirrored(magic: int, codec: int) -> None:
    large = bytes(range(256)) * (10 << 12)
    message = old.Old(0, magic, 0, 5, b"k", large)
    if codec == NONE:
        data = old.write_message(message)
    else:
        data = old.write_wrapper(0, magic, codec, old_payload([message], magic, codec, "cramjam"))
    got = packed(data)
    view = got.batches[0].view
    assert kernel.read_records(view, 0, len(view), []) == [(0, 5 if magic else -1, b"k", large, [])]


# ---- what is wrong


@pytest.mark.parametrize("codec", [ZSTD, 5, 6, 7])
def test_codecs_that_the_old_formats_never_had_are_named(codec: int) -> None:
    for magic in (0, 1):
        data = old.write_wrapper(2, magic, codec, b"payload")
        assert failure(refusal(data)) == reference.Failure("UNKNOWN_CODEC", 0, 3)
        assert kernel.next_offset(data, 0, len(data), 0) == (0, -1)


@EACH
def test_a_wrapper_must_hold_messages_that_are_not_wrappers(magic: int, codec: int) -> None:
    nested = old.Old(2, magic, codec, 0, None, old_payload(messages(magic), magic, codec))
    inner_2 = simple(0)
    for data in (
        wrapped(magic, codec, [nested], 2),
        wrapped(magic, codec, [], 2),
        old.write_message(old.Old(2, magic, codec, 0, None, None)),
        old.write_wrapper(2, magic, codec, compressed(inner_2, codec)),
        wrapped(magic, codec, list(reversed(messages(magic))), 2),
        wrapped(magic, codec, [messages(magic)[0]] * 2, 2),
        wrapped(magic, codec, [old.Old(-1, magic, 0, 0, None, None)], 2),
    ):
        assert failure(refusal(data)) == reference.Failure("CORRUPT_BATCH", 0, 3)


def test_timestamps_and_offsets_too_far_apart_for_one_batch_are_an_error() -> None:
    first, last = old.Old(0, 1, 0, -(1 << 62), None, b""), old.Old(1, 1, 0, 1 << 62, None, b"")
    assert packed(wrapped(1, GZIP, [first, dataclasses.replace(last, timestamp=(1 << 62) - 1)], 1)).records == 2
    assert refusal(wrapped(1, GZIP, [first, last], 1)).detail == "a timestamp does not fit 64 bits"
    for magic in (0, 1):
        far = [old.Old(0, magic, 0, 0, None, b""), old.Old((1 << 31) - 1, magic, 0, 0, None, b"")]
        assert packed(wrapped(magic, GZIP, far, (1 << 31) - 1)).records == 2
        far[1] = dataclasses.replace(far[1], offset=1 << 31)
        assert refusal(wrapped(magic, GZIP, far, 1 << 31)).reason == "CORRUPT_BATCH"
    assert failure(refusal(old.write_message(old.Old((1 << 63) - 1, 1, 0, 0, None, b"")))) == reference.Failure(
        "CORRUPT_BATCH", 0, None
    )


@pytest.mark.parametrize("magic", [0, 1])
@pytest.mark.parametrize("codec", OLD_CODECS)
def test_every_byte_is_covered_by_a_checksum_or_a_rule(magic: int, codec: int) -> None:
    """A flipped bit behind the offset is an error, in the entry and in what it holds."""
    inner = messages(magic, first=4)
    data = wrapped(magic, codec, inner, 6) if codec else old.write_message(inner[0])
    for at in range(12, len(data)):
        flipped = bytearray(data)
        flipped[at] ^= 0x40
        assert refusal(bytes(flipped)).reason == "CORRUPT_BATCH"
    if not codec:
        return
    unpacked = bytearray(b"".join(map(old.write_message, inner)))
    for at in range(8, len(old.write_message(inner[0]))):
        unpacked[at] ^= 0x40
        payload = compressed(bytes(unpacked), codec)
        assert refusal(old.write_wrapper(6, magic, codec, payload)).reason == "CORRUPT_BATCH"
        unpacked[at] ^= 0x40


@EACH
def test_what_a_wrapper_holds_may_not_be_cut(magic: int, codec: int) -> None:
    whole = b"".join(map(old.write_message, messages(magic, 2)))
    lost = [len(old.write_message(messages(magic)[0]))]
    for size in range(len(whole)):
        data = old.write_wrapper(1, magic, codec, compressed(whole[:size], codec))
        if size in lost:
            # The format has no count: the messages that are there are whole.
            assert packed(data).records == 1
        else:
            assert refusal(data).reason == "CORRUPT_BATCH"


@pytest.mark.parametrize("length", [-(1 << 31), -2, 1 << 20, (1 << 31) - 1])
@pytest.mark.parametrize("magic", [0, 1])
def test_hostile_lengths_are_errors(magic: int, length: int) -> None:
    """In the place of a message's size, its key's and its value's, in an entry and inside a wrapper."""
    good = old.write_message(old.Old(0, magic, 0, 7, b"key", b"value"))
    key = 18 + 8 * magic
    for at in (key, key + 4 + 3):
        hostile = old.with_right_crc(good[:at] + struct.pack(">i", length) + good[at + 4 :])
        assert failure(refusal(hostile)) == reference.Failure("CORRUPT_BATCH", 0, 1)
        wrapper = old.write_wrapper(0, magic, GZIP, compressed(hostile, GZIP))
        assert failure(refusal(wrapper)) == reference.Failure("CORRUPT_BATCH", 0, 1)
    hostile = good[:8] + struct.pack(">i", length) + good[12:]
    wrapper = old.write_wrapper(0, magic, GZIP, compressed(hostile, GZIP))
    assert failure(refusal(wrapper)) == reference.Failure("CORRUPT_BATCH", 0, 1)


@pytest.mark.parametrize("size", range(11))
def test_a_varint_at_the_end_of_a_payload_is_not_read_beyond_it(size: int) -> None:
    """A snappy block begins with one; 1 to 10 continuation bytes and then nothing."""
    payload = b"\x80" * size
    for magic in (0, 1):
        assert refusal(old.write_wrapper(0, magic, SNAPPY, payload)).reason == "CORRUPT_BATCH"
        chunk = codecs.XERIAL_HEAD + struct.pack(">i", size) + payload
        assert refusal(old.write_wrapper(0, magic, SNAPPY, chunk)).reason == "CORRUPT_BATCH"
    data = fmt.write_batch(0, payload or b"\x80", count=1, last_delta=1, attributes=SNAPPY)
    assert refusal(data).reason == "CORRUPT_BATCH"


@pytest.mark.parametrize("magic", [0, 1])
@pytest.mark.parametrize("size", range(30))
def test_an_entry_too_short_or_too_long_for_its_fields_is_an_error(magic: int, size: int) -> None:
    entry = old.with_right_crc(struct.pack(">qiIb", 0, 0, 0, magic) + bytes(size))
    if size == 9 + 8 * magic:
        assert mirrored(packed(entry)) == [(0, 0 if magic else -1, b"", b"")]
    else:
        assert refusal(entry).reason == "CORRUPT_BATCH"


def test_a_bomb_in_a_wrapper_costs_nothing() -> None:
    frame = fmt.write_lz4(bytes(1 << 18), block=5, size=True)
    head = b"\x68\x50" + struct.pack("<Q", MAX_UNPACKED + 1)
    payload = frame[:4] + head + bytes([fmt.xxh32(head) >> 8 & 255]) + frame[15:-4] * 1025 + bytes(4)
    data = old.write_wrapper(5, 1, LZ4, payload)
    tracemalloc.start()
    try:
        got = packed(data)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert failure(got.error) == reference.Failure("RECORD_TOO_LARGE", 0, 6)
    assert peak < 3 * len(data) + 100_000


def test_internal_topics_never_hold_old_formats() -> None:
    data = simple(0) + kafka_old.BATCHES["magic1.gzip"]
    with pytest.raises(kernel.BatchError, match="CORRUPT_BATCH at offset 3: the batch has magic 0 or 1") as caught:
        kernel.read_records(data, 0, len(data), [])
    assert failure(caught.value) == reference.Failure("CORRUPT_BATCH", 3, 1004)
