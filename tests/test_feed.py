"""Fetch sessions: a request and an answer hold what is new, and nothing gets lost with a session. Over the model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kio.schema.errors import ErrorCode

from eomirror.brokers import Brokers
from eomirror.feed import MAX_EPOCH, Reading
from eomirror.source import POLL_SECONDS, Block, Source
from eomirror.wire import Address
from tests.kafkamodel import ModelCluster, ModelNetwork, OpenTransaction, Owner, answers, read_header, read_records
from tests.kafkamodel import network as network_of_model
from tests.kafkamodel.client import split
from tests.kafkamodel.coordinator import Wait
from tests.kafkamodel.records import CONTROL
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
            for record in read_records(batch) if not read_header(batch).attributes & CONTROL else ():
                if record.offset >= part.position:
                    self.found[partition].append(record.value or b"")
        return int(partition)

    def troubles(self) -> list[str | None]:
        return [reading.trouble for _, reading in sorted(self.source.readings.items())]

    def check(self) -> None:
        """What is kept up to date is what can be counted: who has news to bring, and whom nobody has heard of."""
        is_behind = self.source.behind
        feeds = {id(r.feed): r.feed for r in self.source.readings.values() if r.feed is not None}.values()
        for feed in feeds:
            readings = list(feed.readings.values())
            assert all(reading.feed is feed for reading in readings)
            assert feed.unheard == {reading for reading in readings if reading.is_unheard}
            assert feed.behind <= any(reading.is_left for reading in readings)
        assert is_behind == any(feed.behind for feed in feeds)

    def lose(self, net: ModelNetwork, node: int) -> None:
        """The connection to that broker breaks."""
        for reading in self.source.readings.values():
            feed = reading.feed
            if feed is not None and feed.node == node and feed.link is not None:
                net.break_connection(feed.link.socket, after=None)
                return

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


def test_a_lost_leader_is_no_trouble_for_what_is_read_elsewhere() -> None:
    """Its session there goes on without news: nothing would ever say that the trouble is over."""
    cluster = cluster_of(3, nodes=2)  # leaders: 1, 2, 1
    cluster.preferred[TOPIC, 0] = 2

    def main(network: Owner, net: ModelNetwork) -> None:
        cluster.write(TOPIC, 0, [b"a"])
        reader = Reader(cluster, network)
        reader.read_all()
        assert reader.found[0] == [b"a"]
        reader.lose(net, 1)
        for _ in range(20):
            reader.read(1.0)
        assert reader.troubles() == [None] * 3
        reader.lose(net, 2)  # then its leader is asked, and sends us there again
        cluster.write(TOPIC, 0, [b"b"])
        reader.read_all()
        assert reader.found[0] == [b"a", b"b"]
        assert reader.troubles() == [None] * 3
        cluster.move_leader(TOPIC, 1, 1)
        cluster.nodes[2].up = False  # then it goes on without it
        reader.lose(net, 2)
        cluster.write(TOPIC, 0, [b"c"])
        reader.read_all()
        assert reader.found[0] == [b"a", b"b", b"c"]

    run(cluster, main)


def test_what_a_former_leader_says_late_is_not_heard(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = cluster_of(3, nodes=2)  # leaders: 1, 2, 1
    real = answers.leading
    gone = {"since": float("inf")}

    def leading(on: ModelCluster, node: Any, topic: Any, partition: int) -> Any:
        error, log = real(on, node, topic, partition)
        if error and on.clock.now < gone["since"]:
            return ErrorCode.none, topic.logs[partition]
        return (ErrorCode.unknown_server_error, None) if error else (error, log)

    monkeypatch.setattr(answers, "leading", leading)

    def main(network: Owner, net: ModelNetwork) -> None:
        reader = Reader(cluster, network)
        reader.read_all()
        for moment in (0.05, 0.2, 0.3, 0.4):  # of the long poll that is under way at the former leader
            former, leader = (1, 2) if cluster.leader(TOPIC, 0) == 1 else (2, 1)
            cluster.write(TOPIC, 2 if former == 1 else 1, [b"so that a long poll begins now"])
            reader.read(1.0)
            reader.read(0.01)
            gone["since"] = network.now() + moment
            cluster.move_leader(TOPIC, 0, leader)
            reader.source._metadata_due = 0.0
            for _ in range(2):  # so that the new leader answers what it was asked before, then for this one, and first
                cluster.write(TOPIC, 1 if former == 1 else 2, [b"at the new leader"])
                reader.read(0.02)
                reader.read(0.02)
            for _ in range(12):
                reader.read(0.5)
            assert reader.troubles() == [None] * 3

    run(cluster, main)


def test_a_partition_that_is_reread_again_and_again_takes_no_turn_of_others() -> None:
    cluster = cluster_of(4)
    for number in range(160):
        cluster.write(TOPIC, number % 4, [b"%d" % number])

    def main(network: Owner, net: ModelNetwork) -> None:
        reader = Reader(cluster, network, max_bytes=100)
        seen = []
        for _ in range(16):
            found = reader.read()
            seen += list(found)
            for partition in found:
                old = reader.source.readings[TOPIC, partition]
                reader.source.reread(Reading(old.key, old.topic_id, old.offset, old.epoch))
        assert [seen.count(partition) for partition in range(4)] == [4, 4, 4, 4]

    run(cluster, main)


@pytest.mark.parametrize("refused", [1, 3, 10])
def test_partitions_in_error_do_not_hold_back_the_others(refused: int, monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = cluster_of(12)
    real = answers.leading

    def leading(on: ModelCluster, node: Any, topic: Any, partition: int) -> Any:
        if partition < refused:
            return ErrorCode.topic_authorization_failed, None
        return real(on, node, topic, partition)

    monkeypatch.setattr(answers, "leading", leading)
    for number in range(50):
        cluster.write(TOPIC, 11, [b"%d" % number])

    def main(network: Owner, net: ModelNetwork) -> None:
        reader = Reader(cluster, network, max_bytes=100)
        began = network.now()
        while len(reader.found[11]) < 50:
            reader.read(1.0)
        assert network.now() - began < 4.0
        assert reader.troubles()[:refused] == ["TOPIC_AUTHORIZATION_FAILED (29)"] * refused

    run(cluster, main)


def test_an_offset_of_which_nobody_says_whether_it_is_there_is_no_storm() -> None:
    cluster = cluster_of(2)

    def main(network: Owner, net: ModelNetwork) -> None:
        reader = Reader(cluster, network)
        reader.read_all()
        before = len(named(net))
        cluster.inject("Fetch", int(ErrorCode.offset_out_of_range), times=10**6)
        cluster.inject("ListOffsets", int(ErrorCode.offset_not_available), times=10**6)
        for _ in range(3):
            reader.read(0.3)
        assert len(named(net)) - before < 30
        cluster.injected.clear()
        reader.read_all()
        assert reader.troubles() == [None] * 2

    run(cluster, main)


def test_a_follower_that_lags_behind_and_is_preferred_all_the_same_is_no_storm(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = cluster_of(2, nodes=2)
    cluster.preferred[TOPIC, 0] = 2
    real = answers._serving

    def serving(on: ModelCluster, node: Any, topic: Any, partition: int) -> Any:
        error, log = real(on, node, topic, partition)
        return (ErrorCode.offset_out_of_range if (node.node_id, partition) == (2, 0) else error), log

    monkeypatch.setattr(answers, "_serving", serving)

    def main(network: Owner, net: ModelNetwork) -> None:
        reader = Reader(cluster, network)
        for _ in range(3):
            reader.read(0.3)
        assert len(named(net)) < 60
        cluster.preferred.clear()
        cluster.write(TOPIC, 0, [b"x"])
        reader.read_all()
        assert reader.found[0] == [b"x"]

    run(cluster, main)


def test_a_partition_that_was_stopped_is_read_again_at_once() -> None:
    cluster = cluster_of(2)

    def main(network: Owner, net: ModelNetwork) -> None:
        reader = Reader(cluster, network)
        reader.read_all()
        reader.source.stop((TOPIC, 0))
        reader.read(1.0)
        cluster.write(TOPIC, 0, [b"x"])
        reader.reread(0)
        began = network.now()
        while not reader.found[0]:
            reader.read(1.0)
        assert network.now() - began < 1.0

    run(cluster, main)


def test_a_broker_over_its_quota_is_left_alone_for_as_long_as_it_says() -> None:
    cluster = cluster_of(3)

    def main(network: Owner, net: ModelNetwork) -> None:
        reader = Reader(cluster, network)
        for whole, values in ((4, [b"a"]), (4, [b"a", b"b", b"c"])):
            began, before = network.now(), len(named(net))
            cluster.throttled = 3  # in the second turn after an answer to the long poll that is under way
            for value in values[len(reader.found[0]) :]:
                cluster.write(TOPIC, 0, [value])
                network.sleep(0.01)
            while reader.found[0] != values:
                reader.read(1.0)
            assert network.now() - began > 3 * answers.THROTTLE_SECONDS
            assert len(named(net)) - before <= 5
            assert sum(pair[0] == 3 for pair in named(net)) == whole  # a session goes on
            reader.read_all()

    run(cluster, main)


def test_the_epoch_of_a_session_begins_again_after_the_last() -> None:
    cluster = cluster_of(3)

    def main(network: Owner, net: ModelNetwork) -> None:
        reader = Reader(cluster, network)
        reader.read_all()
        feed = reader.source.readings[TOPIC, 0].feed
        (session,) = cluster.nodes[1].sessions.of.values()
        assert feed is not None
        while feed.poll is not None:
            reader.read(POLL_SECONDS / 10)
        feed._epoch = session.epoch = MAX_EPOCH
        for value in (b"a", b"b", b"c"):
            cluster.write(TOPIC, 0, [value])
            reader.read_all()
        assert reader.found[0] == [b"a", b"b", b"c"]
        assert 1 <= session.epoch < 100
        assert sum(pair[0] == 3 for pair in named(net)) == 1

    run(cluster, main)


def test_offset_and_epoch_of_the_last_batch_go_together() -> None:
    cluster = cluster_of(1)

    def main(network: Owner, net: ModelNetwork) -> None:
        reader = Reader(cluster, network)
        cluster.write(TOPIC, 0, [b"a"])
        reader.read_all()
        first = cluster.log(TOPIC, 0).leader_epoch
        cluster.move_leader(TOPIC, 0, 1)
        cluster.write(TOPIC, 0, [b"b"])
        reader.read_all()
        asked = [p for h in net.handled(api="Fetch") for t in h.body.topics for p in t.partitions]
        epochs = dict.fromkeys((p.fetch_offset, p.last_fetched_epoch) for p in asked)
        assert list(epochs) == [(0, -1), (1, first), (2, first + 1)]

    run(cluster, main)


def test_what_was_assigned_anew_does_not_wait_for_a_long_poll() -> None:
    cluster = cluster_of(2)

    def main(network: Owner, net: ModelNetwork) -> None:
        reader = Reader(cluster, network)
        reader.read_all()
        cluster.write(TOPIC, 0, [b"so that a long poll begins now"])
        reader.read()
        reader.read(0.01)
        reader.source.assign([Reading(r.key, r.topic_id, r.offset, r.epoch) for r in reader.source.readings.values()])
        began = network.now()
        reader.read(1.0)
        assert network.now() - began < 0.1
        assert reader.source.caught_up((TOPIC, 1))

    run(cluster, main)


def test_a_broker_that_never_answers_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = cluster_of(2)
    real = network_of_model.answer
    hangs = []

    def answer(on: ModelCluster, node: Any, request: Any) -> Any:
        if hangs and request.api == "Fetch":
            yield Wait("hangs", until=on.clock.now + 60)
        return (yield from real(on, node, request))

    monkeypatch.setattr(network_of_model, "answer", answer)

    def main(network: Owner, net: ModelNetwork) -> None:
        reader = Reader(cluster, network)
        reader.read_all()
        hangs.append(True)
        for _ in range(20):
            reader.read(1.0)
        assert all("no answer to a fetch" in (trouble or "") for trouble in reader.troubles())
        assert not reader.source.behind
        assert reader.source.may_rest

    run(cluster, main)


def test_nobody_waits_for_what_a_partition_in_trouble_has_left() -> None:
    cluster = cluster_of(2)
    for number in range(8):
        cluster.write(TOPIC, 0, [b"%d" % number])

    def main(network: Owner, net: ModelNetwork) -> None:
        reader = Reader(cluster, network, max_bytes=100)
        assert reader.read() == {0}
        assert reader.source.behind
        for _ in range(2):  # the first one is under way already
            assert reader.read() == {0}
        cluster.inject("Fetch", int(ErrorCode.unknown_server_error), times=10**6)
        while not any(reader.troubles()):
            reader.read()
        assert not reader.source.behind

    run(cluster, main)


class Faulty:
    """What may happen to a source with three brokers, in any order. Each step is of one partition."""

    def __init__(self, cluster: ModelCluster, reader: Reader, net: ModelNetwork, network: Owner) -> None:
        self._cluster, self._reader, self._net, self._network = cluster, reader, net, network
        self._numbers = iter(range(1_000_000))
        self._open: dict[int, tuple[OpenTransaction, bytes]] = {}
        self.written: dict[int, list[bytes]] = {p: [] for p in reader.found}

    def write(self, partition: int) -> None:
        value = b"%d" % next(self._numbers)
        self._cluster.write(TOPIC, partition, [value])
        self.written[partition].append(value)

    def begin(self, partition: int) -> None:
        if partition not in self._open:
            transaction, value = self._cluster.begin(), b"%d" % next(self._numbers)
            transaction.write(TOPIC, partition, [value])
            self._open[partition] = transaction, value
            self.written[partition].append(value)

    def commit(self, partition: int) -> None:
        if partition in self._open:
            self._open.pop(partition)[0].end(commit=True)

    def evict(self, partition: int) -> None:
        for node in self._cluster.nodes.values():
            for number in list(node.sessions.of):
                node.sessions.evict(number)

    def move(self, partition: int) -> None:
        leader = self._cluster.leader(TOPIC, partition) or 3
        self._cluster.move_leader(TOPIC, partition, leader % 3 + 1)

    def lead_nobody(self, partition: int) -> None:
        self._cluster.move_leader(TOPIC, partition, None)

    def prefer(self, partition: int) -> None:
        if self._cluster.preferred.pop((TOPIC, partition), None) is None:
            self._cluster.preferred[TOPIC, partition] = next(self._numbers) % 3 + 1

    def refuse(self, partition: int) -> None:
        self._cluster.inject("Fetch", [-1, 56, 6, 78, 100][partition])

    def throttle(self, partition: int) -> None:
        self._cluster.throttled = partition

    def lose(self, partition: int) -> None:
        self._reader.lose(self._net, partition % 3 + 1)

    def reread(self, partition: int) -> None:
        self._reader.reread(partition)

    def assign(self, partition: int) -> None:
        old = list(self._reader.source.readings.values())
        turned = old[partition:] + old[:partition]
        self._reader.source.assign(Reading(r.key, r.topic_id, r.offset, r.epoch) for r in turned)

    def read(self, partition: int) -> None:
        self._reader.read([0.0, 0.01, 0.03, 0.1, 0.6][partition])

    def gather(self, partition: int) -> None:
        self._reader.source.rested()
        block = self._reader.source.gather(ask=partition % 2 == 0)
        for part in block.parts if block is not None else ():
            self._reader.take(block, part)

    def wait(self, partition: int) -> None:
        self._network.sleep([0.001, 0.05, 0.3, 0.5, 1.1][partition])

    def end(self) -> None:
        """Everybody is well again."""
        for partition in self.written:
            self.commit(partition)
            if self._cluster.leader(TOPIC, partition) is None:
                self._cluster.move_leader(TOPIC, partition, 1)
        self._cluster.throttled = 0
        self._cluster.injected.clear()


STEPS = (
    *("write", "write", "write", "begin", "commit", "read", "read", "read", "gather", "wait", "evict", "move"),
    *("lead_nobody", "prefer", "refuse", "throttle", "lose", "reread", "assign"),
)


@settings(max_examples=250, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from(STEPS), st.integers(0, 4)), max_size=60),
    st.sampled_from([0, 1, SLOTS]),
    st.sampled_from([100, 1000]),
)
def test_everything_is_read_once_and_in_order(steps: list[tuple[str, int]], slots: int, max_bytes: int) -> None:
    cluster = cluster_of(5, nodes=3, slots=slots)

    def main(network: Owner, net: ModelNetwork) -> None:
        reader = Reader(cluster, network, max_bytes=max_bytes)
        faulty = Faulty(cluster, reader, net, network)
        for step, partition in steps:
            getattr(faulty, step)(partition)
            reader.check()
        faulty.end()
        began, before = network.now(), len(named(net))
        reader.read_all()
        assert reader.found == faulty.written
        assert reader.troubles() == [None] * 5
        assert reader.source.may_rest
        assert not reader.source.behind
        # It neither stalls nor storms, and at rest nobody is asked more often than a long poll takes.
        took = network.now() - began
        assert took < 60
        assert len(named(net)) - before < 150 + 36 * took
        before = len(named(net))
        for _ in range(3):
            reader.read(2.0)
        assert len(named(net)) - before <= 3 * 6 / POLL_SECONDS + 6
        assert max(sessions(cluster)) <= 4

    run(cluster, main)
