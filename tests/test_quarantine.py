"""`on_bad_record` over the model of Kafka: refused records are left out alone, counted, and kept where that is set."""

from __future__ import annotations

from typing import Literal

import pytest
from batches import examples
from hypothesis import given
from hypothesis import strategies as st

from eomirror.brokers import EARLIEST
from eomirror.errors import Reason
from eomirror.model import Orders, RouteSpec
from eomirror.records import Gap
from tests import lanes
from tests.kafkamodel import Faults, ModelCluster, ModelNetwork, Owner, Script
from tests.kafkamodel.records import Record

KEY = ("orders", 0)
Policy = Literal["quarantine", "drop"]
POLICIES: tuple[Policy, ...] = ("quarantine", "drop")
TIME = 1_700_000_000_000


_quiet = lanes.quiet


def clusters(batches: list[list[bytes | None]]) -> tuple[ModelCluster, ModelCluster]:
    """The target is compacted, so it refuses records without a key."""
    source, target = ModelCluster("source"), ModelCluster("target")
    lanes.prepare(source, target, {})
    source.create_topic("orders", 1)
    target.create_topic("orders", 1, compact=True)
    number = 0
    for keys in batches:
        headers = ((b"h", b"1"), (b"none", None))
        rows = [Record(0, TIME, key, b"v%d" % (number + i), headers) for i, key in enumerate(keys)]
        source.write(*KEY, rows)
        number += len(keys)
    return source, target


def mirror(source: ModelCluster, target: ModelCluster, policy: Policy, script: Script, *, limit: int = 1 << 20) -> None:
    """Run lanes, one after the other if the script kills them, until everything is mirrored or left out."""
    orders = Orders({KEY: RouteSpec(*KEY, source.topics["orders"].topic_id.hex, EARLIEST, limit)})
    end = len(source.committed(*KEY))

    def main(network: Owner) -> None:
        lanes.make_lane(network, network.name, source, target, orders, max_bytes=2000, on_bad_record=policy).run()

    def over() -> bool:
        position = lanes.lane_state(target).positions.get(KEY)
        return position is not None and position.next_offset == end

    with ModelNetwork(source, target) as net:
        for number in range(3):
            net.spawn(f"X{number}", main, after=number * 60)
        net.run(script, until=over)
        net.settle()


@examples(30)
@given(
    st.lists(st.lists(st.sampled_from([b"a", b"b", None]), min_size=1, max_size=4), min_size=1, max_size=8),
    st.sampled_from(POLICIES),
    st.booleans(),
    st.lists(st.integers(0, 5), max_size=40),
)
def test_bad_records_are_left_out_one_by_one_whatever_dies(
    batches: list[list[bytes | None]], policy: Policy, named: bool, choices: list[int]
) -> None:
    source, target = clusters(batches)
    target.names_records = named
    mirror(source, target, policy, Script(choices, Faults(kills=2, breaks=3)))
    everything = source.committed(*KEY)
    bad = [offset for offset, record in enumerate(everything) if record.key is None]
    assert [r.content for r in target.committed(*KEY)] == [r.content for r in everything if r.key is not None]
    found = [tally for _, tally in lanes.tallies(target)]
    left_out = [offset for tally in found for gap in tally.gaps for offset in range(gap.first, gap.next)]
    assert left_out == bad
    assert {gap.by for tally in found for gap in tally.gaps} <= {f"on_bad_record: {policy}"}
    counts = sum(t.quarantined for t in found), sum(t.dropped for t in found)
    assert counts == ((len(bad), 0) if policy == "quarantine" else (0, len(bad)))
    kept = target.committed(lanes.TOPICS.quarantine, 0)
    assert [r.value for r in kept] == ([b"v%d" % offset for offset in bad] if policy == "quarantine" else [])
    for offset, record in zip(bad, kept, strict=False):
        headers = dict(record.headers)
        assert record.headers[:2] == ((b"h", b"1"), (b"none", None))
        assert headers[b"eomirror.origin"] == b"source/orders/0/%d" % offset
        assert headers[b"eomirror.reason"] == b"TARGET_REFUSED"
        assert b"INVALID_RECORD (87)" in (headers[b"eomirror.detail"] or b"")
        assert headers[b"eomirror.timestamp"] == b"%d" % TIME


@pytest.mark.parametrize("policy", POLICIES)
def test_a_record_that_is_too_large_is_left_out_before_it_is_sent(policy: Policy) -> None:
    source, target = clusters([[b"k"], [b"k" * 1500], [b"k", b"l"]])
    mirror(source, target, policy, Script([]), limit=1000)
    keys = [b"k", b"k", b"l"]
    assert [r.key for r in target.committed(*KEY)] == keys
    gaps = [gap for _, tally in lanes.tallies(target) for gap in tally.gaps]
    assert gaps == [Gap(1, 2, Reason.RECORD_TOO_LARGE, f"on_bad_record: {policy}")]
    kept = [r.key for r in target.committed(lanes.TOPICS.quarantine, 0)]
    assert kept == ([b"k" * 1500] if policy == "quarantine" else [])
