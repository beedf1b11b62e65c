"""From committed positions to routes at work: looked at on both clusters, decided, ready to be committed."""

from __future__ import annotations

import msgspec

from eomirror import markers
from eomirror.brokers import LATEST, Brokers, Metadata
from eomirror.errors import BrokerError, ConnectionLost, Faulted, Reason
from eomirror.model import Orders, RouteKey, RouteSpec
from eomirror.pinning import pin
from eomirror.records import LaneRecord, PositionRecord, State
from eomirror.route import Route
from eomirror.transaction import Transactions


class Adopted(msgspec.Struct):
    """`waiting` are routes that cannot start or go on yet, for a leader is away; `ends` says where the target partition
    of each of the others ends."""

    routes: dict[RouteKey, Route]
    waiting: set[RouteKey]
    ends: dict[RouteKey, int]


def adopt(
    source: Brokers,
    target: Brokers,
    metadata: Metadata,
    orders: Orders,
    positions: dict[RouteKey, PositionRecord],
    head: LaneRecord,
    transactions: Transactions,
    carried: dict[RouteKey, Faulted],
    barred: dict[RouteKey, str],
    now_ms: int,
) -> Adopted:
    """Routes for all committed positions, and for what the orders add. Called with both identities just taken.

    What is new, or turned out to be wrong, is marked as changed: the caller commits it before the first byte of data.
    `carried` are faults that a rewind brought along, `barred` are the partitions that may not be written to for now,
    with the broker's words. Raises Rewind, BrokerError, ConnectionLost.
    """
    pins = pin(source, target, metadata, orders.routes, positions, late=head.pinned_ms is not None, now_ms=now_ms)
    everything = positions | pins
    checks = markers.check(target, metadata, everything, head, transactions)
    ends = _ends(target, metadata, checks.leaders)
    faults = {**_shrunk(everything, ends), **checks.faults}
    adopted = Adopted({}, {key for key in orders.routes if key not in everything}, ends)
    for key, position in everything.items():
        route = Route(key, position)
        route.changed = key in pins
        spec = orders.routes.get(key)
        if spec is not None:
            route.max_batch_bytes = spec.max_batch_bytes
        if route.state is State.PAUSED and spec is not None and not spec.gone:
            _return(route, spec, now_ms)
        if not route.standing:
            if key in faults:
                route.faulted(faults[key], now_ms)
            elif spec is not None and spec.obstacle is not None:
                at = route.next_offset
                route.faulted(Faulted(*key, Reason.TARGET_REFUSED, spec.obstacle, offset=at), now_ms)
            else:
                _find_leader(route, checks.leaders.get(key), barred.get(key))
                if key in carried:
                    route.halts(carried[key], now_ms)
        if route.state is State.RETRYING and spec is not None and key not in barred:
            adopted.waiting.add(key)
        adopted.routes[key] = route
    return adopted


def can_start(waiting: set[RouteKey], source: Brokers, target: Brokers) -> bool:
    """Has one of these routes a leader on both sides now? False also when a cluster does not say."""
    topics = {topic for topic, _ in waiting}
    try:
        sides = [source.metadata(topics).topics, target.metadata(topics).topics]
    except (ConnectionLost, BrokerError):
        return False
    return any(
        all(t in side and p in side[t].partitions and side[t].partitions[p].node is not None for side in sides)
        for t, p in waiting
    )


def _return(route: Route, spec: RouteSpec, now_ms: int) -> None:
    """A partition that was paused because its topic was gone, and that the source has again."""
    if spec.source_topic_id == route.source_topic_id:
        route.released()
        return
    detail = f"the source's topic is there again with id {spec.source_topic_id}, the checkpoint is of "
    at = route.next_offset
    route.faulted(
        Faulted(*route.key, Reason.SOURCE_RECREATED, detail + route.source_topic_id, offset=at, next_offset=0), now_ms
    )


def _find_leader(route: Route, leader: int | None, barred: str | None) -> None:
    trouble = barred or ("the target partition has no leader" if leader is None else None)
    route.leader = leader if trouble is None else None
    state = State.ACTIVE if trouble is None else State.RETRYING
    if (route.state, route.trouble) != (state, trouble):
        route.state, route.trouble = state, trouble
        route.changed = True


def _ends(target: Brokers, metadata: Metadata, leaders: dict[RouteKey, int]) -> dict[RouteKey, int]:
    """Where each target partition ends; one whose leader does not say is taken out of `leaders`."""
    ends = {}
    for key, end in target.list_offsets(metadata, dict.fromkeys(leaders, LATEST)).items():
        if isinstance(end, BrokerError):
            leaders.pop(key)
        else:
            ends[key] = end
    return ends


def _shrunk(positions: dict[RouteKey, PositionRecord], ends: dict[RouteKey, int]) -> dict[RouteKey, Faulted]:
    """Target partitions that end before what was committed there: records were lost on the target."""
    shrunk = {}
    for key, end in ends.items():
        known, at = positions[key].target_end, positions[key].next_offset
        if known is not None and end < known:
            detail = f"the target ends at offset {end}, {known - end} records before what was committed there"
            shrunk[key] = Faulted(*key, Reason.TARGET_RECREATED, detail, offset=at, next_offset=at)
    return shrunk
