"""read_records and build_batch: what internal topics are read and written with."""

from __future__ import annotations

import pytest
import reference
import reference_format as fmt
from batches import Range, examples, ranges
from hypothesis import given
from hypothesis import strategies as st
from reference_format import LZ4, NONE, TRANSACTIONAL
from test_fastpath_fuzz import assert_same_reading
from test_reference import BATCHES, WRITTEN, appended

from eomirror import _fastpath as kernel

pairs = st.lists(
    st.tuples(
        st.one_of(st.none(), st.binary(max_size=40)),
        st.one_of(st.none(), st.binary(max_size=40), st.binary(max_size=4).map(lambda b: b * 500)),
    ),
    min_size=1,
    max_size=8,
)


@examples(150)
@given(ranges())
def test_reading_is_what_the_reference_says(fetched: Range) -> None:
    assert_same_reading(fetched.data, fetched.start, fetched.end, fetched.position, fetched.aborted)


@pytest.mark.parametrize(("name", "base"), WRITTEN)
def test_reads_what_kafka_wrote(name: str, base: int) -> None:
    data = BATCHES[name]
    assert kernel.read_records(data, 0, len(data), []) == appended(base)
    assert kernel.read_records(data, 0, len(data), [], base + 2) == appended(base)[2:]


@examples(60)
@given(pairs, st.integers(-1, 1 << 60), st.integers(0, (1 << 31) - 1), st.sampled_from(["none", "lz4"]))
def test_a_built_batch_reads_back(
    records: list[tuple[bytes | None, bytes | None]], timestamp: int, sequence: int, codec: str
) -> None:
    data = kernel.build_batch(
        records,
        timestamp_ms=timestamp,
        producer_id=5,
        producer_epoch=6,
        base_sequence=sequence,
        codec="lz4" if codec == "lz4" else "none",
    )
    want = [(i, timestamp, key, value, []) for i, (key, value) in enumerate(records)]
    assert kernel.read_records(data, 0, len(data), []) == want
    assert reference.read_records(data, 0, len(data), []) == want
    fields = fmt.HEADER.unpack(data[:61])
    attributes = TRANSACTIONAL | (LZ4 if codec == "lz4" else NONE)
    assert fields[:4] == (0, len(data) - 12, -1, 2)
    assert fields[5:] == (attributes, len(records) - 1, timestamp, timestamp, 5, 6, sequence, len(records))


def test_what_cannot_be_a_batch_is_refused() -> None:
    stamp = {"timestamp_ms": 1, "producer_id": 1, "producer_epoch": 0, "base_sequence": 0}
    with pytest.raises(ValueError, match="without records"):
        kernel.build_batch([], codec="none", **stamp)
    with pytest.raises(ValueError, match="neither none nor lz4"):
        kernel.build_batch([(b"k", b"v")], codec="zstd", **stamp)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="start at 0"):
        kernel.build_batch([(b"k", b"v")], codec="none", **{**stamp, "producer_id": -1})
    with pytest.raises(TypeError):
        kernel.build_batch([("k", b"v")], codec="none", **stamp)  # type: ignore[list-item]
    with pytest.raises(ValueError, match="starts at 0"):
        kernel.read_records(b"", 0, 0, [], -1)


def test_a_cut_batch_alone_is_an_error_and_behind_others_is_not() -> None:
    data = BATCHES["none"] + BATCHES["lz4"][:-1]
    assert kernel.read_records(data, 0, len(data), []) == appended(1000)
    with pytest.raises(kernel.BatchError) as caught:
        kernel.read_records(data, len(BATCHES["none"]), len(data), [], 2000)
    assert (caught.value.reason, caught.value.offset, caught.value.next_offset) == ("CORRUPT_BATCH", 2000, None)
