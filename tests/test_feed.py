"""Fetch sessions: a request and an answer hold what is new, and nothing gets lost with a session. Over the model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kio.schema.errors import ErrorCode

from eomirror.brokers import Brokers
from eomirror.feed import Reading
from eomirror.source import POLL_SECONDS, Block, Source
from eomirror.wire import Address
from tests.kafkamodel import ModelCluster, ModelNetwork, Owner, read_records
from tests.kafkamodel.client import split
from tests.kafkamodel.sessions import SLOTS, Sessions

PARTITIONS = 40
TOPIC = "orders"


class Reader:
    """A source whose blocks are taken apart: what was read of each partition."""

    def __init__(self, cluster: ModelCluster, network: Owner, *, max_bytes: int = 1 << 20) -> None:
        self.source = Source(Brokers("source", [Address("source", 9092)], "test", network), max_bytes=max_bytes)
        self.found: dict[int, list[bytes]] = {p: [] for p in range(len(cluster.topics[TOPIC].logs))}
        self._topic_id = cluster.topics[TOPIC].topic_id.hex
        self.source.assign(self._reading(p, 0) for p in self.found)

    def _reading(self, partition: int, offset: int) -> Reading:
        return Reading((TOPIC, partition), self._topic_id, offset, None)

    def reread(self, partition: int) -> None:
        self.found[partition].clear()
        self.source.reread(self._reading(partition, 0))

    def read(self, seconds: float = 0.2) -> set[int]:
        """Takes one block; the partitions that it had something of."""
        block = self.source.poll(seconds)
        assert self.source.faults == []
        return set() if block is None else {self.take(block, part) for part in block.parts}

    def take(self, block: Block, part: Any) -> int:
        data = bytes(block.frame[part.start : part.end])
        _, partition = part.key
        for batch in split(data):
            for record in read_records(batch):
                if record.offset >= part.position:
                    self.found[partition].append(record.value or b"")
        return int(partition)

    def read_all(self) -> None:
        """Until every broker has said more than once that there is no more. A partition that has a new leader is asked
        for there when the long poll that is under way has ended."""
        quiet = 0
        while quiet < 3:
            news = self.read(4 * POLL_SECONDS)
            caught_up = all(self.source.caught_up((TOPIC, p)) for p in self.found)
            quiet = quiet + 1 if caught_up and not news else 0


def cluster_of(partitions: int = PARTITIONS, *, nodes: int = 1, slots: int = SLOTS) -> ModelCluster:
    cluster = ModelCluster("source", nodes=nodes)
    cluster.create_topic(TOPIC, partitions)
    for node in cluster.nodes.values():
        node.sessions = Sessions(slots)
    return cluster


def run(cluster: ModelCluster, main: Callable[[Owner, ModelNetwork], None]) -> None:
    with ModelNetwork(cluster) as net:
        reader = net.spawn("reader", lambda network: main(network, net))
        net.run(until=lambda: reader.done)
    if reader.error is not None:
        raise reader.error


def named(net: ModelNetwork) -> list[tuple[int, int]]:
    """How many partitions each fetch named, and how many its answer held."""
    return [
        (sum(len(t.partitions) for t in h.body.topics), sum(len(t.partitions) for t in h.response.responses))
        for h in net.handled(api="Fetch")
    ]


def sessions(cluster: ModelCluster) -> list[int]:
    """How many sessions each broker keeps."""
    return [len(node.sessions.of) for node in cluster.nodes.values()]


def test_requests_and_answers_hold_what_is_new() -> None:
    cluster = cluster_of()

    def main(network: Owner, net: ModelNetwork) -> None:
        reader = Reader(cluster, network)
        reader.read_all()
        assert named(net).count((PARTITIONS, PARTITIONS)) == 1
        before = len(named(net))
        for partition in (7, 3):
            cluster.write(TOPIC, partition, [b"new"])
            assert reader.read() == {partition}
        reader.read_all()
        assert [pair for pair in named(net)[before:] if pair != (0, 0)] == [(0, 1), (1, 1), (1, 0)]
        assert sessions(cluster) == [1]
        assert {p: found for p, found in reader.found.items() if found} == {3: [b"new"], 7: [b"new"]}

    run(cluster, main)


def test_without_a_slot_everything_is_asked_for_each_time_and_in_turn() -> None:
    cluster = cluster_of(4, slots=0)
    for number in range(40):
        cluster.write(TOPIC, number % 4, [b"%d" % number])

    def main(network: Owner, net: ModelNetwork) -> None:
        reader = Reader(cluster, network, max_bytes=100)
        first = set[int]().union(*(reader.read() for _ in range(4)))
        assert first == {0, 1, 2, 3}
        reader.read_all()
        assert set(named(net)) == {(4, 4)}

    run(cluster, main)


def test_in_a_session_every_partition_gets_its_turn() -> None:
    cluster = cluster_of(4)
    for number in range(40):
        cluster.write(TOPIC, number % 4, [b"%d" % number])

    def main(network: Owner, net: ModelNetwork) -> None:
        reader = Reader(cluster, network, max_bytes=100)
        counts = [reader.read() for _ in range(12)]
        assert all(set[int]().union(*counts[i : i + 5]) == {0, 1, 2, 3} for i in range(8))

    run(cluster, main)


@pytest.mark.parametrize(
    "error",
    [
        ErrorCode.fetch_session_id_not_found,
        ErrorCode.invalid_fetch_session_epoch,
        ErrorCode.fetch_session_topic_id_error,
    ],
)
def test_a_session_that_the_broker_does_not_know_is_begun_anew(
    error: ErrorCode, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster = cluster_of()

    def main(network: Owner, net: ModelNetwork) -> None:
        reader = Reader(cluster, network)
        reader.read_all()
        real = Sessions.begin
        refused: list[int] = []

        def begin(self: Sessions, body: Any, key: Callable[[Any], Any]) -> Any:
            if not refused:
                refused.append(body.session_id)
                self.evict(body.session_id)
                return error, None, {}
            return real(self, body, key)

        monkeypatch.setattr(Sessions, "begin", begin)
        cluster.write(TOPIC, 5, [b"new"])
        before = len(named(net))
        reader.read_all()
        assert reader.found[5] == [b"new"]
        assert named(net)[before:].count((PARTITIONS, PARTITIONS)) == 1
        assert refused != [0]
        assert sessions(cluster) == [1]

    run(cluster, main)


def test_a_session_that_is_refused_again_and_again_is_no_storm(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = cluster_of(2)
    refusal = ErrorCode.fetch_session_id_not_found
    monkeypatch.setattr(Sessions, "begin", lambda self, body, key: (refusal, None, {}))

    def main(network: Owner, net: ModelNetwork) -> None:
        reader = Reader(cluster, network)
        for _ in range(10):
            assert reader.read(1.0) == set()
        assert len(named(net)) < 20

    run(cluster, main)


def test_other_partitions_are_another_session_and_the_old_one_ends() -> None:
    cluster = cluster_of()

    def main(network: Owner, net: ModelNetwork) -> None:
        reader = Reader(cluster, network)
        reader.read_all()
        cluster.write(TOPIC, 1, [b"new"])
        cluster.write(TOPIC, 2, [b"new"])
        reader.read_all()
        reader.reread(1)
        assert not reader.source.caught_up((TOPIC, 1))
        assert not reader.source.may_rest
        reader.source.stop((TOPIC, 2))
        del reader.found[2]
        cluster.write(TOPIC, 2, [b"not read"])
        reader.read_all()
        assert reader.source.may_rest
        assert reader.found[1] == [b"new"]
        assert sum(PARTITIONS - 1 in pair for pair in named(net)) == 1
        assert sessions(cluster) == [1]

    run(cluster, main)


def test_a_partition_in_trouble_is_told_of_when_that_is_over() -> None:
    """It has nothing new then; the answer must hold it all the same."""
    cluster = cluster_of(3)

    def main(network: Owner, net: ModelNetwork) -> None:
        reader = Reader(cluster, network)
        reader.read_all()
        cluster.inject("Fetch", int(ErrorCode.unknown_server_error))
        reader.read()
        troubles = [reader.source.readings[TOPIC, p].trouble for p in range(3)]
        assert all("UNKNOWN_SERVER_ERROR" in (trouble or "") for trouble in troubles)
        reader.read(1.0)
        assert [reader.source.readings[TOPIC, p].trouble for p in range(3)] == [None] * 3
        assert sum(pair[0] == 3 for pair in named(net)) == 1

    run(cluster, main)


class Faulty:
    """What may happen to the sessions of a source with two brokers, in any order."""

    def __init__(self, cluster: ModelCluster, reader: Reader) -> None:
        self._cluster = cluster
        self._reader = reader
        self._numbers = iter(range(1_000_000))
        self.written: dict[int, list[bytes]] = {p: [] for p in reader.found}

    def write(self, partition: int) -> None:
        value = b"%d" % next(self._numbers)
        self._cluster.write(TOPIC, partition, [value])
        self.written[partition].append(value)

    def evict(self, partition: int) -> None:
        for node in self._cluster.nodes.values():
            for number in list(node.sessions.of):
                node.sessions.evict(number)

    def move(self, partition: int) -> None:
        leader = self._cluster.leader(TOPIC, partition)
        self._cluster.move_leader(TOPIC, partition, 2 if leader == 1 else 1)

    def refuse(self, partition: int) -> None:
        self._cluster.inject("Fetch", int(ErrorCode.unknown_server_error))

    def reread(self, partition: int) -> None:
        self._reader.reread(partition)

    def read(self, partition: int) -> None:
        self._reader.read(0.03)

    def gather(self, partition: int) -> None:
        self._reader.source.rested()
        block = self._reader.source.gather(ask=True)
        for part in block.parts if block is not None else ():
            self._reader.take(block, part)


STEPS = ("write", "write", "write", "read", "read", "gather", "evict", "move", "refuse", "reread")


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(STEPS), st.integers(0, 4)), max_size=60), st.sampled_from([0, 1, SLOTS]))
def test_everything_is_read_once_and_in_order(steps: list[tuple[str, int]], slots: int) -> None:
    cluster = cluster_of(5, nodes=2, slots=slots)

    def main(network: Owner, net: ModelNetwork) -> None:
        reader = Reader(cluster, network, max_bytes=200)
        faulty = Faulty(cluster, reader)
        for step, partition in steps:
            getattr(faulty, step)(partition)
        reader.read_all()
        assert reader.found == faulty.written
        assert reader.source.may_rest
        assert not reader.source.behind

    run(cluster, main)
