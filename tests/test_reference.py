"""The reference is held against bytes that Kafka 4.3.1 itself wrote, and against published check values."""

from __future__ import annotations

import cramjam
import pytest
import reference
import reference_format as fmt
from batches import examples
from hypothesis import given
from hypothesis import strategies as st
from reference_format import CONTROL, DELETE_HORIZON, LOG_APPEND_TIME, TRANSACTIONAL

# MemoryRecordsBuilder, MemoryRecords.withEndTransactionMarker, DefaultRecordBatch.writeEmptyHeader and, for the last,
# MemoryRecords.filterTo with a delete horizon, as the log cleaner calls it. All have leader epoch 9.
KAFKA = {
    "none": (
        "00000000000003e8000000c40000000902f2599f4d0000000000030000018bcfe568000000018bcfe568faffffffffffffff"
        "ffffffffffffff0000000442000000066b65790a76616c7565060a7472616365060102030a7472616365010000ac0100f403"
        "02019c0161616161616161616161616161616161616161616161616161616161616161616161616161616161616161616161"
        "6161616161616161616161616161616161616161616161616161616161616161002000cf0f0412746f6d6273746f6e650100"
        "0e00f40306000000"
    ),
    "lz4": (
        "00000000000007d00000008a00000009023983d30d0013000000030000018bcfe568000000018bcfe568fa00000000000010"
        "9200030000004d0000000404224d186040824a000000f20a42000000066b65790a76616c7565060a7472616365060102030a"
        "00df010000ac0100f40302019c016101003af00b002000cf0f0412746f6d6273746f6e6501000e00f4030600000000000000"
    ),
    "gzip": (
        "00000000000003e8000000860000000902eb5474de0001000000030000018bcfe568000000018bcfe568faffffffffffffff"
        "ffffffffffffff000000041f8b08000000000000ff7362606060cb4eade42a4bcc294d65e32a294a4c4e6563646286b01819"
        "18d630327c6166629cc3984855c0a0c0709e9f45a8243f37a9b8243f0f68131fd01e36a07300be594f9593000000"
    ),
    "snappy": (
        "00000000000003e80000009200000009023fe863aa0002000000030000018bcfe568000000018bcfe568faffffffffffffff"
        "ffffffffffffff0000000482534e415050590000000001000000010000004d93016042000000066b65790a76616c7565060a"
        "747261636506010203090a30010000ac0100f40302019c0161fe010032010064002000cf0f0412746f6d6273746f6e650100"
        "0e00f40306000000"
    ),
    "zstd": (
        "00000000000003e8000000870000000902324332700004000000030000018bcfe568000000018bcfe568faffffffffffffff"
        "ffffffffffffff0000000428b52ffd0058540200040442000000066b65790a76616c7565060a747261636506010203010000"
        "ac0100f40302019c0161002000cf0f0412746f6d6273746f6e6501000e00f4030600000002008a43bf62650c010000"
    ),
    "logappend": (
        "0000000000000bb8000000c40000000902a38bd78d0008000000030000018bcfe56800000001a3185c5000ffffffffffffff"
        "ffffffffffffff0000000442000000066b65790a76616c7565060a7472616365060102030a7472616365010000ac0100f403"
        "02019c0161616161616161616161616161616161616161616161616161616161616161616161616161616161616161616161"
        "6161616161616161616161616161616161616161616161616161616161616161002000cf0f0412746f6d6273746f6e650100"
        "0e00f40306000000"
    ),
    "abort": (
        "00000000000001f4000000420000000902720e8f260030000000000000018bcfe568000000018bcfe5680000000000000010"
        "920003ffffffff000000012000000008000000000c00000000000500"
    ),
    "commit": (
        "00000000000001f50000004200000009028630596e0030000000000000018bcfe568000000018bcfe5680000000000000010"
        "920003ffffffff000000012000000008000000010c00000000000500"
    ),
    "empty": (
        "00000000000002580000003100000009024d45f57f001000000003ffffffffffffffff0000018bcfe5680000000000000010"
        "9200030000004d00000000"
    ),
    "horizon": (
        "00000000000002bc0000007900000009022569ba81004000000003000001ba60d34b880000018bcfe568faffffffffffffff"
        "ffffffffffffff000000034c008f8eef8ed20b00066b65790a76616c7565060a7472616365060102030a7472616365010000"
        "2800df9def8ed20b0412746f6d6273746f6e65010016009b8aef8ed20b06000000"
    ),
}
BATCHES = {name: bytes.fromhex(text) for name, text in KAFKA.items()}

# What was appended, offsets relative to the base.
APPENDED = [
    (0, 1_700_000_000_000, b"key", b"value", [(b"trace", b"\x01\x02\x03"), (b"trace", None), (b"", b"")]),
    (1, 1_700_000_000_250, None, b"a" * 78, []),
    (2, 1_699_999_999_000, b"tombstone", None, []),
    (3, 1_700_000_000_250, b"", b"", []),
]


