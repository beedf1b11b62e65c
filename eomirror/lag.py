"""How far the target is behind the source, in time: the age of the oldest committed record that is not mirrored yet.

The difference of two offsets is only an upper bound of the records between them: control batches and records of aborted
transactions take offsets too. So the log itself is looked at, from the position on, header by header.
"""

from __future__ import annotations

import datetime
import struct
from collections.abc import Mapping, Sequence
from typing import Final

import msgspec

from eomirror import _fastpath
from eomirror.brokers import READ_COMMITTED, Brokers, Metadata, topic_uuid
from eomirror.errors import BrokerError, ConnectionLost, EomirrorError
from eomirror.model import RouteKey
from eomirror.wire import FETCH

# Enough for the headers of some small batches; the first batch comes whole whatever its size.
FETCH_BYTES: Final = 64 * 1024

# RecordBatch, magic 2 (DefaultRecordBatch.java): base offset, length, leader epoch, magic, crc, attributes,
# last offset delta, base timestamp, max timestamp, producer id.
_HEADER: Final = struct.Struct(">qiibIhiqqq")
# Magic 0 and 1 (LegacyRecord.java): offset of the last record, length, crc, magic, attributes, timestamp (magic 1).
_OLD: Final = struct.Struct(">qiIbBq")
_OLD_MIN: Final = 14
_LENGTH_FROM: Final = 12
_CODEC: Final = 7
_LOG_APPEND_TIME: Final = 1 << 3
_TRANSACTIONAL: Final = 1 << 4
_CONTROL: Final = 1 << 5
_NO_TIMESTAMP: Final = -1


class Oldest(msgspec.Struct, frozen=True):
    """What lies at a position of the source. `timestamp_ms` is that of the first committed record there; None when
    everything up to the end was control batches and aborted records, so that nothing is left to mirror."""

    timestamp_ms: int | None


class Walk(msgspec.Struct, frozen=True):
    """One answer, walked: the oldest committed record's timestamp if there was one, and where to look next if not."""

    found: bool
    timestamp_ms: int
    next_offset: int


def walk(records: memoryview, position: int, aborted: Sequence[tuple[int, int]]) -> Walk:
    """The first batch at or above `position` that a read_committed consumer would be given.

    `aborted` is the answer's index of (producer id, first offset): that producer's batches from there to its marker are
    dropped. A batch that the broker has cut is read as far as its header. A batch that holds the position counts with
    its first record, so the time may be a little too early, never too late.
    """
    waiting = sorted(aborted, key=lambda entry: entry[1])
    dropping: set[int] = set()
    start = 0
    while start + _OLD.size <= len(records):
        base, length, _, magic, attributes, stamp = _OLD.unpack_from(records, start)
        if magic in (0, 1) and length >= _OLD_MIN:
            start += _LENGTH_FROM + length
            if base < position:
                continue
            # A compressed one has its newest record's time, unless the broker has stamped them all.
            known = magic == 1 and (not attributes & _CODEC or attributes & _LOG_APPEND_TIME)
            return Walk(True, stamp if known else _NO_TIMESTAMP, base + 1)
        if start + _HEADER.size > len(records):
            break
        base, length, _, magic, _, attributes, delta, first_ms, newest_ms, producer = _HEADER.unpack_from(
            records, start
        )
        if magic != 2 or length < 0 or delta < 0:
            raise ValueError(f"no record batch at offset {position}")
        start += _LENGTH_FROM + length
        while waiting and waiting[0][1] <= base + delta:
            dropping.add(waiting.pop(0)[0])
        if base + delta < position:
            continue
        position = base + delta + 1
        if attributes & _CONTROL:
            dropping.discard(producer)
        elif not (attributes & _TRANSACTIONAL and producer in dropping):
            return Walk(True, newest_ms if attributes & _LOG_APPEND_TIME else first_ms, position)
    return Walk(False, _NO_TIMESTAMP, position)


def oldest(
    brokers: Brokers, metadata: Metadata, wanted: Mapping[RouteKey, tuple[int, int]], deadline: float
) -> dict[RouteKey, Oldest | EomirrorError | None]:
    """The oldest committed record of each partition between (position, end); the error where the leader is away or
    refuses, None where it cannot be known: the record has no timestamp, or the deadline (of the brokers' own clock) has
    passed."""
    return {key: _oldest(brokers, metadata, key, *span, deadline) for key, span in wanted.items()}


def _oldest(
    brokers: Brokers, metadata: Metadata, key: RouteKey, position: int, end: int, deadline: float
) -> Oldest | EomirrorError | None:
    while position < end:
        if brokers.network.now() >= deadline:
            return None
        try:
            step = _look(brokers, metadata, key, position, deadline)
        except (ConnectionLost, BrokerError) as error:
            return error
        except ValueError:
            return None
        if step.found:
            return Oldest(step.timestamp_ms) if step.timestamp_ms >= 0 else None
        if step.next_offset == position:
            return None  # the end that we were told moved back: nobody can say what is there
        position = step.next_offset
    return Oldest(None)


def _look(brokers: Brokers, metadata: Metadata, key: RouteKey, position: int, deadline: float) -> Walk:
    name, partition = key
    place = f"cluster {brokers.name}: looking at {name}[{partition}]@{position}"
    topic = metadata.topics[name]
    leader = topic.partitions[partition]
    if leader.node is None:
        raise BrokerError(place, None)
    connection = brokers.at(brokers.address(leader.node))
    module = connection.module(FETCH)
    request = module.FetchRequest(
        max_wait=datetime.timedelta(0),
        min_bytes=0,
        max_bytes=FETCH_BYTES,
        isolation_level=READ_COMMITTED,
        topics=(
            module.FetchTopic(
                topic_id=topic_uuid(topic.topic_id),
                partitions=(
                    module.FetchPartition(
                        partition=partition,
                        current_leader_epoch=leader.epoch,
                        fetch_offset=position,
                        partition_max_bytes=FETCH_BYTES,
                    ),
                ),
            ),
        ),
        forgotten_topics_data=(),
    )
    try:
        connection.send(request)
        version, frame = connection.receive_frame(deadline)
    except ConnectionLost:
        brokers.forget(connection)
        raise
    answer = _fastpath.fetch_response(frame, version)
    part = answer.partitions[0] if answer.partitions else None
    code = answer.error_code or (part.error_code if part else 0)
    if part is None or code:
        raise BrokerError(place, code or None)
    return walk(memoryview(frame)[part.start : part.end], position, part.aborted)


def behind(lag_records: int | None, found: Oldest | None, now_ms: int) -> float | None:
    """Seconds that the target is behind; None if unknown. A record of the future is 0 seconds old."""
    if lag_records is None:
        return None
    if lag_records == 0:
        return 0.0
    if found is None:
        return None
    return 0.0 if found.timestamp_ms is None else max(now_ms - found.timestamp_ms, 0) / 1000
