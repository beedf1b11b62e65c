"""The brokers of one cluster as one thread sees them: who leads what, and the few small questions asked of them.

One `Brokers` belongs to one thread: its connections carry one request at a time. Long polls and pipelined produces have
connections of their own (`source`, `transaction`).
"""

from __future__ import annotations

import datetime
import random
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple

import msgspec

from eomirror import _fastpath
from eomirror.errors import BrokerError, ConnectionLost, Refused
from eomirror.security import Security
from eomirror.wire import (
    DESCRIBE_PRODUCERS,
    DESCRIBE_TRANSACTIONS,
    FETCH,
    FIND_COORDINATOR,
    LIST_OFFSETS,
    METADATA,
    Address,
    Connection,
    Network,
)

LATEST: Final = -1
EARLIEST: Final = -2
READ_UNCOMMITTED: Final = 0
READ_COMMITTED: Final = 1
CONNECT_SECONDS: Final = 10.0
REQUEST_SECONDS: Final = 15.0
NO_ERROR: Final = 0
UNKNOWN_TOPIC_OR_PARTITION: Final = 3
LEADER_NOT_AVAILABLE: Final = 5

# Answers that a fresh look at the metadata and a little patience cure.
LEADERSHIP_CODES: Final = frozenset(
    {
        3,  # UNKNOWN_TOPIC_OR_PARTITION: this broker doesn't host it (yet, or any more)
        LEADER_NOT_AVAILABLE,
        6,  # NOT_LEADER_OR_FOLLOWER
        7,  # REQUEST_TIMED_OUT
        9,  # REPLICA_NOT_AVAILABLE
        13,  # NETWORK_EXCEPTION
        56,  # KAFKA_STORAGE_ERROR
        74,  # FENCED_LEADER_EPOCH
        75,  # UNKNOWN_LEADER_EPOCH
        78,  # OFFSET_NOT_AVAILABLE: a new leader that doesn't know its high watermark yet
    }
)


class Leader(NamedTuple):
    """The leader of a partition; `node` is None while there is none."""

    node: int | None
    epoch: int


class Topic(msgspec.Struct, frozen=True):
    """A topic as a broker describes it. `topic_id` is 32 hex digits, `replication` that of its first partition."""

    name: str
    topic_id: str
    partitions: dict[int, Leader]
    replication: int


class Metadata(msgspec.Struct, frozen=True):
    """One answer to a Metadata request. A topic that the cluster doesn't know is in `unknown`; one that it would not
    describe is in `errors` with the code."""

    cluster_id: str
    addresses: dict[int, Address]
    topics: dict[str, Topic]
    unknown: frozenset[str]
    errors: dict[str, int]


class Producing(NamedTuple):
    """A producer that a partition leader knows (DescribeProducers); `open_from` is the first offset of its open
    transaction, None when it has none. `coordinator_epoch` is that of its last marker here, -1 before the first."""

    producer_id: int
    epoch: int
    open_from: int | None
    coordinator_epoch: int = -1


class Entry(NamedTuple):
    """One committed record of an internal topic."""

    offset: int
    timestamp_ms: int
    key: bytes
    value: bytes | None


