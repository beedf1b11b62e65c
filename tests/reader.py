"""A source over the model of Kafka, whose blocks are taken apart."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from eomirror.brokers import Brokers
from eomirror.feed import Reading
from eomirror.source import POLL_SECONDS, Block, Source
from eomirror.wire import Address
from tests.kafkamodel import ModelCluster, ModelNetwork, Owner, read_header, read_records
from tests.kafkamodel.client import split
from tests.kafkamodel.records import CONTROL
from tests.kafkamodel.sessions import SLOTS, Sessions

PARTITIONS = 40
TOPIC = "orders"


class Reader:
    """A source, and what was read of each partition."""

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
