"""What of a flow there is to compare: asked of both clusters, before a record is read."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final

import msgspec

from eomirror import checkpoint
from eomirror.brokers import EARLIEST, LATEST, READ_COMMITTED, Brokers, Metadata
from eomirror.checkpoint import InternalTopics, LaneState
from eomirror.clusters import Cluster
from eomirror.config import FlowConfig
from eomirror.errors import BrokerError, Refused
from eomirror.ledger import LAST_OFFSET, Trail, gather_all
from eomirror.model import RouteKey, lane_of
from eomirror.records import FlowRecord, PositionRecord
from eomirror.topology import topic_configs

# How long to wait for what a lane has open, and for the markers of what it has committed.
DECISION_SECONDS: Final = 5.0
MARKER_SECONDS: Final = 10.0
# Records of one window of a sample.
SAMPLE_RECORDS: Final = 1000
GONE: Final = "the source's topic is gone or was created again; only the target has its records"

Span = tuple[int, int]


class Job(msgspec.Struct, frozen=True):
    """One partition and what is known of it before it is read.

    `source` are the offsets to be read there, from the log's start to the position; None if the source no longer has
    this log. `target` goes beyond the last record mirrored, as far as everything is decided. `compacted` is of source
    and target.
    """

    key: RouteKey
    position: PositionRecord
    trail: Trail
    source: Span | None
    target: Span
    compacted: tuple[bool, bool]
    note: str | None = None

    @property
    def place(self) -> str:
        return f"{self.key[0]}[{self.key[1]}]"


class Plan(msgspec.Struct, frozen=True):
    """What there is to compare, what cannot be (with the cause), and what is wrong with lanes' ledgers."""

    jobs: tuple[Job, ...]
    causes: dict[RouteKey, str]
    ledger: tuple[str, ...]

    @property
    def records(self) -> int:
        """About how many source records will be read."""
        return sum(job.trail.covered for job in self.jobs)


