"""Transactions that are decided and cannot be finished, for a leader that must get its marker is away.

Nobody but the coordinator can end such a transaction, and InitProducerId is refused until it has. DescribeTransactions
shows what is missing.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from eomirror.brokers import Brokers
from eomirror.errors import BrokerError, ConnectionLost
from eomirror.units import wall_ms
from eomirror.wire import DESCRIBE_TRANSACTIONS, Connection

DECIDED: Final = {"PrepareCommit": "committed", "PrepareAbort": "aborted"}
# Markers are written within milliseconds; a transaction that is seen without them twice, this far apart, waits.
AGAIN_SECONDS: Final = 1.0


class Unfinished(NamedTuple):
    """A transaction that is decided and not complete: how, when it began (ms), and where markers are missing."""

    transactional_id: str
    decision: str
    started_ms: int
    places: tuple[tuple[str, int], ...]


def unfinished(brokers: Brokers, connection: Connection, transactional_id: str) -> Unfinished | None:
    """What the coordinator at that connection says; None if there is nothing to finish, or if it does not say.

    Raises ConnectionLost.
    """
    if not connection.supports(DESCRIBE_TRANSACTIONS):
        return None
    state = brokers.transaction(connection, transactional_id)
    decision = DECIDED.get(state.transaction_state)
    if int(state.error_code) != 0 or decision is None:
        return None
    places = tuple(sorted((str(t.topic), int(p)) for t in state.topics for p in t.partitions))
    return Unfinished(transactional_id, decision, int(state.transaction_start_time), places)


def tell(brokers: Brokers, one: Unfinished) -> str:
    """In one sentence: which transaction, since when, what it waits for. Raises ConnectionLost."""
    topics = brokers.metadata({topic for topic, _ in one.places}).topics
    where = []
    for topic, partition in one.places[:3]:
        leader = topics[topic].partitions.get(partition) if topic in topics else None
        node = None if leader is None else leader.node
        where.append(f"{topic}[{partition}] ({'no leader' if node is None else f'broker {node}'})")
    more = f" and {len(one.places) - 3} more" if len(one.places) > 3 else ""
    age = max(wall_ms() - one.started_ms, 0) // 1000
    return (
        f"transaction of {one.transactional_id}, begun {age} s ago, is {one.decision} and waits for its marker on "
        f"{', '.join(where) or 'no partition'}{more}"
    )


def waiting(brokers: Brokers, transactional_ids: list[str]) -> str | None:
    """Why the owner of these ids cannot go on, seen twice; None if it can, or if nobody says."""

    def look(wanted: list[str]) -> list[Unfinished]:
        found = []
        for name in wanted:
            try:
                one = unfinished(brokers, brokers.at(brokers.coordinator(name)), name)
            except (ConnectionLost, BrokerError):
                continue
            if one is not None:
                found.append(one)
        return found

    before = look(transactional_ids)
    if not before:
        return None
    brokers.network.sleep(AGAIN_SECONDS)
    seen = {(one.transactional_id, one.started_ms) for one in before}
    still = [one for one in look([one.transactional_id for one in before]) if one[::2] in seen]
    try:
        return tell(brokers, still[0]) if still else None
    except (ConnectionLost, BrokerError):
        return None
