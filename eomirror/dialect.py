"""The two versions of the transaction protocol, and which one a target's brokers speak.

Version 2 (KIP-890, Kafka 4.0): a Produce adds its partitions to the transaction by itself, and EndTxn hands out the
epoch of the next transaction, so every transaction has an epoch of its own.

Version 1: AddPartitionsToTxn comes before the first Produce to a partition, and an epoch lasts until the next
InitProducerId. Produce v12 and later mean version 2 to a broker, and so does EndTxn v5.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from eomirror.errors import ConnectionLost
from eomirror.wire import END_TXN, PRODUCE, Connection

FEATURE: Final = "transaction.version"


class Dialect(NamedTuple):
    """What differs on the wire: versions of Produce and EndTxn, lowest and highest, and whether partitions are enlisted
    by AddPartitionsToTxn."""

    version: int
    produce: tuple[int, int]
    end: tuple[int, int]
    enlists: bool


V1: Final = Dialect(1, produce=(9, 11), end=(3, 4), enlists=True)
V2: Final = Dialect(2, produce=(12, 13), end=(5, 5), enlists=False)


def spoken_at(connection: Connection) -> Dialect:
    """The newest version that the cluster has finalised, as this broker knows it.

    Raises ConnectionLost for a broker that has just started and does not know the cluster's features yet.
    """
    if connection.features is None and connection.supports(END_TXN, V2.end):
        raise ConnectionLost(f"{connection.address}: the broker does not know the cluster's features yet")
    finalised = (connection.features or {}).get(FEATURE, 0)
    new = finalised >= 2 and connection.supports(END_TXN, V2.end) and connection.supports(PRODUCE, V2.produce)
    return V2 if new else V1
