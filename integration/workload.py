"""The demo's workload: ten streams of events into eight topics, with every hard case that a mirror meets.

    python -m integration.workload --bootstrap 127.0.0.1:19092 --records 1000000 --part backlog
    python -m integration.workload --bootstrap 127.0.0.1:19092 --records 1000000 --part live --seconds 60

`backlog` writes the first share at full speed, `live` the rest at an even pace; live goes on beyond its count until
stdin is closed. What a stream writes follows from seed and stream name alone; how streams interleave is up to the
machine. stdout carries JSON lines of progress, the last one with `"done": true`.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from confluent_kafka import KafkaException, Producer

from .cluster import Cluster
from .compaction import CLEANING, has_gaps, wait_compacted
from .rawlog import CODECS, TINY

BACKLOG_SHARE = 0.4  # of all records; the rest goes on while it mirrors
SURPLUS = 1.08  # compaction removes about a twentieth
# Compaction of the backlog has run before anything is mirrored; from then on the source keeps every record, so that
# both sides can be compared one by one at the end.
COMPACTED = "inventory"

HARD_CASES = (
    "aborted batches",
    "committed batches",
    "plain batches",
    "idempotent batches",
    "gaps between batches",
    "gaps inside batches",
    *(f"codec {codec}" for codec in CODECS),
    "tiny batches",
    "LogAppendTime batches",
    "null keys",
    "tombstones",
    "empty values",
    "headers",
    "repeated header names",
    "null header values",
    "timestamps out of order",
    "values over 1 KiB",
)


@dataclass(frozen=True)
class Topic:
    """A topic of the workload and its settings on the source."""

    name: str
    partitions: int
    config: Mapping[str, object]
    every_batch: str | None = None  # the hard case that each of its batches is


@dataclass(frozen=True)
class Stream:
    """One producer and what it writes."""

    name: str
    topic: str
    kind: str  # plain | idempotent | transactional
    codec: str  # one of CODECS
    share: float  # of all records that become visible
    partitions: int
    batch: int = 400  # records per step; of a transactional stream: per transaction
    keys: int = 0  # size of the key space; 0: most keys are unique and every fifth is null
    aborts: int = 0  # every n-th transaction is aborted; 0: none
    most: int = 0  # records per record batch at most; 0: as many as fit


KEEP = {"retention.ms": -1}
TOPICS = (
    Topic("orders", 4, KEEP),
    Topic("clicks", 6, KEEP),
    Topic("payments", 3, KEEP),
    Topic(COMPACTED, 2, CLEANING),
    Topic("audit", 1, KEEP),
    Topic("sessions", 3, {**KEEP, "segment.bytes": 8 << 20}),
    Topic("ticks", 2, KEEP, "tiny batches"),
    Topic("arrivals", 2, {**KEEP, "message.timestamp.type": "LogAppendTime"}, "LogAppendTime batches"),
)
STREAMS = (
    Stream("orders", "orders", "idempotent", "lz4", 0.24, 4),
    Stream("clicks", "clicks", "plain", "none", 0.22, 6),
    Stream("payments", "payments", "transactional", "zstd", 0.12, 3, batch=250, aborts=6),
    Stream("refunds", "payments", "transactional", "none", 0.06, 3, batch=120, aborts=3),
    Stream("stock", COMPACTED, "idempotent", "zstd", 0.08, 2, keys=200),
    Stream("prices", COMPACTED, "transactional", "gzip", 0.06, 2, batch=300, keys=150, aborts=5),
    Stream("audit", "audit", "plain", "snappy", 0.03, 1, batch=50),
    Stream("sessions", "sessions", "idempotent", "gzip", 0.14, 3),
    Stream("ticks", "ticks", "idempotent", "none", 0.02, 2, most=TINY),
    Stream("arrivals", "arrivals", "idempotent", "snappy", 0.03, 2),
)

Headers = list[tuple[str, bytes | None]]
HEADER_SETS: tuple[Headers | None, ...] = (
    None,
    None,
    None,
    [("trace", b"4bf92f3577b34da6a3ce929d0e0e4736"), ("via", b"web")],
    [("tag", b"a"), ("tag", b"b"), ("tag", b"a")],
    [("empty", b""), ("nothing", None)],
    [("größe", "schön".encode()), ("n", b"\x00\x01\xff")],
)


@dataclass(frozen=True, slots=True)
class Event:
    """One record to produce."""

    partition: int
    key: bytes | None
    value: bytes | None
    headers: Headers | None
    timestamp: int  # ms


def events(stream: Stream, seed: int, part: str, epoch_ms: int) -> Iterator[Event]:
    """The endless, reproducible events of a stream; no two are equal, for each has its number in value or header."""
    rng = random.Random(f"{seed}/{stream.name}/{part}")
    tails = [_body(rng) for _ in range(257)]
    fixed = stream.keys > 0
    number = 0
    while True:
        number += 1
        key: bytes | None
        if fixed:
            key = b"item-%d" % (number * 7919 % stream.keys)
        elif number % 5 == 0:
            key = None
        else:
            key = b"" if number % 211 == 0 else b"customer-%d" % number
        headers = HEADER_SETS[number % 7]
        value: bytes | None
        if number % 83 == 0 or number % 97 == 0:
            value = None if number % 83 == 0 else b""
            headers = [*(headers or ()), ("number", b"%s-%s-%d" % (stream.name.encode(), part.encode(), number))]
        else:
            value = b'{"stream":"%s","part":"%s","number":%d,%s' % (
                stream.name.encode(),
                part.encode(),
                number,
                tails[number % 257],
            )
        # Clocks are not in step: every thirteenth event is a second late.
        timestamp = epoch_ms + number * 3 - (1000 if number % 13 == 0 else 0)
        yield Event(number // 16 % stream.partitions, key, value, headers, timestamp)


def _body(rng: random.Random) -> bytes:
    """The rest of a JSON object, so that whole events are 100 to 2000 bytes, most of them short."""
    fields = {"user": rng.randrange(10**6), "city": rng.choice(("Paris", "Dublin", "Kraków", "東京")), "ok": True}
    text = json.dumps(fields, ensure_ascii=False)[1:-1]
    size = int(min(1900, 60 + rng.expovariate(1 / 220)))
    words = []
    while sum(map(len, words)) + len(words) < size - len(text.encode()) - 10:
        words.append(rng.choice(("order", "item", "price", "cart", f"{rng.randrange(1 << 32):08x}")))
    return f'{text},"text":"{" ".join(words)}"}}'.encode()


class Writer(threading.Thread):
    """Produces one stream: `goal` visible records, in live more until `stop` is set.

    `rate` is in records/s; 0 means full speed and an end at the goal.
    """

    def __init__(
        self, stream: Stream, bootstrap: str, source: Iterator[Event], goal: int, rate: float, stop: threading.Event
    ) -> None:
        super().__init__(name=stream.name, daemon=True)
        self.stream = stream
        self.visible = 0  # records that a read_committed reader gets
        self.aborted = 0
        self.failure: str | None = None
        self._goal = goal
        self._rate = rate
        self._stop_event = stop
        self._events = source
        self._undelivered: list[str] = []
        settings: dict[str, Any] = {
            "bootstrap.servers": bootstrap,
            "log_level": 3,
            "compression.type": stream.codec,
            "linger.ms": 5,
            "batch.size": 256 * 1024,
            "queue.buffering.max.messages": 200_000,
            "on_delivery": self._delivered,
        }
        if stream.most:
            settings |= {"batch.num.messages": stream.most}
        if stream.kind == "plain":
            settings |= {"acks": "1"}
        elif stream.kind == "idempotent":
            settings |= {"enable.idempotence": True}
        else:
            settings |= {"transactional.id": f"workload.{stream.name}", "transaction.timeout.ms": 60000}
        self._producer = Producer(settings)

    @property
    def reached(self) -> bool:
        """True once the goal is written."""
        return self.visible >= self._goal

    def run(self) -> None:
        """Writes step by step; a failure is kept for the main thread."""
        try:
            if self.stream.kind == "transactional":
                self._producer.init_transactions(60)
            began, steps = time.monotonic(), 0
            while not self.reached or not self._stop_event.is_set():
                steps += 1
                if self.stream.kind == "transactional":
                    self._transaction(aborts=bool(self.stream.aborts) and steps % self.stream.aborts == 0)
                else:
                    self._send(self._batch())
                    self.visible += self._batch()
                if self._undelivered:
                    raise KafkaException(self._undelivered[0])
                if self._rate:
                    # A stream that fell behind catches up without a pause.
                    ahead = self.visible / self._rate - (time.monotonic() - began)
                    if ahead > 0:
                        self._stop_event.wait(ahead)
                elif self.reached:
                    break
            if self._producer.flush(60):
                raise KafkaException("records are still queued after 60 s")
            if self._undelivered:
                raise KafkaException(self._undelivered[0])
        except KafkaException as error:
            self.failure = f"{self.name}: {error}"

    def _batch(self) -> int:
        return self.stream.batch if self._rate == 0 else max(1, min(self.stream.batch, int(self._rate / 10)))

    def _transaction(self, aborts: bool) -> None:
        size = self._batch()
        self._producer.begin_transaction()
        self._send(size)
        # Unsent records of an aborted transaction would be dropped by the client: they must be in the log to count.
        if self._producer.flush(60):
            raise KafkaException("a transaction's records are still queued after 60 s")
        if aborts:
            self._producer.abort_transaction(60)
            self.aborted += size
        else:
            self._producer.commit_transaction(60)
            self.visible += size

    def _send(self, count: int) -> None:
        topic, produce = self.stream.topic, self._producer.produce
        for _ in range(count):
            event = next(self._events)
            while True:
                try:
                    produce(
                        topic,
                        event.value,
                        event.key,
                        event.partition,
                        timestamp=event.timestamp,
                        headers=event.headers,
                    )
                    break
                except BufferError:
                    self._producer.poll(0.05)
        self._producer.poll(0)

    def _delivered(self, error: object, _message: object) -> None:
        if error is not None and "purged" not in str(error).lower():
            self._undelivered.append(str(error))


def goals(records: int, part: str) -> dict[str, int]:
    """Stream name -> visible records of that part; what compaction takes away is made up for."""
    share = BACKLOG_SHARE if part == "backlog" else 1 - BACKLOG_SHARE
    return {stream.name: int(records * SURPLUS * share * stream.share) for stream in STREAMS}


def write(
    bootstrap: str, records: int, part: str, seconds: float, seed: int, epoch_ms: int
) -> Iterator[dict[str, Any]]:
    """Writes one part and yields progress; live ends once stdin is closed. Raises KafkaException if a stream fails."""
    stop = threading.Event()
    writers = []
    for stream in STREAMS:
        goal = goals(records, part)[stream.name]
        source = events(stream, seed, part, epoch_ms)
        writers.append(Writer(stream, bootstrap, source, goal, goal / seconds if part == "live" else 0, stop))
    if part == "live":
        threading.Thread(target=lambda: (sys.stdin.read(), stop.set()), daemon=True).start()
    for writer in writers:
        writer.start()
    while any(writer.is_alive() for writer in writers):
        time.sleep(0.2)
        yield _progress(writers, done=False)
        for writer in writers:
            if writer.failure:
                raise KafkaException(writer.failure)
    yield _progress(writers, done=True)


def _progress(writers: list[Writer], done: bool) -> dict[str, Any]:
    return {
        "visible": sum(writer.visible for writer in writers),
        "aborted": sum(writer.aborted for writer in writers),
        "reached": all(writer.reached for writer in writers),
        "done": done,
    }


def create_topics(cluster: Cluster) -> None:
    """Creates the workload's topics on the source."""
    for topic in TOPICS:
        cluster.create_topic(topic.name, topic.partitions, topic.config)


def wait_until_compacted(cluster: Cluster) -> None:
    """Waits until the cleaner has left gaps in every partition of the compacted topic, then holds it off.

    Raises TimeoutError.
    """
    topic = next(topic for topic in TOPICS if topic.name == COMPACTED)
    wait_compacted(cluster, {topic.name: topic.partitions}, has_gaps)


def main() -> int:
    """Runs one part; progress on stdout as JSON lines."""
    parser = argparse.ArgumentParser(prog="workload", description=__doc__.splitlines()[0])
    parser.add_argument("--bootstrap", required=True)
    parser.add_argument("--records", type=int, default=1_000_000)
    parser.add_argument("--part", choices=("backlog", "live"), required=True)
    parser.add_argument("--seconds", type=float, default=60.0, help="how long live takes")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--epoch-ms", type=int, default=None, help="timestamp of the first event (an hour ago)")
    given = parser.parse_args()
    epoch_ms = given.epoch_ms if given.epoch_ms is not None else int(time.time() * 1000) - 3_600_000
    try:
        for progress in write(given.bootstrap, given.records, given.part, given.seconds, given.seed, epoch_ms):
            print(json.dumps(progress), flush=True)
    except KafkaException as error:
        print(json.dumps({"failed": str(error)}), flush=True)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
