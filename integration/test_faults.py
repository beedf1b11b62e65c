"""What cannot be mirrored stops its own partition, by name and with a reason; the others go on, a person decides."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from eomirror.errors import Reason
from eomirror.records import State

from .cluster import Cluster
from .fleet import both_versions
from .process import Eomirror
from .promise import (
    SMALL,
    Load,
    assert_equal,
    assert_promise,
    catch_up,
    contents,
    ends,
    faulted_events,
    faults,
    gaps,
    positions,
    produce,
    settle_fault,
    settled,
    values,
    wait_until,
)

pytestmark = both_versions


def test_a_gap_at_the_source_stops_its_partition_alone(
    source: Cluster, target: Cluster, eomirror: Eomirror, flow_config: Callable[..., Path], name: str
) -> None:
    gone, fine = f"{name}.gone", f"{name}.fine"
    topics = {gone: 2, fine: 1}
    for topic, partitions in topics.items():
        source.create_topic(topic, partitions)
    load = Load(source, name)
    config = flow_config(**SMALL)
    load(topics, 400)
    catch_up(eomirror, config)
    position = positions(config)[gone, 0].next_offset
    load(topics, 400)
    first = position + 50
    source.delete_records(gone, {0: first})
    run = catch_up(eomirror, config, code=8)
    assert faulted_events(run) == [(gone, 0, "SOURCE_GAP")]
    assert f"source starts at {first} but the checkpoint is {position}" in run.stderr
    assert f"eomirror fault accept {name} {gone} 0" in run.stderr
    assert faults(config) == {(gone, 0): Reason.SOURCE_GAP}
    assert_equal(source, target, [fine], least=800)
    ours, theirs = contents(source, [gone]), contents(target, [gone])
    assert [c for _, c in ours[gone, 1]] == [c for _, c in theirs[gone, 1]]
    before = len(theirs[gone, 0])

    catch_up(eomirror, config, code=8)  # nobody has decided: it stands, and nothing is skipped
    assert len(contents(target, [gone])[gone, 0]) == before
    settle_fault(config, (gone, 0))
    catch_up(eomirror, config)  # decided while no worker ran
    assert faults(config) == {}
    theirs = contents(target, [gone])
    assert [c for _, c in theirs[gone, 0][before:]] == [c for _, c in contents(source, [gone])[gone, 0]]
    assert gaps(config, target) == {(gone, 0): [(position, first, Reason.SOURCE_GAP)]}


def test_a_gap_is_accepted_while_the_flow_runs(
    source: Cluster, target: Cluster, eomirror: Eomirror, flow_config: Callable[..., Path], name: str
) -> None:
    topics = {f"{name}.gone": 1, f"{name}.fine": 2}
    for topic, partitions in topics.items():
        source.create_topic(topic, partitions)
    load = Load(source, name)
    config = flow_config(**SMALL)
    load(topics, 100)
    catch_up(eomirror, config)
    load(topics, 200)
    source.delete_records(f"{name}.gone", {0: 250})
    run = eomirror.background("run", config=config)
    run.wait_for(lambda: faults(config) == {(f"{name}.gone", 0): Reason.SOURCE_GAP})
    settle_fault(config, (f"{name}.gone", 0))
    run.wait_for(lambda: positions(config)[f"{name}.gone", 0].next_offset == 300, 20, "it goes on")
    load(topics, 100)
    run.wait_for(lambda: positions(config)[f"{name}.gone", 0].next_offset == 400, 20, "it goes on for good")
    run.term()
    run.wait(20).expect(0)
    assert_equal(source, target, [f"{name}.fine"], least=400)
    ours, theirs = contents(source, [f"{name}.gone"]), contents(target, [f"{name}.gone"])
    assert [c for _, c in theirs[f"{name}.gone", 0]][-150:] == [c for _, c in ours[f"{name}.gone", 0]]
    assert len(theirs[f"{name}.gone", 0]) == 100 + 150


def test_a_recreated_source_topic_is_not_taken_for_the_old_one(
    source: Cluster, target: Cluster, eomirror: Eomirror, flow_config: Callable[..., Path], name: str
) -> None:
    topic = f"{name}.again"
    source.create_topic(topic, 1)
    config = flow_config(**SMALL)
    produce(source, topic, *((b"k", b"old-%d" % n) for n in range(5)))
    catch_up(eomirror, config)
    source.delete_topic(topic)
    source.create_topic(topic, 1)
    produce(source, topic, *((b"k", b"new-%d" % n) for n in range(9)))
    run = catch_up(eomirror, config, code=8)
    assert faulted_events(run) == [(topic, 0, "SOURCE_RECREATED")]
    assert values(target, topic) == [b"old-%d" % n for n in range(5)]
    settle_fault(config, (topic, 0))
    catch_up(eomirror, config)
    assert values(target, topic) == [b"old-%d" % n for n in range(5)] + [b"new-%d" % n for n in range(9)]


def test_a_recreated_target_topic_is_told(
    source: Cluster, target: Cluster, eomirror: Eomirror, flow_config: Callable[..., Path], name: str
) -> None:
    topic = f"{name}.again"
    source.create_topic(topic, 1)
    config = flow_config(**SMALL)
    produce(source, topic, *((b"k", b"old-%d" % n) for n in range(5)))
    run = eomirror.background("run", config=config)
    run.wait_for(lambda: ends(target, [topic]) > 0)
    run.wait_for(lambda: positions(config)[topic, 0].next_offset == 5)
    target.delete_topic(topic)
    produce(source, topic, *((b"k", b"new-%d" % n) for n in range(3)))
    run.wait_for(lambda: faults(config) == {(topic, 0): Reason.TARGET_RECREATED}, 30, "the fault")
    settle_fault(config, (topic, 0))
    run.wait_for(lambda: positions(config)[topic, 0].next_offset == 8, 20, "it goes on")
    run.term()
    run.wait(20).expect(0)
    assert values(target, topic) == [b"new-%d" % n for n in range(3)]


def test_records_of_unknown_origin_are_not_mixed_with(
    source: Cluster, target: Cluster, eomirror: Eomirror, flow_config: Callable[..., Path], name: str
) -> None:
    fine, late = f"{name}.fine", f"{name}.late"
    source.create_topic(fine, 1)
    produce(source, fine, (b"k", b"1"))
    config = flow_config(**SMALL)
    run = eomirror.background("run", config=config)
    run.wait_for(lambda: ends(target, [fine]) > 0)
    target.create_topic(late, 1)
    produce(target, late, (b"k", b"stranger"))
    source.create_topic(late, 1)
    produce(source, late, (b"k", b"a"), (b"k", b"b"))
    run.wait_for(lambda: faults(config) == {(late, 0): Reason.TARGET_NOT_EMPTY}, 30, "the fault")
    produce(source, fine, (b"k", b"2"))
    run.wait_for(lambda: positions(config)[fine, 0].next_offset == 2, 20, "the others go on")
    assert values(target, late) == [b"stranger"]
    settle_fault(config, (late, 0))
    run.wait_for(lambda: positions(config)[late, 0].next_offset == 2, 20, "it goes on")
    run.term()
    run.wait(20).expect(0)
    assert values(target, late) == [b"stranger", b"a", b"b"]
    assert_equal(source, target, [fine], least=2)


def test_a_record_that_is_too_large_is_left_out_alone(
    source: Cluster, target: Cluster, eomirror: Eomirror, flow_config: Callable[..., Path], name: str
) -> None:
    topic = f"{name}.large"
    source.create_topic(topic, 1)
    target.create_topic(topic, 1, {"max.message.bytes": 2000})
    config = flow_config(**SMALL)
    produce(source, topic, (b"k", b"before"), (b"k", b"x" * 5000), (b"k", b"after"))
    run = catch_up(eomirror, config, code=7)
    assert faulted_events(run) == [(topic, 0, "RECORD_TOO_LARGE")]
    assert values(target, topic) == [b"before"]
    settle_fault(config, (topic, 0))
    catch_up(eomirror, config)
    assert values(target, topic) == [b"before", b"after"]
    target.set_config(topic, {"max.message.bytes": 100_000})
    produce(source, topic, (b"k", b"y" * 5000))
    catch_up(eomirror, config)
    assert values(target, topic) == [b"before", b"after", b"y" * 5000]


def test_a_limit_that_is_lowered_while_it_runs_splits_batches_and_faults_nothing(
    source: Cluster, target: Cluster, eomirror: Eomirror, flow_config: Callable[..., Path], name: str
) -> None:
    topic = f"{name}.lowered"
    source.create_topic(topic, 1)
    config = flow_config(lanes=1, discovery={"interval": "1h"})  # it keeps the limit that it knows
    batches = source.producer({"linger.ms": 200, "batch.num.messages": 500})

    def write(first: int) -> None:
        for number in range(first, first + 500):
            batches.produce(topic, b"%d" % number + b"x" * 300, b"k")
        assert batches.flush(30) == 0

    write(0)
    run = eomirror.background("run", config=config)
    run.wait_for(lambda: ends(target, [topic], committed=True) >= 500, 30, "the first batch")
    target.set_config(topic, {"max.message.bytes": 50_000})
    write(500)
    write(1000)
    run.wait_for(lambda: positions(config)[topic, 0].next_offset == 1500, 30, "the other batches")
    run.term()
    run.wait(20).expect(0)
    assert faulted_events(run) == []
    assert_equal(source, target, [topic], least=1500)


def test_what_the_target_refuses_is_left_out_alone(
    source: Cluster, target: Cluster, eomirror: Eomirror, flow_config: Callable[..., Path], name: str
) -> None:
    topic = f"{name}.refused"
    source.create_topic(topic, 1)
    target.create_topic(topic, 1, {"cleanup.policy": "compact"})
    config = flow_config(**SMALL)
    produce(source, topic, (b"a", b"1"), (b"b", b"2"), (None, b"no key"), (b"c", b"3"), (b"d", b"4"))
    run = catch_up(eomirror, config, code=7)
    assert faulted_events(run) == [(topic, 0, "TARGET_REFUSED")]
    assert values(target, topic) == [b"1", b"2"]  # what is before it is mirrored
    settle_fault(config, (topic, 0), "retry")
    run = catch_up(eomirror, config, code=7)
    assert values(target, topic) == [b"1", b"2"]
    settle_fault(config, (topic, 0))
    catch_up(eomirror, config)
    assert values(target, topic) == [b"1", b"2", b"3", b"4"]  # and so is what is behind it
    assert gaps(config, target) == {(topic, 0): [(2, 3, Reason.TARGET_REFUSED)]}


def test_a_topic_deleted_at_the_source_is_told(
    source: Cluster, target: Cluster, eomirror: Eomirror, flow_config: Callable[..., Path], name: str
) -> None:
    gone, fine = f"{name}.gone", f"{name}.fine"
    for topic in (gone, fine):
        source.create_topic(topic, 1)
        produce(source, topic, (b"k", b"1"), (b"k", b"2"))
    config = flow_config(**SMALL)
    run = eomirror.background("run", config=config)
    run.wait_for(lambda: ends(target, [gone, fine]) >= 4)
    source.delete_topic(gone)
    run.wait_for(lambda: faults(config) == {(gone, 0): Reason.SOURCE_DELETED}, 40, "the fault")
    produce(source, fine, (b"k", b"3"))
    run.wait_for(lambda: positions(config)[fine, 0].next_offset == 3, 20, "the others go on")
    settle_fault(config, (gone, 0))
    run.wait_for(lambda: positions(config)[gone, 0].state is State.PAUSED, 20, "it is paused")
    run.term()
    run.wait(20).expect(0)
    assert values(target, gone) == [b"1", b"2"]
    assert_promise(eomirror, config, source, target, [fine])


def test_a_rewind_of_one_partition_costs_the_others_nothing(
    source: Cluster, target: Cluster, eomirror: Eomirror, flow_config: Callable[..., Path], name: str
) -> None:
    bad, topics = f"{name}.bad", {f"{name}.plain": 2, f"{name}.lz4.tx": 2}
    source.create_topic(bad, 1)
    for topic, partitions in topics.items():
        source.create_topic(topic, partitions)
    target.create_topic(bad, 1, {"cleanup.policy": "compact"})
    load = Load(source, name)
    config = flow_config(**SMALL | {"lanes": 1})
    load(topics, 600)
    produce(source, bad, (None, b"no key"))
    run = eomirror.background("run", config=config)
    run.wait_for(lambda: faults(config) == {(bad, 0): Reason.TARGET_REFUSED}, 30, "the fault")
    load(topics, 300)
    wanted = {place: end for place, (_, end) in settled(source, topics).items()}
    wait_until(lambda: all(positions(config)[place].next_offset >= end for place, end in wanted.items()), 20)
    run.term()
    run.wait(20).expect(0)
    assert_equal(source, target, topics, least=1800)
    assert values(target, bad) == []
