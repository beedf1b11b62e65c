"""A lane whose rights are taken away while it runs, over the model of Kafka: it waits, and goes on with them."""

from __future__ import annotations

import pytest

from eomirror.errors import Refused
from tests import lanes
from tests.kafkamodel import ExactlyOnce, ModelCluster, ModelNetwork, Owner, Script

KEY = ("orders", 0)


_quiet = lanes.quiet


class Flow:
    """One lane and one partition with records in it."""

    def __init__(self) -> None:
        self.source, self.target = ModelCluster("source"), ModelCluster("target")
        lanes.prepare(self.source, self.target, {"orders": 1})
        self.mirror = ExactlyOnce(self.source, self.target, [(KEY, KEY)])
        self.net = ModelNetwork(self.source, self.target)
        self.causes: list[str] = []
        self.source.write(*KEY, [b"one", b"two"])

    def run(self, network: Owner) -> None:
        lane = lanes.make_lane(network, "X", self.source, self.target, lanes.orders(self.source, {"orders": 1}))
        rewind = lane._rewind

        def noted(cause: str, message: str) -> None:
            self.causes.append(cause)
            rewind(cause, message)

        lane._rewind = noted
        lane.run()


@pytest.mark.parametrize("api", ["InitProducerId", "FindCoordinator"])
@pytest.mark.parametrize("code", [31, 53])
def test_a_lane_that_never_had_the_right_is_refused(api: str, code: int) -> None:
    flow = Flow()
    flow.target.inject(api, code, times=1000)
    with flow.net as net:
        owner = net.spawn("X", flow.run)
        net.run(Script([]), until=lambda: owner.done)
    assert isinstance(owner.error, Refused)
    assert "needs WRITE and DESCRIBE on the transactional ids" in owner.error.hint


@pytest.mark.parametrize(
    ("api", "code"),
    [("EndTxn", 53), ("InitProducerId", 53), ("InitProducerId", 31), ("FindCoordinator", 53), ("Produce", 53)],
)
def test_a_lane_that_loses_the_right_waits_until_it_has_it_back(api: str, code: int) -> None:
    flow = Flow()
    with flow.net as net:
        owner = net.spawn("X", flow.run)
        net.run(Script([]), until=flow.mirror.complete)
        assert flow.causes == []
        if api in ("InitProducerId", "FindCoordinator"):
            for sock in list(net.sockets):
                net.break_connection(sock, after=None)
        flow.target.inject(api, code, times=5)
        flow.source.write(*KEY, [b"three"])
        net.run(Script([]), until=flow.mirror.complete)
        assert owner.error is None
        assert flow.causes.count("not_authorized") == 5
        assert flow.target.injected[0].left == 0


def test_a_missing_right_on_an_internal_topic_is_waited_for() -> None:
    flow = Flow()
    topic_id = flow.target.topics[lanes.TOPICS.checkpoint].topic_id
    with flow.net as net:
        owner = net.spawn("X", flow.run)
        net.run(Script([]), until=flow.mirror.complete)
        flow.target.inject("Produce", 29, times=3, where=lambda body: body.topic_data[0].topic_id == topic_id)
        flow.source.write(*KEY, [b"three"])
        net.run(Script([]), until=flow.mirror.complete)
        assert owner.error is None
        assert flow.causes == ["not_authorized"] * 3