class Looking:
    """Asks both clusters for the plan; holds what every question needs."""

    def __init__(self, flow: FlowConfig, source: Brokers, target: Brokers) -> None:
        self._flow, self._source, self._target = flow, source, target
        self._topics = InternalTopics.of(flow.name)
        self._causes: dict[RouteKey, str] = {}
        self._ledger: list[str] = []

    def plan(self, wanted: Sequence[str], compacted: Callable[[set[str], set[str]], tuple[set[str], set[str]]]) -> Plan:
        """The plan for the topics wanted, all of the flow if none is named. `compacted` tells which topics of source
        and target are.

        Raises Refused, BrokerError, ConnectionLost.
        """
        internal = self._target.metadata(self._topics.names())
        first = checkpoint.look_first(self._target, internal, self._topics)
        if first is None or first.flow is None:
            raise Refused(
                f"flow {self._flow.name} has never been started on {self._target.name}",
                hint=f'Start it with "eomirror run {self._flow.name}".',
            )
        record = first.flow
        states = self._states(internal, range(record.lanes))
        keys = self._wanted({key for state in states.values() for key in state.positions}, wanted)
        here, there = self._sides(record, keys)
        # How far the target can be read comes first, then what of it was decided: the other way round, what a lane
        # commits in between would look like a stranger's.
        stable = self._target.list_offsets(there, dict.fromkeys(keys, LATEST), READ_COMMITTED)
        lanes = {lane_of(*key, record.lanes) for key in keys}
        undecided = {lane for lane in lanes if not self._decided(internal, lane)}
        states = self._states(internal, lanes)
        trails = self._trails(internal, keys, states, record.lanes)
        cleaned = compacted({t for t, _ in keys if t in here.topics}, {t for t, _ in keys if t in there.topics})
        jobs = []
        for key in (key for key in keys if key in trails):
            lane = lane_of(*key, record.lanes)
            position = states[lane].positions[key]
            try:
                target = self._target_span(there, key, position, stable[key], decided=lane not in undecided)
                job = self._job(here, key, position, trails[key], target, cleaned)
            except Refused as error:
                self._causes[key] = error.message
                continue
            if lane in undecided:
                open_note = f"target offsets from {target[1]} on were not looked at: a transaction of its lane is open"
                job = msgspec.structs.replace(job, note="; ".join(filter(None, (job.note, open_note))))
            jobs.append(job)
        return Plan(tuple(jobs), self._causes, tuple(self._ledger))

    def _states(self, internal: Metadata, lanes: Iterable[int]) -> dict[int, LaneState]:
        return {lane: checkpoint.look_lane(self._target, internal, self._topics, lane) for lane in lanes}

    def _wanted(self, known: set[RouteKey], wanted: Sequence[str]) -> list[RouteKey]:
        missing = sorted(set(wanted) - {topic for topic, _ in known})
        if missing:
            raise Refused(
                f"flow {self._flow.name}: {', '.join(missing)} is not mirrored by this flow",
                hint=f'"eomirror status {self._flow.name}" shows its topics and partitions.',
            )
        return sorted(key for key in known if not wanted or key[0] in wanted)

    def _sides(self, record: FlowRecord, keys: list[RouteKey]) -> tuple[Metadata, Metadata]:
        """Both sides' metadata. Raises Refused when another cluster answers than the flow was started with."""
        sides = []
        for brokers, known in ((self._source, record.source_cluster_id), (self._target, record.target_cluster_id)):
            metadata = brokers.metadata({topic for topic, _ in keys})
            if metadata.cluster_id != known:
                raise Refused(
                    f"cluster {brokers.name}: cluster {metadata.cluster_id} answers, the flow was started with {known}",
                    hint=f"See that clusters.{brokers.name}.bootstrap is right.",
                )
            for topic, code in metadata.errors.items():
                raise BrokerError(f"cluster {brokers.name}: describing {topic}", code)
            sides.append(metadata)
        return sides[0], sides[1]

    def _decided(self, internal: Metadata, lane: int) -> bool:
        try:
            checkpoint.wait_until_decided(self._target, internal, self._topics, lane, DECISION_SECONDS)
        except Refused:
            return False  # what a dead process left open; nothing of it is visible
        return True

    def _trails(
        self, internal: Metadata, keys: list[RouteKey], states: dict[int, LaneState], lanes: int
    ) -> dict[RouteKey, Trail]:
        """The trails of all partitions. A lane whose ledger is not whole is told, and its partitions are left out."""
        trails: dict[RouteKey, Trail] = {}
        for lane, state in states.items():
            mine = {key: state.positions[key].pending for key in keys if lane_of(*key, lanes) == lane}
            entries = checkpoint.follow_ledger(self._target, internal, self._topics, lane)
            try:
                if state.lane is None:
                    raise Refused(f"{self._topics.checkpoint}[{lane}]: positions without a lane record")
                found = ((e.offset, e.value) for e in entries)
                trails |= gather_all(self._topics.ledger, state.lane, lane, mine, found)
            except Refused as error:
                self._ledger.append(error.message)
                self._causes |= dict.fromkeys(
                    mine, "without its lane's ledger nothing says which records belong together"
                )
        return trails

    def _target_span(
        self, there: Metadata, key: RouteKey, position: PositionRecord, stable: int | BrokerError, *, decided: bool
    ) -> Span:
        """From the log's start to the last record mirrored, or as far as everything is decided."""
        place = f"cluster {self._target.name}: {key[0]}[{key[1]}]"
        described = there.topics.get(key[0])
        if described is None:
            raise Refused(f"{place}: the topic is gone")
        if described.topic_id != position.target_topic_id:
            raise Refused(f"{place}: the topic was deleted and created again")
        if isinstance(stable, BrokerError):
            raise stable
        start = checkpoint.offset_of(self._target, there, *key, EARLIEST)
        mirrored = position.target_end or 0
        end = max(mirrored, stable) if decided else mirrored
        return start, max(start, self._readable(there, key, stable, end))

    def _readable(self, there: Metadata, key: RouteKey, stable: int, end: int) -> int:
        """Wait until consumers can read up to `end`: they are let in when the markers are written, which is after the
        decision. A log that has lost its end is read as far as it goes; what is missing will be found."""
        patience = self._target.deadline(MARKER_SECONDS)
        while stable < end:
            if checkpoint.offset_of(self._target, there, *key, LATEST) < end:
                return stable
            if self._target.network.now() >= patience:
                raise Refused(
                    f"cluster {self._target.name}: {key[0]}[{key[1]}]: a transaction is open at offset {stable}, "
                    f"below what was mirrored ({end})"
                )
            self._target.network.sleep(0.02)
            stable = checkpoint.offset_of(self._target, there, *key, LATEST, READ_COMMITTED)
        return end

    def _job(
        self,
        here: Metadata,
        key: RouteKey,
        position: PositionRecord,
        trail: Trail,
        target: Span,
        cleaned: tuple[set[str], set[str]],
    ) -> Job:
        compacted = (key[0] in cleaned[0], key[0] in cleaned[1])
        described = here.topics.get(key[0])
        if described is None or described.topic_id != position.source_topic_id or key[1] not in described.partitions:
            return Job(key, position, trail, None, target, compacted, GONE)
        start = checkpoint.offset_of(self._source, here, *key, EARLIEST)
        stable = checkpoint.offset_of(self._source, here, *key, LATEST, READ_COMMITTED)
        note = None if position.fault is None else f"FAULTED ({position.fault.reason}): {position.fault.detail}"
        if stable < position.next_offset:
            note = f"the source ends at offset {stable}, {position.next_offset - stable} below what was mirrored"
        end = min(stable, position.next_offset)
        return Job(key, position, trail, (min(start, end), end), target, compacted, note)


