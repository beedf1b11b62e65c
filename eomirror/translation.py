"""Which target offset stands for a source offset, and the other way round, from the ledger and with no worker.

Look (asks the target cluster), then translate (pure). Whoever has consumed one side up to an offset and goes on at the
other side from the offset that it translates to, loses no mirrored record and sees none twice. What was left out on a
person's word or lies below the flow's start, and is passed over by going on there, is named. Where the ledger cannot
vouch for that, there is no answer but an error.
"""

from __future__ import annotations

import enum
from typing import Final

import msgspec

from eomirror import checkpoint
from eomirror.brokers import LATEST, READ_COMMITTED, Brokers, Metadata
from eomirror.checkpoint import InternalTopics, LaneState
from eomirror.errors import BrokerError, Reason, Refused
from eomirror.ledger import Before, Run, Trail, gather
from eomirror.model import RouteKey, lane_of
from eomirror.records import Gap, PositionRecord

# How long to wait for the outcome of what a lane has open; one at work commits several times in that.
DECISION_SECONDS: Final = 5.0


class Found(enum.StrEnum):
    """Where the offset lies."""

    EXACT = "exact"  # in a run: the very same record
    GAP = "gap"  # between runs, where nothing was mirrored: the record that comes next
    END = "end"  # behind the last run: where the next record will be


class RouteMap(msgspec.Struct, frozen=True):
    """Everything that is known of a route's offsets at one moment.

    `position` is the next source offset to mirror, `target_end` one past the last target offset written, None if
    nothing was. `target_reach` is the target offset up to which `trail` has all that is committed there. `note` is what
    a person should know about the answers.
    """

    flow: str
    key: RouteKey
    trail: Trail
    position: int
    target_end: int | None
    target_reach: int
    note: str | None = None

    @property
    def place(self) -> str:
        return f"{self.key[0]}[{self.key[1]}]"


class Translation(msgspec.Struct, frozen=True):
    """An offset of one side and the one that stands for it on the other. `run` is the one that holds it, or in a gap
    the next one; None at the end. `left_out` are the ledger's gaps that are passed over by going on at `translated`:
    nobody finds those source offsets on the target."""

    offset: int
    translated: int
    found: Found
    run: Run | None
    left_out: tuple[Gap, ...] = ()


def translate(known: RouteMap, offset: int, *, reverse: bool = False) -> Translation:
    """The target offset for a source offset; `reverse`: the source offset for a target offset.

    Raises Refused for an offset beyond what is mirrored, or older than what the ledger vouches for.
    """
    return _to_source(known, offset) if reverse else _to_target(known, offset)


def _to_target(known: RouteMap, offset: int) -> Translation:
    offsets = known.trail.offsets
    if offset > known.position:
        raise Refused(
            f"{known.place}: source offset {offset} is not mirrored yet: the position is {known.position}",
            hint=f'Ask again when the position has passed it; "eomirror lag {known.flow}" says how far it is behind.',
        )
    below, following = _run(offsets.floor(offset)), _run(offsets.ceiling(offset))
    if below is not None and offset < below.source_first + below.size:
        return Translation(offset, below.target_first + offset - below.source_first, Found.EXACT, below)
    if below is None and offset < known.position:
        first = known.position if following is None else following.source_first
        _require_beginning(known, f"source offset {offset}", f"source offset {first}")
    if following is not None:
        missing = _left_out(known, offset, following.source_first)
        return Translation(offset, following.target_first, Found.GAP, following, missing)
    if known.target_end is None:
        raise Refused(
            f"{known.place}: nothing is mirrored yet, so no target offset stands for source offset {offset}",
            hint="A group that has read nothing either can begin at the beginning of the target partition.",
        )
    return Translation(offset, known.target_end, Found.END, None, _left_out(known, offset, known.position))


def _to_source(known: RouteMap, offset: int) -> Translation:
    offsets = known.trail.offsets
    if offset > known.target_reach:
        raise Refused(
            f"{known.place}: target offset {offset} is beyond the target's last stable offset {known.target_reach}",
            hint="Nobody can have consumed that far; see that the offset is the target's.",
        )
    below, following = _run(offsets.target_floor(offset)), _run(offsets.target_ceiling(offset))
    if below is not None and offset < below.target_first + below.size:
        source = below.source_first + offset - below.target_first
        return Translation(offset, source, Found.EXACT, below, _left_out_before(known, offset, source))
    if below is None and (known.target_end is None or offset < known.target_end):
        end = "what comes next" if known.target_end is None else f"target offset {known.target_end}"
        first = end if following is None else f"target offset {following.target_first}"
        _require_beginning(known, f"target offset {offset}", first)
    if following is not None:
        source = following.source_first
        return Translation(offset, source, Found.GAP, following, _left_out_before(known, offset, source))
    return Translation(offset, known.position, Found.END, None, _left_out_before(known, offset, known.position))


def _left_out_before(known: RouteMap, offset: int, source: int) -> tuple[Gap, ...]:
    """What was left out between the last record below a target offset and the source offset that it translates to."""
    last = _run(known.trail.offsets.target_floor(offset - 1)) if offset else None
    return _left_out(known, 0 if last is None else last.source_first + last.size, source)


