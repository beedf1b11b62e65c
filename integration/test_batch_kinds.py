"""Every kind of batch that a broker can hold arrives record by record as the source has it, in every codec.

A topic of these tests has one partition per codec, in the order of CODECS. What the source's segment files hold is
asserted before anything is mirrored: a kind that was not there has not been tested.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from random import Random
from typing import Any

from eomirror.errors import Reason

from .cluster import Cluster
from .compaction import CLEANING, HELD, has_gaps, wait_compacted
from .oldformat import CODECS as OLD_CODECS
from .oldformat import Message, OldLog
from .oracle import bounds, compare
from .process import Eomirror
from .promise import assert_promise, catch_up, contents, faults, positions, settle_fault
from .rawlog import CODECS, TINY, Batch, partition_batches

START = 1_700_000_000_000  # ms
COUNT = len(CODECS)
LATER = 10_000  # ms; a record that is so much younger begins a new segment

Headers = tuple[tuple[str, bytes | None], ...]


@dataclass(frozen=True)
class Event:
    """One record to write."""

    key: bytes | None
    value: bytes | None
    headers: Headers = ()
    timestamp: int = START


def events(count: int, first: int = 0, size: int = 40) -> list[Event]:
    """Records no two of which are equal: some late, some with headers, values of about `size` bytes."""
    return [
        Event(
            b"key-%d" % n,
            b"value %d %s" % (n, (b"%x," % (n * 2654435761 % 2**32)) * (size // 8)),
            (("number", b"%d" % n), ("tag", b"a"), ("tag", None)) if n % 3 else (),
            START + n * 3 - (500 if n % 7 == 0 else 0),
        )
        for n in range(first, first + count)
    ]


def write(cluster: Cluster, topic: str, partition: int, wanted: list[Event], **settings: Any) -> None:
    """Writes the events with the partition's codec: as one batch, unless the settings say otherwise."""
    producer = cluster.producer(
        {
            "compression.type": CODECS[partition],
            "enable.idempotence": True,
            "linger.ms": 5000,  # the flush below ends it
            "message.max.bytes": 16 << 20,
            **{key.replace("_", "."): value for key, value in settings.items()},
        }
    )
    for event in wanted:
        producer.produce(
            topic, event.value, event.key, partition, timestamp=event.timestamp, headers=list(event.headers) or None
        )
    assert producer.flush(60) == 0


def stored(cluster: Cluster, topic: str, partition: int) -> list[Batch]:
    """The data batches of a partition as they lie on disk."""
    return [batch for batch in partition_batches(cluster.log_dir / f"{topic}-{partition}") if not batch.control]


def assert_stored(cluster: Cluster, topic: str, *kinds: Callable[[Batch], bool]) -> None:
    """In every partition: batches of each of the kinds, compressed with the codec of the partition; what does not get
    smaller is left uncompressed by every producer."""
    for partition, codec in enumerate(CODECS):
        batches = stored(cluster, topic, partition)
        assert {codec} <= {batch.codec for batch in batches if batch.count} <= {codec, "none"}
        for kind in kinds:
            assert any(kind(batch) for batch in batches), f"{topic}[{partition}] ({codec}): {kind.__name__}"


def is_empty(batch: Batch) -> bool:
    """The cleaner took all its records and left the header, for the sequence numbers of its producer."""
    return batch.count == 0


def has_horizon(batch: Batch) -> bool:
    """The cleaner has noted when its tombstones may go."""
    return batch.delete_horizon and batch.count > 0


def is_tiny(batch: Batch) -> bool:
    """Hardly any records."""
    return 0 < batch.count <= TINY


def is_stamped(batch: Batch) -> bool:
    """The broker set the timestamps."""
    return batch.log_append_time


def is_whole(batch: Batch) -> bool:
    """Many records, none missing: it can be passed through."""
    return batch.count > 50 and batch.count == batch.last_delta + 1


# -- the kinds ---------------------------------------------------------------------------------------------------------


