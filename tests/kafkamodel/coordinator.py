"""The transaction coordinator of Kafka 4.3.1 with transaction.version 2 (KIP-890) or 1.

Every change of a transactional id's state is first pending, then durable; between the two any other request about the
id can arrive. A caller runs each verb as a generator: where it yields, time may pass and others may come between.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from kio.schema.errors import ErrorCode

NONE: Final = -1
MAX_EPOCH: Final = 32767
MAX_TIMEOUT_MS: Final = 15 * 60 * 1000


class State(enum.Enum):
    EMPTY = "Empty"
    ONGOING = "Ongoing"
    PREPARE_COMMIT = "PrepareCommit"
    PREPARE_ABORT = "PrepareAbort"
    COMPLETE_COMMIT = "CompleteCommit"
    COMPLETE_ABORT = "CompleteAbort"
    PREPARE_EPOCH_FENCE = "PrepareEpochFence"


COMPLETE: Final = (State.COMPLETE_COMMIT, State.COMPLETE_ABORT)
PREPARED: Final = (State.PREPARE_COMMIT, State.PREPARE_ABORT)

TopicPartition = tuple[str, int]


@dataclass(slots=True)
class Wait:
    """Why a broker's work pauses. It goes on when `ready` says so or the clock reaches `until` (seconds).

    A bare Wait is only a place where something else may come between.
    """

    what: str
    until: float | None = None
    ready: Callable[[], bool] | None = None


class Answer(NamedTuple):
    error: ErrorCode
    producer_id: int = NONE
    epoch: int = NONE


@dataclass(slots=True)
class Transaction:
    """The state of one transactional id. `pending` is the state it is about to enter."""

    transactional_id: str
    producer_id: int
    previous_producer_id: int = NONE
    next_producer_id: int = NONE
    epoch: int = NONE
    last_epoch: int = NONE
    timeout_ms: int = 60_000
    state: State = State.EMPTY
    pending: State | None = None
    partitions: set[TopicPartition] = field(default_factory=set)
    started: float | None = None
    owed: list[TopicPartition] = field(default_factory=list)
    """Partitions whose marker is still to be written."""

    def move(self, state: State) -> None:
        self.state, self.pending = state, None
        self.previous_producer_id = self.producer_id


class Coordinator:
    """`max_epoch` is Kafka's Short.MaxValue; a small one makes producer ids run out within a test. `version` is the
    finalised transaction.version."""

    def __init__(self, now: Callable[[], float], *, max_epoch: int = MAX_EPOCH, version: int = 2) -> None:
        self.now = now
        self.version = version
        self.max_epoch = max_epoch
        self.transactions: dict[str, Transaction] = {}
        self._next_producer_id = 1000

    def new_producer_id(self) -> int:
        self._next_producer_id += 1
        return self._next_producer_id

    def _exhausted(self, epoch: int) -> bool:
        return epoch >= self.max_epoch - 1

    # --- InitProducerId

    def init(
        self, transactional_id: str, timeout_ms: int, expected: tuple[int, int] | None
    ) -> Generator[Wait, None, Answer]:
        if not transactional_id:
            return Answer(ErrorCode.invalid_request)
        if not 0 < timeout_ms <= MAX_TIMEOUT_MS:
            return Answer(ErrorCode.invalid_transaction_timeout)
        txn = self.transactions.get(transactional_id)
        if txn is None:
            txn = self.transactions[transactional_id] = Transaction(transactional_id, self.new_producer_id())
        if txn.pending is not None:
            return Answer(ErrorCode.concurrent_transactions)
        if expected is not None and not self._known(txn, *expected):
            return Answer(ErrorCode.producer_fenced)
        if txn.state in PREPARED:
            return Answer(ErrorCode.concurrent_transactions)
        if txn.state is State.ONGOING:
            # Its transaction is aborted under a bumped epoch, which is never handed out: the caller asks again, and
            # that second bump is the one it gets.
            answer = yield from self._fence(txn)
            return Answer(answer.error or ErrorCode.concurrent_transactions)
        producer_id, epoch, last_epoch = txn.producer_id, txn.epoch + 1, NONE
        if self._exhausted(txn.epoch) and (expected is None or expected[1] == txn.epoch):
            producer_id, epoch = self.new_producer_id(), 0
            last_epoch = NONE if expected is None else txn.epoch
        elif self._exhausted(txn.epoch):
            return Answer(ErrorCode.unknown_server_error)
        elif expected is not None:
            if txn.epoch == NONE or expected[1] == txn.epoch:
                last_epoch = txn.epoch
            elif expected[1] == txn.last_epoch:  # a repeated request: the answer of the first
                epoch, last_epoch = txn.epoch, txn.last_epoch
            else:
                return Answer(ErrorCode.producer_fenced)
        txn.pending = State.EMPTY
        yield Wait(f"{transactional_id} becomes Empty")
        txn.move(State.EMPTY)
        txn.producer_id, txn.epoch, txn.last_epoch, txn.timeout_ms = producer_id, epoch, last_epoch, timeout_ms
        txn.partitions, txn.started = set(), None
        return Answer(ErrorCode.none, producer_id, epoch)

    def _known(self, txn: Transaction, producer_id: int, epoch: int) -> bool:
        return (
            txn.epoch == NONE
            or producer_id == txn.producer_id
            or (producer_id == txn.previous_producer_id and self._exhausted(epoch))
        )

    def _fence(self, txn: Transaction) -> Generator[Wait, None, Answer]:
        txn.pending = State.PREPARE_EPOCH_FENCE
        epoch = min(txn.epoch + 1, self.max_epoch)
        yield Wait(f"{txn.transactional_id} is fenced")
        return (yield from self.end(txn.transactional_id, txn.producer_id, epoch, commit=False, from_client=False))

    # --- AddPartitionsToTxn, as a client sends it (version 1), or a broker for a produce (version 2)

    def add_partitions(
        self, transactional_id: str, producer_id: int, epoch: int, partitions: Iterable[TopicPartition]
    ) -> Generator[Wait, None, ErrorCode]:
        txn = self.transactions.get(transactional_id)
        if txn is None:
            return ErrorCode.invalid_producer_id_mapping
        if txn.pending is not None:
            return ErrorCode.concurrent_transactions
        if txn.producer_id != producer_id:
            return ErrorCode.invalid_producer_id_mapping
        if txn.epoch != epoch:
            return ErrorCode.producer_fenced
        if txn.state in PREPARED:
            return ErrorCode.concurrent_transactions
        wanted = set(partitions)
        if txn.state is State.ONGOING and wanted <= txn.partitions:
            return ErrorCode.none
        started = self.now() if txn.state is not State.ONGOING else txn.started
        txn.pending = State.ONGOING
        yield Wait(f"{transactional_id} takes partitions")
        txn.partitions = (txn.partitions if txn.state is State.ONGOING else set()) | wanted
        txn.started = started
        txn.move(State.ONGOING)
        return ErrorCode.none

    def verify(self, transactional_id: str, producer_id: int, epoch: int, partition: TopicPartition) -> ErrorCode:
        """What a broker asks before a produce of version 1: is the partition in the transaction?"""
        txn = self.transactions.get(transactional_id)
        if txn is None or txn.producer_id != producer_id:
            return ErrorCode.invalid_producer_id_mapping
        if txn.epoch != epoch:
            return ErrorCode.producer_fenced
        if txn.pending is not None or txn.state in PREPARED:
            return ErrorCode.concurrent_transactions
        return ErrorCode.none if partition in txn.partitions else ErrorCode.transaction_abortable

    # --- EndTxn

    def end(
        self, transactional_id: str, producer_id: int, epoch: int, *, commit: bool, from_client: bool = True
    ) -> Generator[Wait, None, Answer]:
        if self.version == 1:
            return (yield from self._end_in_version_1(transactional_id, producer_id, epoch, commit, from_client))
        txn = self.transactions.get(transactional_id)
        if txn is None:
            return Answer(ErrorCode.invalid_producer_id_mapping)
        fence = txn.pending is State.PREPARE_EPOCH_FENCE
        overflown = (
            not fence and txn.previous_producer_id == producer_id and epoch == self.max_epoch - 1 and txn.epoch == 0
        )
        bumped = not fence and txn.epoch == epoch + 1
        if fence:
            valid = (not from_client or epoch == txn.epoch) and epoch >= txn.epoch
        elif txn.state in PREPARED:
            valid = bumped
        elif txn.state in COMPLETE:
            valid = bumped or overflown or epoch == txn.epoch
        else:
            valid = epoch == txn.epoch
        if txn.pending is not None and not fence:
            return Answer(ErrorCode.concurrent_transactions)
        if txn.producer_id != producer_id and not overflown:
            return Answer(ErrorCode.invalid_producer_id_mapping)
        if not valid:
            return Answer(ErrorCode.producer_fenced)
        retry = bumped or overflown
        if txn.state in PREPARED:
            same = commit == (txn.state is State.PREPARE_COMMIT)
            return Answer(ErrorCode.concurrent_transactions if same else ErrorCode.invalid_txn_state)
        if txn.state in COMPLETE and retry:
            # With an epoch per transaction, the epoch before the current one can only mean the transaction that is
            # complete: the same verdict again is a repetition, the other one a contradiction.
            same = commit == (txn.state is State.COMPLETE_COMMIT)
            return Answer(ErrorCode.none, txn.producer_id, txn.epoch) if same else Answer(ErrorCode.invalid_txn_state)
        if txn.state is not State.ONGOING and commit:
            return Answer(ErrorCode.invalid_txn_state)
        if fence and commit:
            # The owner's commit came while the fence was being set up, and the id already has a pending state.
            return Answer(ErrorCode.unknown_server_error)
        return (yield from self._finish(txn, epoch, commit))

    def _finish(self, txn: Transaction, epoch: int, commit: bool) -> Generator[Wait, None, Answer]:
        next_producer_id = self.new_producer_id() if self._exhausted(txn.epoch) else NONE
        prepared = State.PREPARE_COMMIT if commit else State.PREPARE_ABORT
        before = txn.epoch
        txn.pending = prepared
        yield Wait(f"{txn.transactional_id} becomes {prepared.value}")
        txn.move(prepared)
        txn.next_producer_id = next_producer_id
        txn.last_epoch, txn.epoch = before, min(before + 1, self.max_epoch)
        # The decision stands; the markers follow, one partition at a time.
        txn.pending = State.COMPLETE_COMMIT if commit else State.COMPLETE_ABORT
        txn.owed = sorted(txn.partitions)
        if next_producer_id != NONE:
            return Answer(ErrorCode.none, next_producer_id, 0)
        return Answer(ErrorCode.none, txn.producer_id, txn.epoch)

    def _end_in_version_1(
        self, transactional_id: str, producer_id: int, epoch: int, commit: bool, from_client: bool
    ) -> Generator[Wait, None, Answer]:
        txn = self.transactions.get(transactional_id)
        if txn is None or txn.producer_id != producer_id:
            return Answer(ErrorCode.invalid_producer_id_mapping)
        if (from_client and epoch != txn.epoch) or epoch < txn.epoch:
            return Answer(ErrorCode.producer_fenced)
        fence = txn.pending is State.PREPARE_EPOCH_FENCE
        if txn.pending is not None and not fence:
            return Answer(ErrorCode.concurrent_transactions)
        if txn.state in PREPARED:
            same = commit == (txn.state is State.PREPARE_COMMIT)
            return Answer(ErrorCode.concurrent_transactions if same else ErrorCode.invalid_txn_state)
        if txn.state in COMPLETE:
            same = commit == (txn.state is State.COMPLETE_COMMIT)
            return Answer(ErrorCode.none if same else ErrorCode.invalid_txn_state)
        if txn.state is not State.ONGOING:
            return Answer(ErrorCode.invalid_txn_state)
        if fence and commit:
            return Answer(ErrorCode.unknown_server_error)
        if fence:
            # The bumped epoch, which nobody is ever given, is that of the markers; the one before is forgotten.
            txn.epoch, txn.last_epoch = epoch, NONE
        prepared = State.PREPARE_COMMIT if commit else State.PREPARE_ABORT
        txn.pending = prepared
        yield Wait(f"{txn.transactional_id} becomes {prepared.value}")
        txn.move(prepared)
        txn.pending = State.COMPLETE_COMMIT if commit else State.COMPLETE_ABORT
        txn.owed = sorted(txn.partitions)
        return Answer(ErrorCode.none)

    def complete(self, txn: Transaction) -> None:
        """All markers are written."""
        if txn.owed or txn.pending not in COMPLETE:
            raise AssertionError(f"{txn.transactional_id}: cannot complete {txn.state} with {txn.owed} to write")
        txn.move(txn.pending)
        txn.partitions = set()
        txn.started = None
        if txn.next_producer_id != NONE:
            txn.producer_id, txn.epoch, txn.next_producer_id = txn.next_producer_id, 0, NONE

    # --- time-outs

    def expires_at(self, txn: Transaction) -> float | None:
        """When the coordinator gives an open transaction up, in seconds; None while nothing is open."""
        if txn.state is State.ONGOING and txn.pending is None and txn.started is not None:
            return txn.started + txn.timeout_ms / 1000
        return None

    def time_out(self, txn: Transaction) -> Generator[Wait, None, Answer]:
        if txn.state is not State.ONGOING or txn.pending is not None:
            return Answer(ErrorCode.invalid_txn_state)
        return (yield from self._fence(txn))
