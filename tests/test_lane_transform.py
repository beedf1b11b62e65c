"""A lane with a transform, over the model of Kafka: whatever happens, the target is the source with its headers
rewritten, each record once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from configtext import parse, with_flow
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from reference_recipe import transformed

from tests import lanes
from tests.kafkamodel import Faults, ModelCluster, ModelNetwork, Owner, Script
from tests.kafkamodel.records import Record

ROUTES = {"orders": 2, "events": 1}
STEPS: list[dict[str, Any]] = [
    {"set": {"header": "place", "value": "{flow}:{source_cluster}:{topic}:{partition}:{offset}:{timestamp}:{{}}"}},
    {"remove": {"header": "x-*"}},
    {"rename": {"header": "old", "to": "new"}},
    {"provenance": {}},
]
HEADERS = (
    (),
    ((b"place", b"a"), (b"x-a", None), (b"place", b"b")),
    ((b"old", b""), (b"", b"empty"), (b"old", None), (b"eomirror.origin", b"else/where/0/7")),
)


_quiet = lanes.quiet


def contents(source: ModelCluster, key: tuple[str, int]) -> list[Any]:
    """What the target must hold, by the reference."""
    topic, partition = key
    words = {"flow": lanes.FLOW, "source_cluster": source.name, "topic": topic, "partition": partition}
    return [
        (
            r.timestamp,
            r.key,
            r.value,
            tuple(transformed(STEPS, list(r.headers), offset=r.offset, timestamp=r.timestamp, **words)),
        )
        for r in source.committed(*key)
    ]


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(
    choices=st.lists(st.one_of(st.just(0), st.integers(0, 4000)), max_size=300),
    codec=st.sampled_from([0, 3]),
    fetch_bytes=st.sampled_from([400, 4000]),
)
def test_a_lane_with_a_transform_is_exact_after_every_doubt(
    choices: Sequence[int], codec: int, fetch_bytes: int
) -> None:
    source, target = ModelCluster("source"), ModelCluster("target")
    lanes.prepare(source, target, ROUTES)
    orders = lanes.orders(source, ROUTES)
    transform = parse(with_flow(f"transform: {STEPS}")).flows[0].transform
    for number in range(3):
        for topic, partition in orders.routes:
            records = [
                Record(0, 1_700_000_000_000 + n - number, b"k", b"v%d" % n, HEADERS[n % 3]) for n in range(3 + number)
            ]
            source.write(topic, partition, records, codec=codec)
            aborted, kept = source.begin(), source.begin()
            aborted.write(topic, partition, records, codec=codec)
            kept.write(topic, partition, records[:2], codec=codec)
            aborted.end(commit=False)
            kept.end(commit=True)
    starts = iter(range(1_000_000))

    def main(network: Owner) -> None:
        lane = lanes.make_lane(
            network, f"X{next(starts)}", source, target, orders, fetch_bytes=fetch_bytes, transform=transform
        )
        lane.run()

    wanted = {key: contents(source, key) for key in orders.routes}

    def complete() -> bool:
        return all(len(target.committed(*key)) >= len(wanted[key]) for key in wanted)

    with ModelNetwork(source, target) as net:
        net.spawn("X", main, respawn=True)
        net.run(Script(choices, Faults(kills=3, breaks=3, duplicates=3, time_outs=2)), until=complete)
        net.settle()
        assert [owner.error for owner in net.owners if owner.error is not None] == []
        assert {key: [r.content for r in target.committed(*key)] for key in wanted} == wanted
