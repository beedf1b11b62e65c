"""The target side of a lane: the pair of identities, Produce, EndTxn. The only begin and the only end.

One transaction carries the mirrored records, the lane's checkpoint records and, when due, its ledger record. The legal
moves are a table; there is no move from doubt to anything but `take`, which is the start-up path.

Both versions of the transaction protocol are spoken (`dialect`); which one is decided at each `take`.
"""

from __future__ import annotations

import enum
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final, NamedTuple

from eomirror import _fastpath
from eomirror.answers import Acked, Outgoing, Verdict, judge, judge_enlisting
from eomirror.brokers import Brokers, Metadata
from eomirror.dialect import V2, spoken_at
from eomirror.ends import Ends, Foreign
from eomirror.errors import BrokerError, ConnectionLost, Fenced, Refused, Rewind, error_name
from eomirror.identity import IDENTITIES, NOT_AUTHORIZED, RIGHT_IS_MISSING, Identity, Registrar
from eomirror.wire import END_TXN, PRODUCE, Connection

# The broker keeps the last five batches per producer and partition to recognise what it has already appended.
MAX_IN_FLIGHT: Final = 5
MAX_REQUEST_BYTES: Final = 16 * 1024 * 1024
PRODUCE_WITH_TOPIC_IDS: Final = 13


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


