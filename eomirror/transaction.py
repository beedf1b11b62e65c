"""The target side of a lane: the pair of identities, Produce, EndTxn. The only begin and the only end.

One transaction carries the mirrored records, the lane's checkpoint records and, when due, its ledger record. The legal
moves are a table; there is no move from doubt to anything but `take`, which is the start-up path.

Transactions version 2 (KIP-890): Produce adds a partition to the transaction by itself, EndTxn answers with the epoch
of the next transaction, so every transaction has an epoch of its own and its sequences start at 0.
"""

from __future__ import annotations

import datetime
import enum
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple

from eomirror import _fastpath
from eomirror.brokers import LEADERSHIP_CODES, Brokers, Metadata
from eomirror.errors import BrokerError, ConnectionLost, Faulted, Fenced, Reason, Refused, Rewind, error_name
from eomirror.records import IdentityName
from eomirror.wire import END_TXN, INIT_PRODUCER_ID, PRODUCE, Address, Connection

# Transaction n uses identity n mod 2: the next one's first produce never waits for the markers of the one before.
IDENTITIES: Final[tuple[IdentityName, ...]] = ("a", "b")

# The broker keeps the last five batches per producer and partition to recognise what it has already appended.
MAX_IN_FLIGHT: Final = 5
MAX_REQUEST_BYTES: Final = 16 * 1024 * 1024

CONCURRENT_TRANSACTIONS: Final = 51
COORDINATOR_MOVED: Final = frozenset({14, 15, 16})  # loading, not available, not coordinator
# There is a newer epoch or another producer id: InvalidProducerEpoch, InvalidProducerIdMapping, ProducerFenced. A
# transaction that the coordinator timed out looks the same; only InitProducerId with the epoch that we held can tell.
FENCED: Final = frozenset({47, 49, 90})
NOT_AUTHORIZED: Final = frozenset({29, 31, 53})  # topic, cluster, transactional id

# Answers that say something about leaders, replicas or epochs, and nothing about the batch.
PASSING: Final = LEADERSHIP_CODES | FENCED | {19, 20, 45, 46, 48, 51, 59, 100, 103, 120}

# What the answer to one partition's batch means. All others are doubt: rewind, and a fault if they keep coming.
PRODUCE_FAULTS: Final[Mapping[int, Reason]] = {
    10: Reason.RECORD_TOO_LARGE,  # MESSAGE_TOO_LARGE
    17: Reason.TARGET_REFUSED,  # INVALID_TOPIC_EXCEPTION
    18: Reason.RECORD_TOO_LARGE,  # RECORD_LIST_TOO_LARGE
    29: Reason.TARGET_REFUSED,  # TOPIC_AUTHORIZATION_FAILED
    32: Reason.TARGET_REFUSED,  # INVALID_TIMESTAMP
    43: Reason.TARGET_REFUSED,  # UNSUPPORTED_FOR_MESSAGE_FORMAT
    44: Reason.TARGET_REFUSED,  # POLICY_VIOLATION
    76: Reason.TARGET_REFUSED,  # UNSUPPORTED_COMPRESSION_TYPE
    87: Reason.TARGET_REFUSED,  # INVALID_RECORD
}


# Why nothing may be written to a topic with LogAppendTime, seen beforehand or in the answer to a produce.
CHANGES_TIMESTAMPS: Final = "the target topic has message.timestamp.type=LogAppendTime and would change every timestamp"


class Phase(enum.Enum):
    """Where a lane's transaction stands; MOVES says what may come next."""

    LOST = "lost"  # nothing is known: before the first take, and after any doubt
    READY = "ready"  # both identities are ours, no transaction is open
    OPEN = "open"
    RECORDED = "recorded"  # every batch, checkpoint and ledger included, is acked with error 0


MOVES: Final[Mapping[tuple[Phase, str], Phase]] = {
    (Phase.LOST, "take"): Phase.READY,
    (Phase.READY, "take"): Phase.READY,
    (Phase.READY, "begin"): Phase.OPEN,
    (Phase.OPEN, "produce"): Phase.OPEN,
    (Phase.OPEN, "record"): Phase.RECORDED,
    (Phase.RECORDED, "commit"): Phase.READY,
}


class Identity:
    """One transactional id and the (producer id, epoch) that its coordinator gave us last, None before the first."""

    def __init__(self, name: IdentityName, transactional_id: str) -> None:
        self.name = name
        self.transactional_id = transactional_id
        self.held: tuple[int, int] | None = None
        self.coordinator: Address | None = None

    @property
    def producer_id(self) -> int:
        return self._held()[0]

    @property
    def epoch(self) -> int:
        return self._held()[1]

    def _held(self) -> tuple[int, int]:
        if self.held is None:
            raise RuntimeError(f"{self.transactional_id} has not been taken")
        return self.held


