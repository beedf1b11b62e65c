"""How a lane gathers: few requests while there is little to do, none that waits while there is much; over the model."""

from __future__ import annotations

import pytest

from eomirror.pacing import AUTO_SECONDS, Pace
from tests import lanes
from tests.kafkamodel import ExactlyOnce, ModelCluster, ModelNetwork, Owner, Script

KEY = ("orders", 0)
RECORDS = 100
RECORD_EVERY = AUTO_SECONDS[0] / 5

_quiet = lanes.quiet


def _mirrored(pace: Pace) -> ModelNetwork:
    """The history of a lane that mirrors an even stream of records."""
    source, target = ModelCluster("source"), ModelCluster("target")
    lanes.prepare(source, target, {"orders": 1})
    source.write(*KEY, [b"the first one"])
    mirror = ExactlyOnce(source, target, [(KEY, KEY)])
    orders = lanes.orders(source, {"orders": 1})

    def mirror_it(network: Owner) -> None:
        lanes.make_lane(network, "X", source, target, orders, pace=pace, fetch_bytes=1 << 20).run()

    def write(network: Owner) -> None:
        for number in range(RECORDS):
            network.sleep(RECORD_EVERY)
            source.write(*KEY, [b"record %d" % number])

    with ModelNetwork(source, target) as net:
        owner = net.spawn("X", mirror_it)
        net.run(Script([]), until=mirror.complete)
        writer = net.spawn("writer", write)
        net.run(Script([]), until=lambda: writer.done and mirror.complete())
        assert owner.error is writer.error is None
    return net


@pytest.mark.parametrize("interval", [None, RECORD_EVERY * 10])
def test_an_even_stream_costs_one_fetch_and_two_requests_per_commit(interval: float | None) -> None:
    net = _mirrored(Pace(interval, 1 << 20, 1.0))
    commits = len(net.handled(api="EndTxn"))
    gathered = (interval or AUTO_SECONDS[0]) / RECORD_EVERY
    assert RECORDS / gathered / 2 <= commits <= RECORDS / gathered * 1.5
    # One more fetch than commits waits for what comes next; taking the lane over takes a few of both.
    assert len(net.handled(api="Fetch")) <= commits + 8
    assert len(net.handled(api="Produce")) <= 2 * commits + 4


def test_without_a_floor_every_record_is_committed_by_itself() -> None:
    net = _mirrored(Pace(0.0, 1 << 20, 1.0))
    assert len(net.handled(api="EndTxn")) >= RECORDS
