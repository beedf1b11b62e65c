"""What every test of a promise needs: a small workload with the hard cases, equality at the end, nothing left over."""

from __future__ import annotations

import contextlib
import itertools
import json
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

import msgspec
from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TopicPartition

from eomirror import brokers, checkpoint, control
from eomirror.checkpoint import InternalTopics, LaneState
from eomirror.clusters import Cluster as Configured
from eomirror.config import Config, load
from eomirror.errors import BrokerError, Reason
from eomirror.records import VERSION, Desired, LedgerRecord, PositionRecord, State
from eomirror.units import wall_ms

from .cluster import Cluster
from .oracle import bounds, compare, mirrored
from .process import Background, Eomirror, Finished
from .rawlog import CODECS

SETTLED_SECONDS = 20.0
Content = tuple[bytes | None, bytes | None, Any, tuple[int, int]]  # key, value, headers, (timestamp type, ms)
Place = tuple[str, int]

# Many small transactions: a few thousand records are enough to be in the middle of something.
SMALL: Mapping[str, Any] = {
    "lanes": 2,
    "commit": {"interval": "0ms", "max_bytes": "4KiB", "max_age": "200ms", "transaction_timeout": "50s"},
    "fetch": {"max_bytes": "16KiB"},
    "discovery": {"interval": "500ms"},
}


# -- the workload ------------------------------------------------------------------------------------------------------


class Load:
    """Producers of one test. Every record has a number of its own, so no two are equal.

    A topic whose name ends in `.tx` is written in transactions, every third one aborted; the name of a codec between
    dots (`.lz4`) compresses; all others are written by an idempotent producer.
    """

    def __init__(self, cluster: Cluster, name: str) -> None:
        self._cluster = cluster
        self._name = name
        self._numbers = itertools.count()
        self._producers: dict[str, Producer] = {}
        self._failures: list[str] = []
        self._transactions = itertools.count(1)

    def __call__(self, topics: Mapping[str, int], records: int) -> None:
        """Writes about that many visible records to each topic (name -> partitions), and waits for all acks."""
        for topic, partitions in topics.items():
            if topic.endswith(".tx"):
                self._transactional(topic, partitions, records)
            else:
                self._send(topic, partitions, records)
                self._flush(topic)
        assert not self._failures, self._failures[0]

    def _transactional(self, topic: str, partitions: int, records: int) -> None:
        left = records
        while left > 0:
            size = min(40, left)
            producer = self._producer(topic)
            producer.begin_transaction()
            self._send(topic, partitions, size)
            self._flush(topic)
            if next(self._transactions) % 3 == 0:
                producer.abort_transaction(30)
            else:
                producer.commit_transaction(30)
                left -= size

    def _send(self, topic: str, partitions: int, records: int) -> None:
        producer = self._producer(topic)
        for number in itertools.islice(self._numbers, records):
            value = b'{"number":%d,"of":"%s","text":"%s"}' % (number, topic.encode(), b"mirror " * (number % 11))
            headers: list[tuple[str, bytes | None]] = [("number", b"%d" % number)]
            if number % 5 == 0:
                headers += [("tag", b"a"), ("tag", None), ("tag", b"")]
            producer.produce(
                topic,
                None if number % 17 == 0 else value,
                None if number % 7 == 0 and "compacted" not in topic else b"key-%d" % (number % 50),
                number // 20 % partitions,
                timestamp=1_700_000_000_000 + number * 7 - (5000 if number % 13 == 0 else 0),
                headers=headers,
                on_delivery=self._delivered,
            )

    def _flush(self, topic: str) -> None:
        assert self._producer(topic).flush(60) == 0, f"{topic}: records are still queued"

    def _producer(self, topic: str) -> Producer:
        producer = self._producers.get(topic)
        if producer is None:
            settings: dict[str, Any] = {
                "linger.ms": 2,
                "batch.num.messages": 40,
                "compression.type": next((one for one in CODECS if one in topic.split(".")), "none"),
                "enable.idempotence": True,
            }
            if topic.endswith(".tx"):
                settings |= {"transactional.id": f"load.{self._name}.{topic}", "transaction.timeout.ms": 60000}
            producer = self._producers[topic] = self._cluster.producer(settings)
            if topic.endswith(".tx"):
                producer.init_transactions(60)
        return producer

    def _delivered(self, error: KafkaError | None, _message: object) -> None:
        if error is not None and error.code() != KafkaError._PURGE_QUEUE:
            self._failures.append(str(error))


class Loading(threading.Thread):
    """Goes on writing small portions until `end` is called."""

    def __init__(self, write: Load, topics: Mapping[str, int], portion: int = 40, pause: float = 0.02) -> None:
        super().__init__(daemon=True)
        self._load, self._topics, self._portion, self._pause = write, topics, portion, pause
        self._ended = threading.Event()
        self._failure: BaseException | None = None
        self.portions = 0
        self.start()

    def run(self) -> None:
        try:
            while not self._ended.is_set():
                self._load(self._topics, self._portion)
                self.portions += 1
                self._ended.wait(self._pause)
        except BaseException as error:  # noqa: BLE001 - raised by `end`
            self._failure = error

    def end(self) -> None:
        """Stops writing; everything written is acked when this returns."""
        self._ended.set()
        self.join(90)
        assert not self.is_alive()
        if self._failure is not None:
            raise self._failure


