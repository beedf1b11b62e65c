"""The two hot messages against kio's own readers and writers, which are generated from Kafka's schemas."""

from __future__ import annotations

import datetime
import importlib
import io
import itertools
import uuid
from typing import Any

import pytest
from batches import examples
from hypothesis import given
from hypothesis import strategies as st
from kio.schema.errors import ErrorCode
from kio.serial import entity_reader, entity_writer
from kio.static.primitive import i16, i32, i32Timedelta, i64
from test_fastpath_fuzz import damaged, damages

from eomirror import _fastpath as kernel

int32s = st.integers(-1, (1 << 31) - 1)
int64s = st.integers(-1, (1 << 63) - 1)


def written(entity: Any, header: Any) -> bytes:
    buffer = io.BytesIO()
    entity_writer(type(header))(buffer, header)
    entity_writer(type(entity))(buffer, entity)
    return buffer.getvalue()


@st.composite
def responses(draw: st.DrawFn) -> tuple[int, bytes, list[dict[str, Any]], tuple[int, int, int, int]]:
    """A version, a response's bytes, what its partitions read as, and (correlation id, throttle, error, session)."""
    version = draw(st.integers(12, 17))
    m = importlib.import_module(f"kio.schema.fetch.v{version}.response")
    topics, want = [], []
    for _ in range(draw(st.integers(0, 3))):
        name, topic_id = draw(st.text(min_size=1, max_size=200)), draw(st.uuids(version=4))
        parts = []
        for _ in range(draw(st.integers(0, 3))):
            aborted = draw(st.none() | st.lists(st.tuples(int64s, int64s), max_size=3))
            diverging = draw(st.none() | st.tuples(st.integers(0, 9), st.integers(0, 99)))
            leader = draw(st.none() | st.tuples(st.integers(0, 9), st.integers(0, 99)))
            records = draw(st.none() | st.binary(max_size=300))
            index, code, replica = draw(int32s), draw(st.sampled_from(list(ErrorCode))), draw(int32s)
            marks = [draw(int64s) for _ in range(3)]
            epoch, end_offset = diverging or (-1, -1)
            leader_id, leader_epoch = leader or (-1, -1)
            parts.append(
                m.PartitionData(
                    partition_index=i32(index),
                    error_code=code,
                    high_watermark=i64(marks[0]),
                    last_stable_offset=i64(marks[1]),
                    log_start_offset=i64(marks[2]),
                    diverging_epoch=m.EpochEndOffset(epoch=i32(epoch), end_offset=i64(end_offset)),
                    current_leader=m.LeaderIdAndEpoch(leader_id=leader_id, leader_epoch=i32(leader_epoch)),
                    snapshot_id=m.SnapshotId(end_offset=i64(draw(int64s)), epoch=i32(4)),
                    aborted_transactions=None
                    if aborted is None
                    else tuple(m.AbortedTransaction(producer_id=p, first_offset=i64(f)) for p, f in aborted),
                    preferred_read_replica=replica,
                    records=records,
                )
            )
            want.append(
                {
                    "topic": name if version == 12 else None,
                    "topic_id": None if version == 12 else topic_id.bytes,
                    "partition": index,
                    "error_code": code.value,
                    "high_watermark": marks[0],
                    "last_stable_offset": marks[1],
                    "log_start_offset": marks[2],
                    "aborted": aborted or [],
                    "preferred_read_replica": replica,
                    "diverging": diverging,
                    "current_leader": leader,
                    "records": records or b"",
                }
            )
        which = {"topic": name} if version == 12 else {"topic_id": topic_id}
        topics.append(m.FetchableTopicResponse(**which, partitions=tuple(parts)))
    head = (draw(int32s), draw(st.integers(0, 100_000)), draw(st.sampled_from([0, 70, 71])), draw(int32s))
    endpoints = {}
    if version >= 16 and draw(st.booleans()):
        endpoints["node_endpoints"] = (m.NodeEndpoint(node_id=3, host="h", port=i32(9092), rack=None),)
    response = m.FetchResponse(
        throttle_time=i32Timedelta.parse(datetime.timedelta(milliseconds=head[1])),
        error_code=ErrorCode(head[2]),
        session_id=i32(head[3]),
        responses=tuple(topics),
        **endpoints,
    )
    header = response.__header_schema__(correlation_id=i32(head[0]))
    return version, written(response, header), want, head


@examples(150)
@given(responses())
def test_fetch_responses_read_as_kafka_s_schema_says(
    response: tuple[int, bytes, list[dict[str, Any]], tuple[int, int, int, int]],
) -> None:
    version, data, want, head = response
    frame = kernel.fetch_response(data, version)
    assert (frame.correlation_id, frame.throttle_ms, frame.error_code, frame.session_id) == head
    got = [
        {name: data[part.start : part.end] if name == "records" else getattr(part, name) for name in fields}
        for part, fields in zip(frame.partitions, want, strict=True)
    ]
    assert got == want