class Write(NamedTuple):
    """Records for one partition of an internal topic: (key, value), in the quarantine with headers."""

    topic: str
    partition: int
    records: Sequence[tuple[bytes, bytes | None] | tuple[bytes | None, bytes | None, _fastpath.RecordHeaders]]


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
        self._registrar = Registrar(brokers, transaction_timeout_ms=transaction_timeout_ms, patience=patience)
        self._step = step
        self._patience = patience
        self.identities = {name: Identity(name, f"{prefix}.{name}") for name in IDENTITIES}
        self.phase = Phase.LOST
        self.number: int | None = None
        self._metadata: Metadata | None = None
        self._links: dict[int, Connection] = {}
        self._sent: dict[int, deque[list[Outgoing]]] = {}
        self._dialect = V2
        self._enlisted: set[tuple[str, int]] = set()  # partitions that the coordinator was told of
        self._by_name: dict[str, bytes] = {}  # topics that were written by name, and the ids that we mean
        self._acked: list[Acked] = []
        self._ends = Ends()

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
        self.number = None
        for identity in self.identities.values():
            identity.coordinator = None
        for link in self._links.values():
            link.close()
        self._brokers.close()
        self._links.clear()
        self._sent.clear()
        self._acked.clear()
        self._ends.forget()

    def take(self, metadata: Metadata) -> None:
        """Take both identities, a first. What any earlier owner or we ourselves had open is completed or aborted.

        The first time, the newest owner wins: InitProducerId without an epoch. Later, it names the epoch that we held,
        so that a process that was fenced finds out here instead of fencing its successor. Raises Fenced, Rewind,
        Refused, ConnectionLost.
        """
        following = self._legal("take")
        self._metadata = metadata
        self._dialect = spoken_at(self._brokers.any())
        # InitProducerId before anything else. In version 1 an epoch outlives its transaction, and a request that was
        # thought lost could arrive in the next one: a late EndTxn would commit it half way (KAFKA-17754), a late
        # Produce would lie in it. So every doubt ends here, in a higher epoch. What was open is aborted under that one
        # too, so no partition takes a late batch any more; EndTxn(abort) would leave the epoch as it is.
        self._ends.forget()  # whoever goes on says anew where each partition ends
        for name, identity in self.identities.items():
            try:
                self._registrar.take(identity)
            except (Rewind, Fenced, Refused):
                self.lose()
                raise
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
        self._enlisted.clear()
        self._by_name.clear()
        return self.turn(number)

    @property
    def version(self) -> int:
        """Of the transaction protocol, as the target spoke it at the last `take`."""
        return self._dialect.version

    def sequence(self, topic_id: bytes, partition: int) -> int:
        """The base sequence of the next batch of a partition in the open transaction."""
        return self._identity().sequence(topic_id, partition)

    def expect_end(self, topic: str, partition: int, end: int) -> None:
        """The target's partition ends at `end`, as its leader said after both identities were taken: a base offset
        below that is doubt, and what lies between it and our first batch is somebody else's."""
        self._ends.expect(topic, partition, end)

    def produce(self, batches: Iterable[Sequence[Outgoing]], next_sequences: Mapping[tuple[bytes, int], int]) -> None:
        """Send batches; each inner sequence is one partition's, in order. Returns when all are sent, not acked.

        A request holds at most one batch per partition (the broker refuses more); as many requests go out as the
        longest partition has batches, at most MAX_IN_FLIGHT of them unanswered per leader.
        """
        self.phase = self._legal("produce")
        waiting = [deque(partition_batches) for partition_batches in batches if partition_batches]
        self._enlist([queue[0] for queue in waiting])
        self._identity().follow(next_sequences)
        queues: dict[int, list[deque[Outgoing]]] = {}
        for queue in waiting:
            queues.setdefault(queue[0].leader, []).append(queue)
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

    def foreign(self) -> list[Foreign]:
        """What others have written to mirrored partitions, found out since the last call."""
        return self._ends.foreign()

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
                base_sequence=identity.sequence(topic_id, write.partition),
                codec="lz4",
            )
            following_sequence = identity.sequence(topic_id, write.partition) + len(write.records)
            identity.follow({(topic_id, write.partition): following_sequence})
            by_leader.setdefault(leader, []).append(
                Outgoing(write.topic, topic_id, write.partition, leader, None, view)
            )
        self._enlist([out for request in by_leader.values() for out in request])
        for leader, request in by_leader.items():
            self._send(leader, request)
        self.drain()
        self.phase = following
        self._step("ledger")

    def commit(self) -> None:
        """EndTxn(commit). Returns when the decision is durable; any other answer, or none, is doubt."""
        self.phase = self._legal("commit")
        number, identity = self._number(), self._identity()
        place = f"EndTxn {identity.transactional_id}"
        self._check_topics()
        try:
            connection = self._registrar.connection(identity)
            request = connection.module(END_TXN, self._dialect.end).EndTxnRequest(
                transactional_id=identity.transactional_id,
                producer_id=identity.producer_id,
                producer_epoch=identity.epoch,
                committed=True,
            )
            connection.send(request)
            self._step("end_sent")
            response = connection.receive(self._brokers.deadline(self._patience))
        except ConnectionLost as error:
            raise self._doubt("end_unknown", f"{place}: {error.message}") from error
        code = int(response.error_code)
        if code != 0:
            raise self._doubt(
                RIGHT_IS_MISSING if code in NOT_AUTHORIZED else "end_refused", f"{place}: {error_name(code)}"
            )
        self._ends.committed(number)
        if self._dialect is V2:
            identity.hold(int(response.producer_id), int(response.producer_epoch))
        self.number = None
        self._step("end_answered")

    def close(self) -> None:
        """Close all connections; what is open is aborted by the next owner, or by the coordinator's time-out."""
        self.lose()

    # --- inside

    def _number(self) -> int:
        if self.number is None:
            raise RuntimeError("no transaction is open")
        return self.number

    def _identity(self) -> Identity:
        return self.turn(self._number())

    def _known(self) -> Metadata:
        if self._metadata is None:
            raise RuntimeError("not taken")
        return self._metadata

    def _doubt(self, cause: str, message: str) -> Rewind:
        self.lose()
        return Rewind(cause, message)

    def _enlist(self, outgoing: Sequence[Outgoing]) -> None:
        """Version 1: tell the coordinator of partitions before the first of their batches, which are these, is sent."""
        new = [out for out in outgoing if (out.topic, out.partition) not in self._enlisted]
        if not self._dialect.enlists or not new:
            return
        partitions = [(out.topic, out.partition) for out in new]
        identity = self._identity()
        try:
            verdict = judge_enlisting(new, self._registrar.enlist(identity, partitions))
        except (ConnectionLost, BrokerError) as error:
            message = f"AddPartitionsToTxn {identity.transactional_id}: {error.message}"
            raise self._doubt("enlist_unknown", message) from error
        self._be_sure(verdict)
        self._enlisted.update(partitions)

    def _check_topics(self) -> None:
        """What was written by name must lie in the topics that we mean, not in new ones of the same name. With topic
        ids (Produce v13) the brokers see to that."""
        if not self._by_name:
            return
        try:
            described = self._brokers.metadata(self._by_name)
        except ConnectionLost as error:
            raise self._doubt("topics_unknown", f"Metadata: {error.message}") from error
        for name, topic_id in self._by_name.items():
            if (code := described.errors.get(name)) is not None:
                cause = RIGHT_IS_MISSING if code in NOT_AUTHORIZED else "topics_unknown"
                raise self._doubt(cause, f"Metadata {name}: {error_name(code)}")
            if name not in described.topics or bytes.fromhex(described.topics[name].topic_id) != topic_id:
                raise self._doubt("topic_changed", f"{name}: the topic was deleted or created again")

    def _send(self, leader: int, request: list[Outgoing]) -> None:
        queue = self._sent.setdefault(leader, deque())
        while len(queue) >= MAX_IN_FLIGHT:
            self._read_answer(leader)
        try:
            link = self._links.get(leader)
            if link is None:
                link = self._links[leader] = self._brokers.dial(self._brokers.address(leader))
            version = link.version(PRODUCE, self._dialect.produce)
            if version < PRODUCE_WITH_TOPIC_IDS:
                self._by_name.update((out.topic, out.topic_id) for out in request)
            topics: dict[str | bytes, list[tuple[int, memoryview | bytes]]] = {}
            for out in request:
                topic = out.topic_id if version >= PRODUCE_WITH_TOPIC_IDS else out.topic
                topics.setdefault(topic, []).append((out.partition, out.view))
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
        verdict = judge(request, response, self._ends.known)
        self._be_sure(verdict)
        for acked in verdict.acked:
            self._ends.appended(self._number(), acked.topic, acked.partition, acked.base_offset, acked.batch.count)
        self._acked += verdict.acked

    def _be_sure(self, verdict: Verdict) -> None:
        if verdict.doubts:
            self.lose()
            raise verdict.rewind()
