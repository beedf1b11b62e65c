"""A lane over the model of Kafka with transactions version 1: what is late, what is enlisted, what goes by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from eomirror.errors import Reason
from eomirror.identity import MAX_SEQUENCE, Identity
from eomirror.records import State
from tests import lanes
from tests.kafkamodel import ExactlyOnce, ModelCluster, ModelNetwork, Only, Owner, Script
from tests.kafkamodel.log import Fate

ROUTES = {"orders": 2}
KEYS = [("orders", 0), ("orders", 1)]


_quiet = lanes.quiet


class Flow:
    """One lane with two partitions; `causes` are those of its rewinds."""

    def __init__(self, **target: Any) -> None:
        self.source = ModelCluster("source")
        self.target = ModelCluster("target", **{"transactions": 1} | target)
        lanes.prepare(self.source, self.target, ROUTES)
        self.orders = lanes.orders(self.source, ROUTES)
        self.mirror = ExactlyOnce(self.source, self.target, [(key, key) for key in KEYS])
        self.net = ModelNetwork(self.source, self.target)
        self.net.each_step(self.mirror.check)
        self.causes: list[str] = []
        self.written = 0

    def write(self, keys: list[tuple[str, int]] = KEYS) -> None:
        for key in keys:
            self.written += 1
            self.source.write(*key, [b"value %d" % self.written])

    def main(self, network: Owner) -> None:
        lane = lanes.make_lane(network, network.name, self.source, self.target, self.orders)
        rewind = lane._rewind

        def noted(cause: str, message: str) -> None:
            self.causes.append(cause)
            rewind(cause, message)

        lane._rewind = noted
        lane.run()

    def start(self) -> Owner:
        return self.net.spawn("X", self.main)

    def catch_up(self) -> None:
        self.net.run(Script([]), until=self.mirror.complete)

    def answers(self, api: str) -> list[int]:
        """Error codes of all requests so far."""
        return [int(handled.response.error_code) for handled in self.net.handled(api=api)]

    def waits_at_the_broker(self, api: str) -> Callable[[], bool]:
        """Is a request of that kind on its way to the target, not yet taken?"""
        return lambda: any(frame.api == api for sock in self.net.sockets for frame in sock.requests)

    def cut(self, api: str, after: int) -> None:
        """Break the connection on which such a request waits; the request arrives that many steps later."""
        for sock in list(self.net.sockets):
            if any(frame.api == api for frame in sock.requests):
                self.net.break_connection(sock, after=after)


def test_partitions_are_enlisted_once_and_together() -> None:
    flow = Flow()
    flow.write()
    with flow.net as net:
        owner = flow.start()
        flow.catch_up()
        assert owner.error is None
        added = [
            sorted((topic.name.rsplit(".", 1)[-1], p) for topic in h.body.v3_and_below_topics for p in topic.partitions)
            for h in net.handled(api="AddPartitionsToTxn")
        ]
    # The two announcements, the opening transaction, then the data of both partitions and what the lane records of it.
    assert added[:3] == [[("checkpoint", 0), ("producers", 0)]] * 2 + [[("checkpoint", 0)]]
    assert added[3:5] == [[("orders", 0), ("orders", 1)], [("checkpoint", 0)]]
    assert flow.causes == []


@pytest.mark.parametrize("after", [0, 10, 30, 60, 120, 400])
def test_a_late_end_ends_nothing_but_its_own_transaction(after: int) -> None:
    """A higher epoch was taken before anything else was sent."""
    flow = Flow()
    flow.write()
    with flow.net as net:
        owner = flow.start()
        flow.catch_up()
        flow.write()
        net.run(Script([]), until=flow.waits_at_the_broker("EndTxn"))
        flow.cut("EndTxn", after)
        for _ in range(4):
            flow.write()
            flow.catch_up()
        net.release()
        net.run(Script([]), until=lambda: not net.strays)
        assert owner.error is None
        assert flow.causes == ["end_unknown"]
    net.settle()
    for key in KEYS:
        assert [r.content for r in flow.target.committed(*key)] == [r.content for r in flow.source.committed(*key)]


@pytest.mark.parametrize("after", [0, 10, 40, 150])
@pytest.mark.parametrize("verifies", [True, False])
def test_a_late_produce_lies_in_no_later_transaction(after: int, verifies: bool) -> None:
    """Also not on brokers before 3.6, which append whatever has the newest epoch that the partition knows."""
    flow = Flow(verifies=verifies)
    flow.write()
    with flow.net as net:
        owner = flow.start()
        flow.catch_up()
        flow.write()
        net.run(Script([]), until=flow.waits_at_the_broker("Produce"))
        flow.cut("Produce", after)
        for _ in range(4):
            flow.write()
            flow.catch_up()
        net.release()
        net.run(Script([]), until=lambda: not net.strays)
        assert owner.error is None
        assert flow.causes == ["produce_unknown"]
    net.settle()
    for key in KEYS:
        log = flow.target.log(*key)
        assert [b for b in log.batches if b.fate is Fate.OPEN] == []
        assert [r.content for r in flow.target.committed(*key)] == [r.content for r in flow.source.committed(*key)]


def test_an_owner_whose_transaction_was_aborted_goes_on_at_once() -> None:
    """Timed out by the coordinator, or by his own question for the identity: both forget the epoch that he held."""
    flow = Flow()
    flow.write()
    with flow.net as net:
        owner = flow.start()
        flow.catch_up()
        flow.write()
        net.run(Script([]), until=flow.waits_at_the_broker("Produce"))
        flow.cut("Produce", 0)
        before = net.clock.now
        flow.catch_up()
        assert owner.error is None
        assert flow.causes == ["produce_unknown"]
        assert net.clock.now - before < 1.0
        assert 90 in flow.answers("InitProducerId")


def test_an_owner_that_was_fenced_names_no_epoch_of_his_successor() -> None:
    flow = Flow()
    flow.write()
    with flow.net as net:
        first = flow.start()
        flow.catch_up()
        flow.write()
        net.run(Script([]), until=flow.waits_at_the_broker("EndTxn"))
        second = net.spawn("Y", flow.main)
        net.run(Only("Y"), until=flow.mirror.complete)
        net.run(Script([]), until=lambda: first.done)
        assert first.error is not None
        assert "taken over by pid 1 on host" in str(first.error)
        assert not second.done


@pytest.mark.parametrize("code", [3, 16, 53, 90])
def test_partitions_that_cannot_be_enlisted_are_doubt(code: int) -> None:
    flow = Flow()
    flow.write()
    with flow.net:
        owner = flow.start()
        flow.catch_up()
        flow.target.inject("AddPartitionsToTxn", code, times=2)
        flow.write()
        flow.catch_up()
        assert owner.error is None
        assert flow.causes == ["not_authorized" if code == 53 else "enlist_refused"] * 2


def test_while_the_transaction_before_is_completing_the_coordinator_is_asked_again() -> None:
    flow = Flow()
    flow.write()
    with flow.net:
        owner = flow.start()
        flow.catch_up()
        flow.target.inject("AddPartitionsToTxn", 51, times=4)
        flow.write()
        flow.catch_up()
        assert owner.error is None
        assert flow.causes == []


def test_a_topic_that_may_not_be_written_is_left_out_alone() -> None:
    flow = Flow()
    flow.write([KEYS[0]])
    with flow.net as net:
        owner = flow.start()
        net.run(Script([]), until=flow.mirror.complete)

        def data(body: Any) -> bool:
            return [topic.name for topic in body.v3_and_below_topics] == ["orders"]

        flow.target.inject("AddPartitionsToTxn", 29, times=2, where=data)
        flow.write([KEYS[0]])

        def waits() -> bool:
            return lanes.lane_state(flow.target).positions[KEYS[0]].state is State.RETRYING

        net.run(Script([]), until=waits)
        position = lanes.lane_state(flow.target).positions[KEYS[0]]
        assert (position.fault, position.trouble) == (None, "TOPIC_AUTHORIZATION_FAILED (29)")
        flow.write([KEYS[1]])
        net.run(Script([]), until=lambda: lanes.lane_state(flow.target).positions[KEYS[1]].target_end is not None)
        net.run(Script([]), until=flow.mirror.complete)  # the right is back, and it goes on by itself
        assert owner.error is None
        assert flow.target.injected[0].left == 0


def test_a_topic_that_is_made_again_in_mid_transaction_gets_nothing_committed() -> None:
    """By name the brokers would not mind; the topic's id is compared before EndTxn."""
    flow = Flow()
    with flow.net as net:
        owner = flow.start()
        net.run(Script([]), until=lambda: len(lanes.lane_state(flow.target).positions) == 2)
        flow.write()
        ends = len(flow.answers("EndTxn"))
        net.run(Script([]), until=flow.waits_at_the_broker("Produce"))
        flow.target.delete_topic("orders")
        flow.target.create_topic("orders", 2)

        def faulted() -> bool:
            return all(position.fault is not None for position in lanes.lane_state(flow.target).positions.values())

        net.run(Script([]), until=faulted)
        assert owner.error is None
        assert flow.causes == ["topic_changed"]
        reasons = {p.fault.reason for p in lanes.lane_state(flow.target).positions.values() if p.fault is not None}
        assert reasons == {Reason.TARGET_RECREATED}
        net.settle()
        assert [flow.target.committed(*key) for key in KEYS] == [[], []]
        assert len(flow.answers("EndTxn")) > ends  # the faults themselves


