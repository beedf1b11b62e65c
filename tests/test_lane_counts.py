"""What a lane says that it has mirrored is what it has committed, however it ends. In the model."""

from __future__ import annotations

import pytest

from eomirror.errors import Refused
from eomirror.lane import Lane
from eomirror.pacing import Pace
from tests import lanes
from tests.kafkamodel import ModelCluster, ModelNetwork, Owner, Script

_quiet = lanes.quiet

KEY = ("orders", 0)
RECORDS = 60
PATIENT = Pace(8.0, 1 << 20, 8.0)  # nothing is committed before the stop
EAGER = Pace(8.0, 200, 8.0)  # a commit at every few records, and the next ones are read at once


def clusters() -> tuple[ModelCluster, ModelCluster]:
    source, target = ModelCluster("source"), ModelCluster("target")
    lanes.prepare(source, target, {"orders": 1})
    source.write(*KEY, [b"the first one"])
    for number in range(1, RECORDS):
        source.write(*KEY, [b"%d" % number])
    return source, target


@pytest.mark.parametrize(
    ("step", "pace"),
    [(step, pace) for pace in (PATIENT, EAGER) for step in ("fetch", "pack", "produce")]
    + [(step, EAGER) for step in ("acked", "end_sent", "end_answered")],
)
def test_a_lane_that_is_stopped(step: str, pace: Pace) -> None:
    source, target = clusters()
    made: list[Lane] = []

    def stop(name: str) -> None:
        if name == step and made and len(target.committed(*KEY)) >= (0 if pace is PATIENT else 10):
            made[0].stop.set()

    def main(network: Owner) -> None:
        given = lanes.orders(source, {"orders": 1})
        made.append(lanes.make_lane(network, "X", source, target, given, step=stop, fetch_bytes=300, pace=pace))
        made[0].run()

    with ModelNetwork(source, target) as net:
        owner = net.spawn("X", main)
        net.run(Script([]), until=lambda: owner.done)
        net.settle()
        assert owner.error is None
    done = len(target.committed(*KEY))
    assert 0 < done < RECORDS
    (route,) = made[0].view.routes
    assert (made[0].view.records, route.next_offset) == (done, done)


def test_a_lane_that_is_refused_while_it_takes_new_orders() -> None:
    source, target = clusters()
    made: list[Lane] = []

    def order(name: str) -> None:
        if name == "checkpoint_read" and target.committed(*KEY):
            raise Refused("no more")
        if name == "produce" and len(target.committed(*KEY)) >= 10:
            made[0].orders = lanes.orders(source, {"orders": 1})

    def main(network: Owner) -> None:
        given = lanes.orders(source, {"orders": 1})
        made.append(lanes.make_lane(network, "X", source, target, given, step=order, fetch_bytes=300, pace=EAGER))
        made[0].run()

    with ModelNetwork(source, target) as net:
        owner = net.spawn("X", main)
        net.run(Script([]), until=lambda: owner.done)
        assert isinstance(owner.error, Refused)
    assert 0 < made[0].view.records == len(target.committed(*KEY)) < RECORDS
