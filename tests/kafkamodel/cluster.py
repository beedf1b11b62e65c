"""A Kafka cluster in memory: nodes, topics, one coordinator, and what a test may do behind the owners' backs."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from kio.schema.errors import ErrorCode

from .coordinator import COMPLETE, MAX_EPOCH, Coordinator, State, Transaction
from .log import Fate, PartitionLog, Stored
from .messages import ModelError
from .records import TRANSACTIONAL, Record, build_batch
from .sessions import Sessions

# Any fixed moment: the model's clock starts here, and timestamps of records have nothing to do with it.
EPOCH_MS: Final = 1_700_000_000_000
MIN_LATENCY: Final = 0.0001


@dataclass(slots=True)
class Clock:
    """Seconds since the model began; moved only by the scheduler."""

    now: float = 1000.0
    start: float = 1000.0

    def read(self) -> float:
        return self.now

    def ms(self) -> int:
        return EPOCH_MS + int(self.now * 1000)


@dataclass(slots=True)
class Node:
    node_id: int
    host: str
    port: int
    up: bool = True
    sessions: Sessions = field(default_factory=Sessions)

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"


@dataclass(slots=True)
class Topic:
    name: str
    topic_id: uuid.UUID
    logs: list[PartitionLog]
    leaders: list[int | None]


@dataclass(slots=True)
class Injected:
    """An answer that a broker gives instead of, or after, doing the work."""

    api: str
    error: ErrorCode
    left: int
    after: bool
    where: Callable[[Any], bool]


class OpenTransaction:
    """A transaction written straight into the logs: somebody else's, who needs no coordinator."""

    def __init__(self, cluster: ModelCluster, producer_id: int) -> None:
        self._cluster = cluster
        self.producer_id = producer_id
        self._sequences: dict[PartitionLog, int] = {}

    def write(self, topic: str, partition: int, records: Iterable[Record | bytes], *, codec: int = 0) -> None:
        log = self._cluster.log(topic, partition)
        sequence = self._sequences.get(log, 0)
        batch = self._cluster.batch(
            records,
            producer_id=self.producer_id,
            producer_epoch=0,
            base_sequence=sequence,
            attributes=TRANSACTIONAL | codec,
        )
        guard = log.verify(self.producer_id, 0, sequence)
        error, _ = log.append(batch, guard, self._cluster.clock.ms())
        if error:
            raise ModelError(f"{log}: {error.name}")
        self._sequences[log] = log.producers[self.producer_id].batches[-1].last_sequence + 1

    def end(self, *, commit: bool) -> None:
        for log in self._sequences:
            log.append_marker(self.producer_id, 1, commit=commit, now_ms=self._cluster.clock.ms())


@dataclass(slots=True)
class Marker:
    """A marker that the coordinator still owes a partition."""

    txn: Transaction
    topic: str
    partition: int