def write_whole(source: Cluster, topic: str) -> None:
    """Batches as librdkafka writes them."""
    source.create_topic(topic, COUNT)
    for partition in range(COUNT):
        write(source, topic, partition, events(200))
        write(source, topic, partition, events(300, 200))
    assert_stored(source, topic, is_whole)


def write_java(source: Cluster, stem: str) -> list[str]:
    """Batches as Java writes them: the broker compresses, one topic per codec."""
    topics = []
    for codec in CODECS[1:]:
        topic = f"{stem}.{codec}"
        source.create_topic(topic, 1, {"compression.type": codec})
        write(source, topic, 0, events(400))
        assert {batch.codec for batch in stored(source, topic, 0)} == {codec}
        topics.append(topic)
    return topics


def write_stamped(source: Cluster, topic: str) -> None:
    """Batches whose records all have the time at which the broker took them."""
    source.create_topic(topic, COUNT, {"message.timestamp.type": "LogAppendTime"})
    for partition in range(COUNT):
        write(source, topic, partition, events(200))
        write(source, topic, partition, events(200, 200), batch_num_messages=7)
    assert_stored(source, topic, is_stamped, is_whole)


def write_compacted(source: Cluster, target: Cluster, topic: str) -> None:
    """Batches with gaps, with a delete horizon, and without any records."""
    source.create_topic(topic, COUNT, CLEANING)
    target.create_topic(topic, COUNT, {"cleanup.policy": "compact", **HELD})
    for partition in range(COUNT):
        write(source, topic, partition, events(10))  # a producer that never writes again: its last batch stays, empty
        later = [replace(event, timestamp=event.timestamp + LATER) for event in events(100)]
        deleted = [replace(event, value=None) if n % 9 == 0 else event for n, event in enumerate(later)]
        write(source, topic, partition, deleted)
        write(source, topic, partition, [replace(event, timestamp=START + 2 * LATER) for event in events(40)[::2]])
        write(source, topic, partition, [replace(event, timestamp=START + 3 * LATER) for event in events(100, 200)])
    wait_compacted(source, {topic: COUNT}, has_gaps, has_horizon, is_empty)
    assert_stored(source, topic, has_gaps, has_horizon, is_empty, is_whole)


ODD = [
    Event(None, None),
    Event(b"", b""),
    Event(None, b"", (("", b""),)),
    Event(b"", None, (("", None), ("", b"\x00"), ("", None))),
    Event(b"key", b"value", (("h", None), ("h", b""), ("h", b"1"), ("h", b"1"), ("größe", "schön".encode()))),
    Event(bytes(range(256)), bytes(range(256)) * 8, timestamp=0),
    Event(b"long ago and far ahead", b"", timestamp=START + 10**9),
]
LARGE = [
    Event(b"", b"0123456789abcdef" * (10 << 16), (("size", b"10 MiB"),)),
    Event(b"many", b"headers", tuple((f"{n % 1000}", b"%d" % n if n % 4 else None) for n in range(65_535))),
]


def write_odd(source: Cluster, topic: str) -> None:
    """Records that are null, empty, repeated, with 65 535 headers or of 10 MiB."""
    source.create_topic(topic, COUNT, {"max.message.bytes": 12 << 20})
    for partition in range(COUNT):
        write(source, topic, partition, [*ODD, *LARGE, *ODD])
        write(source, topic, partition, ODD, batch_num_messages=1)
    assert_stored(source, topic, is_tiny)
    assert max(batch.size for batch in stored(source, topic, 0)) > 10 << 20


def test_every_kind_arrives_as_the_source_has_it(
    source: Cluster, target: Cluster, eomirror: Eomirror, flow_config: Callable[..., Path], name: str
) -> None:
    topics = [f"{name}.{kind}" for kind in ("whole", "stamped", "compacted", "odd")]
    write_compacted(source, target, f"{name}.compacted")
    write_whole(source, f"{name}.whole")
    write_stamped(source, f"{name}.stamped")
    write_odd(source, f"{name}.odd")
    topics += write_java(source, f"{name}.java")
    config = flow_config(lanes=2)
    catch_up(eomirror, config)
    assert_promise(eomirror, config, source, target, topics, least=6000)
    assert_same_codecs(source, target, topics)


