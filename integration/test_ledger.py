"""The ledger tells the truth: which source offset became which target offset, in an unbroken chain."""

from __future__ import annotations

import hashlib
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

from eomirror.ledger import Run, decode_runs

from .cluster import Cluster
from .process import Eomirror
from .promise import (
    SMALL,
    Content,
    Load,
    Place,
    assert_promise,
    catch_up,
    contents,
    lane_states,
    ledger_records,
    positions,
)


def runs(config: Path, target: Cluster) -> dict[Place, list[Run]]:
    """(topic, partition) -> all runs in order: those of the ledger, then those still in the checkpoint."""
    found: dict[Place, list[Run]] = {}
    for records in ledger_records(config, target).values():
        for _, record in records:
            for route in record.routes:
                assert (route.source_topic, route.source_partition) == (route.target_topic, route.target_partition)
                place = (route.source_topic, route.source_partition)
                found.setdefault(place, []).extend(decode_runs(route.tally.runs))
    for place, position in positions(config).items():
        found.setdefault(place, []).extend(decode_runs(position.pending.runs))
    return found


def mapping(spans: list[Run]) -> Iterator[tuple[int, int]]:
    """(source offset, target offset) of every record; the runs must ascend on both sides."""
    source = target = 0
    for run in spans:
        assert run.source_first >= source
        assert run.target_first >= target
        yield from ((run.source_first + n, run.target_first + n) for n in range(run.size))
        source, target = run.source_first + run.size, run.target_first + run.size


def assert_true(config: Path, source: Cluster, target: Cluster, topics: dict[str, int]) -> None:
    """Every record of both sides is in the ledger or pending, exactly once, at its offsets; the chain is whole."""
    ours, theirs = contents(source, topics), contents(target, topics)
    told = runs(config, target)
    total = 0
    for place, records in ours.items():
        here: dict[int, Content] = dict(records)
        there: dict[int, Content] = dict(theirs[place])
        pairs = list(mapping(told.get(place, [])))
        assert [one for one, _ in pairs] == sorted(here)
        assert [other for _, other in pairs] == sorted(there)
        assert all(here[one] == there[other] for one, other in pairs)
        total += len(pairs)
    counted = sum(position.pending.records for position in positions(config).values())
    for lane, records in ledger_records(config, target).items():
        head = lane_states(config)[lane].lane
        assert head is not None
        previous, covered = "", -1
        for sequence, (value, record) in enumerate(records):
            assert (record.lane, record.sequence, record.previous) == (lane, sequence, previous)
            assert record.first_n > covered
            assert record.last_n >= record.first_n
            previous, covered = hashlib.sha256(value).hexdigest(), record.last_n
            counted += sum(route.tally.records for route in record.routes)
        assert (head.ledger_sequence, head.ledger_hash) == (len(records), previous)
        if records:
            assert head.ledger_n == covered
    assert counted == total


def test_the_ledger_maps_every_record(
    source: Cluster, target: Cluster, eomirror: Eomirror, flow_config: Callable[..., Path], name: str
) -> None:
    topics = {f"{name}.plain": 3, f"{name}.lz4.tx": 2, f"{name}.tx": 1}
    for topic, partitions in topics.items():
        source.create_topic(topic, partitions)
    load = Load(source, name)
    load(topics, 500)
    config = flow_config(**SMALL)
    catch_up(eomirror, config)
    assert sum(p.pending.records for p in positions(config).values()) == 0
    assert_true(config, source, target, topics)
    load(topics, 500)
    eomirror("run", config=config, env={"EOMIRROR_TEST_KILL_AT": "end_sent:5"}).expect(-signal.SIGKILL)
    eomirror("run", config=config, env={"EOMIRROR_TEST_KILL_AT": "end_answered:5"}).expect(-signal.SIGKILL)
    assert sum(p.pending.records for p in positions(config).values()) > 0  # they ride in the checkpoint
    catch_up(eomirror, config)
    assert_true(config, source, target, topics)
    assert_promise(eomirror, config, source, target, topics, least=3000)


def test_the_ledger_keeps_up_while_it_runs(
    source: Cluster, target: Cluster, eomirror: Eomirror, flow_config: Callable[..., Path], name: str
) -> None:
    topics = {f"{name}.plain": 2, f"{name}.lz4.tx": 1}
    for topic, partitions in topics.items():
        source.create_topic(topic, partitions)
    load = Load(source, name)
    config = flow_config(**SMALL)
    run = eomirror.background("run", config=config)
    run.wait_for_text("lane.taken")
    for _ in range(3):
        load(topics, 100)
        ends = {place: end for topic in topics for place, end in _ends(source, topic).items()}
        # A second after the last record nothing is pending any more, though the flow goes on.
        run.wait_for(
            lambda ends=ends: all(
                place in positions(config)
                and positions(config)[place].next_offset >= end
                and positions(config)[place].pending.runs == ()
                for place, end in ends.items()
            ),
            20,
            "the ledger is up to date",
        )
        assert_true(config, source, target, topics)
    run.term()
    run.wait(20).expect(0)
    assert_promise(eomirror, config, source, target, topics, least=600)


def _ends(source: Cluster, topic: str) -> dict[Place, int]:
    return {(topic, partition): end for partition, end in source.end_offsets(topic, committed=True).items()}