class ModelCluster:
    """`name` is also its host name; nodes listen on ports from 9092.

    `fresh`: the first FindCoordinator makes the transaction log and is answered COORDINATOR_NOT_AVAILABLE.
    `max_epoch`: where producer epochs end, 32767 in Kafka. `transactions`: the finalised transaction.version.
    `verifies`: before it appends, a broker asks whether a batch is in the transaction that it claims to be in; brokers
    before 3.6 do not.
    """

    def __init__(
        self,
        name: str,
        *,
        nodes: int = 1,
        fresh: bool = False,
        max_epoch: int = MAX_EPOCH,
        transactions: int = 2,
        verifies: bool = True,
    ) -> None:
        self.name = name
        self.cluster_id = f"cluster-{name}"
        self.clock = Clock()
        self.nodes = {i + 1: Node(i + 1, name, 9092 + i) for i in range(nodes)}
        self.topics: dict[str, Topic] = {}
        self.coordinator = Coordinator(lambda: self.clock.now, max_epoch=max_epoch, version=transactions)
        self.coordinator_node: int | None = 1
        self.fresh = fresh
        self.verifies = verifies
        self.has_transaction_log = False
        self.names_records = True  # says in the answer to a produce which records of a batch it refuses
        self.injected: list[Injected] = []
        self.preferred: dict[tuple[str, int], int] = {}  # the replica that the leader sends readers to
        self.throttled = 0  # so many of the next fetches are answered as over their quota
        self._topics_made = 0
        self._foreign_producers = 0
        self._timestamp = EPOCH_MS

    def __str__(self) -> str:
        return self.name

    @property
    def bootstrap(self) -> str:
        return f"{self.name}:9092"

    # --- topics

    def create_topic(
        self,
        name: str,
        partitions: int = 1,
        *,
        max_message_bytes: int = 1_048_588,
        log_append_time: bool = False,
        compact: bool = False,
        segment_batches: int | None = None,
        leaders: Sequence[int] | None = None,
    ) -> Topic:
        """A topic with an id of its own, so that one made again under the old name is another topic.

        With `segment_batches` a new segment begins after that many batches, and no fetch reaches beyond one.
        """
        self._topics_made += 1
        identifier = uuid.uuid5(uuid.NAMESPACE_DNS, f"{self.name}/{self._topics_made}")
        logs = [
            PartitionLog(
                name,
                p,
                max_message_bytes=max_message_bytes,
                log_append_time=log_append_time,
                compact=compact,
                segment_batches=segment_batches,
                transactions=self.coordinator.version,
                verifies=self.verifies,
            )
            for p in range(partitions)
        ]
        order = list(self.nodes)
        spread = list(leaders) if leaders is not None else [order[p % len(order)] for p in range(partitions)]
        topic = self.topics[name] = Topic(name, identifier, logs, list(spread))
        return topic

    def delete_topic(self, name: str) -> None:
        del self.topics[name]

    def log(self, topic: str, partition: int) -> PartitionLog:
        return self.topics[topic].logs[partition]

    def leader(self, topic: str, partition: int) -> int | None:
        """The leader's node id; None while there is none."""
        node = self.topics[topic].leaders[partition]
        return node if node is not None and self.nodes[node].up else None

    def by_id(self, topic_id: uuid.UUID | None) -> Topic | None:
        return next((t for t in self.topics.values() if t.topic_id == topic_id), None)

    def move_leader(self, topic: str, partition: int, node: int | None) -> None:
        """Elect another leader, or none. Nothing is lost."""
        self.topics[topic].leaders[partition] = node
        if node is not None:
            self.log(topic, partition).elect()

    # --- writing behind the owners' backs

    def batch(self, records: Iterable[Record | bytes], **header: Any) -> bytes:
        """A batch ready to append; bare bytes become records with rising timestamps."""
        made = []
        for i, record in enumerate(records):
            if not isinstance(record, Record):
                self._timestamp += 1
                record = Record(i, self._timestamp, None, record)
            made.append(record._replace(offset=i))
        return build_batch(made, **header)

    def write(self, topic: str, partition: int, records: Iterable[Record | bytes], *, codec: int = 0) -> int:
        """Append one plain batch; the base offset."""
        error, offset = self.log(topic, partition).append(self.batch(records, attributes=codec), None, self.clock.ms())
        if error:
            raise ModelError(f"{topic}[{partition}]: {error.name}")
        return offset

    def begin(self) -> OpenTransaction:
        """A foreign producer's transaction, open until its `end`."""
        self._foreign_producers += 1
        return OpenTransaction(self, 500_000 + self._foreign_producers)

    # --- reading for assertions

    def committed_batches(self, topic: str, partition: int, offset: int = 0) -> list[Stored]:
        return list(self.log(topic, partition).committed(offset))

    def committed(self, topic: str, partition: int, offset: int = 0) -> list[Record]:
        """What a read_committed consumer sees at this moment from `offset` on: below the last stable offset."""
        log = self.log(topic, partition)
        first = max(offset, log.log_start)
        return [r for b in log.committed(first) for r in b.records if r.offset >= first]

    def uncommitted(self, topic: str, partition: int) -> list[Record]:
        """Every data record, open and aborted ones too."""
        log = self.log(topic, partition)
        return [r for b in log.batches if b.fate is not Fate.CONTROL for r in b.records if r.offset >= log.log_start]

    def latest(self, topic: str, partition: int) -> dict[bytes | None, Record]:
        """The last committed record of every key: what compaction would keep."""
        return {r.key: r for r in self.committed(topic, partition)}

    # --- transactions

    def transaction(self, transactional_id: str) -> Transaction:
        return self.coordinator.transactions[transactional_id]

    def owed(self) -> list[Marker]:
        """Markers that could be written now: a partition without a leader keeps its own waiting."""
        found = []
        for txn in self.coordinator.transactions.values():
            for topic, partition in txn.owed:
                known = self.topics.get(topic)
                if known is None or self.leader(topic, partition) is not None:
                    found.append(Marker(txn, topic, partition))
        return found

    def write_marker(self, marker: Marker, *, lose: bool = False) -> None:
        """Write one marker; after the last one the transaction is complete.

        `lose`: the leader died before it wrote the marker, and the coordinator forgot it (KAFKA-20734): the
        transaction counts as complete while the partition still holds it open.
        """
        txn = marker.txn
        txn.owed.remove((marker.topic, marker.partition))
        if marker.topic in self.topics and not lose:
            # Until the transaction is complete, its epoch is the bumped one and its producer id the old one.
            self.log(marker.topic, marker.partition).append_marker(
                txn.producer_id,
                txn.epoch,
                commit=txn.pending is State.COMPLETE_COMMIT,
                now_ms=self.clock.ms(),
            )

    def write_markers(self) -> None:
        """Write every marker that can be written, and complete what is then complete."""
        for marker in self.owed():
            self.write_marker(marker)
        for txn in self.completable():
            self.coordinator.complete(txn)

    def lose_markers(self, topic: str, partition: int) -> int:
        """The markers owed to this partition are never written; how many there were."""
        lost = [m for m in self.owed() if (m.topic, m.partition) == (topic, partition)]
        for marker in lost:
            self.write_marker(marker, lose=True)
        return len(lost)

    def completable(self) -> list[Transaction]:
        return [t for t in self.coordinator.transactions.values() if t.pending in COMPLETE and not t.owed]

    # --- errors on demand

    def inject(
        self,
        api: str,
        error: int,
        *,
        times: int = 1,
        after: bool = False,
        where: Callable[[Any], bool] = lambda body: True,
    ) -> None:
        """Answer the next requests of an API ("EndTxn", "Produce", ...) with an error code.

        `after`: the work is done all the same. For Produce, Fetch, ListOffsets, FindCoordinator and Metadata every
        partition, key or topic of the request gets the error. `where` sees the kio request.
        """
        self.injected.append(Injected(api, ErrorCode(error), times, after, where))

    def injected_for(self, api: str, body: Any) -> Injected | None:
        for entry in self.injected:
            if entry.api == api and entry.left > 0 and entry.where(body):
                entry.left -= 1
                return entry
        return None