# -- equality ----------------------------------------------------------------------------------------------------------


def settled(cluster: Cluster, topics: Iterable[str]) -> dict[Place, tuple[int, int]]:
    """(topic, partition) -> (start, end) once nothing is open: EndTxn is answered before its markers are written."""
    found: dict[Place, tuple[int, int]] = {}
    for topic in topics:
        deadline = time.monotonic() + SETTLED_SECONDS
        while True:
            stable, end = cluster.end_offsets(topic, committed=True), cluster.end_offsets(topic)
            if stable == end:
                break
            assert time.monotonic() < deadline, f"{cluster.name}: {topic}: open at {stable}, end {end}"
            time.sleep(0.02)
        starts = cluster.start_offsets(topic)
        found |= {(topic, partition): (starts[partition], last) for partition, last in end.items()}
    return found


def ends(cluster: Cluster, topics: Iterable[str], *, committed: bool = False) -> int:
    """The sum of end offsets over all partitions; what does not answer (not yet created) counts as 0."""
    known = cluster.topics()
    total = 0
    for topic in topics:
        if topic in known:
            with contextlib.suppress(KafkaException):
                total += sum(cluster.end_offsets(topic, committed=committed).values())
    return total


def contents(
    cluster: Cluster, topics: Iterable[str], *, stable_only: bool = False
) -> dict[Place, list[tuple[int, Content]]]:
    """(topic, partition) -> every committed record with its offset, read by a plain read_committed consumer.

    Nothing may be open, unless `stable_only`: then it ends at the last stable offset.
    """
    wanted = bounds(cluster.bootstrap, list(topics)) if stable_only else settled(cluster, topics)
    found: dict[Place, list[tuple[int, Content]]] = {place: [] for place in wanted}
    left = {place: end for place, (start, end) in wanted.items() if end > start}
    reader = Consumer(
        cluster.client(
            {
                "group.id": "promise.reads.without.a.group",
                "enable.auto.commit": False,
                "auto.offset.reset": "error",
                "isolation.level": "read_committed",
                "enable.partition.eof": True,
                "fetch.wait.max.ms": 10,
            }
        )
    )
    try:
        reader.assign([TopicPartition(*place, wanted[place][0]) for place in left])
        deadline = time.monotonic() + 60
        while left:
            assert time.monotonic() < deadline, f"{cluster.name}: no end of {left}"
            message = reader.poll(0.5)
            if message is None:
                continue
            place = (message.topic(), message.partition())
            if message.error() is not None:
                assert message.error().code() == KafkaError._PARTITION_EOF, message.error()
                if message.offset() >= left.get(place, 0):
                    left.pop(place, None)
                continue
            content = (message.key(), message.value(), message.headers(), message.timestamp())
            found[place].append((message.offset(), content))
    finally:
        reader.close()
    return found


def values(cluster: Cluster, topic: str, partition: int = 0) -> list[bytes | None]:
    """The values of all committed records of a partition."""
    return [content[1] for _, content in contents(cluster, [topic])[topic, partition]]


def produce(cluster: Cluster, topic: str, *records: tuple[bytes | None, bytes | None], partition: int = 0) -> None:
    """Each record (key, value) in a batch of its own."""
    producer = cluster.producer({"enable.idempotence": True, "batch.num.messages": 1, "linger.ms": 0})
    for key, value in records:
        producer.produce(topic, value, key, partition, timestamp=1_700_000_000_000)
        assert producer.flush(30) == 0


def assert_equal(source: Cluster, target: Cluster, topics: Iterable[str], *, least: int = 1) -> int:
    """Count, order, key, value, headers and timestamps of every partition; the number of records, at least `least`.

    Times that the source's broker set must be the target's CreateTime.
    """
    topics = list(topics)
    ours, theirs = contents(source, topics), contents(target, topics)
    count = sum(len(records) for records in ours.values())
    assert count >= least, f"only {count} records at the source"
    if {k: [mirrored(c) for _, c in v] for k, v in ours.items()} != {k: [c for _, c in v] for k, v in theirs.items()}:
        raise AssertionError(compare(source.bootstrap, target.bootstrap, topics).text())
    return count


# -- runs --------------------------------------------------------------------------------------------------------------


def catch_up(eomirror: Eomirror, config: Path, code: int = 0, timeout: float = 60.0) -> Finished:
    """`run --until-caught-up`, to its end."""
    return eomirror("run", "--until-caught-up", config=config, timeout=timeout).expect(code)


