"""What a start would do, in words: `eomirror run --dry-run`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import msgspec
from rich.table import Table
from rich.text import Text

from eomirror.brokers import Metadata
from eomirror.cli import render
from eomirror.config import FlowConfig
from eomirror.model import RouteKey, lane_of
from eomirror.topology import BROKER_DEFAULT, Create, Plan, internal_creates


class Preview(msgspec.Struct, frozen=True):
    """A plan beside what only a start decides: the flow's missing internal topics, and its routes once all is done."""

    flow: FlowConfig
    plan: Plan
    internal: tuple[Create, ...]
    routes: tuple[RouteKey, ...]

    @property
    def per_lane(self) -> dict[int, int]:
        """Routes by lane, every lane named."""
        counts = Counter(lane_of(*key, self.flow.lanes) for key in self.routes)
        return {lane: counts[lane] for lane in range(self.flow.lanes)}


def preview(flow: FlowConfig, plan: Plan, target: Metadata) -> Preview:
    """`target` describes the flow's internal topics."""
    internal = tuple(create for create in internal_creates(flow) if create.topic not in target.topics)
    routes = set(plan.routes)
    routes |= {(create.topic, p) for create in plan.creates for p in range(create.partitions)}
    mirrored = {topic for topic, _ in plan.routes}
    routes |= {(grow.topic, p) for grow in plan.grows if grow.topic in mirrored for p in range(grow.partitions)}
    return Preview(flow, plan, internal, tuple(sorted(routes)))


def item(one: Preview) -> dict[str, Any]:
    """A preview as JSON."""
    return {
        "flow": one.flow.name,
        "source": one.flow.source,
        "target": one.flow.target,
        "first_start": bool(one.internal),
        "creates": [_create_item(create) for create in (*one.internal, *one.plan.creates)],
        "grows": [{"topic": grow.topic, "partitions": grow.partitions} for grow in one.plan.grows],
        "topics": len({topic for topic, _ in one.routes}),
        "routes": len(one.routes),
        "routes_per_lane": list(one.per_lane.values()),
        "warnings": list(one.plan.warnings),
        "problems": list(one.plan.problems),
    }


def _create_item(create: Create) -> dict[str, Any]:
    return {
        "topic": create.topic,
        "partitions": create.partitions,
        "replication_factor": None if create.replication_factor == BROKER_DEFAULT else create.replication_factor,
        "configs": create.configs,
    }


def lines(one: Preview) -> Iterator[Text | Table | str]:
    """A preview for people."""
    flow = one.flow
    topics = len({topic for topic, _ in one.routes})
    yield Text(f"flow {flow.name}: {flow.source} -> {flow.target}", style="bold")
    spread = sorted(set(one.per_lane.values()))
    each = f"{spread[0]} to {spread[-1]}" if len(spread) > 1 else f"{spread[0]}"
    yield (
        f"would mirror {len(one.routes)} partitions of {topics} topics in {flow.lanes} lanes, {each} partitions each"
    )
    creates = (*one.internal, *one.plan.creates)
    if creates or one.plan.grows:
        made = render.table("", "TOPIC", "PARTITIONS", "REPLICAS", "CONFIGS", right=("PARTITIONS", "REPLICAS"))
        for create in creates:
            default = create.replication_factor == BROKER_DEFAULT
            replicas = "default" if default else str(create.replication_factor)
            configs = " ".join(f"{key}={value}" for key, value in sorted(create.configs.items()))
            made.add_row("create", create.topic, str(create.partitions), replicas, configs)
        for grow in one.plan.grows:
            made.add_row("grow", grow.topic, str(grow.partitions), "", "")
        yield made
    else:
        yield f"nothing to create on {flow.target}"
    for problem in one.plan.problems:
        yield Text(f"left out: {render.clean(problem)}", style="red")
    for warning in one.plan.warnings:
        yield Text(f"warning: {render.clean(warning)}", style="yellow")
