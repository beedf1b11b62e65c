"""Commit markers that never came: what InitProducerId cannot promise, DescribeProducers shows.

A leader that dies between the answer to EndTxn and the writing of its marker can lose the marker (KAFKA-20734): the
coordinator says complete, the partition still has the transaction open. A later transaction of the same producer id
would then carry decided records with it, or take them away. So before a lane writes, none of its producer ids may have
a transaction open on any partition that it writes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import msgspec

from eomirror.brokers import Brokers, Metadata, Producing
from eomirror.checkpoint import InternalTopics
from eomirror.errors import BrokerError, Faulted, Reason, Refused, Rewind
from eomirror.model import RouteKey
from eomirror.records import LaneRecord, PositionRecord
from eomirror.transaction import Transactions


class Checks(msgspec.Struct, frozen=True):
    """`leaders` has the target leader of each route that can be written now; `faults` the routes that must not be."""

    leaders: dict[RouteKey, int]
    faults: dict[RouteKey, Faulted]


def check(
    target: Brokers,
    metadata: Metadata,
    positions: dict[RouteKey, PositionRecord],
    head: LaneRecord,
    transactions: Transactions,
) -> Checks:
    """Look at the target partition of each route: is it the topic we knew, does it have a leader, is nothing of ours
    open there. Raises Rewind when a newer owner of this lane is at work there.

    Called right after both identities were taken: between two transactions, markers may rightly be on their way.
    """
    leaders: dict[RouteKey, int] = {}
    faults: dict[RouteKey, Faulted] = {}
    for key, position in positions.items():
        topic = metadata.topics.get(key[0])
        if topic is not None and topic.topic_id != position.target_topic_id:
            faults[key] = Faulted(
                *key,
                Reason.TARGET_RECREATED,
                f"the target's topic has id {topic.topic_id}, the checkpoint is of {position.target_topic_id}: "
                "it was deleted and created again",
                offset=position.next_offset,
                next_offset=position.next_offset,
            )
        elif topic is not None and key[1] in topic.partitions:
            node = topic.partitions[key[1]].node
            if node is not None:
                leaders[key] = node
    # An identity that rolled over to a new producer id may have left a marker behind with the old one.
    epochs: dict[int, int | None] = dict.fromkeys(head.announced.values())
    epochs.update(_held(transactions))
    for key, producers in target.producers(metadata, leaders).items():
        if isinstance(producers, BrokerError):
            leaders.pop(key)
            continue
        for producer in _open_of_ours(producers, epochs, f"{key[0]}[{key[1]}]"):
            leaders.pop(key, None)
            faults[key] = _lost(key, positions[key], producer)
    return Checks(leaders, faults)


def _held(transactions: Transactions) -> dict[int, int]:
    """The epoch that we hold of each of our producer ids."""
    return {i.producer_id: i.epoch for i in transactions.identities.values()}


def _open_of_ours(producers: list[Producing], epochs: Mapping[int, int | None], place: str) -> Iterator[Producing]:
    """Our producers with a transaction open here, although both identities were just taken. An epoch of None is one
    that we do not hold any more. Raises Rewind for an epoch beyond ours."""
    for producer in producers:
        if producer.open_from is None or producer.producer_id not in epochs:
            continue
        epoch = epochs[producer.producer_id]
        if epoch is not None and producer.epoch > epoch:
            raise Rewind("epoch", f"{place}: a newer owner has a transaction open")
        yield producer


def _lost(key: RouteKey, position: PositionRecord, producer: Producing) -> Faulted:
    """The fault, with all that the repair needs. The checkpoint knows how the transaction was decided: what it counts
    as written was committed, what lies behind that was aborted."""
    committed = position.target_end is not None and (producer.open_from or 0) < position.target_end
    decided, marker = ("committed", "COMMIT") if committed else ("aborted", "ABORT")
    return Faulted(
        *key,
        Reason.MARKER_LOST,
        f"producer {producer.producer_id} epoch {producer.epoch} has a transaction open from target offset "
        f"{producer.open_from} that was {decided}; the partition lacks its {marker} marker "
        f"(coordinator epoch {max(producer.coordinator_epoch, 0)})",
        offset=position.next_offset,
        next_offset=position.next_offset,
    )


def check_internal(
    target: Brokers, metadata: Metadata, topics: InternalTopics, lane: int, transactions: Transactions
) -> None:
    """Nothing of ours may be open on the lane's internal partitions either: the next marker would decide it anew.

    Called right after both identities were taken. Raises Refused for a lost marker, Rewind when a newer owner is at
    work, BrokerError when a leader is away.
    """
    wanted = [(name, lane) for name in (topics.checkpoint, topics.producers, topics.ledger)]
    if topics.quarantine in metadata.topics:
        wanted.append((topics.quarantine, lane))
    for (name, partition), producers in target.producers(metadata, wanted).items():
        if isinstance(producers, BrokerError):
            raise producers
        place = f"{name}[{partition}]"
        for producer in _open_of_ours(producers, _held(transactions), place):
            raise Refused(
                f"{place}: producer {producer.producer_id} epoch {producer.epoch} has a transaction open from offset "
                f"{producer.open_from} although its coordinator says complete; the partition lacks its marker "
                f"(coordinator epoch {max(producer.coordinator_epoch, 0)})",
                hint="Write the marker that the other partitions of this transaction have, as docs/operations.md shows "
                "under MARKER_LOST, and start again.",
            )


def newer_owner(
    target: Brokers, metadata: Metadata, topics: InternalTopics, lane: int, transactions: Transactions
) -> bool:
    """Is the transaction that is open on our checkpoint partition that of a newer owner of this lane?"""
    epochs = _held(transactions)
    producers = target.producers(metadata, [(topics.checkpoint, lane)])[topics.checkpoint, lane]
    if isinstance(producers, BrokerError):
        raise producers
    return any(p.open_from is not None and p.epoch > epochs.get(p.producer_id, p.epoch) for p in producers)
