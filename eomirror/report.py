"""Where a flow stands, for people and for scripts: read from the checkpoint topic and from the source, with no worker.

Look (asks the clusters), then judge (pure). What could not be asked is None, with the cause beside it; never zero.
"""

from __future__ import annotations

from typing import Final

import msgspec

from eomirror import blocked, checkpoint, lag
from eomirror.brokers import EARLIEST, LATEST, READ_COMMITTED, Brokers, Metadata
from eomirror.checkpoint import InternalTopics, LaneState
from eomirror.clusters import Cluster
from eomirror.config import FlowConfig
from eomirror.errors import BrokerError, ConnectionLost, EomirrorError, Refused
from eomirror.identity import transactional_ids
from eomirror.lag import Oldest
from eomirror.model import RouteKey, lane_of
from eomirror.records import Fault, FlowRecord, Owner, PositionRecord, State
from eomirror.units import wall_ms

# For the ages of all partitions that are behind, together. What is not known by then stays unknown.
AGES_SECONDS: Final = 20.0

CAUGHT_UP: Final = "CAUGHT_UP"
STALLED: Final = "STALLED"
NOT_MIRRORED_YET: Final = "not mirrored yet"


class LaneReport(msgspec.Struct, frozen=True):
    """A lane by its last committed lane record. `owner` is the last one; whether it still runs is not known here.
    `trouble` says why the lane could not be read."""

    lane: int
    owner: Owner | None = None
    transactions: int | None = None
    committed_ms: int | None = None
    trouble: str | None = None


class RouteReport(msgspec.Struct, frozen=True):
    """One partition. Offsets are the source's: `position` is the next one to mirror, `source_end` the last stable
    offset. `state` is None where there is no position to be read. `lag_records` is an upper bound, in offsets."""

    topic: str
    partition: int
    lane: int
    state: str | None
    position: int | None
    source_start: int | None
    source_end: int | None
    lag_records: int | None
    lag_seconds: float | None
    target_end: int | None
    fault: Fault | None
    selected: bool
    note: str | None

    @property
    def place(self) -> str:
        return f"{self.topic}[{self.partition}]"


class FlowReport(msgspec.Struct, frozen=True):
    """A flow at one moment. `record` is None if it never started. `trouble` holds what could not be asked, and why."""

    flow: str
    source: str
    target: str
    record: FlowRecord | None
    lanes: tuple[LaneReport, ...]
    routes: tuple[RouteReport, ...]
    trouble: tuple[str, ...]
    at_ms: int


class Here(msgspec.Struct, frozen=True):
    """What the source says of a partition; `cause` tells why an offset is None, `unread` why the log cannot be read at
    the position."""

    topic_id: str
    start: int | None = None
    end: int | None = None
    oldest: Oldest | None = None
    cause: str | None = None
    unread: str | None = None


class Standing(msgspec.Struct, frozen=True):
    """What the checkpoint topic says of a flow: its lanes' states, and by lane why one could not be read, or cannot go
    on before its coordinator has finished a transaction."""

    record: FlowRecord | None
    lanes: dict[int, LaneState]
    troubles: dict[int, str]
    blocked: dict[int, str] = {}

    def positions(self) -> dict[RouteKey, PositionRecord]:
        return {key: position for state in self.lanes.values() for key, position in state.positions.items()}


def standing(flow: str, target: Brokers) -> Standing:
    """Read every lane of a flow. A lane whose leader is away is told in `troubles`; the others are read.

    Raises ConnectionLost or BrokerError when the flow record cannot be read, Refused when an internal topic is missing
    beside others, or holds what no lane of this flow can have written.
    """
    topics = InternalTopics.of(flow)
    metadata = target.metadata(topics.names())
    first = checkpoint.look_first(target, metadata, topics)
    if first is None or first.flow is None:
        return Standing(None, {}, {})
    lanes, troubles = {0: first}, {}
    for number in range(1, first.flow.lanes):
        try:
            lanes[number] = checkpoint.look_lane(target, metadata, topics, number)
        except (ConnectionLost, BrokerError) as error:
            troubles[number] = error.message
    return Standing(first.flow, lanes, troubles)


def _blocked(stands: Standing, flow: str, target: Brokers) -> dict[int, str]:
    """By lane, what its coordinator waits for. A lane that is blocked takes a second more."""
    count = stands.record.lanes if stands.record else 0
    waits = {number: blocked.waiting(target, transactional_ids(flow, number)) for number in range(count)}
    return {number: why for number, why in waits.items() if why is not None}


def look(flow: FlowConfig, source: Cluster, target: Cluster, *, stall_after: float) -> FlowReport:
    """Ask both clusters. A source that is away is told in `trouble`, and everything that it would know is None.

    Raises what `standing` raises: without the target nothing is known.
    """
    target_brokers = target.brokers("cli")
    try:
        # Positions first, the source's ends second: the other way round, a lane at work is ahead of the "end".
        stands = standing(flow.name, target_brokers)
        stands = msgspec.structs.replace(stands, blocked=_blocked(stands, flow.name, target_brokers))
    finally:
        target_brokers.close()
    trouble: list[str] = [f"lane {lane}: {cause}" for lane, cause in stands.troubles.items()]
    here: dict[RouteKey, Here] | None = None
    source_brokers = source.brokers("cli")
    try:
        here = _look_at_source(flow, stands, source_brokers)
    except EomirrorError as error:
        trouble.append(error.message)
    finally:
        source_brokers.close()
    return judge(flow, stands, here, tuple(trouble), at_ms=wall_ms(), stall_after=stall_after)


