"""A lane takes its identities only while somebody leads what it is about to write, over the model of Kafka."""

from __future__ import annotations

import pytest

from tests import lanes
from tests.kafkamodel import ExactlyOnce, ModelCluster, ModelNetwork, Owner, Script

KEY = ("orders", 0)

_quiet = lanes.quiet


@pytest.mark.parametrize("topic", [lanes.TOPICS.checkpoint, lanes.TOPICS.ledger, lanes.TOPICS.producers])
def test_nothing_is_decided_while_a_partition_of_the_lane_has_no_leader(topic: str) -> None:
    """InitProducerId has the coordinator abort what is open. Kafka 4.3 gives up a marker that it cannot deliver."""
    source, target = ModelCluster("source"), ModelCluster("target")
    lanes.prepare(source, target, {"orders": 1})
    source.write(*KEY, [b"one", b"two"])
    mirror = ExactlyOnce(source, target, [(KEY, KEY)])
    orders = lanes.orders(source, {"orders": 1})
    target.move_leader(topic, 0, None)

    def main(network: Owner) -> None:
        lanes.make_lane(network, "X", source, target, orders).run()

    with ModelNetwork(source, target) as net:
        owner = net.spawn("X", main)
        net.run(Script([]), until=lambda: len(net.handled(api="Metadata")) > 20)
        assert net.handled(api="InitProducerId") == []
        target.move_leader(topic, 0, 1)
        net.run(Script([]), until=mirror.complete)
        assert owner.error is None
