"""Stopped by a signal a flow leaves nothing open; a broker that dies and comes back costs nothing but time."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from .cluster import Cluster
from .fleet import both_versions
from .process import Background, Eomirror
from .promise import (
    SMALL,
    Load,
    Loading,
    assert_promise,
    catch_up,
    ends,
    lane_states,
    log_events,
    positions,
    wait_until,
)
from .repair import goes_on, recovers

pytestmark = both_versions

Topics = dict[str, int]


@pytest.fixture
def topics(source: Cluster, name: str) -> Topics:
    """Two topics at the source: one written in transactions, one not."""
    wanted = {f"{name}.plain": 2, f"{name}.lz4.tx": 2}
    for topic, partitions in wanted.items():
        source.create_topic(topic, partitions)
    return wanted


def pending(config: Path) -> int:
    """Records that are mirrored and not yet in the ledger."""
    return sum(position.pending.records for position in positions(config).values())


def at_work(run: Background, target: Cluster, topics: Topics, least: int = 200) -> None:
    """Returns when the run has written that many offsets more. Somebody must go on writing at the source."""
    before = ends(target, topics)
    run.wait_for(lambda: ends(target, topics) >= before + least, 40, "records on the target")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_drains(
    number: signal.Signals,
    topics: Topics,
    source: Cluster,
    target: Cluster,
    eomirror: Eomirror,
    flow_config: Callable[..., Path],
    name: str,
) -> None:
    load = Load(source, name)
    load(topics, 500)
    config = flow_config(**SMALL)
    run = eomirror.background("run", config=config)
    loading = Loading(load, topics)
    at_work(run, target, topics)
    run.process.send_signal(number)
    ended = run.wait(15).expect(0)
    loading.end()
    assert "run.stopping" in ended.stderr
    # A lane that the signal finds on its way back from a doubt has nothing in memory that it could bring to an end.
    last = {event["lane"]: event["event"] for event in log_events(ended) if event["event"].startswith("lane.")}
    assert set(last) == set(range(SMALL["lanes"]))
    assert set(last.values()) <= {"lane.drained", "lane.rewind"}
    assert pending(config) == 0 or "lane.rewind" in last.values()
    end = ends(target, topics)
    wait_until(lambda: ends(target, topics, committed=True) == end, what="the last markers")
    assert ends(target, topics) == end
    catch_up(eomirror, config)
    assert_promise(eomirror, config, source, target, topics, least=1000)


def test_a_second_sigterm_stops_at_once(
    topics: Topics,
    source: Cluster,
    target: Cluster,
    eomirror: Eomirror,
    flow_config: Callable[..., Path],
    name: str,
) -> None:
    load = Load(source, name)
    load(topics, 400)
    config = flow_config(**SMALL)
    run = eomirror.background("run", config=config)
    loading = Loading(load, topics)  # so that there is something to drain, however fast it is
    at_work(run, target, topics)
    target.pause()  # nothing can be drained now
    try:
        time.sleep(0.5)
        run.term()
        run.wait_for_text("run.stopping")
        time.sleep(0.5)
        assert run.running
        run.term()
        assert run.wait(20).code == 0
    finally:
        target.resume()
    loading.end()
    catch_up(eomirror, config)
    assert_promise(eomirror, config, source, target, topics, least=800)


@pytest.mark.parametrize("side", ["source", "target"])
def test_a_broker_is_killed_and_comes_back(
    side: str,
    topics: Topics,
    source: Cluster,
    target: Cluster,
    eomirror: Eomirror,
    flow_config: Callable[..., Path],
    name: str,
) -> None:
    load = Load(source, name)
    load(topics, 2500)
    config = flow_config(**SMALL)
    run = eomirror.background("run", config=config)
    run.wait_for(lambda: ends(target, topics) >= 200, 40, "records on the target")
    victim = source if side == "source" else target
    victim.kill()
    time.sleep(1)
    victim.restart()
    goes_on(run, config, lambda: load(topics, 100))
    recovers(eomirror, config, source, target, topics)


@pytest.mark.parametrize("step", ["end_sent:8", "ledger:14", "end_answered:11"])
def test_owner_and_target_die_around_a_commit(
    step: str,
    topics: Topics,
    source: Cluster,
    target: Cluster,
    eomirror: Eomirror,
    flow_config: Callable[..., Path],
    name: str,
) -> None:
    Load(source, name)(topics, 1500)
    config = flow_config(**SMALL)
    run = eomirror.background("run", "--until-caught-up", config=config, env={"EOMIRROR_TEST_KILL_AT": step})
    run.process.wait(60)
    target.kill()  # markers may be unwritten, the decision may be unknown
    assert run.wait(1).code == -signal.SIGKILL
    target.restart()
    recovers(eomirror, config, source, target, topics)


def test_a_target_that_hangs_for_a_while(
    topics: Topics,
    source: Cluster,
    target: Cluster,
    eomirror: Eomirror,
    flow_config: Callable[..., Path],
    name: str,
) -> None:
    load = Load(source, name)
    load(topics, 800)
    config = flow_config(**SMALL)
    run = eomirror.background("run", config=config)
    loading = Loading(load, topics)
    at_work(run, target, topics)
    for _ in range(3):
        target.pause()
        time.sleep(1.5)
        target.resume()
        at_work(run, target, topics, 50)
    loading.end()
    run.term()
    run.wait(30).expect(0)
    catch_up(eomirror, config)
    assert {state.lane.owner.pid for state in lane_states(config).values() if state.lane} != {run.pid}
    assert_promise(eomirror, config, source, target, topics, least=1600)
