"""What the target refuses or has lost stops exactly what it must, and nothing is committed over it."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from confluent_kafka.admin import AclOperation

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
    ends,
    faulted_events,
    faults,
    gaps,
    positions,
    produce,
    settle_fault,
    values,
)

pytestmark = both_versions

# A transaction stays open until it holds more than a few small records.
HELD = SMALL | {
    "lanes": 1,
    "commit": {"interval": "40s", "max_age": "40s", "max_bytes": "16KiB", "transaction_timeout": "50s"},
    "discovery": {"interval": "1h"},
}


def test_a_time_that_the_target_refuses_waits_until_it_is_allowed(
    source: Cluster, target: Cluster, eomirror: Eomirror, flow_config: Callable[..., Path], name: str
) -> None:
    topic = f"{name}.early"
    source.create_topic(topic, 1, {"message.timestamp.after.max.ms": 1 << 50})
    target.create_topic(topic, 1, {"message.timestamp.after.max.ms": 3_600_000})
    producer = source.producer({"linger.ms": 500, "compression.type": "lz4"})
    now = int(time.time() * 1000)
    for number in range(600):
        producer.produce(topic, b"%d" % number, b"k", timestamp=now + (7_200_000 if number == 321 else 0))
    assert producer.flush(30) == 0
    config = flow_config(**SMALL)
    run = catch_up(eomirror, config, code=7)
    assert faulted_events(run) == [(topic, 0, "TARGET_REFUSED")]
    assert positions(config)[topic, 0].next_offset == 321
    assert values(target, topic) == [b"%d" % number for number in range(321)]
    target.set_config(topic, {"message.timestamp.after.max.ms": 1 << 50})
    settle_fault(config, (topic, 0), "retry")
    catch_up(eomirror, config)
    assert gaps(config, target) == {}
    assert_promise(eomirror, config, source, target, [topic], least=600)


def test_one_large_record_among_many_small_ones_is_found(
    source: Cluster, target: Cluster, eomirror: Eomirror, flow_config: Callable[..., Path], name: str
) -> None:
    topic, fine = f"{name}.lowered", f"{name}.fine"
    for one in (topic, fine):
        source.create_topic(one, 1)
    config = flow_config(lanes=1, discovery={"interval": "1h"})  # it keeps the limit that it knows
    produce(source, topic, (b"k", b"before"))
    run = eomirror.background("run", config=config)
    run.wait_for(lambda: ends(target, [topic], committed=True) > 0, 40, "the first record")
    target.set_config(topic, {"max.message.bytes": 20_000})
    producer = source.producer({"linger.ms": 1000, "batch.num.messages": 2000, "batch.size": 900_000})
    numbers = range(1, 1501)
    for number in numbers:
        producer.produce(topic, b"%d" % number + (b"x" * 30_000 if number == 777 else b""), b"k")
    assert producer.flush(30) == 0
    run.wait_for(lambda: faults(config) == {(topic, 0): Reason.RECORD_TOO_LARGE}, 60, "the fault")
    fault = positions(config)[topic, 0].fault
    assert fault is not None
    assert (positions(config)[topic, 0].next_offset, fault.next_offset) == (777, 778)
    settle_fault(config, (topic, 0))
    produce(source, fine, (b"k", b"1"))
    run.wait_for(lambda: positions(config)[topic, 0].next_offset == 1501, 60, "it goes on")
    run.wait_for(lambda: positions(config)[fine, 0].next_offset == 1, 40, "the others too")
    run.term()
    run.wait(30).expect(0)
    assert gaps(config, target) == {(topic, 0): [(777, 778, Reason.RECORD_TOO_LARGE)]}
    assert values(target, topic) == [b"before", *(b"%d" % number for number in numbers if number != 777)]
    assert_equal(source, target, [fine])


def test_a_target_topic_is_recreated_in_the_middle_of_a_transaction(
    source: Cluster, target: Cluster, eomirror: Eomirror, flow_config: Callable[..., Path], name: str
) -> None:
    again, fine = f"{name}.again", f"{name}.fine"
    for topic in (again, fine):
        source.create_topic(topic, 1)
        produce(source, topic, (b"k", b"before"))
    config = flow_config(**SMALL | {"lanes": 1})
    catch_up(eomirror, config)
    run = eomirror.background("run", config=flow_config(file="held.yaml", **HELD))
    run.wait_for_text("lane.taken")
    committed = target.end_offsets(again)
    for topic in (again, fine):
        produce(source, topic, *((b"k", b"first-%d" % n) for n in range(4)))
    run.wait_for(lambda: target.end_offsets(again) != committed, 40, "an open transaction")
    assert target.end_offsets(again, committed=True) == committed
    target.delete_topic(again)
    target.create_topic(again, 1)
    second = [b"second-%d" % n + b"x" * 10_000 for n in range(3)]
    produce(source, again, *((b"k", value) for value in second))
    run.wait_for(lambda: faults(config) == {(again, 0): Reason.TARGET_RECREATED}, 40, "the fault")
    assert positions(config)[again, 0].next_offset == 1
    assert values(target, again) == []
    run.term()
    run.wait(30).expect(0)
    assert faulted_events(run) == [(again, 0, "TARGET_RECREATED")]
    assert positions(config)[again, 0].next_offset == 1
    settle_fault(config, (again, 0))
    catch_up(eomirror, config)
    assert values(target, again) == [*(b"first-%d" % n for n in range(4)), *second]
    assert_promise(eomirror, config, source, target, [fine], least=5)


def test_a_right_is_taken_away_and_given_back(
    source: Cluster, target: Cluster, eomirror: Eomirror, flow_config: Callable[..., Path], name: str
) -> None:
    barred, fine = f"{name}.barred", f"{name}.fine"
    topics = {barred: 2, fine: 1}
    for topic, partitions in topics.items():
        source.create_topic(topic, partitions)
    load = Load(source, name)
    load(topics, 200)
    config = flow_config(**SMALL | {"lanes": 1})
    run = eomirror.background("run", config=config)

    def mirrored(*wanted: str) -> bool:
        found = positions(config)
        places = [(topic, partition) for topic in wanted for partition in range(topics[topic])]
        goal = sum(source.end_offsets(topic)[partition] for topic, partition in places)
        return all(place in found for place in places) and sum(found[p].next_offset for p in places) == goal

    run.wait_for(lambda: mirrored(barred, fine), 40, "all that there is")
    target.deny(barred, AclOperation.WRITE)
    load(topics, 200)

    def waits() -> bool:
        found = [positions(config)[barred, partition] for partition in (0, 1)]
        return all(one.state is State.RETRYING and "TOPIC_AUTHORIZATION_FAILED" in (one.trouble or "") for one in found)

    run.wait_for(waits, 40, "both partitions wait for their right")
    run.wait_for(lambda: mirrored(fine), 40, "the others go on")
    (flow,) = eomirror("status", name, "-o", "json", config=config).expect(0).json()["items"]
    said = {(route["topic"], route["state"]) for route in flow["routes"]}
    assert (barred, "RETRYING") in said
    assert (barred, "FAULTED") not in said
    target.permit(barred)
    run.wait_for(lambda: mirrored(barred, fine), 60, "it goes on by itself")

    source.deny(barred, AclOperation.READ)
    load({barred: 2, fine: 1}, 200)
    run.wait_for(lambda: mirrored(fine), 40, "the others go on")
    assert not mirrored(barred)
    said = eomirror("lag", name, "--max", "1h", config=config).expect(5).stderr
    assert f"{barred}[0] is unknown: cluster source: looking at {barred}[0]@" in said
    assert "TOPIC_AUTHORIZATION_FAILED (29)" in said
    source.permit(barred)
    run.wait_for(lambda: mirrored(barred, fine), 60, "it goes on by itself")
    run.term()
    run.wait(30).expect(0)
    assert faulted_events(run) == []
    assert_promise(eomirror, config, source, target, topics, least=1200)