@pytest.mark.parametrize(("code", "cause"), [(29, "not_authorized"), (5, "topics_unknown")])
def test_a_topic_that_may_not_be_described_is_not_taken_for_another_one(code: int, cause: str) -> None:
    flow = Flow()
    with flow.net:
        owner = flow.start()
        flow.catch_up()

        def before_the_end(body: Any) -> bool:
            names = {topic.name for topic in body.topics or ()}
            return "orders" in names and len(names) < 4  # a take-over asks for all internal topics too

        flow.target.inject("Metadata", code, where=before_the_end)
        flow.write()
        flow.catch_up()
        assert owner.error is None
        assert flow.causes == [cause]
        assert flow.target.injected[0].left == 0


def test_sequences_go_on_over_transactions_and_wrap(monkeypatch: pytest.MonkeyPatch) -> None:
    flow = Flow()

    def near_the_end(self: Identity, producer_id: int, epoch: int) -> None:
        self.held = producer_id, epoch
        self._sequences.clear()
        for cluster_topic in flow.target.topics.values():
            self._sequences.update({(cluster_topic.topic_id.bytes, p): MAX_SEQUENCE - 3 for p in range(2)})

    monkeypatch.setattr(Identity, "hold", near_the_end)
    with flow.net as net:
        owner = flow.start()
        for _ in range(12):
            flow.write()
            flow.catch_up()
        assert owner.error is None
        assert flow.causes == []
        net.settle()
    sequences = [b.header.base_sequence for b in flow.target.log(*KEYS[0]).batches if b.fate is Fate.COMMITTED]
    assert {MAX_SEQUENCE, 0} <= set(sequences)