class Brokers:
    """Connections of one thread to the brokers of one cluster, opened when they are first needed."""

    def __init__(
        self,
        name: str,
        bootstrap: Sequence[Address],
        client_id: str,
        network: Network,
        *,
        connect_seconds: float = CONNECT_SECONDS,
        request_seconds: float = REQUEST_SECONDS,
        security: Security | None = None,
    ) -> None:
        self.name = name
        self._security = security
        self._connect_seconds = connect_seconds
        self._request_seconds = request_seconds
        self.network = network
        self._bootstrap = list(bootstrap)
        self._client_id = client_id
        self._addresses: dict[int, Address] = {}
        self._open: dict[Address, Connection] = {}

    # --- connections

    def deadline(self, seconds: float | None = None) -> float:
        """The moment until which an answer may take: `seconds` from now, or the cluster's request time-out."""
        return self.network.now() + (self._request_seconds if seconds is None else seconds)

    def dial(self, address: Address) -> Connection:
        """A new connection, owned by the caller."""
        return Connection(self.network, address, self._client_id, self._connect_seconds, self._security)

    def address(self, node: int) -> Address:
        """Where a node listens, by the newest metadata."""
        try:
            return self._addresses[node]
        except KeyError:
            raise ConnectionLost(f"{self.name}: broker {node} is not in the cluster's metadata") from None

    def at(self, address: Address) -> Connection:
        """The shared connection to an address, opened when needed."""
        connection = self._open.get(address)
        if connection is None:
            connection = self._open[address] = self.dial(address)
        return connection

    def any(self) -> Connection:
        """A connection to any broker: one that is open, else a known or bootstrap address in random order.

        Raises ConnectionLost when none of them answers; the message names each with its cause.
        """
        if self._open:
            return next(iter(self._open.values()))
        addresses = list(dict.fromkeys([*self._addresses.values(), *self._bootstrap]))
        random.shuffle(addresses)
        causes, hints = [], []
        for address in addresses:
            try:
                return self.at(address)
            except ConnectionLost as error:
                causes.append(error.message)
                hints.append(error.hint)
        hint = next(filter(None, hints), "")
        raise ConnectionLost(f"cluster {self.name}: no broker answers ({'; '.join(causes)})", hint=hint)

    def ask(self, connection: Connection, request: Any, seconds: float | None = None) -> Any:
        """One request, one answer. A connection that breaks is forgotten, so that the next question dials anew."""
        try:
            return connection.request(request, self.deadline(seconds))
        except ConnectionLost:
            self.forget(connection)
            raise

    def forget(self, connection: Connection) -> None:
        """Close a shared connection; the next question dials anew."""
        connection.close()
        self._open = {a: c for a, c in self._open.items() if c is not connection}

    def close(self) -> None:
        """Close all shared connections; this object can be used again."""
        for connection in self._open.values():
            connection.close()
        self._open.clear()

    # --- questions

    def metadata(self, topics: Iterable[str] | None) -> Metadata:
        """Describe these topics, or all of the cluster with None. It never creates a topic."""
        connection = self.any()
        module = connection.module(METADATA)
        wanted = None if topics is None else tuple(module.MetadataRequestTopic(topic_id=None, name=t) for t in topics)
        request = module.MetadataRequest(
            topics=wanted, allow_auto_topic_creation=False, include_topic_authorized_operations=False
        )
        response = self.ask(connection, request)
        self._addresses = {int(b.node_id): Address(str(b.host), int(b.port)) for b in response.brokers}
        found: dict[str, Topic] = {}
        errors: dict[str, int] = {}
        unknown = set()
        for topic in response.topics:
            code, name = int(topic.error_code), str(topic.name)
            if code == UNKNOWN_TOPIC_OR_PARTITION:
                unknown.add(name)
            elif not topic.partitions:
                errors[name] = code
            else:
                leaders = {
                    int(p.partition_index): Leader(
                        int(p.leader_id) if int(p.leader_id) >= 0 else None, int(p.leader_epoch)
                    )
                    for p in topic.partitions
                }
                found[name] = Topic(
                    name, topic.topic_id.hex if topic.topic_id else "", leaders, len(topic.partitions[0].replica_nodes)
                )
        return Metadata(str(response.cluster_id), dict(self._addresses), found, frozenset(unknown), errors)

    def coordinator(self, transactional_id: str) -> Address:
        """Where the transaction coordinator of a transactional id listens.

        Asked before InitProducerId, always: on a fresh cluster this request is what creates the transaction log.
        """
        connection = self.any()
        request = connection.module(FIND_COORDINATOR).FindCoordinatorRequest(
            key_type=1, coordinator_keys=(transactional_id,)
        )
        answer = self.ask(connection, request).coordinators[0]
        if int(answer.error_code) != NO_ERROR:
            raise BrokerError(f"cluster {self.name}: coordinator of {transactional_id}", int(answer.error_code))
        return Address(str(answer.host), int(answer.port))

    def transaction(self, connection: Connection, transactional_id: str) -> Any:
        """What the coordinator at that connection says of a transactional id (DescribeTransactions), as kio has it.
        Raises ConnectionLost."""
        module = connection.module(DESCRIBE_TRANSACTIONS)
        request = module.DescribeTransactionsRequest(transactional_ids=(transactional_id,))
        (state,) = self.ask(connection, request).transaction_states
        return state

    def list_offsets(
        self, metadata: Metadata, wanted: Mapping[tuple[str, int], int], isolation: int = READ_UNCOMMITTED
    ) -> dict[tuple[str, int], int | BrokerError]:
        """Offsets of partitions from their leaders: by timestamp in ms, LATEST or EARLIEST.

        With READ_COMMITTED, LATEST is the last stable offset. A timestamp after the last record gives -1. A partition
        whose leader is away or refuses is in the answer as a BrokerError, never left out.
        """
        answers: dict[tuple[str, int], int | BrokerError] = {}
        for node, partitions in self._by_leader(metadata, wanted, answers).items():
            try:
                connection = self.at(self.address(node))
                module = connection.module(LIST_OFFSETS)
                topics = tuple(
                    module.ListOffsetsTopic(
                        name=topic,
                        partitions=tuple(
                            module.ListOffsetsPartition(
                                partition_index=p,
                                current_leader_epoch=metadata.topics[topic].partitions[p].epoch,
                                timestamp=wanted[topic, p],
                            )
                            for p in numbers
                        ),
                    )
                    for topic, numbers in partitions.items()
                )
                response = self.ask(
                    connection, module.ListOffsetsRequest(replica_id=-1, isolation_level=isolation, topics=topics)
                )
            except ConnectionLost as error:
                for topic, numbers in partitions.items():
                    answers.update({(topic, p): BrokerError(error.message, None) for p in numbers})
                continue
            for topic_answer in response.topics:
                for p in topic_answer.partitions:
                    key = (str(topic_answer.name), int(p.partition_index))
                    code = int(p.error_code)
                    place = f"cluster {self.name}: offsets of {key[0]}[{key[1]}]"
                    answers[key] = int(p.offset) if code == NO_ERROR else BrokerError(place, code)
        for key in wanted:
            answers.setdefault(key, BrokerError(f"cluster {self.name}: offsets of {key[0]}[{key[1]}]", None))
        return answers

    def producers(
        self, metadata: Metadata, wanted: Iterable[tuple[str, int]]
    ) -> dict[tuple[str, int], list[Producing] | BrokerError]:
        """The producers that each partition's leader knows, with their open transactions (DescribeProducers)."""
        answers: dict[tuple[str, int], list[Producing] | BrokerError] = {}
        for node, partitions in self._by_leader(metadata, wanted, answers).items():
            try:
                connection = self.at(self.address(node))
                module = connection.module(DESCRIBE_PRODUCERS)
                topics = tuple(
                    module.TopicRequest(name=topic, partition_indexes=tuple(numbers))
                    for topic, numbers in partitions.items()
                )
                response = self.ask(connection, module.DescribeProducersRequest(topics=topics))
            except ConnectionLost as error:
                for topic, numbers in partitions.items():
                    answers.update({(topic, p): BrokerError(error.message, None) for p in numbers})
                continue
            for topic_answer in response.topics:
                for p in topic_answer.partitions:
                    key = (str(topic_answer.name), int(p.partition_index))
                    if int(p.error_code) != NO_ERROR:
                        place = f"cluster {self.name}: producers of {key[0]}[{key[1]}]"
                        answers[key] = BrokerError(place, int(p.error_code))
                        continue
                    answers[key] = [
                        Producing(
                            int(s.producer_id),
                            int(s.producer_epoch),
                            int(s.current_txn_start_offset) if int(s.current_txn_start_offset) >= 0 else None,
                            int(s.coordinator_epoch),
                        )
                        for s in p.active_producers
                    ]
        return answers

    def _by_leader(
        self, metadata: Metadata, wanted: Iterable[tuple[str, int]], answers: dict[tuple[str, int], Any]
    ) -> dict[int, dict[str, list[int]]]:
        """Partitions by leader and topic. One without a leader gets its BrokerError in `answers` at once."""
        by_leader: dict[int, dict[str, list[int]]] = {}
        for topic, partition in wanted:
            described = metadata.topics.get(topic)
            leader = described.partitions.get(partition) if described else None
            if leader is None or leader.node is None:
                cause = UNKNOWN_TOPIC_OR_PARTITION if leader is None else LEADER_NOT_AVAILABLE
                answers[topic, partition] = BrokerError(f"cluster {self.name}: {topic}[{partition}]", cause)
            else:
                by_leader.setdefault(leader.node, {}).setdefault(topic, []).append(partition)
        return by_leader

    # --- internal topics

    def read_committed(self, topic: Topic, partition: int, start: int, bound: int, max_wait: float) -> list[Entry]:
        """All committed records of one partition of an internal topic, as `follow` gives them."""
        return [entry for entries in self.follow(topic, partition, start, bound, max_wait) for entry in entries]

    def follow(self, topic: Topic, partition: int, start: int, bound: int, max_wait: float) -> Iterator[list[Entry]]:
        """The committed records of one partition of an internal topic, an answer at a time, from `start` until the
        position is `bound`. Only an iteration that ends has seen them all.

        The bound comes from the caller (the leader's end, or its last stable offset); a last stable offset that stays
        below it for `max_wait` seconds raises Refused: somebody has a transaction open there, which is not the end of
        the data. Raises BrokerError when the leader is away, or no longer has `start`.
        """
        position = start
        patience = self.deadline(max_wait)
        while position < bound:
            leader = topic.partitions[partition].node
            if leader is None:
                raise BrokerError(f"cluster {self.name}: {topic.name}[{partition}]", LEADER_NOT_AVAILABLE)
            connection = self.at(self.address(leader))
            frame, part = self._fetch(connection, topic, partition, position)
            try:
                read = _fastpath.read_records(frame, part.start, part.end, part.aborted, position)
            except _fastpath.BatchError as error:
                raise Refused(
                    f"cluster {self.name}: {topic.name}[{partition}]@{error.offset}: {error.detail}",
                    hint="Without this record it is unknown where the flow stands; restore the topic.",
                ) from error
            yield [Entry(o, ts, k or b"", v) for o, ts, k, v, _ in read if o < bound]
            advanced, _ = _fastpath.next_offset(frame, part.start, part.end, position)
            if advanced > position:
                position = advanced
                patience = self.deadline(max_wait)
            elif self.network.now() >= patience:
                raise Refused(
                    f"{topic.name}[{partition}]: a transaction is open at offset {part.last_stable_offset}, "
                    f"below the end {bound}",
                    hint="Only the lanes of this flow may write this topic. See who does with "
                    f'"kafka-transactions.sh describe-producers --topic {topic.name} --partition {partition}".',
                )
            else:
                self.network.sleep(0.005)

    def record_at(
        self, topic: str, partition: int, offset: int
    ) -> tuple[int, bytes | None, bytes | None, tuple[tuple[bytes, bytes | None], ...]] | None:
        """(timestamp in ms, key, value, headers) of one committed record; None where it cannot be read, or is gone.

        Raises ConnectionLost, BrokerError.
        """
        described = self.metadata([topic]).topics.get(topic)
        leader = described.partitions[partition].node if described and partition in described.partitions else None
        if described is None or leader is None:
            raise BrokerError(f"cluster {self.name}: {topic}[{partition}]", LEADER_NOT_AVAILABLE)
        connection = self.at(self.address(leader))
        frame, part = self._fetch(connection, described, partition, offset)
        try:
            read = _fastpath.read_records(frame, part.start, part.end, part.aborted, offset)
        except _fastpath.BatchError:
            return None
        found = [(ts, k, v, tuple(headers)) for o, ts, k, v, headers in read if o == offset]
        return found[0] if found else None

    def _fetch(
        self, connection: Connection, topic: Topic, partition: int, position: int
    ) -> tuple[bytearray, _fastpath.FetchedPartition]:
        """One fetch of one partition: the answer's frame, and where in it the records are. Raises ConnectionLost,
        BrokerError."""
        module = connection.module(FETCH)
        wanted = module.FetchPartition(partition=partition, fetch_offset=position, partition_max_bytes=8 * 1024 * 1024)
        request = module.FetchRequest(
            max_wait=datetime.timedelta(milliseconds=100),
            min_bytes=1,
            max_bytes=8 * 1024 * 1024,
            isolation_level=READ_COMMITTED,
            topics=(module.FetchTopic(topic_id=topic_uuid(topic.topic_id), partitions=(wanted,)),),
            forgotten_topics_data=(),
        )
        try:
            connection.send(request)
            version, frame = connection.receive_frame(self.deadline())
        except ConnectionLost:
            self.forget(connection)
            raise
        try:
            answer = _fastpath.fetch_response(frame, version)
            if answer.error_code != NO_ERROR:
                raise BrokerError(f"cluster {self.name}: reading {topic.name}[{partition}]", answer.error_code)
            part = answer.partitions[0]
        except (_fastpath.FrameError, IndexError) as error:
            self.forget(connection)
            raise ConnectionLost(f"{connection.address}: Fetch response cannot be read: {error}") from error
        if part.error_code != NO_ERROR:
            raise BrokerError(f"cluster {self.name}: reading {topic.name}[{partition}]", part.error_code)
        return frame, part


def topic_uuid(topic_id: str) -> Any:
    """A topic id of 32 hex digits as kio wants it."""
    return uuid.UUID(hex=topic_id)
