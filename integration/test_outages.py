"""A cluster that is away for a while, or a process that is held up, costs time: nothing is lost, doubled or made up."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from .cluster import Cluster
from .fleet import both_versions
from .process import Eomirror
from .promise import (
    SMALL,
    Load,
    Loading,
    assert_promise,
    doubts,
    ends,
    faulted_events,
    log_events,
    moved,
    positions,
    wait_until,
)
from .rawlog import commits, partition_batches
from .repair import goes_on, recovers

pytestmark = both_versions

AWAY_SECONDS = 34.0  # longer than any request waits for its answer (30 s), and half a second until one is sent

Topics = dict[str, int]


@pytest.fixture
def topics(source: Cluster, name: str) -> Topics:
    """Two topics at the source: one written in transactions, one not."""
    wanted = {f"{name}.plain": 2, f"{name}.lz4.tx": 2}
    for topic, partitions in wanted.items():
        source.create_topic(topic, partitions)
    return wanted


def aborts(cluster: Cluster, topics: Topics) -> int:
    """The abort markers in the log of these topics."""
    folders = [cluster.log_dir / f"{topic}-{number}" for topic, count in topics.items() for number in range(count)]
    return sum(batch.control and not commits(batch) for folder in folders for batch in partition_batches(folder))


def test_a_target_that_is_away_for_half_a_minute(
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
    run.wait_for(lambda: ends(target, topics) >= 400, 40, "records on the target")
    loading = Loading(load, topics, pause=0.5)
    target.pause()
    try:
        time.sleep(AWAY_SECONDS)
        assert run.running
    finally:
        target.resume()
    loading.end()
    # The controller has not heard of its broker either: for a moment the partitions are without a leader, once more.
    ended = goes_on(run, config, lambda: load(topics, 200))
    assert [event for event in log_events(ended) if event["event"] == "lane.rewind"]
    recovers(eomirror, config, source, target, topics, least=1200)


def test_a_source_that_is_away_is_unknown_and_the_flow_waits_for_it(
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

    def mirrored() -> bool:
        found = positions(config)
        return len(found) == 4 and sum(p.next_offset for p in found.values()) == ends(source, topics)

    run.wait_for(mirrored, 40, "all that there is")
    known = {(topic, partition): p.next_offset for (topic, partition), p in positions(config).items()}
    before = doubts(run)
    source.kill()

    def routes(verb: str, code: int) -> dict[tuple[str, int], Any]:
        document = eomirror(verb, name, "-o", "json", config=config).expect(code).json()
        items = document["items"] if verb == "lag" else document["items"][0]["routes"]
        return {(item["topic"], item["partition"]): item for item in items}

    unknown = {"lag_records": None, "lag_seconds": None, "source_end": None}
    for verb, code in (("status", 0), ("lag", 4)):
        found = routes(verb, code)
        assert {place: item["position"] for place, item in found.items()} == known
        assert all(item[key] is None for item in found.values() for key in unknown)
    (flow,) = eomirror("status", name, "-o", "json", config=config).expect(0).json()["items"]
    assert "no broker answers" in flow["trouble"][0]
    assert "unknown" in eomirror("status", name, config=config).expect(0).stdout
    assert "no broker answers" in eomirror("lag", name, "--max", "1h", config=config).expect(5).stderr
    assert run.running

    source.restart()
    load(topics, 400)
    run.wait_for(mirrored, 60, "it goes on by itself")
    assert all(item["lag_records"] == 0 for item in routes("lag", 0).values())
    run.term()
    ended = run.wait(30).expect(0)
    # What cannot be read is no reason to doubt what was written.
    assert doubts(ended) == before
    assert_promise(eomirror, config, source, target, topics, least=1600)
    assert moved(ended) == 1600


def test_a_transaction_that_the_coordinator_has_timed_out(
    topics: Topics,
    source: Cluster,
    target: Cluster,
    eomirror: Eomirror,
    flow_config: Callable[..., Path],
    name: str,
) -> None:
    load = Load(source, name)
    load(topics, 400)
    commit = {"interval": "900ms", "max_age": "900ms", "transaction_timeout": "1s"}
    config = flow_config(**SMALL | {"commit": commit})
    run = eomirror.background("run", config=config)
    run.wait_for(lambda: ends(target, topics, committed=True) >= 400, 40, "a first transaction")
    loading = Loading(load, topics)

    def timed_out() -> bool:
        """Stopped for so long that nothing is open any more; let go if it had nothing to be aborted."""
        before = aborts(target, topics)
        run.pause()
        wait_until(lambda: ends(target, topics, committed=True) == ends(target, topics), 40, "nothing is open")
        if aborts(target, topics) > before:
            return True
        run.resume()
        return False

    run.wait_for(timed_out, 40, "the coordinator aborts a transaction")
    rewinds = sum(event["event"] == "lane.rewind" for event in log_events(run))
    run.resume()
    loading.end()
    run.wait_for(lambda: sum(e["event"] == "lane.rewind" for e in log_events(run)) > rewinds, 40, "the doubt")
    goal = ends(source, topics)
    run.wait_for(lambda: sum(p.next_offset for p in positions(config).values()) == goal, 60, "it goes on by itself")
    run.term()
    run.wait(30).expect(0)
    assert faulted_events(run) == []
    assert_promise(eomirror, config, source, target, topics, least=800)
