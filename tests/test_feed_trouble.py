"""Reading from brokers that refuse, hang, lag, go away or are over their quota. Over the model."""

from __future__ import annotations

from typing import Any

import pytest
from kio.schema.errors import ErrorCode

from eomirror.feed import Reading
from tests.kafkamodel import ModelCluster, ModelNetwork, Owner, answers
from tests.kafkamodel import network as network_of_model
from tests.kafkamodel.coordinator import Wait
from tests.reader import TOPIC, Reader, cluster_of, named, run


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
