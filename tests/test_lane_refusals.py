"""A lane whose target refuses a record, over the model of Kafka: it alone is named, what is before it is mirrored."""

from __future__ import annotations

from batches import examples
from hypothesis import given
from hypothesis import strategies as st

from eomirror.brokers import EARLIEST
from eomirror.errors import Reason
from eomirror.lane import Lane
from eomirror.model import Orders, RouteSpec
from eomirror.records import State
from tests import lanes
from tests.kafkamodel import ModelCluster, ModelNetwork, Owner, Script
from tests.kafkamodel.records import Record

KEY = ("orders", 0)


_quiet = lanes.quiet


def stand_still(source: ModelCluster, target: ModelCluster, *, limit: int, fetch_bytes: int) -> int:
    """Run a lane until its only partition is FAULTED; how often it took its identities."""
    orders = Orders({KEY: RouteSpec(*KEY, source.topics["orders"].topic_id.hex, EARLIEST, limit)})

    def main(network: Owner) -> None:
        lanes.make_lane(network, "X", source, target, orders, max_bytes=2000, fetch_bytes=fetch_bytes).run()

    def standing() -> bool:
        position = lanes.lane_state(target).positions.get(KEY)
        return position is not None and position.state is State.FAULTED

    with ModelNetwork(source, target) as net:
        net.spawn("X", main)
        net.run(Script([]), until=standing)
        net.settle()
        assert [owner.error for owner in net.owners if owner.error is not None] == []
        return len([h for h in net.handled(api="InitProducerId") if h.response.error_code == 0]) // 2


@examples(25)
@given(
    st.lists(st.lists(st.sampled_from([b"a", b"b", b"c", None]), min_size=1, max_size=3), min_size=1, max_size=12),
    st.sampled_from([0, 3]),
    st.sampled_from([300, 4000]),
    st.booleans(),
)
def test_a_record_that_is_refused_is_named_alone_though_its_neighbours_are_sent_with_it(
    batches: list[list[bytes | None]], codec: int, fetch_bytes: int, named: bool
) -> None:
    """Whether the broker names it or not."""
    batches = [*batches, [None]]
    source, target = ModelCluster("source"), ModelCluster("target")
    target.names_records = named
    lanes.prepare(source, target, {})
    source.create_topic("orders", 1)
    target.create_topic("orders", 1, compact=True)
    offset = 0
    for keys in batches:
        source.write(*KEY, [Record(0, 1_700_000_000_000, key, b"v%d" % offset, ()) for key in keys], codec=codec)
        offset += len(keys)
    takes = stand_still(source, target, limit=1_048_588, fetch_bytes=fetch_bytes)
    bad = [key for keys in batches for key in keys].index(None)
    position = lanes.lane_state(target).positions[KEY]
    assert position.fault is not None
    assert position.fault.reason is Reason.TARGET_REFUSED
    assert (position.next_offset, position.fault.next_offset) == (bad, bad + 1)
    assert ("without key in topic partition orders-0" in position.fault.detail) is named
    assert not named or takes == 2  # the lane knows it at once, and sends nothing in parts
    assert [r.content for r in target.committed(*KEY)] == [r.content for r in source.committed(*KEY)[:bad]]


@examples(25)
@given(
    st.lists(st.lists(st.sampled_from([5, 5, 5, 700, 1500]), min_size=1, max_size=4), max_size=8),
    st.sampled_from([300, 4000]),
    st.sampled_from([1000, 1_048_588]),
)
def test_a_record_that_is_too_large_is_named_alone(batches: list[list[int]], fetch_bytes: int, known: int) -> None:
    """Also where the target's limit was lowered a moment ago, and the lane still knows the old one."""
    batches = [*batches, [5, 1500, 5]]
    source, target = ModelCluster("source"), ModelCluster("target")
    lanes.prepare(source, target, {})
    source.create_topic("orders", 1)
    target.create_topic("orders", 1, max_message_bytes=1000)
    for sizes in batches:
        source.write(*KEY, [Record(0, 1_700_000_000_000, b"k", b"v" * size, ()) for size in sizes])
    stand_still(source, target, limit=known, fetch_bytes=fetch_bytes)
    bad = [size for sizes in batches for size in sizes].index(1500)
    position = lanes.lane_state(target).positions[KEY]
    assert position.fault is not None
    assert position.fault.reason is Reason.RECORD_TOO_LARGE
    assert (position.next_offset, position.fault.next_offset) == (bad, bad + 1)
    assert [r.content for r in target.committed(*KEY)] == [r.content for r in source.committed(*KEY)[:bad]]


@examples(20)
@given(st.lists(st.integers(0, 12), min_size=2, max_size=3), st.sampled_from([300, 4000]))
def test_partitions_that_are_refused_in_turn_are_all_named(before: list[int], fetch_bytes: int) -> None:
    """Each has a refused record somewhere further on, and all are in one transaction."""
    source, target = ModelCluster("source"), ModelCluster("target")
    lanes.prepare(source, target, {})
    source.create_topic("orders", len(before))
    target.create_topic("orders", len(before), compact=True)
    topic_id = source.topics["orders"].topic_id.hex
    keys = [("orders", partition) for partition in range(len(before))]
    for key, count in zip(keys, before, strict=True):
        names = [b"k"] * count + [None, b"behind"]
        source.write(*key, [Record(0, 1_700_000_000_000, name, b"v%d" % i, ()) for i, name in enumerate(names)])
    orders = Orders({key: RouteSpec(*key, topic_id, EARLIEST, 1_048_588) for key in keys})
    held: list[Lane] = []

    def main(network: Owner) -> None:
        held.append(lanes.make_lane(network, "X", source, target, orders, max_bytes=2000, fetch_bytes=fetch_bytes))
        held[0].run()

    def over() -> bool:
        positions = lanes.lane_state(target).positions
        done = all(k in positions and positions[k].state is State.FAULTED for k in keys)
        return done or (bool(held) and held[0].view.rewinds > 30)

    with ModelNetwork(source, target) as net:
        net.spawn("X", main)
        net.run(Script([]), until=over)
        net.settle()
    assert held[0].view.rewinds <= 30
    for key, count in zip(keys, before, strict=True):
        position = lanes.lane_state(target).positions[key]
        assert position.fault is not None
        assert (position.next_offset, position.fault.next_offset) == (count, count + 1)
        assert [r.content for r in target.committed(*key)] == [r.content for r in source.committed(*key)[:count]]
