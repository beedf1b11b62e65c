"""The raw log reader sees on disk what a client reads, and more: what is aborted, open, or gone."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from confluent_kafka import Producer

from .cluster import Cluster
from .oracle import content_of, make_reader, read
from .rawlog import LogError, Record, Tails, batches, partition_batches, records, survey

START = 1_700_000_000_000  # ms
HEADERS = [None, [("a", b"1"), ("a", None)], [("größe", b"")]]


def produce(producer: Producer, topic: str, numbers: range) -> None:
    """Writes one record per number to partition 0: null keys, tombstones, empty values and headers among them."""
    for n in numbers:
        key = None if n % 5 == 0 else b"key-%d" % (n % 7)
        value = None if n % 3 == 0 else b"" if n % 4 == 0 else b"v" * n
        producer.produce(topic, value, key, 0, timestamp=START + n, headers=HEADERS[n % 3])
    assert producer.flush(30) == 0


def as_client_sees(record: Record) -> tuple[object, ...]:
    """The raw record in the client's form."""
    headers = [(name.decode(), value) for name, value in record.headers] or None
    return record.key, record.value, headers, (1, record.timestamp)


@pytest.mark.parametrize("codec", ["none", "lz4", "gzip", "zstd", "snappy"])
@pytest.mark.parametrize("writer", ["librdkafka", "broker"])
def test_the_raw_log_holds_what_a_client_reads(source: Cluster, name: str, codec: str, writer: str) -> None:
    # A topic with a codec of its own makes the broker compress, which is Java; it frames snappy and lz4 differently.
    by_client, by_broker = (
        (codec, "producer") if writer == "librdkafka" else ("none", codec.replace("none", "uncompressed"))
    )
    source.create_topic(name, config={"compression.type": by_broker})
    produce(source.producer({"compression.type": by_client}), name, range(1, 200))
    raw = [record for batch in partition_batches(source.log_dir / f"{name}-0") for record in records(batch)]
    reader = make_reader(source.bootstrap)
    seen = [message for part in read(reader, name, 0, 0, 199) for message in part]
    reader.close()
    assert [(record.offset, as_client_sees(record)) for record in raw] == [
        (message.offset(), content_of(message)) for message in seen
    ]
    assert survey([source.log_dir / f"{name}-0"]).missing([f"codec {codec}", "tombstones", "aborted batches"]) == [
        "aborted batches"
    ]


def test_a_tail_counts_committed_records_only(source: Cluster, name: str) -> None:
    source.create_topic(name, 2, {"segment.bytes": 1 << 20})
    tails = Tails(source.log_dir, [name, "not-there-yet"])
    plain = source.producer()
    produce(plain, name, range(100))
    assert (tails.advance(), tails.open_records) == (100, 0)

    writer = source.producer({"transactional.id": name, "linger.ms": 1})
    writer.init_transactions(30)
    writer.begin_transaction()
    produce(writer, name, range(50))
    assert (tails.advance(), tails.open_records) == (100, 50)
    writer.commit_transaction(30)
    assert wait_for_closed(tails) == 150

    writer.begin_transaction()
    produce(writer, name, range(20))
    produce(plain, name, range(1000))
    assert (tails.advance(), tails.open_records) == (1150, 20)
    writer.abort_transaction(30)
    assert wait_for_closed(tails) == 1150
    # Segments that are rolled meanwhile are read to their end, then the new one from its start.
    produce(plain, name, range(3000))
    assert tails.advance() == 4150
    assert len(source.segments(name, 0)) > 1
    found = survey([source.log_dir / f"{name}-0"]).cases
    assert (found["abort markers"], found["commit markers"], found["records"]) == (1, 1, 4170)
    assert tails.by_partition() == {f"{name}-0": 4150, f"{name}-1": 0}


def wait_for_closed(tails: Tails) -> int:
    """The committed count once the markers are written, which is after the client was told."""
    deadline = time.monotonic() + 10
    while True:
        count = tails.advance()
        if not tails.open_records:
            return count
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_batch_that_is_still_being_written_is_left_for_later(source: Cluster, name: str, tmp_path: Path) -> None:
    source.create_topic(name)
    produce(source.producer(), name, range(1, 30))
    stored = source.segments(name, 0)[0].read_bytes()
    copy = tmp_path / "00000000000000000000.log"
    whole = [batch.position + batch.size for batch in batches(source.segments(name, 0)[0])]
    for size in range(0, len(stored), 37):
        copy.write_bytes(stored[:size])
        assert [batch.position + batch.size for batch in batches(copy)] == [end for end in whole if end <= size]
    copy.write_bytes(bytes(100))
    with pytest.raises(LogError, match="no batch of magic 2 at byte 0"):
        list(batches(copy))
