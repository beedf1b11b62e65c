"""Fetch sessions: a request and an answer hold what is new, and nothing gets lost with a session. Over the model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from kio.schema.errors import ErrorCode

from eomirror.feed import MAX_EPOCH
from eomirror.source import POLL_SECONDS
from tests.kafkamodel import ModelNetwork, Owner
from tests.kafkamodel.sessions import Sessions
from tests.reader import PARTITIONS, TOPIC, Reader, cluster_of, named, run, sessions


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