def moved(run: Finished | Background) -> int:
    """The records that a run says it has mirrored in all, from its last progress line."""
    lines = [event for event in log_events(run) if event["event"] == "flow.progress"]
    assert lines, f"no progress line:\n{run.stderr}"
    return int(lines[-1]["records"])


def log_events(run: Finished | Background) -> list[dict[str, Any]]:
    """The events of a run's log."""
    found = []
    for line in run.stderr.splitlines():
        if line.startswith("{"):
            found.append(json.loads(line))
    return found


def doubts(run: Finished | Background) -> list[tuple[str, str]]:
    """Cause and detail of each rewind. Those do not count that a target brings about which is slow with its markers, as
    on a busy machine, where one transaction follows the other."""
    rewinds = [event for event in log_events(run) if event["event"] == "lane.rewind"]
    return [(one["cause"], one["detail"]) for one in rewinds if "CONCURRENT_TRANSACTIONS" not in one["detail"]]


def assert_promise(
    eomirror: Eomirror, config: Path, source: Cluster, target: Cluster, topics: Iterable[str], *, least: int = 1
) -> int:
    """Source == target, and one more run moves nothing. Returns the number of records."""
    topics = list(topics)
    count = assert_equal(source, target, topics, least=least)
    before = {topic: target.end_offsets(topic) for topic in topics}
    assert moved(catch_up(eomirror, config)) == 0
    assert {topic: target.end_offsets(topic) for topic in topics} == before
    return count


def faulted_events(run: Finished | Background) -> list[tuple[str, int, str]]:
    """(topic, partition, reason) of each fault that a run has told."""
    found = [event for event in log_events(run) if event["event"] == "partition.faulted"]
    return [(event["topic"], event["partition"], event["reason"]) for event in found]


# -- the internal topics -----------------------------------------------------------------------------------------------


def configured(config: Path) -> Config:
    """The configuration as eomirror reads it."""
    return load(str(config))


def lane_states(config: Path) -> dict[int, LaneState]:
    """Lane -> what its checkpoint says now, through eomirror's own reader; empty if the flow never started."""
    whole = configured(config)
    flow = whole.flows[0]
    topics = InternalTopics.of(flow.name)
    asked: brokers.Brokers = Configured(flow.target, whole.clusters[flow.target]).brokers("test")
    try:
        deadline = time.monotonic() + 10
        while True:
            metadata = asked.metadata(topics.names())
            if topics.checkpoint in metadata.unknown:
                return {}
            try:
                return {lane: checkpoint.look_lane(asked, metadata, topics, lane) for lane in range(flow.lanes)}
            except BrokerError:  # a topic that was created a moment ago has no leader yet
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.05)
    finally:
        asked.close()


def positions(config: Path) -> dict[Place, PositionRecord]:
    """(topic, partition) -> its committed position, over all lanes."""
    return {place: position for state in lane_states(config).values() for place, position in state.positions.items()}


def faults(config: Path) -> dict[Place, Reason]:
    """(topic, partition) -> reason, of what is FAULTED now."""
    found = positions(config).items()
    return {place: one.fault.reason for place, one in found if one.fault is not None and one.state is State.FAULTED}


def settle_fault(config: Path, place: Place, action: Literal["accept", "retry"] = "accept") -> None:
    """What `eomirror fault accept` and `fault retry` write."""
    whole = configured(config)
    flow = whole.flows[0]
    fault = positions(config)[place].fault
    assert fault is not None, f"{place} is not faulted"
    wanted = Desired(v=VERSION, action=action, since_ms=fault.since_ms, by="test", why="a test", at_ms=wall_ms())
    control.order(Configured(flow.target, whole.clusters[flow.target]), flow.name, place, wanted)


def ledger_records(config: Path, target: Cluster) -> dict[int, list[tuple[bytes, LedgerRecord]]]:
    """Lane -> its ledger records in order, each with its bytes, read by a plain consumer."""
    whole = configured(config)
    topic = InternalTopics.of(whole.flows[0].name).ledger
    found: dict[int, list[tuple[bytes, LedgerRecord]]] = {}
    for (_, lane), entries in contents(target, [topic]).items():
        values = [value for _, (_, value, _, _) in entries if value is not None]
        found[lane] = [(value, msgspec.json.decode(value, type=LedgerRecord)) for value in values]
    return found


def gaps(config: Path, target: Cluster) -> dict[Place, list[tuple[int, int, Reason | None]]]:
    """(topic, partition) -> the gaps that the ledger has of it: first offset, next offset, reason."""
    found: dict[Place, list[tuple[int, int, Reason | None]]] = {}
    for records in ledger_records(config, target).values():
        for route in (route for _, record in records for route in record.routes):
            for gap in route.tally.gaps:
                place = route.source_topic, route.source_partition
                found.setdefault(place, []).append((gap.first, gap.next, gap.reason))
    return found


def wait_until(condition: Callable[[], object], timeout: float = 30.0, what: str = "the condition") -> None:
    """Returns when the condition holds; AssertionError after `timeout` seconds."""
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, f"{what}: waited {timeout} s"
        time.sleep(0.02)