def assert_same_codecs(source: Cluster, target: Cluster, topics: list[str]) -> None:
    """What was compressed is compressed, and with the same codec, whether or not it had to be written anew; small
    batches that were not may have joined it."""
    for topic in topics:
        for partition in range(source.partitions(topic)):
            ours, theirs = ({b.codec for b in stored(side, topic, partition) if b.count} for side in (source, target))
            assert theirs <= ours, f"{topic}[{partition}]"
            assert theirs - {"none"} == ours - {"none"}, f"{topic}[{partition}]"


def test_a_batch_that_begins_before_the_position_is_mirrored_from_there(
    source: Cluster, target: Cluster, eomirror: Eomirror, flow_config: Callable[..., Path], name: str
) -> None:
    timed, trimmed = f"{name}.timed", f"{name}.trimmed"
    rising = [replace(event, timestamp=START + n * 1000) for n, event in enumerate(events(300))]
    for topic in (timed, trimmed):
        source.create_topic(topic, COUNT)
        for partition in range(COUNT):
            write(source, topic, partition, rising if topic == timed else events(300, 1_000_000))
        assert all(len(stored(source, topic, partition)) == 1 for partition in range(COUNT))
    source.delete_records(trimmed, dict.fromkeys(range(COUNT), 100))
    start = datetime.fromtimestamp(rising[120].timestamp / 1000, UTC).isoformat()
    config = flow_config(lanes=2, start=start)
    catch_up(eomirror, config)
    ends = {place: (120, end) for place, (_, end) in bounds(source.bootstrap, [timed]).items()}
    report = compare(source.bootstrap, target.bootstrap, [timed], source_bounds=ends)
    assert report.ok, report.text()
    assert report.total("records") == 180 * COUNT
    assert_promise(eomirror, config, source, target, [trimmed], least=200 * COUNT)

    # A gap that ends inside a batch, accepted.
    for partition in range(COUNT):
        write(source, trimmed, partition, events(300, 2_000_000))
    source.delete_records(trimmed, dict.fromkeys(range(COUNT), 450))
    catch_up(eomirror, config, code=8)
    assert faults(config) == {(trimmed, partition): Reason.SOURCE_GAP for partition in range(COUNT)}
    for partition in range(COUNT):
        settle_fault(config, (trimmed, partition))
    catch_up(eomirror, config)
    theirs = contents(target, [trimmed])
    for place, left in contents(source, [trimmed]).items():
        assert [content for _, content in theirs[place]][200:] == [content for _, content in left]
    assert_same_codecs(source, target, [timed, trimmed])


def test_tiny_batches_become_few(
    source: Cluster, target: Cluster, eomirror: Eomirror, flow_config: Callable[..., Path], name: str
) -> None:
    tiny, transactions = f"{name}.tiny", f"{name}.tx"
    source.create_topic(tiny, COUNT)
    for partition in range(COUNT):
        write(source, tiny, partition, events(300, size=200), batch_num_messages=1)
        write(source, tiny, partition, events(600, 300, size=200), batch_num_messages=TINY)
        assert all(map(is_tiny, stored(source, tiny, partition)))
        assert len(stored(source, tiny, partition)) >= 500
    # With markers and aborted records between them.
    source.create_topic(transactions, 1)
    writer = source.producer({"transactional.id": name})
    writer.init_transactions(30)
    for number in range(45):
        writer.begin_transaction()
        for event in events(TINY, number * TINY):
            writer.produce(transactions, event.value, event.key, 0, timestamp=event.timestamp)
        assert writer.flush(30) == 0
        writer.abort_transaction(30) if number % 3 == 0 else writer.commit_transaction(30)
    assert all(map(is_tiny, stored(source, transactions, 0)))
    config = flow_config(lanes=2)
    catch_up(eomirror, config)
    assert_promise(eomirror, config, source, target, [tiny, transactions], least=900 * COUNT + 90)
    for partition in range(COUNT):
        assert len(stored(target, tiny, partition)) * 10 < len(stored(source, tiny, partition))
    assert len(stored(target, transactions, 0)) * 10 < len(stored(source, transactions, 0))
    assert_same_codecs(source, target, [tiny])