class Outgoing(NamedTuple):
    """One batch on its way: `topic_id` is 16 bytes."""

    topic: str
    topic_id: bytes
    partition: int
    leader: int
    batch: _fastpath.Batch | None
    view: memoryview | bytes


class Acked(NamedTuple):
    """A batch that the target has appended with its first record at `base_offset`."""

    topic: str
    partition: int
    batch: _fastpath.Batch
    base_offset: int


class Write(NamedTuple):
    """Records for one partition of an internal topic."""

    topic: str
    partition: int
    records: list[tuple[bytes, bytes | None]]


class Transactions:
    """The transactions of one lane. Used by one thread.

    Every doubt raises Rewind and leaves the phase LOST; a refused epoch is such a doubt. Only `take` raises Fenced:
    another owner holds an identity. Nothing was written after that owner took it, because the broker refuses it.
    """

    def __init__(
        self,
        brokers: Brokers,
        prefix: str,
        *,
        transaction_timeout_ms: int,
        step: Callable[[str], None],
        patience: float = 30.0,
    ) -> None:
        self._brokers = brokers
        self._timeout_ms = transaction_timeout_ms
        self._step = step
        self._patience = patience
        self.identities = {name: Identity(name, f"{prefix}.{name}") for name in IDENTITIES}
        self.phase = Phase.LOST
        self.number: int | None = None
        self._current: Identity | None = None
        self._metadata: Metadata | None = None
        self._links: dict[int, Connection] = {}
        self._sent: dict[int, deque[list[Outgoing]]] = {}
        self._sequences: dict[tuple[bytes, int], int] = {}
        self._acked: list[Acked] = []
        self._ends: dict[tuple[str, int], int] = {}

    # --- moves

    def _legal(self, verb: str) -> Phase:
        """The phase after a move. An illegal one raises here, before anything is sent."""
        try:
            return MOVES[self.phase, verb]
        except KeyError:
            raise RuntimeError(f"no {verb} in phase {self.phase.value}") from None

    def lose(self) -> None:
        """Drop everything that was in flight: new connections, nothing known but which epochs we last held."""
        self.phase = Phase.LOST
        self.number = self._current = None
        for identity in self.identities.values():
            identity.coordinator = None
        for link in self._links.values():
            link.close()
        self._brokers.close()
        self._links.clear()
        self._sent.clear()
        self._sequences.clear()
        self._acked.clear()
        self._ends.clear()

    def take(self, metadata: Metadata) -> None:
        """Take both identities, a first. What any earlier owner or we ourselves had open is completed or aborted.

        The first time, the newest owner wins: InitProducerId without an epoch. Later, it names the epoch that we held,
        so that a process that was fenced finds out here instead of fencing its successor. Raises Fenced, Rewind,
        Refused.
        """
        following = self._legal("take")
        self._metadata = metadata
        self._ends.clear()  # whoever goes on says anew where each partition ends
        for name, identity in self.identities.items():
            self._init(identity)
            self._step(f"init_{name}")
        self.phase = following

    def forget_epochs(self) -> None:
        """Take as a newcomer next time: used when no other owner has shown itself by a commit."""
        for identity in self.identities.values():
            identity.held = None

    def turn(self, number: int) -> Identity:
        """The one identity that may write transaction `number`."""
        return self.identities[IDENTITIES[number % len(IDENTITIES)]]

    def begin(self, number: int) -> Identity:
        """Begin transaction `number`, which must come from the checkpoint."""
        self.phase = self._legal("begin")
        self.number = number
        self._current = self.turn(number)
        self._sequences.clear()
        return self._current

    def sequence(self, topic_id: bytes, partition: int) -> int:
        """The base sequence of the next batch of a partition in this transaction."""
        return self._sequences.get((topic_id, partition), 0)

    def expect_end(self, topic: str, partition: int, end: int) -> None:
        """The target's partition is known to reach `end`: a base offset below it is doubt."""
        self._ends[topic, partition] = end

    def produce(self, batches: Iterable[Sequence[Outgoing]], next_sequences: Mapping[tuple[bytes, int], int]) -> None:
        """Send batches; each inner sequence is one partition's, in order. Returns when all are sent, not acked.

        A request holds at most one batch per partition (the broker refuses more); as many requests go out as the
        longest partition has batches, at most MAX_IN_FLIGHT of them unanswered per leader.
        """
        self.phase = self._legal("produce")
        self._sequences.update(next_sequences)
        queues: dict[int, list[deque[Outgoing]]] = {}
        for partition_batches in batches:
            if partition_batches:
                queues.setdefault(partition_batches[0].leader, []).append(deque(partition_batches))
        while queues:
            for leader in list(queues):
                request: list[Outgoing] = []
                size = 0
                for queue in queues[leader]:
                    if size + len(queue[0].view) > MAX_REQUEST_BYTES and request:
                        break
                    size += len(queue[0].view)
                    request.append(queue.popleft())
                queues[leader] = [q for q in queues[leader] if q]
                if not queues[leader]:
                    del queues[leader]
                self._send(leader, request)

    def acked(self) -> list[Acked]:
        """The data batches whose answers have come since the last call, in order per partition."""
        acked, self._acked = self._acked, []
        return acked

    def drain(self) -> None:
        """Wait for every answer."""
        for leader in list(self._sent):
            while self._sent[leader]:
                self._read_answer(leader)

    def record(self, writes: Sequence[Write], timestamp_ms: int) -> None:
        """Write checkpoint, ledger and announcements, after the acks of all data. One Produce per leader, all acked."""
        following = self._legal("record")
        if any(self._sent.values()) or self._acked:
            raise RuntimeError("data is not acked yet")
        identity = self._identity()
        metadata = self._known()
        by_leader: dict[int, list[Outgoing]] = {}
        for write in writes:
            topic = metadata.topics[write.topic]
            topic_id = bytes.fromhex(topic.topic_id)
            leader = topic.partitions[write.partition].node
            if leader is None:
                raise self._doubt("leader_away", f"{write.topic}[{write.partition}]: no leader")
            view = _fastpath.build_batch(
                write.records,
                timestamp_ms=timestamp_ms,
                producer_id=identity.producer_id,
                producer_epoch=identity.epoch,
                base_sequence=self.sequence(topic_id, write.partition),
                codec="lz4",
            )
            self._sequences[topic_id, write.partition] = self.sequence(topic_id, write.partition) + len(write.records)
            by_leader.setdefault(leader, []).append(
                Outgoing(write.topic, topic_id, write.partition, leader, None, view)
            )
        for leader, request in by_leader.items():
            self._send(leader, request)
        self.drain()
        self.phase = following
        self._step("ledger")

    def commit(self) -> None:
        """EndTxn(commit). Returns when the decision is durable; any other answer, or none, is doubt."""
        self.phase = self._legal("commit")
        identity = self._identity()
        try:
            connection = self._brokers.at(self._coordinator(identity))
            module = connection.module(END_TXN)
            connection.send(
                module.EndTxnRequest(
                    transactional_id=identity.transactional_id,
                    producer_id=identity.producer_id,
                    producer_epoch=identity.epoch,
                    committed=True,
                )
            )
            self._step("end_sent")
            response = connection.receive(self._brokers.deadline(self._patience))
        except ConnectionLost as error:
            raise self._doubt("end_unknown", f"EndTxn {identity.transactional_id}: {error.message}") from error
        code = int(response.error_code)
        if code != 0:
            raise self._doubt("end_refused", f"EndTxn {identity.transactional_id}: {error_name(code)}")
        identity.held = (int(response.producer_id), int(response.producer_epoch))
        self.number = self._current = None
        self._step("end_answered")

    def close(self) -> None:
        """Close all connections; what is open is aborted by the next owner, or by the coordinator's time-out."""
        self.lose()

    # --- inside

    def _identity(self) -> Identity:
        if self._current is None:
            raise RuntimeError("no transaction is open")
        return self._current

    def _known(self) -> Metadata:
        if self._metadata is None:
            raise RuntimeError("not taken")
        return self._metadata

    def _doubt(self, cause: str, message: str) -> Rewind:
        self.lose()
        return Rewind(cause, message)

    def _coordinator(self, identity: Identity) -> Address:
        if identity.coordinator is None:
            identity.coordinator = self._brokers.coordinator(identity.transactional_id)
        return identity.coordinator

    def _init(self, identity: Identity) -> None:
        """InitProducerId until it succeeds: it returns only when whatever the identity had open is complete."""
        deadline = self._brokers.deadline(self._patience)
        pause = 0.001
        while True:
            try:
                code, held = self._init_once(identity)
            except ConnectionLost as error:
                identity.coordinator = None
                raise self._doubt(
                    "init_unknown", f"InitProducerId {identity.transactional_id}: {error.message}"
                ) from error
            except BrokerError as error:
                code, held = error.code or 0, None
            if held is not None:
                identity.held = held
                return
            if code in FENCED and identity.held is not None:
                self.lose()
                raise Fenced(f"{identity.transactional_id}: InitProducerId answered {error_name(code)}")
            if code in NOT_AUTHORIZED:
                self.lose()
                raise Refused(
                    f"cluster {self._brokers.name}: InitProducerId {identity.transactional_id}: {error_name(code)}",
                    hint="The lanes' principal needs WRITE and DESCRIBE on the transactional ids of this flow.",
                )
            if code == 50:  # INVALID_TRANSACTION_TIMEOUT
                self.lose()
                raise Refused(
                    f"cluster {self._brokers.name}: commit.transaction_timeout is more than the brokers allow",
                    hint="Lower it, or raise transaction.max.timeout.ms on the target's brokers.",
                )
            if code in COORDINATOR_MOVED:
                identity.coordinator = None
            elif code != CONCURRENT_TRANSACTIONS and code not in FENCED:
                raise self._doubt("init_refused", f"InitProducerId {identity.transactional_id}: {error_name(code)}")
            if self._brokers.network.now() >= deadline:
                # The coordinator has decided but cannot finish, for a leader inside the transaction is away. It alone
                # can end this.
                raise self._doubt(
                    "blocked",
                    f"InitProducerId {identity.transactional_id}: {error_name(code)} for {self._patience:g} s",
                )
            self._brokers.network.sleep(pause)
            pause = min(pause * 2, 0.05)

    def _init_once(self, identity: Identity) -> tuple[int, tuple[int, int] | None]:
        connection = self._brokers.at(self._coordinator(identity))
        producer_id, epoch = identity.held or (-1, -1)
        request = connection.module(INIT_PRODUCER_ID).InitProducerIdRequest(
            transactional_id=identity.transactional_id,
            transaction_timeout=datetime.timedelta(milliseconds=self._timeout_ms),
            producer_id=producer_id,
            producer_epoch=epoch,
        )
        response = self._brokers.ask(connection, request)
        if int(response.error_code) != 0:
            return int(response.error_code), None
        return 0, (int(response.producer_id), int(response.producer_epoch))

    def _send(self, leader: int, request: list[Outgoing]) -> None:
        queue = self._sent.setdefault(leader, deque())
        while len(queue) >= MAX_IN_FLIGHT:
            self._read_answer(leader)
        topics: dict[bytes, list[tuple[int, memoryview | bytes]]] = {}
        for out in request:
            topics.setdefault(out.topic_id, []).append((out.partition, out.view))
        try:
            link = self._links.get(leader)
            if link is None:
                link = self._links[leader] = self._brokers.dial(self._brokers.address(leader))
            version = link.version(PRODUCE)
            buffers = _fastpath.produce_request(
                version,
                link.next_correlation_id(),
                link.client_id,
                self._identity().transactional_id,
                int(self._patience * 1000),
                list(topics.items()),
            )
            link.send_frame(PRODUCE, version, buffers)
        except ConnectionLost as error:
            raise self._doubt("produce_unknown", f"Produce: {error.message}") from error
        queue.append(request)

    def _read_answer(self, leader: int) -> None:
        request = self._sent[leader].popleft()
        try:
            response = self._links[leader].receive(self._brokers.deadline(self._patience))
        except ConnectionLost as error:
            raise self._doubt("produce_unknown", f"Produce: {error.message}") from error
        answers: dict[tuple[bytes, int], Any] = {
            (t.topic_id.bytes, int(p.index)): p for t in response.responses for p in t.partition_responses
        }
        faults: list[Faulted] = []
        suspects: list[Faulted] = []
        doubts = []
        for out in request:
            answer = answers.get((out.topic_id, out.partition))
            place = f"{out.topic}[{out.partition}]"
            if answer is None:
                doubts.append(f"{place}: no answer in the response")
                continue
            code, base = int(answer.error_code), int(answer.base_offset)
            if code != 0:
                detail = f"{error_name(code)}{': ' + answer.error_message if answer.error_message else ''}"
                doubts.append(f"{place}: {detail}")
                if code not in PASSING and out.batch is not None:
                    last_first, last_count = out.batch.runs[-1]
                    reason = PRODUCE_FAULTS.get(code)
                    (suspects if reason is None else faults).append(
                        Faulted(
                            out.topic,
                            out.partition,
                            reason or Reason.TARGET_REFUSED,
                            detail,
                            offset=out.batch.runs[0][0],
                            next_offset=last_first + last_count,
                            records=out.batch.count,
                        )
                    )
            elif out.batch is not None and answer.log_append_time is not None:
                # Not committed yet, and it must not be: the topic has become LogAppendTime since we looked.
                detail = CHANGES_TIMESTAMPS
                doubts.append(f"{place}: {detail}")
                faults.append(
                    Faulted(out.topic, out.partition, Reason.TARGET_REFUSED, detail, offset=out.batch.runs[0][0])
                )
            elif base < self._ends.get((out.topic, out.partition), 0):
                doubts.append(
                    f"{place}: base offset {base} is below the known end {self._ends[out.topic, out.partition]}"
                )
            elif out.batch is not None:
                self._ends[out.topic, out.partition] = base + out.batch.count
                self._acked.append(Acked(out.topic, out.partition, out.batch, base))
        if doubts:
            doubt = self._doubt("produce_refused", f"Produce: {'; '.join(doubts)}")
            doubt.faults, doubt.suspects = tuple(faults), tuple(suspects)
            raise doubt
