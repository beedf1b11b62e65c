"""Which version of the transaction protocol a target is spoken to in: by what its brokers offer and have finalised."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from eomirror.clusters import require_transactions
from eomirror.dialect import V1, V2, Dialect, spoken_at
from eomirror.errors import ConnectionLost, Preflight
from eomirror.wire import (
    ADD_PARTITIONS_TO_TXN,
    DESCRIBE_PRODUCERS,
    DESCRIBE_TRANSACTIONS,
    END_TXN,
    FETCH,
    FIND_COORDINATOR,
    INIT_PRODUCER_ID,
    LIST_OFFSETS,
    METADATA,
    PRODUCE,
    SPOKEN,
    Address,
    Connection,
)

# What brokers offer, as seen: (lowest, highest) of Produce, Fetch, ListOffsets, Metadata, FindCoordinator,
# InitProducerId, AddPartitionsToTxn, EndTxn, DescribeProducers, DescribeTransactions.
APIS = (
    PRODUCE,
    FETCH,
    LIST_OFFSETS,
    METADATA,
    FIND_COORDINATOR,
    INIT_PRODUCER_ID,
    ADD_PARTITIONS_TO_TXN,
    END_TXN,
    DESCRIBE_PRODUCERS,
    DESCRIBE_TRANSACTIONS,
)
BROKERS = {
    "3.0": (9, 12, 7, 11, 4, 4, 3, 3, 0, 0),
    "3.1.2": (9, 13, 7, 12, 4, 4, 3, 3, 0, 0),
    "3.9.1": (11, 17, 9, 12, 6, 5, 5, 4, 0, 0),
    "4.0.0": (12, 17, 10, 13, 6, 5, 5, 5, 0, 0),
    "4.3.1": (13, 18, 11, 13, 6, 5, 5, 5, 0, 0),
}


def connection(broker: str, features: dict[str, int] | None) -> Connection:
    made = Connection.__new__(Connection)
    made.address = Address("dublin-1", 9092)
    made.versions = {api: (0, highest) for api, highest in zip(APIS, BROKERS[broker], strict=True)}
    made.features = features
    return made


@pytest.mark.parametrize(
    ("broker", "features", "expected"),
    [
        ("4.3.1", {"metadata.version": 30, "transaction.version": 2}, V2),
        ("4.3.1", {"metadata.version": 30, "transaction.version": 3}, V2),
        ("4.3.1", {"metadata.version": 30, "transaction.version": 1}, V1),
        ("4.3.1", {"metadata.version": 30}, V1),
        ("4.0.0", {"metadata.version": 25, "transaction.version": 2}, V2),
        ("3.9.1", {"metadata.version": 21}, V1),
        ("3.9.1", None, V1),  # with ZooKeeper
        ("3.1.2", None, V1),
    ],
)
def test_version_2_is_spoken_where_the_cluster_has_finalised_it(
    broker: str, features: dict[str, int] | None, expected: Dialect
) -> None:
    asked = connection(broker, features)
    assert spoken_at(asked) == expected
    assert expected.produce[0] <= asked.version(PRODUCE, expected.produce) <= expected.produce[1]
    assert expected.end[0] <= asked.version(END_TXN, expected.end) <= expected.end[1]
    require_transactions(SimpleNamespace(name="dublin", any=lambda: asked))


@pytest.mark.parametrize(("broker", "produce", "end"), [("3.1.2", 9, 3), ("3.9.1", 11, 4), ("4.3.1", 11, 4)])
def test_version_1_never_sends_what_means_version_2_to_a_broker(broker: str, produce: int, end: int) -> None:
    asked = connection(broker, {})
    assert (asked.version(PRODUCE, V1.produce), asked.version(END_TXN, V1.end)) == (produce, end)


def test_the_versions_of_both_dialects_are_those_that_are_spoken() -> None:
    assert (V1.produce[0], V2.produce[1]) == SPOKEN[PRODUCE]
    assert (V1.end[0], V2.end[1]) == SPOKEN[END_TXN]
    assert (V1.produce[1] + 1, V1.end[1] + 1) == (V2.produce[0], V2.end[0])
    assert set(APIS) == set(SPOKEN)


def test_a_broker_that_is_still_starting_is_asked_again() -> None:
    asked = connection("4.3.1", None)
    with pytest.raises(ConnectionLost, match="dublin-1:9092: the broker does not know the cluster's features yet"):
        spoken_at(asked)
    with pytest.raises(ConnectionLost):
        require_transactions(SimpleNamespace(name="dublin", any=lambda: asked))


def test_brokers_that_are_too_old_are_refused_with_what_they_lack() -> None:
    target = SimpleNamespace(name="dublin", any=lambda: connection("3.0", None))
    with pytest.raises(Preflight) as caught:
        require_transactions(target)
    assert caught.value.message == "cluster dublin: the brokers do not offer Fetch v13, Metadata v12 or newer"
    assert caught.value.hint == "A target needs Kafka 3.1 or newer."
