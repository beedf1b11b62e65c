"""How a lane gathers: few requests while there is little to do, and nothing waits longer than it must. In the model."""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Generator
from dataclasses import dataclass, field
from typing import Any

import pytest

from eomirror.lane import IDLE_SECONDS, REST_SECONDS, Lane
from eomirror.pacing import AUTO_SECONDS, Pace
from tests import lanes
from tests.kafkamodel import ModelCluster, ModelNetwork, Owner, Script, network
from tests.kafkamodel.coordinator import Wait

_quiet = lanes.quiet

SLACK = 0.02  # seconds: the wait for a leader, and clocks that count in floats


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> dict[tuple[str, str], float]:
    """How many seconds a cluster takes to answer an API; no time at all for what is not here."""
    taken: dict[tuple[str, str], float] = {}
    real = network.answer

    def answer(cluster: ModelCluster, node: Any, request: Any) -> Generator[Wait, None, Any]:
        if seconds := taken.get((cluster.name, request.api)):
            yield Wait("distance", until=cluster.clock.now + seconds)
        return (yield from real(cluster, node, request))

    monkeypatch.setattr(network, "answer", answer)
    return taken


@dataclass
class Mirrored:
    """A lane at work on an even stream of records, one to each partition at each beat."""

    pace: Pace
    every: float  # seconds between two beats
    partitions: int = 1  # each with a broker of its own
    beats: int = 80
    backlog: int = 0  # records of 200 bytes that wait in a topic of their own, in fetches of 10 kB
    delays: list[float] = field(default_factory=list)
    commits: list[float] = field(default_factory=list)
    fetches: list[float] = field(default_factory=list)
    produces: int = 0
    stopped_after: float = 0.0

    def run(self) -> Mirrored:
        source, target = ModelCluster("source", nodes=self.partitions), ModelCluster("target")
        topics = {"orders": self.partitions} | ({"backlog": 1} if self.backlog else {})
        lanes.prepare(source, target, topics)
        for partition in range(self.partitions):
            source.write("orders", partition, [b"the first one"])
        for _ in range(self.backlog):
            source.write("backlog", 0, [b"x" * 200])
        orders = lanes.orders(source, topics)
        made: list[Lane] = []
        born: dict[bytes, float] = {}
        seen = [1] * self.partitions

        def mirror(owner: Owner) -> None:
            made.append(lanes.make_lane(owner, "X", source, target, orders, pace=self.pace, fetch_bytes=10_000))
            made[0].run()

        def write(owner: Owner) -> None:
            owner.sleep(3.0)
            for beat in range(self.beats):
                owner.sleep(self.every)
                for partition in range(self.partitions):
                    value = b"%d of %d" % (beat, partition)
                    source.write("orders", partition, [value])
                    born[value] = source.clock.now

        with ModelNetwork(source, target) as net:

            def look() -> None:
                now = net.clock.now
                self.commits += [now] * (len(net.handled(api="EndTxn")) - len(self.commits))
                fetches = [h for h in net.handled(api="Fetch") if h.cluster == "source"]
                self.fetches += [now] * (len(fetches) - len(self.fetches))
                for partition in range(self.partitions):
                    records = target.committed("orders", partition)
                    self.delays += [now - born[record.value or b""] for record in records[seen[partition] :]]
                    seen[partition] = max(seen[partition], len(records))

            net.each_step(look)
            began = net.clock.now
            lane, writer = net.spawn("X", mirror), net.spawn("writer", write)
            net.run(Script([]), until=lambda: writer.done and len(self.delays) == self.beats * self.partitions)
            self.produces = len(net.handled(api="Produce"))
            ended = net.clock.now
            made[0].stop.set()
            net.run(Script([]), until=lambda: lane.done)
            self.stopped_after = net.clock.now - ended
            self.commits, self.fetches = ([at - began for at in found] for found in (self.commits, self.fetches))
            assert lane.error is writer.error is None
        return self


