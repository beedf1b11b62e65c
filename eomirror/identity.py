"""The pair of identities of a lane: two transactional ids, and what their coordinators are asked.

Whoever holds the newest epoch of an identity is the only one who may write with it; the brokers refuse everybody else.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterable, Mapping
from typing import Final

from eomirror import blocked
from eomirror.brokers import Brokers
from eomirror.errors import BrokerError, ConnectionLost, Fenced, Refused, Rewind, error_name
from eomirror.records import IdentityName
from eomirror.wire import ADD_PARTITIONS_TO_TXN, INIT_PRODUCER_ID, Address, Connection

# Transaction n uses identity n mod 2: the next one's first produce never waits for the markers of the one before.
IDENTITIES: Final[tuple[IdentityName, ...]] = ("a", "b")

CONCURRENT_TRANSACTIONS: Final = 51
INVALID_TRANSACTION_TIMEOUT: Final = 50
MAX_SEQUENCE: Final = 0x7FFFFFFF
COORDINATOR_MOVED: Final = frozenset({14, 15, 16})  # loading, not available, not coordinator
# There is a newer epoch or another producer id: InvalidProducerEpoch, InvalidProducerIdMapping, ProducerFenced. A
# transaction that the coordinator timed out looks the same; only InitProducerId with the epoch that we held can tell.
FENCED: Final = frozenset({47, 49, 90})
# The epoch that we named is not the newest. At the last epoch of a producer id, brokers say UnknownServerError, also to
# whoever repeats the question that got him there.
OVERTAKEN: Final = FENCED | {-1}
NOT_AUTHORIZED: Final = frozenset({29, 31, 53})  # topic, cluster, transactional id
# The cause of a rewind for any of these: a right that was taken away may be given back.
RIGHT_IS_MISSING: Final = "not_authorized"

# A transaction that takes longer to be finished is said to block the lane; it is asked for again all the same.
BLOCKED_SECONDS: Final = 5.0
PAUSE_SECONDS: Final = (0.001, 0.05)  # before a question is repeated: at first, and at the longest


def transactional_ids(flow: str, lane: int) -> list[str]:
    """Those of a lane, a first."""
    return [f"{prefix(flow, lane)}.{name}" for name in IDENTITIES]


def prefix(flow: str, lane: int) -> str:
    """What the transactional ids of a lane begin with."""
    return f"eomirror.{flow}.{lane}"


class Identity:
    """One transactional id and the (producer id, epoch) that its coordinator gave us last, None before the first."""

    def __init__(self, name: IdentityName, transactional_id: str) -> None:
        self.name = name
        self.transactional_id = transactional_id
        self.held: tuple[int, int] | None = None
        self.coordinator: Address | None = None
        self._sequences: dict[tuple[bytes, int], int] = {}

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

    def hold(self, producer_id: int, epoch: int) -> None:
        """A new epoch, in which all sequences start at 0."""
        self.held = producer_id, epoch
        self._sequences.clear()

    def sequence(self, topic_id: bytes, partition: int) -> int:
        """The base sequence of the next batch of a partition."""
        return self._sequences.get((topic_id, partition), 0)

    def follow(self, next_sequences: Mapping[tuple[bytes, int], int]) -> None:
        """Batches were sent; sequences wrap after 2^31 - 1 to 0."""
        self._sequences.update((place, sequence & MAX_SEQUENCE) for place, sequence in next_sequences.items())


class Registrar:
    """Asks coordinators to hand out identities and to enlist partitions, for one thread. `patience`: seconds for one
    question, repetitions included."""

    def __init__(self, brokers: Brokers, *, transaction_timeout_ms: int, patience: float) -> None:
        self._brokers = brokers
        self._timeout_ms = transaction_timeout_ms
        self._patience = patience
        self._has_taken = False

    def connection(self, identity: Identity) -> Connection:
        """The shared connection to the identity's coordinator. Raises ConnectionLost, BrokerError."""
        if identity.coordinator is None:
            identity.coordinator = self._brokers.coordinator(identity.transactional_id)
        return self._brokers.at(identity.coordinator)

    def take(self, identity: Identity) -> None:
        """InitProducerId until it succeeds: it returns only when whatever the identity had open is complete.

        With an epoch that we held it is refused when somebody else has taken the identity since. Raises Fenced then,
        Refused where a person must change something first, and Rewind for every other doubt.
        """
        place = f"InitProducerId {identity.transactional_id}"
        deadline = self._brokers.deadline(min(self._patience, BLOCKED_SECONDS))
        pause, longest = PAUSE_SECONDS
        claimed = identity.held
        while True:
            try:
                code, held = self._ask(identity, claimed)
                if code in OVERTAKEN and claimed is not None and claimed == identity.held:
                    claimed = self._aborted_under(identity, *claimed) or claimed
                    if claimed != identity.held:
                        continue
            except ConnectionLost as error:
                identity.coordinator = None
                raise Rewind("init_unknown", f"{place}: {error.message}") from error
            except BrokerError as error:
                # Who the coordinator is was asked here, so nothing in this answer speaks of epochs.
                if error.code is None or error.code not in COORDINATOR_MOVED | NOT_AUTHORIZED:
                    raise Rewind("init_unknown", f"{place}: {error.message}") from error
                code, held = error.code, None
            if held is not None:
                identity.hold(*held)
                self._has_taken = True
                return
            if code in OVERTAKEN and claimed is not None:
                raise Fenced(f"{identity.transactional_id}: InitProducerId answered {error_name(code)}")
            self._refuse(place, code)
            if code in COORDINATOR_MOVED:
                identity.coordinator = None
            elif code != CONCURRENT_TRANSACTIONS and code not in FENCED:
                raise Rewind("init_refused", f"{place}: {error_name(code)}")
            if self._brokers.network.now() >= deadline:
                # The coordinator has decided but cannot finish, for a leader inside the transaction is away. It alone
                # can end this.
                raise Rewind("blocked", self._blocker(identity) or f"{place}: {error_name(code)}")
            self._brokers.network.sleep(pause)
            pause = min(pause * 2, longest)

    def _blocker(self, identity: Identity) -> str | None:
        """What the coordinator waits for, if it says."""
        try:
            found = blocked.unfinished(self._brokers, self.connection(identity), identity.transactional_id)
            return None if found is None else blocked.tell(self._brokers, found)
        except (ConnectionLost, BrokerError):
            return None

    def _aborted_under(self, identity: Identity, producer_id: int, epoch: int) -> tuple[int, int] | None:
        """The epoch under which the coordinator has aborted our transaction, if nobody has taken the identity since.

        In version 1 the coordinator forgets the epoch that we held as soon as it aborts what is open: when that timed
        out, or because we asked for the identity. It does so under the next epoch, which it never hands out; and no
        owner aborts by himself. So CompleteAbort at that epoch means: aborted, and not taken. Whoever takes it from now
        on is safe from us: we name that very epoch, and would be refused.
        """
        found = self._brokers.transaction(self.connection(identity), identity.transactional_id)
        seen = (int(found.producer_id), int(found.producer_epoch))
        aborted = int(found.error_code) == 0 and found.transaction_state == "CompleteAbort"
        return seen if aborted and seen == (producer_id, epoch + 1) else None

    def _refuse(self, place: str, code: int) -> None:
        """Raise for the answers that only a person can change. A right that we had before may come back by itself."""
        if code in NOT_AUTHORIZED:
            if self._has_taken:
                raise Rewind(RIGHT_IS_MISSING, f"{place}: {error_name(code)}")
            raise Refused(
                f"cluster {self._brokers.name}: {place}: {error_name(code)}",
                hint="The lanes' principal needs WRITE and DESCRIBE on the transactional ids of this flow.",
            )
        if code == INVALID_TRANSACTION_TIMEOUT:
            raise Refused(
                f"cluster {self._brokers.name}: commit.transaction_timeout is more than the brokers allow",
                hint="Lower it, or raise transaction.max.timeout.ms on the target's brokers.",
            )

    def _ask(self, identity: Identity, claimed: tuple[int, int] | None) -> tuple[int, tuple[int, int] | None]:
        connection = self.connection(identity)
        producer_id, epoch = claimed or (-1, -1)
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

    def enlist(self, identity: Identity, partitions: Iterable[tuple[str, int]]) -> dict[tuple[str, int], int]:
        """AddPartitionsToTxn, which opens the transaction if need be: an error code for each partition.

        While the identity's transaction before this one is completing, the coordinator is asked again. Raises
        ConnectionLost, BrokerError; it is unknown then which partitions are enlisted.
        """
        connection = self.connection(identity)
        module = connection.module(ADD_PARTITIONS_TO_TXN)
        topics: dict[str, list[int]] = {}
        for topic, partition in partitions:
            topics.setdefault(topic, []).append(partition)
        request = module.AddPartitionsToTxnRequest(
            v3_and_below_transactional_id=identity.transactional_id,
            v3_and_below_producer_id=identity.producer_id,
            v3_and_below_producer_epoch=identity.epoch,
            v3_and_below_topics=tuple(
                module.AddPartitionsToTxnTopic(name=topic, partitions=tuple(numbers))
                for topic, numbers in topics.items()
            ),
        )
        deadline = self._brokers.deadline(self._patience)
        pause, longest = PAUSE_SECONDS
        while True:
            response = self._brokers.ask(connection, request, self._patience)
            codes = {
                (str(topic.name), int(one.partition_index)): int(one.partition_error_code)
                for topic in response.results_by_topic_v3_and_below
                for one in topic.results_by_partition
            }
            if CONCURRENT_TRANSACTIONS not in codes.values() or self._brokers.network.now() >= deadline:
                return codes
            self._brokers.network.sleep(pause)
            pause = min(pause * 2, longest)
