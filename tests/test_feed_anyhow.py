"""Whatever happens to the brokers of a source, in any order: all is read once and in order. Over the model."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from eomirror.feed import Reading
from eomirror.source import POLL_SECONDS
from tests.kafkamodel import ModelCluster, ModelNetwork, OpenTransaction, Owner
from tests.kafkamodel.sessions import SLOTS
from tests.reader import TOPIC, Reader, cluster_of, named, run, sessions


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