def look(flow: FlowConfig, source: Cluster, target: Cluster, topics: Sequence[str] = ()) -> Plan:
    """Ask both clusters what there is to compare. Raises Refused, Preflight, BrokerError, ConnectionLost."""

    def compacted(here: set[str], there: set[str]) -> tuple[set[str], set[str]]:
        sides = (topic_configs(source, here), topic_configs(target, there))
        found = [{name for name, one in side.items() if "compact" in one.effective["cleanup.policy"]} for side in sides]
        return found[0], found[1]

    ours, theirs = source.brokers("verify"), target.brokers("verify")
    try:
        return Looking(flow, ours, theirs).plan(topics, compacted)
    finally:
        ours.close()
        theirs.close()


def without(span: Span, gaps: Sequence[Span]) -> Iterator[Span]:
    """What is left of a span when the gaps, in ascending order, are taken out."""
    start, end = span
    for first, following in gaps:
        if first >= end:
            break
        if first > start:
            yield start, first
        start = max(start, following)
    if start < end:
        yield start, end


def samples(job: Job, number: int, chance: random.Random) -> Iterator[tuple[Span, Span]]:
    """Random stretches of what both sides and the ledger have, each about SAMPLE_RECORDS records, and always what lies
    behind the last run: (source span, target span), ascending, none twice."""
    offsets = job.trail.offsets
    source = job.source or (0, 0)
    last = offsets.floor(LAST_OFFSET)
    end = (last[0] + last[2], last[1] + last[2]) if last else (source[1], job.position.target_end or 0)

    def place(source_offset: int) -> tuple[int, int]:
        """The first record at or behind a source offset, on both sides."""
        below = offsets.floor(source_offset)
        if below is not None and source_offset < below[0] + below[2]:
            return source_offset, below[1] + source_offset - below[0]
        following = offsets.ceiling(source_offset)
        return end if following is None else following[:2]

    oldest = offsets.target_ceiling(job.target[0])
    held = offsets.to_source(job.target[0])
    low = max(source[0], held if held is not None else oldest[0] if oldest is not None else end[0])
    reached = place(low)
    if low < end[0]:
        for start in sorted(chance.randrange(low, end[0]) for _ in range(number)):
            first = max(place(start), reached)
            reached = max(place(first[0] + SAMPLE_RECORDS), reached)
            if first < reached:
                yield (first[0], min(reached[0], source[1])), (first[1], min(reached[1], job.target[1]))
    yield (min(end[0], source[1]), source[1]), (min(end[1], job.target[1]), job.target[1])
