"""What the target refuses or has lost stops exactly what it must, and nothing is committed over it."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from eomirror.errors import Reason

from .cluster import Cluster
from .fleet import both_versions
from .process import Eomirror
from .promise import (
    SMALL,
    assert_promise,
    catch_up,
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