@pytest.mark.parametrize("interval", [None, AUTO_SECONDS[0] * 2])
def test_an_even_stream_costs_one_fetch_and_two_requests_per_commit(interval: float | None) -> None:
    every = AUTO_SECONDS[0] / 5
    found = Mirrored(Pace(interval, 1 << 20, 1.0), every).run()
    commits = len(found.commits)
    gathered = (interval or AUTO_SECONDS[0]) / every
    assert found.beats / gathered <= commits <= found.beats / gathered * 1.5 + 4
    # One more fetch than commits waits for what comes next; taking the lane over takes a few of both.
    assert len(found.fetches) <= commits + 8
    assert found.produces <= 2 * commits + 4


def test_without_a_floor_every_record_is_committed_by_itself() -> None:
    assert len(Mirrored(Pace(0.0, 1 << 20, 1.0), 0.001).run().commits) >= 80


@pytest.mark.parametrize("partitions", [1, 3])
@pytest.mark.parametrize("interval", [0.05, 0.3, 1.0, 2.0])
def test_what_comes_between_two_commits_is_in_the_second(interval: float, partitions: int) -> None:
    """From one source broker or from several, and however long the interval is."""
    found = Mirrored(Pace(interval, 1 << 20, 5.0), interval / 9, partitions).run()
    assert statistics.median(found.delays) == pytest.approx(interval / 2, rel=0.2, abs=0.06)
    assert max(found.delays) <= interval + SLACK
    # Several brokers are asked for more than one has a need to: a long poll that ended while the lane rested is stale.
    asked = len(found.commits) + found.commits[-1] / REST_SECONDS if interval > REST_SECONDS else len(found.commits)
    assert len(found.fetches) <= (asked + 4) * partitions * (1 if partitions == 1 else 1.5)


def test_a_long_interval_holds_its_transaction_open_and_max_bytes_ends_it() -> None:
    assert len(Mirrored(Pace(4.0, 1 << 20, 5.0), 0.05).run().commits) <= 6
    assert len(Mirrored(Pace(4.0, 300, 5.0), 0.05).run().commits) >= 12


def test_records_of_several_brokers_wait_no_longer_than_those_of_one(slow: dict[tuple[str, str], float]) -> None:
    slow.update({("source", "Fetch"): 0.001, ("target", "EndTxn"): 0.003})
    one = Mirrored(Pace(None, 1 << 20, 1.0), 0.003).run()
    three = Mirrored(Pace(None, 1 << 20, 1.0), 0.003, partitions=3).run()
    assert statistics.median(three.delays) <= 1.3 * statistics.median(one.delays)
    assert max(three.delays) <= 1.3 * max(one.delays)


@pytest.mark.parametrize("interval", [0.4, 2.0])
def test_a_long_interval_delays_neither_the_first_read_nor_a_stop(interval: float) -> None:
    found = Mirrored(Pace(interval, 1 << 20, 5.0), 0.5, beats=10).run()
    assert found.fetches[0] < 0.1
    assert found.stopped_after <= IDLE_SECONDS + SLACK


def test_slow_commits_are_fewer(slow: dict[tuple[str, str], float]) -> None:
    slow["target", "EndTxn"] = 0.02
    found = Mirrored(Pace(None, 1 << 20, 1.0), 0.01, beats=200).run()
    pauses = [after - before for before, after in itertools.pairwise(found.commits[-10:])]
    assert statistics.median(pauses) == pytest.approx(2 * 0.02, rel=0.25)


def test_records_beside_a_backlog_do_not_wait_for_its_end(slow: dict[tuple[str, str], float]) -> None:
    """A lane that is behind commits while it waits for a distant source: not as often, but before `max_age`."""
    slow.update({("source", "Fetch"): 0.04, ("target", "EndTxn"): 0.003})
    found = Mirrored(Pace(None, 1 << 26, 10.0), 0.02, backlog=6000).run()
    assert max(found.fetches) > 4.0  # it was behind all the time
    assert statistics.median(found.delays) <= 0.15
    assert max(found.delays) <= 0.4
