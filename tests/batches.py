"""Hypothesis strategies for fetched ranges: batches of every shape, and what a lane would know when it packs them."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from typing import Any

import cramjam
import reference_codecs as codecs
import reference_format as fmt
import reference_old as old
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from reference_format import CONTROL, DELETE_HORIZON, GZIP, LOG_APPEND_TIME, LZ4, NONE, SNAPPY, TRANSACTIONAL, ZSTD

PRODUCERS = (7, 8, 9)


def examples(count: int) -> Callable[[Any], Any]:
    """How many examples a property gets; on a busy machine they take longer, which is no failure.

    EOMIRROR_EXAMPLES is a share for builds on which each takes many times longer.
    """
    share = float(os.environ.get("EOMIRROR_EXAMPLES", "1"))
    return settings(
        max_examples=max(10, round(count * share)),
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )


@dataclasses.dataclass(frozen=True)
class Range:
    """data[start:end] as fetched at `position`; `starts` are the indices of the batches in data."""

    data: bytes
    start: int
    end: int
    position: int
    aborted: list[tuple[int, int]]
    starts: list[int]


STAMP: dict[str, Any] = {"producer_id": 41, "producer_epoch": 3, "base_sequence": 17, "max_batch_bytes": 1 << 30}

small_bytes = st.one_of(st.binary(max_size=12), st.sampled_from([b"", b"a" * 200, bytes(130)]))
maybe_bytes = st.one_of(st.none(), small_bytes)
header_lists = st.lists(
    st.tuples(st.sampled_from([b"", b"id", b"id", "größe".encode(), b"\xff"]), maybe_bytes), max_size=3
)
timestamps = st.one_of(
    st.integers(-1, 400),
    st.integers(1_700_000_000_000, 1_700_000_100_000),
    st.sampled_from([-(1 << 63), -1, 0, (1 << 63) - 1]),
)
stamps = st.builds(
    lambda pid, epoch, seq: {
        "producer_id": pid,
        "producer_epoch": epoch,
        "base_sequence": seq,
        "max_batch_bytes": 1 << 30,
    },
    st.integers(0, (1 << 63) - 1),
    st.integers(0, 32767),
    st.one_of(st.integers(0, 100), st.integers((1 << 31) - 20, (1 << 31) - 1)),
)


def zstd_stream(payload: bytes, step: int = 64) -> bytes:
    """A frame that does not say what it unpacks to, with a new block after every `step` bytes."""
    stream = cramjam.zstd.Compressor(level=3)
    out = b""
    for at in range(0, len(payload), step):
        stream.compress(payload[at : at + step])
        out += bytes(stream.flush())
    return out + bytes(stream.finish())


# The forms that producers write, and those that they might.
FORMS: dict[int, dict[str, Callable[[bytes], bytes]]] = {
    NONE: {"plain": bytes},
    GZIP: {
        "plain": codecs.write_gzip,
        "cramjam": lambda payload: bytes(cramjam.gzip.compress(payload)),
        "named": lambda payload: codecs.write_gzip(payload, name=True),
        "members": lambda payload: codecs.write_gzip(payload, members=3),
    },
    SNAPPY: {
        "plain": codecs.write_xerial,
        "raw": codecs.write_snappy,
        "cramjam": lambda payload: bytes(cramjam.snappy.compress_raw(payload)),
        "chunks": lambda payload: codecs.write_xerial(payload, chunk=10),
        "again": lambda payload: codecs.write_xerial(payload, chunk=20, again=True),
    },
    LZ4: {
        "plain": fmt.write_lz4,
        "cramjam": lambda payload: bytes(cramjam.lz4.compress(payload)),
        "checksums": lambda payload: fmt.write_lz4(
            payload, block=7, independent=False, block_sum=True, size=True, content_sum=True
        ),
    },
    ZSTD: {
        "plain": codecs.write_zstd,
        "cramjam": lambda payload: bytes(cramjam.zstd.compress(payload, level=3)),
        "stream": lambda payload: zstd_stream(payload, max(64, len(payload) // 3)),
        "sized": lambda payload: codecs.write_zstd(payload, block=50, size=8, dictionary=True),
        "frames": lambda payload: (
            codecs.write_zstd(payload[:9], skippable=True) + codecs.write_zstd(payload[9:], size=4)
        ),
    },
}


def compressed(payload: bytes, codec: int, form: str = "plain") -> bytes:
    """A payload in one of its codec's forms."""
    return FORMS[codec][form](payload)


