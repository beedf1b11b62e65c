"""The model's network: the same choices make the same run; what goes wrong goes wrong as it does between machines."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest

from tests.kafkamodel import (
    ExactlyOnce,
    Faults,
    ModelCluster,
    ModelError,
    ModelNetwork,
    Only,
    Owner,
    Record,
    Script,
    Seeded,
    Stuck,
    build_batch,
    repeated,
)
from tests.kafkamodel.client import Client, batch
from tests.kafkamodel.messages import END_TXN, PRODUCE
from tests.kafkamodel.records import TRANSACTIONAL

TID = "lane.a"
OTHER = "lane.b"


@pytest.fixture
def target() -> ModelCluster:
    cluster = ModelCluster("target")
    cluster.create_topic("orders", 3)
    cluster.has_transaction_log = True
    return cluster


@pytest.fixture
def net(target: ModelCluster) -> Iterator[ModelNetwork]:
    with ModelNetwork(target) as made:
        yield made


def values(cluster: ModelCluster, partition: int = 0) -> list[bytes | None]:
    return [r.value for r in cluster.committed("orders", partition)]


def produce_all(count: int) -> Callable[[Owner], tuple[int, int]]:
    """An owner that commits one record per transaction."""

    def main(network: Owner) -> tuple[int, int]:
        client = Client(network, "target", 9092)
        client.find_coordinator(TID)
        held = client.take(TID)
        for i in range(count):
            assert client.produce(TID, held, 0, "orders", i % 3, [b"%d" % i]).error == 0
            error, *after = client.end(TID, held, commit=True)
            assert error == 0
            held = (after[0], after[1])
        return held

    return main


def over(net: ModelNetwork) -> bool:
    return all(o.done for o in net.owners)


def test_an_owner_runs_to_its_end(target: ModelCluster, net: ModelNetwork) -> None:
    owner = net.spawn("X", produce_all(6))
    net.run()
    assert owner.error is None
    assert owner.result[1] == 6
    assert [values(target, p) for p in range(3)] == [[b"0", b"3"], [b"1", b"4"], [b"2", b"5"]]


def test_small_reads_and_writes_make_no_difference(target: ModelCluster) -> None:
    with ModelNetwork(target, max_send=7, max_receive=5) as net:
        owner = net.spawn("X", produce_all(3))
        net.run()
        assert owner.error is None
        assert values(target) == [b"0"]


@pytest.mark.parametrize("interleave", [True, False])
def test_the_same_seed_makes_the_same_run(interleave: bool) -> None:
    def trace(seed: int) -> list[Any]:
        cluster = ModelCluster("target")
        cluster.create_topic("orders", 3)
        with ModelNetwork(cluster, interleave=interleave) as net:
            for name in ("X", "Y"):
                net.spawn(name, produce_all(5), respawn=True)
            net.run(Seeded(seed, Faults(kills=2), fault=0.1), until=lambda: net.steps > 250 or over(net))
            return [*net.trace, *(b.data for log in cluster.topics["orders"].logs for b in log.batches)]

    assert trace(1) == trace(1)
    assert trace(1) != trace(2)


def test_requests_of_a_broken_connection_are_lost_or_late(target: ModelCluster, net: ModelNetwork) -> None:
    local = net.local()
    for after, expected in ((None, []), (0, [b"x"]), (10, [b"x"])):
        client = Client(local, "target", 9092)
        data = batch([b"x"], (-1, -1), -1, attributes=0)
        client.send(PRODUCE, 12, client.produce_body(12, None, {("orders", 0): data}))
        net.break_connection(client.socket, after=after)
        with pytest.raises(EOFError):
            client.receive()
        assert values(target) == []
        net.settle()
        assert values(target) == expected
        target.log("orders", 0).truncate(0)


def test_a_reset_and_writing_to_what_is_gone(net: ModelNetwork) -> None:
    client = Client(net.local(), "target", 9092)
    net.break_connection(client.socket, after=None, reset=True)
    with pytest.raises(ConnectionResetError):
        client.receive()
    with pytest.raises(BrokenPipeError):
        client.socket.sendall(b"x")
    client.close()
    with pytest.raises(OSError, match="Bad file descriptor"):
        client.socket.sendmsg([b"x"])


def test_a_duplicated_request_arrives_again_when_its_time_has_come(target: ModelCluster, net: ModelNetwork) -> None:
    client = Client(net.local(), "target", 9092)
    client.send(
        PRODUCE,
        12,
        client.produce_body(12, None, {("orders", 0): batch([b"x"], (-1, -1), -1, attributes=0)}),
    )
    net.duplicate(client.socket, after=3)
    client.receive()
    assert values(target) == [b"x"]
    net.settle()
    assert values(target) == [b"x", b"x"]
    assert [h.answered for h in net.handled(api="Produce")] == [True, False]


def test_a_broker_handles_one_request_of_a_connection_at_a_time(target: ModelCluster, net: ModelNetwork) -> None:
    client = Client(net.local(), "target", 9092)
    client.send(1, 12, client.fetch_body(12, "orders", 0, 0, max_wait_ms=300))
    client.send(1, 12, client.fetch_body(12, "orders", 1, 0))
    began = net.clock.now
    client.receive()
    client.receive()
    assert net.clock.now - began >= 0.3


def test_what_a_killed_owner_sent_may_still_arrive(target: ModelCluster, net: ModelNetwork) -> None:
    cleaned_up = []

    def main(network: Owner) -> None:
        client = Client(network, "target", 9092)
        held = client.take(TID)
        client.produce(TID, held, 0, "orders", 0, [b"x"])
        client.send(END_TXN, 5, client.end_body(TID, held, True))
        try:
            client.receive()
        finally:
            cleaned_up.append(network.name)
            client.socket.sendall(b"a dead process sends nothing")

    owner = net.spawn("X", main)
    net.run(until=lambda: any(e.label == "EndTxn" for e in net.progress()))
    net.kill(owner, after=5)
    assert owner.done
    assert cleaned_up == ["X"]
    assert values(target) == []
    net.run()
    net.settle()
    assert values(target) == [b"x"]


def test_a_killed_owner_gets_a_successor(net: ModelNetwork) -> None:
    net.spawn("X", lambda network: network.sleep(1), respawn=True)
    net.run(until=lambda: net.clock.now > 1000.5 or net.owner("X").waits_for != "")
    net.kill(net.owner("X"))
    net.run()
    assert [o.name for o in net.owners] == ["X", "X'"]
    assert [o.error for o in net.owners] == [None, None]


def test_receives_time_out_on_the_models_clock(net: ModelNetwork) -> None:
    local = net.local()
    client = Client(local, "target", 9092, timeout=2.5)
    began = net.clock.now
    with pytest.raises(TimeoutError):
        client._read(1)
    assert net.clock.now == began + 2.5
    assert local.wait([client.socket], 0.5) == []
    assert net.clock.now == began + 3.0


def test_a_coordinator_of_another_node_and_refused_dials() -> None:
    cluster = ModelCluster("pair", nodes=2)
    with ModelNetwork(cluster) as net:
        local = net.local()
        one, two = Client(local, "pair", 9092), Client(local, "pair", 9093)
        assert one.find_coordinator(TID).port == 9092
        cluster.coordinator_node = 2
        assert one.init(TID)[0] == 16
        assert one.find_coordinator(TID).port == 9093
        assert two.init(TID)[0] == 0
        local.refuse_dials = 1
        with pytest.raises(ConnectionRefusedError):
            Client(local, "pair", 9092)
        with pytest.raises(ModelError, match="no model cluster"):
            Client(local, "elsewhere", 9092)


def test_stuck_owners_and_endless_ones_are_reported(target: ModelCluster) -> None:
    def forever(network: Owner) -> None:
        Client(network, "target", 9092, timeout=None)._read(1)  # type: ignore[arg-type]

    def busy(network: Owner) -> None:
        while True:
            network.sleep(0.01)

    with ModelNetwork(target) as net:
        net.spawn("X", forever)
        with pytest.raises(Stuck, match="nothing can happen"):
            net.run()
    with ModelNetwork(target) as net:
        net.spawn("X", busy)
        with pytest.raises(Stuck, match="no end after 50 steps"):
            net.run(budget=50)


def test_what_is_refused_loudly_is_not_swallowed_in_the_owner(net: ModelNetwork) -> None:
    def main(network: Owner) -> None:
        client = Client(network, "target", 9092)
        client.produce(TID, (1, 0), 0, "orders", 0, [b"x"], version=11)

    net.spawn("X", main)
    with pytest.raises(ModelError):
        net.run()


def test_faults_are_offered_only_while_their_number_lasts(target: ModelCluster, net: ModelNetwork) -> None:
    net.spawn("X", produce_all(5), respawn=True)
    faults = Faults(holds=0, breaks=0, duplicates=0, kills=2, time_outs=0, expiries=0, refusals=0)
    net.run(Seeded(3, faults, fault=0.5), until=lambda: net.steps > 300 or over(net))
    assert len([t for t in net.trace if t[2] == "kill"]) == 2
    assert [o.name for o in net.owners] == ["X", "X'", "X''"]
    assert faults.kills == 0


# --- a lane in miniature: the model finds what the rule of the pair prevents


class Doubt(Exception):
    """Something in the transaction is not known to have worked."""


def lane(network: Owner, identity: Callable[[int, int], str], rewinds: int = 50) -> None:
    """Copies orders[0] from source to target; the checkpoint holds n and the position, in the same transaction.

    `identity(n, k)` names the identity for transaction n, the k-th since the last take.
    """
    source, target = Client(network, "source", 9092), Client(network, "target", 9092)
    for client in (source, target):
        client.metadata("orders", "checkpoint") if client is target else client.metadata("orders")
    target.find_coordinator(TID)
    for _ in range(rewinds):
        try:
            held = {TID: target.take(TID), OTHER: target.take(OTHER)}
            checkpoints = target.read_committed("checkpoint", 0)
            if checkpoints is None:
                raise Doubt
            n, position = (int(x) for x in (checkpoints[-1].value or b"").split()) if checkpoints else (0, 0)
            k = 0
            while True:
                found = source.fetch("orders", 0, position, max_bytes=150, max_wait_ms=100)
                if found.error or not found.records:
                    return
                tid = identity(n, k)
                n, k, position = n + 1, k + 1, found.records[-1].offset + 1
                sequence = 0
                for topic, records in (
                    ("orders", found.records),
                    ("checkpoint", [Record(0, 1, None, b"%d %d" % (n, position))]),
                ):
                    made = build_batch(
                        [r._replace(offset=i) for i, r in enumerate(records)],
                        producer_id=held[tid][0],
                        producer_epoch=held[tid][1],
                        base_sequence=sequence,
                        attributes=TRANSACTIONAL,
                    )
                    if target.produce_raw(tid, {(topic, 0): made})[0].error:
                        raise Doubt
                error, producer_id, epoch = target.end(tid, held[tid], commit=True)
                if error:
                    raise Doubt
                held[tid] = producer_id, epoch
        except Doubt:
            network.sleep(0.002)


def by_number(n: int, k: int) -> str:
    return (TID, OTHER)[n % 2]


def mirror_pair(records: int) -> tuple[ModelCluster, ModelCluster, ExactlyOnce]:
    source, target = ModelCluster("source"), ModelCluster("target")
    source.create_topic("orders")
    target.create_topic("orders")
    target.create_topic("checkpoint")
    for i in range(records):
        source.write("orders", 0, [b"%d" % i, b"%d'" % i])
    return source, target, ExactlyOnce(source, target, [(("orders", 0), ("orders", 0))])


def race(net: ModelNetwork, first: Callable[[int, int], str], second: Callable[[int, int], str]) -> None:
    """X:a, Y:a, Y:b, X:b, then both go on."""
    net.spawn("X", lambda network: lane(network, first))
    net.spawn("Y", lambda network: lane(network, second))

    def inits(owner: str) -> int:
        return len([h for h in net.handled(owner=owner, api="InitProducerId") if int(h.response.error_code) == 0])

    net.run(Only("X"), until=lambda: inits("X") == 1)
    net.run(Only("Y"), until=lambda: inits("Y") == 2)
    net.run(Only("X"), until=lambda: inits("X") == 2)
    net.run()


def test_crossed_takes_are_exact_with_the_rule_of_the_pair() -> None:
    source, target, mirror = mirror_pair(6)
    with ModelNetwork(source, target) as net:
        net.each_step(mirror.check)
        race(net, by_number, by_number)
        assert [o.error for o in net.owners] == [None, None]
        assert mirror.complete()
        assert repeated(target.committed("orders", 0)) == {}


def test_crossed_takes_double_records_when_the_starting_identity_is_free() -> None:
    source, target, mirror = mirror_pair(6)
    with ModelNetwork(source, target) as net:
        race(net, lambda n, k: (OTHER, TID)[k % 2], lambda n, k: (TID, OTHER)[k % 2])
        net.settle()
        assert repeated(target.committed("orders", 0)) != {}
        with pytest.raises(AssertionError, match="the source has"):
            mirror.check()


@pytest.mark.parametrize("seed", range(40))
def test_two_lanes_and_every_fault_stay_exact(seed: int) -> None:
    source, target, mirror = mirror_pair(6)

    def main(network: Owner) -> None:
        for _ in range(20):
            try:
                return lane(network, by_number)
            except (OSError, EOFError):
                network.sleep(0.003)
        return None

    with ModelNetwork(source, target) as net:
        net.each_step(mirror.check)
        net.spawn("X", main, respawn=True)
        net.spawn("Y", main, respawn=True, after=seed)
        net.run(Seeded(seed, Faults(kills=2, breaks=4, duplicates=4), fault=0.08), budget=30_000)
        assert [o.error for o in net.owners if o.error] == []
        net.settle()
        mirror.check()
        assert mirror.mirrored == 12


@pytest.mark.parametrize("choices", [[], [0] * 20 + [2, 4, 6, 8, 10, 12], [7, 3, 90, 1, 1, 44, 0, 238] * 10])
def test_a_script_is_fair_when_it_is_used_up(choices: Sequence[int]) -> None:
    source, target, mirror = mirror_pair(4)
    with ModelNetwork(source, target) as net:
        net.each_step(mirror.check)
        net.spawn("X", lambda network: lane(network, by_number))
        script = Script(choices, Faults(breaks=0, expiries=0, refusals=0))
        net.run(script)
        assert net.owner("X").error is None
        assert mirror.complete()
        assert script.position == min(len(choices), net.steps)