# Each codec's batch, and its base offset.
WRITTEN = [("none", 1000), ("lz4", 2000), ("gzip", 1000), ("snappy", 1000), ("zstd", 1000)]


def appended(base: int) -> list[reference.Read]:
    return [(base + delta, *rest) for delta, *rest in APPENDED]


def read(name: str) -> list[reference.Read]:
    data = BATCHES[name]
    return reference.read_records(data, 0, len(data), [])


def found(name: str) -> reference.Found:
    data = BATCHES[name]
    (batch,) = reference.Walk(data, 0, len(data), 0)
    return batch


def test_crc32c_has_its_check_value() -> None:
    assert fmt.crc32c(b"123456789") == 0xE3069283
    assert fmt.crc32c(bytes(32)) == 0x8A9136AA  # RFC 3720, B.4
    assert fmt.crc32c(b"\xff" * 32) == 0x62A8AB43


def test_xxh32_has_its_check_values() -> None:
    assert fmt.xxh32(b"") == 0x02CC5D05
    assert fmt.xxh32(b"abc") == 0x32D153FF
    assert fmt.xxh32(b"Nobody inspects the spammish repetition") == 0xE2293B2F


@pytest.mark.parametrize(("name", "base"), WRITTEN)
def test_reads_what_kafka_wrote(name: str, base: int) -> None:
    assert read(name) == appended(base)


def test_log_append_time_gives_every_record_the_batch_s_max_timestamp() -> None:
    assert found("logappend").attributes == LOG_APPEND_TIME
    assert read("logappend") == [(o, 1_800_000_000_000, *rest) for o, _, *rest in appended(3000)]


def test_delete_horizon_stands_in_the_base_timestamp_and_is_still_the_base_of_the_deltas() -> None:
    batch = found("horizon")
    assert batch.attributes == DELETE_HORIZON
    assert (batch.base_timestamp, batch.count, batch.last_delta) == (1_900_000_005_000, 3, 3)
    assert read("horizon") == [rec for rec in appended(700) if rec[0] != 701]


def test_markers_and_an_empty_batch_hold_no_records_and_take_their_offsets() -> None:
    assert found("abort").attributes == found("commit").attributes == TRANSACTIONAL | CONTROL
    assert read("abort") == read("commit") == read("empty") == []
    assert [found(name).next_offset for name in ("abort", "commit", "empty")] == [501, 502, 604]


def test_an_abort_marker_ends_the_drop_and_a_commit_marker_does_not() -> None:
    for marker, left in (("abort", 4), ("commit", 0)):
        data = BATCHES[marker] + BATCHES["lz4"]
        assert len(reference.read_records(data, 0, len(data), [(4242, 400)])) == left


@pytest.mark.parametrize(("name", "base"), WRITTEN)
def test_writes_what_kafka_wrote(name: str, base: int) -> None:
    batch = found(name)
    records = [fmt.Rec(delta, ts, key, value, tuple(headers)) for delta, ts, key, value, headers in APPENDED]
    payload = b"".join(fmt.write_record(rec, batch.base_timestamp) for rec in records)
    assert payload == reference.unpacked(batch, 0)
    fields = fmt.HEADER.unpack(batch.data[:61])
    written = fmt.write_batch(
        base,
        batch.data[61:],
        count=4,
        last_delta=3,
        attributes=fields[5],
        leader_epoch=9,
        base_timestamp=fields[7],
        max_timestamp=fields[8],
        producer_id=fields[9],
        producer_epoch=fields[10],
        sequence=fields[11],
    )
    assert written == batch.data


content = st.one_of(
    st.binary(max_size=300),
    st.lists(st.tuples(st.binary(min_size=1, max_size=9), st.integers(1, 60_000)), max_size=4).map(
        lambda parts: b"".join((piece * times)[:70_000] for piece, times in parts)
    ),
)


@examples(60)
@given(content, st.sampled_from([4, 5, 6, 7]), st.booleans(), st.booleans(), st.booleans(), st.booleans())
def test_lz4_frames_agree_with_the_real_one(
    data: bytes, block: int, independent: bool, block_sum: bool, size: bool, content_sum: bool
) -> None:
    frame = fmt.write_lz4(
        data, block=block, independent=independent, block_sum=block_sum, size=size, content_sum=content_sum
    )
    assert fmt.unpack_lz4(frame) == data
    assert bytes(cramjam.lz4.decompress(frame)) == data
    assert fmt.unpack_lz4(bytes(cramjam.lz4.compress(data))) == data


@pytest.mark.parametrize("bits", [32, 64])
def test_varints_take_their_type_s_range_and_no_more(bits: int) -> None:
    for value in (0, -1, 1, 63, 64, -64, -65, (1 << bits - 1) - 1, -(1 << bits - 1)):
        reader = fmt.Reader(fmt.varint(value))
        assert reader.varint(bits) == value
        reader.end()
    for wrong in (fmt.varint(1 << bits - 1), b"\x80" * (bits // 7 + 1) + b"\x00", b"\xff"):
        with pytest.raises(fmt.Malformed):
            fmt.Reader(wrong).varint(bits)
