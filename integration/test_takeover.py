"""The newest owner wins at once, and whoever it takes the lanes from writes nothing more."""

from __future__ import annotations

import random
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from eomirror.clusters import Cluster as Configured
from eomirror.errors import Fenced
from eomirror.lane import Lane
from eomirror.worker import Worker, this_process

from .cluster import Cluster
from .process import Background, Eomirror
from .promise import (
    SMALL,
    Load,
    Loading,
    assert_equal,
    assert_promise,
    catch_up,
    configured,
    ends,
    lane_states,
    log_events,
    wait_until,
)

TAKE_OVERS = 1000
TORTURE_SECONDS = 600.0  # a bound on a hang; on two cores it takes a tenth of it


def test_a_second_process_takes_over_at_once(
    source: Cluster, target: Cluster, eomirror: Eomirror, flow_config: Callable[..., Path], name: str
) -> None:
    topics = {f"{name}.plain": 2, f"{name}.lz4.tx": 2}
    for topic, partitions in topics.items():
        source.create_topic(topic, partitions)
    load = Load(source, name)
    load(topics, 400)
    config = flow_config(**SMALL)
    first = eomirror.background("run", config=config)
    first.wait_for(lambda: ends(target, topics) > 400, 30, "the first one at work")
    loading = Loading(load, topics)
    second = eomirror.background("run", config=config)
    ended = first.wait(20).expect(6)
    assert f"taken over by pid {second.pid} on " in ended.stderr
    owners = {state.lane.owner.pid for state in lane_states(config).values() if state.lane is not None}
    assert second.pid in owners
    wait_until(lambda: all(s.lane and s.lane.owner.pid == second.pid for s in lane_states(config).values()))
    portions = loading.portions
    wait_until(lambda: loading.portions > portions + 5)
    loading.end()
    second.term()
    second.wait(20).expect(0)
    catch_up(eomirror, config)
    assert_promise(eomirror, config, source, target, topics, least=800)


def test_a_restart_after_sigkill_does_not_wait(
    source: Cluster, target: Cluster, eomirror: Eomirror, flow_config: Callable[..., Path], name: str
) -> None:
    topics = {f"{name}.plain": 2, f"{name}.lz4.tx": 2}
    for topic, partitions in topics.items():
        source.create_topic(topic, partitions)
    load = Load(source, name)
    load(topics, 1000)
    config = flow_config(**SMALL)  # its transaction time-out is 50 s
    eomirror("run", config=config, env={"EOMIRROR_TEST_KILL_AT": "acked:12"}).expect(-signal.SIGKILL)
    stable = {topic: target.end_offsets(topic, committed=True) for topic in topics}
    assert stable != {topic: target.end_offsets(topic) for topic in topics}, "the kill left no transaction open"
    generation = max(state.lane.generation for state in lane_states(config).values() if state.lane)
    second = eomirror.background("run", config=config)
    # Most of it is the start of a process on a busy machine; the transaction may stay open for longer than that.
    wait_until(lambda: all(s.lane and s.lane.generation > generation for s in lane_states(config).values()), 40)
    second.term()
    second.wait(20).expect(0)
    catch_up(eomirror, config)
    assert_promise(eomirror, config, source, target, topics, least=1500)


def test_two_processes_that_fight(
    source: Cluster, target: Cluster, eomirror: Eomirror, flow_config: Callable[..., Path], name: str
) -> None:
    topics = {f"{name}.plain": 2, f"{name}.lz4.tx": 2}
    for topic, partitions in topics.items():
        source.create_topic(topic, partitions)
    config = flow_config(**SMALL)
    load = Load(source, name)
    load(topics, 200)
    catch_up(eomirror, config)
    loading = Loading(load, topics)
    for _ in range(3):
        pair = [eomirror.background("run", config=config) for _ in range(2)]
        wait_until(lambda pair=pair: sum(one.running for one in pair) == 1, 60, "one of two gives up")
        loser = next(one for one in pair if not one.running).wait(1)
        winner = next(one for one in pair if one.running)
        assert loser.code == 6, loser.stderr
        assert f"taken over by pid {winner.pid} on " in loser.stderr
        winner.kill()
    loading.end()
    catch_up(eomirror, config)
    assert_promise(eomirror, config, source, target, topics, least=500)


class Contest:
    """Owners of one lane, each a Lane with connections and an identity of its own, in threads of this process."""

    def __init__(self, config: Path) -> None:
        whole = configured(config)
        self._flow = whole.flows[0]
        self._source = Configured(self._flow.source, whole.clusters[self._flow.source])
        self._target = Configured(self._flow.target, whole.clusters[self._flow.target])
        first = self._worker()
        self._plan = first.survey()
        self._cluster_id = first._source_brokers.metadata([]).cluster_id
        first.claim()
        self._checkpoint_id = first._checkpoint_id
        first.close()
        self.ends: list[BaseException | None] = []

    def _worker(self) -> Worker:
        return Worker(self._flow, self._source, self._target, this_process(), lambda _step: None)

    def surprises(self) -> list[BaseException]:
        """What ended an owner although no successor had shown itself."""
        return [end for end in self.ends if end is not None and not isinstance(end, Fenced)]

    def newcomer(self) -> tuple[Lane, threading.Thread]:
        """Starts one more owner of lane 0."""
        worker = self._worker()
        worker._specs = self._plan.routes
        worker._checkpoint_id = self._checkpoint_id
        lane = worker._make_lane(0, self._cluster_id)
        thread = threading.Thread(target=self._run, args=(lane,), daemon=True)
        thread.start()
        return lane, thread

    def _run(self, lane: Lane) -> None:
        try:
            lane.run()
            self.ends.append(None)
        except BaseException as error:  # noqa: BLE001 - judged at the end
            self.ends.append(error)


