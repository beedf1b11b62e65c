"""Every kind of batch that a broker can hold arrives record by record as the source has it, in every codec.

A topic of these tests has one partition per codec, in the order of CODECS. What the source's segment files hold is
asserted before anything is mirrored: a kind that was not there has not been tested.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from .cluster import Cluster
from .compaction import CLEANING, HELD, has_gaps, wait_compacted
from .process import Eomirror
from .promise import assert_promise, catch_up
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
    for topic in topics:
        for partition in range(source.partitions(topic)):
            codecs = [
                {batch.codec for batch in stored(side, topic, partition) if batch.count} for side in (source, target)
            ]
            assert codecs[0] == codecs[1], f"{topic}[{partition}]: what was {codecs[0]} is {codecs[1]}"