@examples(60)
@given(responses(), st.data())
def test_a_cut_response_is_a_frame_error(
    response: tuple[int, bytes, list[dict[str, Any]], tuple[int, int, int, int]], data: st.DataObject
) -> None:
    version, whole, _, _ = response
    with pytest.raises(kernel.FrameError):
        kernel.fetch_response(whole[: data.draw(st.integers(0, len(whole) - 1))], version)
    with pytest.raises(kernel.FrameError, match="left over"):
        kernel.fetch_response(whole + b"\x00", version)


@examples(200)
@given(responses(), damages)
def test_a_damaged_response_is_a_frame_error_or_stays_inside_the_frame(
    response: tuple[int, bytes, list[dict[str, Any]], tuple[int, int, int, int]], damage: list[tuple[int, str, int]]
) -> None:
    version, whole, _, _ = response
    data = damaged(whole, damage)
    try:
        frame = kernel.fetch_response(data, version)
    except kernel.FrameError:
        return
    spans = [(part.start, part.end) for part in frame.partitions]
    assert all(0 <= start <= end <= len(data) for start, end in spans)
    assert all(before[1] <= after[0] for before, after in itertools.pairwise(spans))


def test_unknown_tagged_fields_are_skipped() -> None:
    """Response header, top level, topic, partition and aborted transaction each carry a field of tomorrow."""
    tags = bytes([1, 200, 1, 3]) + b"new"
    partition = (
        (7).to_bytes(4, "big") + bytes(2 + 8 * 3) + bytes([2]) + bytes(15) + b"\x05" + tags_after(16) + bytes([255] * 4)
    )
    partition = partition.replace(b"TAGS", tags) + bytes([3]) + b"rr" + tags
    data = (5).to_bytes(4, "big") + tags + bytes(10) + bytes([2]) + bytes(16) + bytes([2]) + partition + tags + tags
    (part,) = kernel.fetch_response(data, 13).partitions
    assert (part.partition, part.aborted, data[part.start : part.end]) == (7, [(0, 5)], b"rr")


def tags_after(size: int) -> bytes:
    """Where the aborted transaction's tagged fields go, after its two int64."""
    assert size == 16
    return b"TAGS"


produced = st.lists(
    st.tuples(
        st.text(min_size=1, max_size=200),
        st.uuids(version=4),
        st.lists(st.tuples(int32s, st.binary(min_size=1, max_size=300)), max_size=3),
    ),
    max_size=3,
)


@examples(150)
@given(
    st.integers(9, 13),
    int32s,
    st.none() | st.text(max_size=50),
    st.none() | st.text(max_size=200),
    st.integers(0, 1 << 30),
    produced,
)
def test_produce_requests_read_back_by_kafka_s_schema(
    version: int,
    correlation_id: int,
    client_id: str | None,
    transactional_id: str | None,
    timeout_ms: int,
    topics: list[tuple[str, uuid.UUID, list[tuple[int, bytes]]]],
) -> None:
    m = importlib.import_module(f"kio.schema.produce.v{version}.request")
    views = [[(index, memoryview(data)) for index, data in parts] for _, _, parts in topics]
    buffers = kernel.produce_request(
        version,
        correlation_id,
        client_id,
        transactional_id,
        timeout_ms,
        [
            (name if version < 13 else topic_id.bytes, parts)
            for (name, topic_id, _), parts in zip(topics, views, strict=True)
        ],
    )
    whole = b"".join(bytes(buffer) for buffer in buffers)
    assert int.from_bytes(whole[:4], "big") == len(whole) - 4
    header, head_size = entity_reader(m.ProduceRequest.__header_schema__)(whole, 4)
    request, body_size = entity_reader(m.ProduceRequest)(whole, 4 + head_size)
    assert 4 + head_size + body_size == len(whole)
    assert (header.request_api_key, header.request_api_version) == (0, version)
    assert (header.correlation_id, header.client_id) == (correlation_id, client_id)
    assert (request.transactional_id, request.acks) == (transactional_id, i16(-1))
    assert request.timeout == datetime.timedelta(milliseconds=timeout_ms)
    got = [
        (topic.name if version < 13 else topic.topic_id, [(p.index, p.records) for p in topic.partition_data])
        for topic in request.topic_data
    ]
    assert got == [(name if version < 13 else topic_id, parts) for name, topic_id, parts in topics]
    passed = [buffer for buffer in buffers if isinstance(buffer, memoryview)]
    assert all(a is b for a, (_, b) in zip(passed, [pair for parts in views for pair in parts], strict=True))


def test_versions_and_arguments_that_are_not_ours_are_refused() -> None:
    for version in (11, 18):
        with pytest.raises(ValueError, match="12 to 17"):
            kernel.fetch_response(b"", version)
    for version in (8, 14):
        with pytest.raises(ValueError, match="9 to 13"):
            kernel.produce_request(version, 1, None, None, 1, [])
    with pytest.raises(ValueError, match="16 bytes"):
        kernel.produce_request(13, 1, None, None, 1, [(b"short", [])])
    with pytest.raises(ValueError, match="32767"):
        kernel.produce_request(12, 1, "c" * 32768, None, 1, [])
    with pytest.raises(kernel.FrameError, match="bytes end inside a field at byte 0"):
        kernel.fetch_response(b"", 12)
