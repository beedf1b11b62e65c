"""The model of Kafka with transactions version 1 answers as brokers of 3.9.1, and of 4.3.1 without version 2, do."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.kafkamodel import ModelCluster, ModelError, ModelNetwork, State
from tests.kafkamodel.client import Client, Produced

TID = "lane.a"
Held = tuple[int, int]


@pytest.fixture
def target() -> ModelCluster:
    cluster = ModelCluster("target", transactions=1)
    cluster.create_topic("orders", 3)
    cluster.has_transaction_log = True
    return cluster


@pytest.fixture
def net(target: ModelCluster) -> Iterator[ModelNetwork]:
    with ModelNetwork(target) as made:
        yield made


@pytest.fixture
def client(net: ModelNetwork) -> Client:
    return Client(net.local(), "target", 9092)


def values(cluster: ModelCluster, partition: int = 0) -> list[bytes | None]:
    return [r.value for r in cluster.committed("orders", partition)]


def write(client: Client, held: Held, sequence: int, value: bytes, partition: int = 0) -> Produced:
    assert client.add_partitions(TID, held, ("orders", partition)) == [0]
    return client.produce(TID, held, sequence, "orders", partition, [value], version=11)


def test_the_finalized_version_is_offered(client: Client) -> None:
    answer = client.api_versions()
    assert [(f.name, f.max_version_level) for f in answer.finalized_features] == [("transaction.version", 1)]


def test_an_epoch_and_its_sequences_last_over_transactions(client: Client, target: ModelCluster) -> None:
    held = client.take(TID)
    for sequence, value in enumerate([b"a", b"b", b"c"]):
        assert write(client, held, sequence, value).error == 0
        assert client.end_v1(TID, held, commit=True) == 0
        client.network.net.settle()
    assert values(target) == [b"a", b"b", b"c"]
    assert [b.header.producer_epoch for b in target.log("orders", 0).batches] == [held[1]] * 6
    assert client.add_partitions(TID, held, ("orders", 0)) == [0]
    assert client.produce(TID, held, 0, "orders", 0, [b"again"], version=11).error == 0  # known, and not appended
    assert client.produce(TID, held, 7, "orders", 0, [b"hole"], version=11).error == 45
    assert target.log("orders", 0).end == 6


def test_sequences_wrap_to_0(client: Client, target: ModelCluster) -> None:
    held = client.take(TID)
    last = (1 << 31) - 1
    assert client.add_partitions(TID, held, ("orders", 0)) == [0]
    assert client.produce(TID, held, last - 1, "orders", 0, [b"a", b"b", b"c"], version=11).error == 0
    assert client.produce(TID, held, 1, "orders", 0, [b"d"], version=11).error == 0
    client.end_v1(TID, held, commit=True)
    client.network.net.settle()
    assert values(target) == [b"a", b"b", b"c", b"d"]


def test_a_partition_that_is_not_in_the_transaction_is_refused(client: Client, target: ModelCluster) -> None:
    held = client.take(TID)
    assert write(client, held, 0, b"in").error == 0
    assert client.produce(TID, held, 0, "orders", 1, [b"out"], version=11).error == 120
    assert target.log("orders", 1).end == 0


def test_brokers_before_3_6_append_it_all_the_same() -> None:
    cluster = ModelCluster("target", transactions=1, verifies=False)
    cluster.create_topic("orders")
    cluster.has_transaction_log = True
    with ModelNetwork(cluster) as net:
        client = Client(net.local(), "target", 9092)
        held = client.take(TID)
        assert client.produce(TID, held, 0, "orders", 0, [b"hanging"], version=9).error == 0
        assert cluster.log("orders", 0).last_stable_offset == 0


def test_one_unknown_partition_keeps_the_others_out(client: Client, target: ModelCluster) -> None:
    held = client.take(TID)
    assert client.add_partitions(TID, held, ("gone", 0), ("orders", 0), ("orders", 1)) == [3, 55, 55]
    assert target.transaction(TID).partitions == set()


def test_partitions_wait_for_the_transaction_before(client: Client, target: ModelCluster) -> None:
    held = client.take(TID)
    write(client, held, 0, b"x")
    assert client.end_v1(TID, held, commit=True) == 0
    assert client.add_partitions(TID, held, ("orders", 0)) == [51]
    target.write_markers()
    assert client.add_partitions(TID, held, ("orders", 0)) == [0]


def test_a_fenced_owner(client: Client, target: ModelCluster) -> None:
    old = client.take(TID)
    write(client, old, 0, b"zombie")
    new = client.take(TID)
    assert new == (old[0], old[1] + 2)
    assert client.produce(TID, old, 1, "orders", 0, [b"more"], version=11).error == 47
    assert client.produce(TID, old, 0, "orders", 1, [b"more"], version=11).error == 47
    assert client.add_partitions(TID, old, ("orders", 1)) == [90]
    assert client.end_v1(TID, old, commit=True) == 90
    assert client.init(TID, old)[0] == 90
    assert values(target) == []


def test_what_was_open_is_aborted_under_an_epoch_that_nobody_gets(client: Client, target: ModelCluster) -> None:
    """So the old epoch means nothing any more: an owner cannot tell his own abort from a take-over by it."""
    held = client.take(TID)
    write(client, held, 0, b"x")
    assert client.init(TID, held)[0] == 51
    client.network.net.settle()
    assert client.init(TID, held)[0] == 90
    assert client.describe_transaction(TID) == ("CompleteAbort", held[0], held[1] + 1)
    assert client.init(TID, (held[0], held[1] + 1)) == (0, held[0], held[1] + 2)
    assert target.log("orders", 0).batches[-1].header.producer_epoch == held[1] + 1


def test_a_transaction_the_coordinator_timed_out(client: Client, target: ModelCluster, net: ModelNetwork) -> None:
    held = client.take(TID, timeout_ms=5_000)
    write(client, held, 0, b"x")
    net.local().sleep(5.1)
    assert target.transaction(TID).state is State.COMPLETE_ABORT
    assert client.produce(TID, held, 1, "orders", 0, [b"y"], version=11).error == 47
    assert client.end_v1(TID, held, commit=True) == 90
    assert client.init(TID, held)[0] == 90


def test_an_end_that_is_repeated_or_empty(client: Client) -> None:
    held = client.take(TID)
    assert client.end_v1(TID, held, commit=True) == 48
    write(client, held, 0, b"x")
    assert client.end_v1(TID, held, commit=True) == 0
    client.network.net.settle()
    assert client.end_v1(TID, held, commit=True) == 0
    assert client.end_v1(TID, held, commit=False) == 48


def test_a_late_end_commits_the_next_transaction_half_way(client: Client, target: ModelCluster) -> None:
    """KAFKA-17754: nothing in it says which transaction it means."""
    held = client.take(TID)
    write(client, held, 0, b"first")
    client.end_v1(TID, held, commit=True)
    client.network.net.settle()
    write(client, held, 1, b"half of the second")
    assert client.end_v1(TID, held, commit=True) == 0
    client.network.net.settle()
    assert values(target) == [b"first", b"half of the second"]


def test_at_the_last_epoch_a_new_producer_id_is_handed_out() -> None:
    cluster = ModelCluster("target", max_epoch=5, transactions=1)
    cluster.create_topic("orders")
    cluster.has_transaction_log = True
    with ModelNetwork(cluster) as net:
        client = Client(net.local(), "target", 9092)
        held = first = client.take(TID)
        while held[1] < 4:
            held = client.init(TID, held)[1:]
        write(client, held, 0, b"x")
        assert client.init(TID, held)[0] == 51
        net.settle()
        assert client.init(TID, held)[0] == -1
        assert client.describe_transaction(TID) == ("CompleteAbort", first[0], 5)
        error, producer_id, epoch = client.init(TID, (first[0], 5))
        assert (error, epoch) == (0, 0)
        assert producer_id != first[0]


def test_requests_of_version_2_fail_the_test(client: Client) -> None:
    held = client.take(TID)
    with pytest.raises(ModelError, match="EndTxn v5 is of transactions version 2"):
        client.end(TID, held, commit=True)


def test_produces_of_version_2_fail_the_test(client: Client) -> None:
    held = client.take(TID)
    with pytest.raises(ModelError, match="Produce v12 is of transactions version 2"):
        client.produce(TID, held, 0, "orders", 0, [b"x"], version=12)
