"""What the source has lost, spoilt or replaced stops its own partition with the exact offsets, and nothing else."""

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
    Load,
    Loading,
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
    values,
    wait_until,
)
from .tamper import corrupt, give_codec

pytestmark = both_versions

HOUR_MS = 3_600_000


def produce_aged(cluster: Cluster, topic: str, numbers: range, timestamp: int) -> None:
    """One batch of records of that time (ms), or of one millisecond after the other from there."""
    producer = cluster.producer({"enable.idempotence": True, "linger.ms": 200})
    for number in numbers:
        producer.produce(topic, b"%d" % number, b"k", timestamp=timestamp)
    assert producer.flush(30) == 0


def test_retention_overtakes_the_position(
    source: Cluster, target: Cluster, eomirror: Eomirror, flow_config: Callable[..., Path], name: str
) -> None:
    old, fine = f"{name}.old", f"{name}.fine"
    source.create_topic(old, 1, {"segment.ms": 10_000})
    source.create_topic(fine, 1)
    now = int(time.time() * 1000)
    produce_aged(source, old, range(100), now - 5 * HOUR_MS)
    produce(source, fine, (b"k", b"1"))
    config = flow_config(**SMALL)
    catch_up(eomirror, config)
    produce_aged(source, old, range(100, 200), now - 4 * HOUR_MS)
    produce_aged(source, old, range(200, 300), now)  # a segment of its own, as each of them
    produce(source, fine, (b"k", b"2"))
    source.set_config(old, {"retention.ms": HOUR_MS})
    wait_until(lambda: source.start_offsets(old) == {0: 200}, what="retention")

    run = catch_up(eomirror, config, code=8)
    assert faulted_events(run) == [(old, 0, "SOURCE_GAP")]
    assert "source starts at 200 but the checkpoint is 100: offsets 100 to 199 are gone from the source" in run.stderr
    assert_equal(source, target, [fine], least=2)

    orders = f"__eomirror.{name}.control"
    before = target.end_offsets(orders)
    said = eomirror("fault", "accept", name, old, "0", "--dry-run", config=config).expect(0)
    assert "goes on at the first offset that the source still has" in said.stdout
    assert "dry run: nothing was changed" in said.stdout
    assert target.end_offsets(orders) == before
    catch_up(eomirror, config, code=8)
    assert faults(config) == {(old, 0): Reason.SOURCE_GAP}
    assert positions(config)[old, 0].next_offset == 100

    eomirror("fault", "accept", name, old, "0", "--yes", config=config).expect(0)
    catch_up(eomirror, config)
    assert gaps(config, target) == {(old, 0): [(100, 200, Reason.SOURCE_GAP)]}
    assert values(target, old) == [b"%d" % n for n in (*range(100), *range(200, 300))]
    produce_aged(source, old, range(300, 320), now)
    catch_up(eomirror, config)
    assert values(target, old)[100:] == values(source, old) == [b"%d" % n for n in range(200, 320)]


def test_batches_that_cannot_be_read_are_left_out_alone(
    source: Cluster, target: Cluster, eomirror: Eomirror, flow_config: Callable[..., Path], name: str
) -> None:
    bad, fine = f"{name}.bad", f"{name}.fine"
    source.create_topic(bad, 2)
    source.create_topic(fine, 1)
    producer = source.producer({"enable.idempotence": True, "linger.ms": 200})
    for first in range(0, 50, 10):  # five batches in each partition
        for partition in (0, 1):
            for number in range(first, first + 10):
                producer.produce(bad, b"%d" % number, b"k", partition, timestamp=1_700_000_000_000)
        assert producer.flush(30) == 0
    produce(source, fine, (b"k", b"1"), (b"k", b"2"))
    source.stop()
    spoilt = corrupt(source.log_dir / f"{bad}-0", 25)
    strange = give_codec(source.log_dir / f"{bad}-1", 35, 6)
    source.restart()
    assert [(batch.base_offset, batch.count) for batch in (spoilt, strange)] == [(20, 10), (30, 10)]

    config = flow_config(**SMALL)
    run = catch_up(eomirror, config, code=7)
    assert sorted(faulted_events(run)) == [(bad, 0, "CORRUPT_BATCH"), (bad, 1, "UNKNOWN_CODEC")]
    assert values(target, bad, 0) == [b"%d" % n for n in range(20)]
    assert values(target, bad, 1) == [b"%d" % n for n in range(30)]
    assert_equal(source, target, [fine], least=2)

    listed = eomirror("fault", "list", name, "-o", "json", config=config).expect(0).json()["items"]
    assert [(item["partition"], item["reason"], item["position"]) for item in listed] == [
        (0, "CORRUPT_BATCH", 20),
        (1, "UNKNOWN_CODEC", 30),
    ]
    for partition in ("0", "1"):
        eomirror("fault", "accept", name, bad, partition, "--yes", config=config).expect(0)
    catch_up(eomirror, config)
    assert values(target, bad, 0) == [b"%d" % n for n in (*range(20), *range(30, 50))]
    assert values(target, bad, 1) == [b"%d" % n for n in (*range(30), *range(40, 50))]
    assert gaps(config, target) == {
        (bad, 0): [(20, 30, Reason.CORRUPT_BATCH)],
        (bad, 1): [(30, 40, Reason.UNKNOWN_CODEC)],
    }
    produce(source, bad, (b"k", b"behind"))
    catch_up(eomirror, config)
    assert values(target, bad, 0)[-1] == b"behind"


def test_a_source_topic_is_recreated_while_the_others_of_its_lane_go_on(
    source: Cluster, target: Cluster, eomirror: Eomirror, flow_config: Callable[..., Path], name: str
) -> None:
    again, others = f"{name}.again", {f"{name}.plain": 2, f"{name}.lz4.tx": 1}
    source.create_topic(again, 2)
    for topic, partitions in others.items():
        source.create_topic(topic, partitions)
    load = Load(source, name)
    load({again: 2, **others}, 200)
    config = flow_config(**SMALL | {"lanes": 1})
    run = eomirror.background("run", config=config)
    run.wait_for(lambda: ends(target, [again], committed=True) >= 200, 40, "the old topic")
    old = contents(source, [again])
    wait_until(lambda: all(positions(config)[place].next_offset == len(records) for place, records in old.items()))
    loading = Loading(load, others)
    source.delete_topic(again)
    source.create_topic(again, 2)
    load({again: 2}, 300)
    lost = {(again, 0): Reason.SOURCE_RECREATED, (again, 1): Reason.SOURCE_RECREATED}
    run.wait_for(lambda: faults(config) == lost, 40, "the faults")
    before = ends(target, others)
    run.wait_for(lambda: ends(target, others) > before + 200, 40, "the others go on")
    for place in lost:
        settle_fault(config, place)
    new = contents(source, [again])
    goal = {place: len(records) for place, records in new.items()}
    run.wait_for(lambda: all(positions(config)[p].next_offset == end for p, end in goal.items()), 40, "the new topic")
    loading.end()
    run.term()
    run.wait(30).expect(0)
    assert sorted(faulted_events(run)) == [(again, 0, "SOURCE_RECREATED"), (again, 1, "SOURCE_RECREATED")]
    catch_up(eomirror, config)
    for place, records in contents(target, [again]).items():
        assert [c for _, c in records] == [c for _, c in old[place] + new[place]]
    assert_promise(eomirror, config, source, target, others, least=400)
