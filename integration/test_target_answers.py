"""What a target broker's answers to produces say: which record it refuses, and that somebody else has written."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from .cluster import Cluster
from .process import Eomirror
from .promise import (
    SMALL,
    Load,
    assert_promise,
    catch_up,
    contents,
    doubts,
    ends,
    log_events,
    moved,
    positions,
    produce,
    settle_fault,
)

RECORDS = 40
BAD = 23


@pytest.mark.parametrize("codec", ["none", "lz4"])
@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ({"cleanup.policy": "compact"}, "Compacted topic cannot accept message without key in topic partition"),
        ({"message.timestamp.after.max.ms": 3_600_000}, "is out of range. The timestamp should be within"),
    ],
)
def test_a_record_in_the_middle_of_a_batch_is_named_by_the_broker(
    codec: str,
    setting: dict[str, object],
    words: str,
    source: Cluster,
    target: Cluster,
    eomirror: Eomirror,
    flow_config: Callable[..., Path],
    name: str,
) -> None:
    topic = f"{name}.refused"
    source.create_topic(topic, 1, {"message.timestamp.after.max.ms": 1 << 50})
    target.create_topic(topic, 1, setting)
    writer = source.producer({"linger.ms": 1000, "batch.num.messages": RECORDS, "compression.type": codec})
    now = int(time.time() * 1000)
    compacted = "cleanup.policy" in setting
    for number in range(RECORDS):
        bad = number in (BAD, BAD + 9)
        key = None if bad and compacted else b"k%d" % number
        writer.produce(topic, b"%d" % number, key, 0, timestamp=now + (7_200_000 if bad and not compacted else 0))
    assert writer.flush(30) == 0
    config = flow_config(**SMALL)
    run = catch_up(eomirror, config, code=7)
    events = log_events(run)
    (fault,) = [event for event in events if event["event"] == "partition.faulted"]
    assert fault["reason"] == "TARGET_REFUSED"
    assert words in fault["detail"]
    # Named at once: nothing was sent again in parts to find it.
    assert [cause for cause, _ in doubts(run)] == ["produce_refused"]
    assert [value for _, (_, value, _, _) in contents(target, [topic])[topic, 0]] == [b"%d" % n for n in range(BAD)]
    position = positions(config)[topic, 0]
    assert position.fault is not None
    assert (position.next_offset, position.fault.next_offset) == (BAD, BAD + 1)
    settle_fault(config, (topic, 0))
    catch_up(eomirror, config, code=7)
    assert positions(config)[topic, 0].next_offset == BAD + 9


def test_a_foreign_write_is_told_once_with_its_place(
    source: Cluster, target: Cluster, eomirror: Eomirror, flow_config: Callable[..., Path], name: str
) -> None:
    topic = f"{name}.plain"
    source.create_topic(topic, 1)
    load = Load(source, name)
    load({topic: 1}, 500)
    config = flow_config(**SMALL)
    run = eomirror.background("run", config=config)

    def mirrored(count: int) -> bool:
        found = positions(config)
        return (topic, 0) in found and found[topic, 0].next_offset == count

    run.wait_for(lambda: mirrored(500), 30, "caught up")
    first = ends(target, [topic])
    produce(target, topic, (b"k", b"foreign"), (b"k", b"foreign too"))
    load({topic: 1}, 500)
    run.wait_for(lambda: mirrored(1000), 30, "caught up again")
    run.term()
    ended = run.wait(20).expect(0)
    (told,) = [event for event in log_events(ended) if event["event"] == "partition.foreign_write"]
    assert (told["level"], told["topic"], told["partition"]) == ("warning", topic, 0)
    assert told["first"] <= first
    assert first + 2 <= told["next"]
    assert moved(ended) == 1000


def test_markers_of_kills_and_restarts_are_nobodys(
    source: Cluster, target: Cluster, eomirror: Eomirror, flow_config: Callable[..., Path], name: str
) -> None:
    topics = {f"{name}.plain": 2, f"{name}.lz4.tx": 2}
    for topic, partitions in topics.items():
        source.create_topic(topic, partitions)
    load = Load(source, name)
    config = flow_config(**SMALL)
    runs = []
    for kill in ("produce:7", "end_sent:12", "acked:10", "end_answered:11", ""):
        load(topics, 1000)
        env = {"EOMIRROR_TEST_KILL_AT": kill} if kill else {}
        runs.append(eomirror("run", "--until-caught-up", config=config, env=env))
    assert [run.code for run in runs] == [-9, -9, -9, -9, 0]
    told = [event for run in runs for event in log_events(run) if event["event"] == "partition.foreign_write"]
    assert told == []
    assert_promise(eomirror, config, source, target, topics, least=8000)
