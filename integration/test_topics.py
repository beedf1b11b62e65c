"""Topics come, grow and differ; their records arrive all the same, whatever the source's log looks like."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from eomirror.records import State

from .cluster import Cluster
from .compaction import CLEANING, HELD, has_gaps, wait_compacted
from .process import Eomirror
from .promise import SMALL, Load, Loading, assert_equal, assert_promise, catch_up, contents, ends, positions, settled


def test_missing_topics_are_created_like_those_of_the_source(
    source: Cluster, target: Cluster, eomirror: Eomirror, flow_config: Callable[..., Path], name: str
) -> None:
    topic = f"{name}.odd"
    settings = {
        "retention.ms": 123_456_789,
        "max.message.bytes": 765_432,
        "compression.type": "lz4",
        "min.insync.replicas": 3,
        "message.timestamp.type": "LogAppendTime",
        "leader.replication.throttled.replicas": "*",
        "follower.replication.throttled.replicas": "0:1",
    }
    source.create_topic(topic, 5, settings | {"min.insync.replicas": 1})
    source.set_config(topic, {"min.insync.replicas": 3})
    catch_up(eomirror, flow_config(**SMALL))
    assert target.partitions(topic) == 5
    made = target.config(topic)
    assert {key: made[key] for key in settings} == {
        "retention.ms": "123456789",
        "max.message.bytes": "765432",
        "compression.type": "lz4",
        "min.insync.replicas": "1",
        "message.timestamp.type": "CreateTime",
        "leader.replication.throttled.replicas": "",
        "follower.replication.throttled.replicas": "",
    }


def test_internal_topics_are_never_trimmed_of_what_counts(
    source: Cluster, target: Cluster, eomirror: Eomirror, flow_config: Callable[..., Path], name: str
) -> None:
    source.create_topic(f"{name}.plain", 1)
    catch_up(eomirror, flow_config(**SMALL))
    policies = {part: target.config(f"__eomirror.{name}.{part}")["cleanup.policy"] for part in INTERNAL}
    assert policies == {"checkpoint": "compact", "producers": "compact", "control": "compact", "ledger": "delete"}
    assert {part: target.partitions(f"__eomirror.{name}.{part}") for part in INTERNAL} == {
        "checkpoint": 2,
        "producers": 2,
        "ledger": 2,
        "control": 1,
    }


INTERNAL = ("checkpoint", "producers", "ledger", "control")


def test_a_topic_created_while_it_runs_is_mirrored_from_its_beginning(
    source: Cluster, target: Cluster, eomirror: Eomirror, flow_config: Callable[..., Path], name: str
) -> None:
    first, late = {f"{name}.plain": 1}, {f"{name}.late.tx": 3}
    source.create_topic(f"{name}.plain", 1)
    load = Load(source, name)
    load(first, 100)
    config = flow_config(**SMALL, start="latest")
    run = eomirror.background("run", config=config)
    run.wait_for(lambda: (f"{name}.plain", 0) in positions(config))
    source.create_topic(f"{name}.late.tx", 3)
    load(late, 200)
    run.wait_for(lambda: ends(target, late) >= 200, 20, "the late topic")
    run.term()
    run.wait(20).expect(0)
    catch_up(eomirror, config)
    assert_promise(eomirror, config, source, target, late, least=200)
    assert ends(target, first) == 0  # it starts at the latest record


def test_new_partitions_are_mirrored_from_their_beginning(
    source: Cluster, target: Cluster, eomirror: Eomirror, flow_config: Callable[..., Path], name: str
) -> None:
    topic = f"{name}.plain"
    source.create_topic(topic, 1)
    config = flow_config(**SMALL)
    Load(source, name)({topic: 1}, 100)
    run = eomirror.background("run", config=config)
    run.wait_for(lambda: ends(target, [topic]) >= 100)
    source.add_partitions(topic, 4)
    Load(source, name)({topic: 4}, 400)
    run.wait_for(lambda: ends(target, [topic]) >= 500, 20, "the new partitions")
    run.term()
    run.wait(20).expect(0)
    source.add_partitions(topic, 5)  # and once more while nothing runs
    Load(source, name)({topic: 5}, 100)
    catch_up(eomirror, config)
    assert target.partitions(topic) == 5
    assert_promise(eomirror, config, source, target, [topic], least=600)


def test_a_flow_that_starts_at_the_latest_record_or_at_a_time(
    source: Cluster, target: Cluster, eomirror: Eomirror, flow_config: Callable[..., Path], name: str
) -> None:
    topic = f"{name}.plain"
    source.create_topic(topic, 2)
    producer = source.producer({"batch.num.messages": 50, "linger.ms": 50, "compression.type": "lz4"})
    base = 1_700_000_000_000  # 2023-11-14T22:13:20Z
    for number in range(200):
        producer.produce(topic, b"%d" % number, b"k", 0, timestamp=base + number * 1000)
    assert producer.flush(30) == 0
    # Record 100 lies within a batch: what is before it in the batch is left out.
    config = flow_config(**SMALL, start="2023-11-14T22:15:00Z")
    catch_up(eomirror, config)
    there = [content[1] for _, content in contents(target, [topic])[topic, 0]]
    assert there == [b"%d" % number for number in range(100, 200)]
    producer.produce(topic, b"more", b"k", 1, timestamp=base)  # pinned at the first start: its time no longer counts
    assert producer.flush(30) == 0
    catch_up(eomirror, flow_config(**SMALL, start="earliest"))
    theirs = contents(target, [topic])
    assert [content[1] for _, content in theirs[topic, 0]] == there
    assert [content[1] for _, content in theirs[topic, 1]] == [b"more"]


def test_times_that_the_source_broker_set_are_kept(
    source: Cluster, target: Cluster, eomirror: Eomirror, flow_config: Callable[..., Path], name: str
) -> None:
    topics = {f"{name}.plain": 2, f"{name}.lz4": 1}
    for topic, partitions in topics.items():
        source.create_topic(topic, partitions, {"message.timestamp.type": "LogAppendTime"})
    load = Load(source, name)
    load(topics, 200)
    assert {content[3][0] for records in contents(source, topics).values() for _, content in records} == {2}
    config = flow_config(**SMALL)
    catch_up(eomirror, config)
    assert_promise(eomirror, config, source, target, topics, least=400)


def test_a_compacted_topic_with_gaps(
    source: Cluster, target: Cluster, eomirror: Eomirror, flow_config: Callable[..., Path], name: str
) -> None:
    topics = {f"{name}.compacted.lz4": 1, f"{name}.compacted.tx": 1}
    for topic in topics:
        source.create_topic(topic, 1, {**CLEANING, "segment.ms": 100})
        target.create_topic(topic, 1, {"cleanup.policy": "compact", **HELD})
    load = Load(source, name)
    load(topics, 600)
    wait_compacted(source, topics, has_gaps)
    config = flow_config(**SMALL)
    catch_up(eomirror, config)
    load(topics, 100)
    catch_up(eomirror, config)
    assert_promise(eomirror, config, source, target, topics, least=200)


def test_control_records_at_the_end_are_no_lag(
    source: Cluster, target: Cluster, eomirror: Eomirror, flow_config: Callable[..., Path], name: str
) -> None:
    topic = f"{name}.tx"
    source.create_topic(topic, 1)
    producer = source.producer({"transactional.id": f"control.{name}"})
    producer.init_transactions(30)
    config = flow_config(**SMALL)
    run = eomirror.background("run", config=config)
    for commits in (True, False, False):
        producer.begin_transaction()
        for number in range(10):
            producer.produce(topic, b"%d" % number, b"k", 0)
        assert producer.flush(30) == 0
        if commits:
            producer.commit_transaction(30)
        else:
            producer.abort_transaction(30)
    _, end = settled(source, [topic])[topic, 0]
    assert end == 33
    run.wait_for(
        lambda: (topic, 0) in positions(config) and positions(config)[topic, 0].next_offset == end, 20, "lag 0"
    )
    run.term()
    run.wait(20).expect(0)
    assert positions(config)[topic, 0].state is State.ACTIVE
    assert_promise(eomirror, config, source, target, [topic], least=10)


def test_an_open_transaction_at_the_source_is_waited_for(
    source: Cluster, target: Cluster, eomirror: Eomirror, flow_config: Callable[..., Path], name: str
) -> None:
    topic = f"{name}.plain"
    source.create_topic(topic, 1)
    producer = source.producer({"transactional.id": f"open.{name}"})
    producer.init_transactions(30)
    producer.begin_transaction()
    producer.produce(topic, b"in a transaction", b"k", 0)
    assert producer.flush(30) == 0
    load = Load(source, name)
    load({topic: 1}, 100)
    config = flow_config(**SMALL)
    catch_up(eomirror, config)
    assert ends(target, [topic]) == 0
    producer.commit_transaction(30)
    catch_up(eomirror, config)
    assert_promise(eomirror, config, source, target, [topic], least=101)


def test_a_topic_that_comes_while_others_are_busy_faults_nothing(
    source: Cluster, target: Cluster, eomirror: Eomirror, flow_config: Callable[..., Path], name: str
) -> None:
    busy = {f"{name}.plain": 2, f"{name}.lz4.tx": 2}
    for topic, partitions in busy.items():
        source.create_topic(topic, partitions)
    load = Load(source, name)
    load(busy, 1000)
    config = flow_config(**SMALL | {"discovery": {"interval": "100ms"}})
    run = eomirror.background("run", config=config)
    loading = Loading(load, busy, pause=0.0)
    late = {f"{name}.late{number}": 1 for number in range(8)}
    writer = Load(source, f"{name}.more")
    for topic in late:
        source.create_topic(topic, 1)
        writer({topic: 1}, 20)
    run.wait_for(lambda: ends(target, late) >= 160, 40, "the new topics")
    loading.end()
    run.term()
    run.wait(20).expect(0)
    assert "partition.faulted" not in run.stderr
    catch_up(eomirror, config)
    assert_equal(source, target, busy, least=1000)
    assert_promise(eomirror, config, source, target, late, least=160)