def _look_at_source(flow: FlowConfig, stands: Standing, source: Brokers) -> dict[RouteKey, Here]:
    positions = stands.positions()
    everything = source.metadata(None)
    if stands.record is not None and stands.record.source_cluster_id != everything.cluster_id:
        raise Refused(
            f"cluster {source.name}: cluster {everything.cluster_id} answers, the flow was started with "
            f"{stands.record.source_cluster_id}"
        )
    mine = {name for name in everything.topics if flow.topics.matches(name)} | {topic for topic, _ in positions}
    keys = [(t, p) for t in mine if t in everything.topics for p in everything.topics[t].partitions]
    starts = source.list_offsets(everything, dict.fromkeys(keys, EARLIEST))
    ends = source.list_offsets(everything, dict.fromkeys(keys, LATEST), READ_COMMITTED)
    behind: dict[RouteKey, tuple[int, int]] = {}
    for key, position in positions.items():
        end, known = ends.get(key), everything.topics.get(key[0])
        same = known is not None and known.topic_id == position.source_topic_id
        if same and isinstance(end, int) and end > position.next_offset:
            behind[key] = position.next_offset, end
    ages = lag.oldest(source, everything, behind, source.deadline(AGES_SECONDS))
    return {key: _here(everything, key, starts[key], ends[key], ages.get(key)) for key in keys}


def _here(
    metadata: Metadata,
    key: RouteKey,
    start: int | BrokerError,
    end: int | BrokerError,
    oldest: Oldest | EomirrorError | None,
) -> Here:
    topic_id = metadata.topics[key[0]].topic_id
    if isinstance(start, BrokerError) or isinstance(end, BrokerError):
        cause = start if isinstance(start, BrokerError) else end
        return Here(topic_id, cause=str(cause))
    if isinstance(oldest, EomirrorError):
        return Here(topic_id, start, end, unread=oldest.message)
    return Here(topic_id, start, end, oldest)


def judge(
    flow: FlowConfig,
    stands: Standing,
    here: dict[RouteKey, Here] | None,
    trouble: tuple[str, ...],
    *,
    at_ms: int,
    stall_after: float,
) -> FlowReport:
    """Put both sides together. `here` is None if the source could not be asked."""
    positions = stands.positions()
    count = stands.record.lanes if stands.record else flow.lanes
    lanes = {n: _lane(n, stands) for n in (range(count) if stands.record else ())}
    selected = {key for key in here or {} if flow.topics.matches(key[0])}
    routes = []
    for key in sorted(positions.keys() | selected):
        lane = lane_of(*key, count)
        committed_ms = lanes[lane].committed_ms if lane in lanes else None
        idle = None if committed_ms is None else (at_ms - committed_ms) / 1000
        routes.append(
            _route(
                key,
                lane,
                positions.get(key),
                here,
                selected=flow.topics.matches(key[0]),
                unread=stands.troubles.get(lane),
                blocker=stands.blocked.get(lane),
                stalled_lane=idle is not None and idle > stall_after,
                at_ms=at_ms,
                stall_after=stall_after,
            )
        )
    return FlowReport(
        flow.name, flow.source, flow.target, stands.record, tuple(lanes.values()), tuple(routes), trouble, at_ms
    )


def _lane(number: int, stands: Standing) -> LaneReport:
    state = stands.lanes.get(number)
    if state is None:
        return LaneReport(number, trouble=stands.troubles.get(number))
    head = state.lane
    return LaneReport(number, head.owner if head else None, head.n if head else 0, state.committed_ms)


def _route(
    key: RouteKey,
    lane: int,
    position: PositionRecord | None,
    here: dict[RouteKey, Here] | None,
    *,
    selected: bool,
    unread: str | None,
    blocker: str | None,
    stalled_lane: bool,
    at_ms: int,
    stall_after: float,
) -> RouteReport:
    there = None if here is None else here.get(key)
    start, end = (there.start, there.end) if there else (None, None)
    note: str | None
    if position is None:
        note = "its lane cannot be read" if unread is not None else NOT_MIRRORED_YET
        return RouteReport(*key, lane, None, None, start, end, None, None, None, None, selected, note)
    records = seconds = None
    note = _note(position, here, there)
    if there is not None and there.topic_id == position.source_topic_id and end is not None:
        records = end - position.next_offset if end >= position.next_offset else None
        seconds = lag.behind(records, there.oldest, at_ms)
    else:
        start = end = None
    nothing_left = records == 0 or (records is not None and there is not None and there.oldest == Oldest(None))
    state = str(position.state)
    if position.state is State.ACTIVE and nothing_left:
        state = CAUGHT_UP
    elif position.state is State.ACTIVE and stalled_lane and seconds is not None and seconds > stall_after:
        state = STALLED
    if blocker is not None and position.state in (State.ACTIVE, State.RETRYING):
        state, note = State.BLOCKED, blocker
    if not selected:
        note = "not selected by the configuration, so nobody mirrors it"
    return RouteReport(
        *key,
        lane,
        state,
        position.next_offset,
        start,
        end,
        records,
        seconds,
        position.target_end,
        position.fault,
        selected,
        note,
    )


def _note(position: PositionRecord, here: dict[RouteKey, Here] | None, there: Here | None) -> str | None:
    """What a RETRYING partition waits for, what the source shows that a running lane would fault on, or why the source
    does not say what there is to mirror."""
    if position.state is State.RETRYING and position.trouble is not None:
        return position.trouble
    if here is None:
        return None
    if there is None:
        return "the source has no such partition"
    if there.topic_id != position.source_topic_id:
        return "the source's topic was deleted and created anew"
    if there.cause is not None or there.start is None or there.end is None:
        return there.cause
    if there.start > position.next_offset:
        return f"the source starts at {there.start}: offsets {position.next_offset} to {there.start - 1} are gone"
    if there.end < position.next_offset:
        return f"the source ends at {there.end}, below the position"
    return there.unread