LIMIT = 30_000  # bytes; max.message.bytes of the target in the test below


def test_a_batch_that_the_target_does_not_take_whole_is_split(
    source: Cluster, target: Cluster, eomirror: Eomirror, flow_config: Callable[..., Path], name: str
) -> None:
    large, misfit = f"{name}.large", f"{name}.misfit"
    random = Random(name)
    noise = [replace(event, value=event.value and event.value + random.randbytes(250)) for event in events(1500)]
    giant = Event(b"giant", random.randbytes(LIMIT + 5000))
    for topic in (large, misfit):
        source.create_topic(topic, COUNT)
        target.create_topic(topic, COUNT, {"max.message.bytes": LIMIT})
    for partition in range(COUNT):
        write(source, large, partition, noise)
        write(source, large, partition, noise[:10])
        assert stored(source, large, partition)[0].size > 10 * LIMIT
        write(source, misfit, partition, [*noise[:400], giant, *noise[400:600]])
        assert len(stored(source, misfit, partition)) == 1
    assert_stored(source, large)
    config = flow_config(lanes=2)
    run = catch_up(eomirror, config, code=7)
    assert f"{large}: max.message.bytes is {LIMIT} on the target" in run.stderr
    assert faults(config) == {(misfit, partition): Reason.RECORD_TOO_LARGE for partition in range(COUNT)}
    for partition in range(COUNT):
        position = positions(config)[misfit, partition]
        assert position.fault is not None
        assert (position.next_offset, position.fault.next_offset) == (400, 401)  # what is before it is mirrored
        settle_fault(config, (misfit, partition))
    catch_up(eomirror, config)
    assert_promise(eomirror, config, source, target, [large], least=1510 * COUNT)
    assert_same_codecs(source, target, [large, misfit])
    theirs = contents(target, [misfit])
    for place, records in contents(source, [misfit]).items():
        assert [content for _, content in theirs[place]] == [content for offset, content in records if offset != 400]


def test_segments_from_before_kafka_0_11_are_mirrored(
    source: Cluster, target: Cluster, eomirror: Eomirror, flow_config: Callable[..., Path], name: str
) -> None:
    topic = f"{name}.old"
    source.create_topic(topic, 3)
    logs = [old_log(0), old_log(1), old_log(1)]
    source.stop()
    for partition, log in enumerate(logs):
        log.write(source.log_dir / f"{topic}-{partition}")
    source.restart()
    for partition, log in enumerate(logs):
        assert source.end_offsets(topic)[partition] == log.next_offset
        write(source, topic, partition, events(50))  # and goes on as brokers write today
        assert source.segments(topic, partition)[0].read_bytes().startswith(log.data)
    source.delete_records(topic, {2: logs[2].next_offset - 3})  # within a compressed wrapper
    config = flow_config(lanes=2)
    catch_up(eomirror, config)
    assert_promise(eomirror, config, source, target, [topic], least=350)


def old_log(magic: int) -> OldLog:
    """A log of that message format: every codec, one message and many, null and empty, times set by the broker."""
    log = OldLog(magic)
    for codec in OLD_CODECS:
        for size in (1, 3, 40):
            first = log.next_offset
            log.add(
                [
                    Message(
                        None if n % 4 == 0 else b"" if n % 5 == 0 else b"key-%d" % n,
                        None if n % 7 == 0 else b"" if n % 6 == 0 else b"value %d" % n,
                        START + n * 3 - (500 if n % 7 == 0 else 0),
                    )
                    for n in range(first, first + size)
                ],
                codec,
            )
    for codec in OLD_CODECS[1:]:
        append_time = START + 77_777 if magic == 1 else None
        log.add([Message(b"key", b"value %d" % n, START + n) for n in range(5)], codec, append_time)
    return log