@st.composite
def data_batches(draw: st.DrawFn, base: int, room: int) -> tuple[bytes, int]:
    """One batch of records at an offset; returns its bytes and its last offset delta, which is at most room."""
    delta = draw(st.sampled_from([0, 0, 0, 1, 2]))
    deltas = []
    for _ in range(draw(st.integers(1, 6))):
        if delta > room:
            break
        deltas.append(delta)
        delta += draw(st.sampled_from([1, 1, 1, 1, 2, 5]))
    deltas = deltas or [0]
    last_delta = min(deltas[-1] + draw(st.sampled_from([0, 0, 0, 3])), max(room, deltas[-1]))
    base_timestamp = draw(timestamps)
    records = [
        fmt.Rec(
            delta,
            draw(timestamps),
            draw(maybe_bytes),
            draw(maybe_bytes),
            tuple(draw(header_lists)),
            draw(st.sampled_from([0, 0, 0, 255])),
        )
        for delta in deltas
    ]
    payload = b"".join(fmt.write_record(rec, base_timestamp) for rec in records if fits(rec, base_timestamp))
    count = sum(fits(rec, base_timestamp) for rec in records)
    codec = draw(st.sampled_from([NONE, NONE, NONE, *FORMS]))
    if count:
        payload = compressed(payload, codec, draw(st.sampled_from(list(FORMS[codec]))))
    producer_id = draw(st.sampled_from((-1, *PRODUCERS)))
    attributes = codec
    attributes |= draw(st.sampled_from([0, 0, 0, LOG_APPEND_TIME, DELETE_HORIZON, 0x4000]))
    attributes |= draw(st.sampled_from([0, TRANSACTIONAL])) if producer_id >= 0 else 0
    written = fmt.write_batch(
        base,
        payload,
        count=count,
        last_delta=last_delta,
        attributes=attributes,
        leader_epoch=draw(st.integers(0, 9)),
        base_timestamp=base_timestamp,
        max_timestamp=draw(timestamps),
        producer_id=producer_id,
        producer_epoch=0 if producer_id >= 0 else -1,
        sequence=0 if producer_id >= 0 else -1,
    )
    return written, last_delta


# What a batch of an old format may be compressed with, and in which forms; magic 0 has lz4's first checksum.
OLD_CODECS = (NONE, GZIP, SNAPPY, LZ4)


def old_payload(messages: list[old.Old], magic: int, codec: int, form: str = "plain") -> bytes:
    """What a wrapper holds."""
    payload = compressed(b"".join(map(old.write_message, messages)), codec, form)
    return old.as_first_written(payload) if codec == LZ4 and magic == 0 else payload


@st.composite
def old_entries(draw: st.DrawFn, base: int, room: int) -> tuple[bytes, int]:
    """One log entry of magic 0 or 1, a message or a wrapper; returns its bytes and its last offset minus base."""
    magic = draw(st.sampled_from([0, 1, 1]))
    codec = draw(st.sampled_from(OLD_CODECS))
    deltas = [0]
    while codec and len(deltas) < draw(st.integers(1, 5)) and deltas[-1] < room - 3:
        deltas.append(deltas[-1] + draw(st.sampled_from([1, 1, 1, 3])))
    # A compacted log keeps the numbers inside a wrapper, so the first one need not be 0.
    first = base if magic == 0 or not codec else draw(st.sampled_from([0, 0, min(base, 4)]))
    stamped = draw(st.sampled_from([0, 0, LOG_APPEND_TIME]))
    messages = [
        old.Old(first + delta, magic, stamped, draw(timestamps), draw(maybe_bytes), draw(maybe_bytes))
        for delta in deltas
    ]
    if not codec:
        return old.write_message(messages[0]), 0
    payload = old_payload(messages, magic, codec, draw(st.sampled_from(list(FORMS[codec]))))
    last = base + deltas[-1]
    wrapper = old.write_wrapper(last, magic, codec, payload, attributes=stamped, timestamp=draw(timestamps))
    return wrapper, deltas[-1]


def fits(rec: fmt.Rec, base_timestamp: int) -> bool:
    return -(1 << 63) <= rec.timestamp - base_timestamp < 1 << 63


def marker(base: int, producer_id: int, kind: int) -> bytes:
    """A transaction marker: 0 abort, 1 commit."""
    key = (0).to_bytes(2, "big") + kind.to_bytes(2, "big")
    payload = fmt.write_record(fmt.Rec(0, 0, key, bytes(6)), 0)
    attributes = TRANSACTIONAL | CONTROL
    return fmt.write_batch(
        base, payload, count=1, last_delta=0, attributes=attributes, leader_epoch=4, producer_id=producer_id
    )


@st.composite
def ranges(draw: st.DrawFn, *, cut: bool = True) -> Range:
    """Some batches in offset order, other bytes around them, a position near or inside them, an aborted index."""
    first = draw(st.sampled_from([0, 0, 100, 1 << 40, (1 << 63) - 90]))
    base = first
    data = draw(st.binary(max_size=3))
    start, starts = len(data), []
    for _ in range(draw(st.integers(0, 6))):
        room = (1 << 63) - 2 - base
        if room < 20:
            break
        kind = draw(st.sampled_from(["data", "data", "data", "data", "old", "empty", "marker"]))
        starts.append(len(data))
        if kind == "data":
            batch, last_delta = draw(data_batches(base, 12))
        elif kind == "old":
            batch, last_delta = draw(old_entries(base, 12))
        elif kind == "marker":
            batch, last_delta = marker(base, draw(st.sampled_from(PRODUCERS)), draw(st.sampled_from([0, 0, 1, 2]))), 0
        else:
            last_delta = draw(st.integers(0, 3))
            attributes = draw(st.sampled_from([0, TRANSACTIONAL, TRANSACTIONAL | CONTROL]))
            batch = fmt.write_batch(base, b"", count=0, last_delta=last_delta, attributes=attributes, producer_id=7)
        data += batch
        base += last_delta + 1 + draw(st.sampled_from([0, 0, 0, 1, 7]))
    if cut and starts:
        data = data[: len(data) - draw(st.sampled_from([0, 0, 0, 1, 40, 61, 90])) % (len(data) - starts[-1])]
    end = len(data)
    offsets = st.integers(max(0, first - 2), base + 2)
    aborted = draw(st.lists(st.tuples(st.sampled_from(PRODUCERS), offsets), max_size=3))
    position = draw(st.one_of(st.just(first), offsets))
    return Range(data + draw(st.binary(max_size=3)), start, end, min(position, (1 << 63) - 1), aborted, starts)