def _left_out(known: RouteMap, first: int, end: int) -> tuple[Gap, ...]:
    """The gaps that hold source offsets from `first` to `end` - 1, whole."""
    return tuple(gap for gap in known.trail.left_out if gap.first < end and gap.next > first)


def _run(found: tuple[int, int, int] | None) -> Run | None:
    return None if found is None else Run(*found)


def _require_beginning(known: RouteMap, asked: str, first: str) -> None:
    """Raises Refused unless nothing was mirrored below the first run."""
    if known.trail.before is Before.UNKNOWN:
        raise Refused(
            f"{known.place}: {asked} is older than the ledger, which begins at {first}",
            hint=f"{InternalTopics.of(known.flow).ledger} keeps as much as its retention.ms says.",
        )
    if known.trail.before is Before.LOST:
        raise Refused(
            f"{known.place}: {asked} is older than the target: it was created again or lost records, and what counts "
            f"begins at {first}",
            hint="What was mirrored before is not known to be there; the fault was accepted as TARGET_RECREATED.",
        )


# --- looking


def look(flow: str, key: RouteKey, target: Brokers, *, target_offset: int | None = None) -> RouteMap:
    """Read a route's position, then its lane's ledger up to the record that the position goes with.

    `target_offset` is one that will be asked for. If it lies behind the last run that is known, the answer rests on
    there being nothing else in between: the lane's open transactions are waited for, and then looked at again.

    Raises BrokerError, ConnectionLost; Refused when the route is not mirrored, when the ledger's chain is broken, and
    when the target no longer holds what was committed there.
    """
    topics = InternalTopics.of(flow)
    metadata = target.metadata([*topics.names(), key[0]])
    first = checkpoint.look_first(target, metadata, topics)
    if first is None or first.flow is None:
        raise Refused(
            f"flow {flow} has never been started on {target.name}", hint=f'Start it with "eomirror run {flow}".'
        )
    lane = lane_of(*key, first.flow.lanes)
    state = first if lane == 0 else checkpoint.look_lane(target, metadata, topics, lane)
    position = _position(flow, key, state)
    reach = position.target_end or 0
    if target_offset is not None and target_offset > reach:
        # First how far the target can be read, then what of it was decided: the other way round, a transaction could
        # end in between, and its records would count as none of ours.
        reach = checkpoint.offset_of(target, metadata, *key, LATEST, READ_COMMITTED)
        checkpoint.wait_until_decided(target, metadata, topics, lane, DECISION_SECONDS)
        state = checkpoint.look_lane(target, metadata, topics, lane)
        position = _position(flow, key, state)
    _require_target(target, metadata, key, position)
    if state.lane is None:
        raise Refused(
            f"{topics.checkpoint}[{lane}]: positions without a lane record",
            hint="Records of this topic were deleted; where the lane stands is unknown. Restore the topic.",
        )
    entries = ((e.offset, e.value) for e in checkpoint.follow_ledger(target, metadata, topics, lane))
    trail = gather(topics.ledger, state.lane, lane, key, position.pending, entries)
    reach = max(reach, position.target_end or 0)
    return RouteMap(flow, key, trail, position.next_offset, position.target_end, reach, _note(key, position))


def _position(flow: str, key: RouteKey, state: LaneState) -> PositionRecord:
    position = state.positions.get(key)
    if position is None:
        raise Refused(
            f"flow {flow}: {key[0]}[{key[1]}] is not mirrored by this flow",
            hint=f'"eomirror status {flow}" shows its topics and partitions.',
        )
    return position


def _require_target(target: Brokers, metadata: Metadata, key: RouteKey, position: PositionRecord) -> None:
    """Raises Refused unless the target partition is the one that was written, and holds what was committed there."""
    topic, partition = key
    place = f"cluster {target.name}: {topic}[{partition}]"
    hint = 'The flow makes this a fault; "eomirror fault list" says what can be done. Target offsets mean nothing now.'
    if topic in metadata.errors:
        raise BrokerError(f"cluster {target.name}: describing {topic}", metadata.errors[topic])
    described = metadata.topics.get(topic)
    if described is None:
        raise Refused(f"{place}: the topic is gone", hint=hint)
    if described.topic_id != position.target_topic_id:
        raise Refused(f"{place}: the topic was deleted and created again", hint=hint)
    if position.fault is not None and position.fault.reason is Reason.TARGET_RECREATED:
        raise Refused(f"{place}: {position.fault.reason}: {position.fault.detail}", hint=hint)
    end = checkpoint.offset_of(target, metadata, topic, partition, LATEST)
    if position.target_end is not None and end < position.target_end:
        lost = position.target_end - end
        raise Refused(f"{place}: ends at offset {end}, {lost} records before what was committed there", hint=hint)


def _note(key: RouteKey, position: PositionRecord) -> str | None:
    """While a source that went back is not accepted, its new offsets are not those that were mirrored."""
    if position.fault is None or position.fault.reason not in (Reason.SOURCE_RECREATED, Reason.SOURCE_TRUNCATED):
        return None
    place, reason = f"{key[0]}[{key[1]}]", position.fault.reason
    return f"{place} is FAULTED ({reason}): source offsets are those of the log as it was mirrored"