@pytest.mark.timeout(900)
def test_a_thousand_racing_take_overs(
    source: Cluster, target: Cluster, eomirror: Eomirror, flow_config: Callable[..., Path], name: str
) -> None:
    topics = {f"{name}.plain": 2, f"{name}.lz4": 2, f"{name}.tx": 2}
    for topic, partitions in topics.items():
        source.create_topic(topic, partitions)
    load = Load(source, name)
    load(topics, 1000)
    config = flow_config(**SMALL | {"lanes": 1})
    eomirror("run", "--until-caught-up", config=config, env={"EOMIRROR_TEST_KILL_AT": "acked:6"}).expect(-9)
    # The cleaner runs under the take-overs, as it does in the long life of a flow; each reads what is left of those
    # before it.
    target.set_config(f"__eomirror.{name}.checkpoint", {"segment.ms": 500})
    contest = Contest(config)
    rng = random.Random(7)
    loading = Loading(load, topics, portion=20)
    began = time.monotonic()
    live: list[tuple[Lane, threading.Thread]] = []
    generation = 0
    try:
        while generation < TAKE_OVERS:
            assert time.monotonic() - began < TORTURE_SECONDS, f"only {generation} take-overs"
            assert not contest.surprises(), contest.surprises()[:3]
            batch = [contest.newcomer() for _ in range(rng.choice((1, 1, 1, 1, 1, 1, 1, 2, 3)))]
            live += batch
            # The next ones come before these have both identities, or in the middle of the winner's data.
            wanted, patience = rng.choice((0, 1, 1, 1, 1, 3)), time.monotonic() + 0.5
            while max(lane._commits for lane, _ in batch) < wanted and time.monotonic() < patience:
                time.sleep(0.002)
            time.sleep(rng.choice((0.0, 0.002, 0.005)))
            while len([thread for _, thread in live if thread.is_alive()]) > 4:
                time.sleep(0.002)
            live = [(lane, thread) for lane, thread in live if thread.is_alive()]
            generation = max([generation, *(lane._succession.generation or 0 for lane, _ in live)])
        loading.end()
        last, last_thread = contest.newcomer()
        for _, thread in live:
            thread.join(30)
            assert not thread.is_alive()
        wait_until(lambda: last.view.caught_up, 60, "the last owner drains")
        live = [(last, last_thread)]
    finally:
        loading.end()
        for lane, thread in live:
            lane.stop.set()
            thread.join(30)
    assert not contest.surprises(), contest.surprises()[:3]
    assert contest.ends.count(None) == 1
    head = lane_states(config)[0].lane
    assert head is not None
    assert head.generation >= TAKE_OVERS
    assert head.n > 1.3 * head.generation  # data moved in between
    assert_equal(source, target, topics, least=3000)
    assert_promise(eomirror, config, source, target, topics)


def test_stopped_for_longer_than_its_transaction_may_be_open(
    source: Cluster, target: Cluster, eomirror: Eomirror, flow_config: Callable[..., Path], name: str
) -> None:
    topics = {f"{name}.plain": 2, f"{name}.lz4.tx": 2}
    for topic, partitions in topics.items():
        source.create_topic(topic, partitions)
    load = Load(source, name)
    commit = {"interval": "0ms", "max_bytes": "64KiB", "max_age": "900ms", "transaction_timeout": "1s"}
    config = flow_config(**SMALL | {"commit": commit})
    load(topics, 400)
    loading = Loading(load, topics)
    run = eomirror.background("run", config=config)
    for _ in range(3):
        pause_in_a_transaction(run, target, topics)
        # The coordinator aborts it.
        wait_until(lambda: ends(target, topics) == ends(target, topics, committed=True), what="the time-out")
        run.resume()
        before = ends(target, topics)
        wait_until(lambda before=before: ends(target, topics) > before + 200, 20, "it goes on")
    rewinds = [event["cause"] for event in log_events(run) if event["event"] == "lane.rewind"]
    assert rewinds, "the coordinator never timed its transaction out"
    pause_in_a_transaction(run, target, topics)
    successor = eomirror.background("run", config=config)
    wait_until(lambda: all(s.lane and s.lane.owner.pid == successor.pid for s in lane_states(config).values()), 20)
    before = ends(target, topics)
    wait_until(lambda: ends(target, topics) > before + 100, 20, "the successor at work")
    run.resume()
    assert f"taken over by pid {successor.pid} on " in run.wait(20).expect(6).stderr
    loading.end()
    successor.term()
    successor.wait(20).expect(0)
    catch_up(eomirror, config)
    assert_promise(eomirror, config, source, target, topics, least=800)


def pause_in_a_transaction(run: Background, target: Cluster, topics: dict[str, int]) -> None:
    """Stops the process (SIGSTOP) at a moment when it has records uncommitted on the target."""
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        run.pause()
        if ends(target, topics) != ends(target, topics, committed=True):
            time.sleep(0.15)  # markers of a transaction that was decided just now are written by then
            if ends(target, topics) != ends(target, topics, committed=True):
                return
        run.resume()
        time.sleep(0.05)
    raise AssertionError("never seen with an open transaction")
