"""Reading: how soon it is known that there is nothing to read."""

from __future__ import annotations

from eomirror.brokers import Brokers
from eomirror.source import POLL_SECONDS, Reading, Source
from eomirror.wire import Address
from tests.kafkamodel import ModelCluster, ModelNetwork, Owner


def test_a_partition_with_nothing_to_read_is_caught_up_without_a_long_poll() -> None:
    cluster = ModelCluster("source")
    cluster.create_topic("orders", 2)
    cluster.write("orders", 0, [b"a record"])

    def main(network: Owner) -> list[float]:
        source = Source(Brokers("source", [Address("source", 9092)], "test", network), max_bytes=1 << 20)
        topic_id = cluster.topics["orders"].topic_id.hex
        source.assign([Reading(("orders", 0), topic_id, 1, None), Reading(("orders", 1), topic_id, 0, None)])
        times = []
        for _ in range(3):
            began = network.now()
            assert source.poll(10 * POLL_SECONDS) is None
            assert all(source.caught_up(("orders", partition)) for partition in (0, 1))
            times.append(network.now() - began)
        source.close()
        return times

    with ModelNetwork(cluster) as net:
        reader = net.spawn("reader", main)
        net.run(until=lambda: reader.done)
    assert reader.error is None
    first, *others = reader.result
    assert first < POLL_SECONDS / 2
    assert min(others) >= 10 * POLL_SECONDS  # from then on it waits at the broker
