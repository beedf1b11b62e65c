"""Reading where a lane stands, from the one place that knows: its partition of the checkpoint topic."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import msgspec

from eomirror import records
from eomirror.brokers import EARLIEST, LATEST, LEADER_NOT_AVAILABLE, READ_COMMITTED, Brokers, Entry, Metadata, Topic
from eomirror.errors import BrokerError, ConnectionLost, Refused
from eomirror.model import RouteKey
from eomirror.records import FlowRecord, LaneRecord, PositionRecord

# How long a transaction below the bound may stay open before it is called a stranger's. A lane's own predecessor is
# complete by then: InitProducerId returned.
STRANGER_SECONDS = 10.0
LOOKOUT_SECONDS = 2.0


class InternalTopics(msgspec.Struct, frozen=True):
    """The names of a flow's topics on the target. `quarantine` exists where `on_bad_record` asks for it."""

    checkpoint: str
    producers: str
    ledger: str
    control: str
    quarantine: str

    @classmethod
    def of(cls, flow: str) -> InternalTopics:
        """Those of a flow."""
        parts = ("checkpoint", "producers", "ledger", "control", "quarantine")
        return cls(*(f"__eomirror.{flow}.{part}" for part in parts))

    def names(self) -> tuple[str, str, str, str]:
        """Those that every flow has."""
        return self.checkpoint, self.producers, self.ledger, self.control


class LaneState(msgspec.Struct, frozen=True):
    """A partition of the checkpoint topic, folded to the newest record per key. `lane` is None before the first
    transaction; `flow` is only in partition 0. `committed_ms` is the broker's time of the newest lane record."""

    flow: FlowRecord | None
    lane: LaneRecord | None
    positions: dict[RouteKey, PositionRecord]
    committed_ms: int | None = None


def internal_topic(brokers: Brokers, metadata: Metadata, name: str) -> Topic:
    """An internal topic that must exist. Raises Refused when it does not: its absence is never an empty result."""
    topic = metadata.topics.get(name)
    if topic is not None:
        return topic
    if name in metadata.errors:
        raise BrokerError(f"cluster {brokers.name}: describing {name}", metadata.errors[name])
    raise Refused(
        f"cluster {brokers.name}: internal topic {name} is missing",
        hint="It holds where this flow stands. Bring it back; or remove the flow's other internal topics and its "
        "target topics to begin anew.",
    )


def require_same(brokers: Brokers, metadata: Metadata, topics: InternalTopics, topic_id: str) -> None:
    """Raises Refused when the checkpoint topic is gone, or is another than when the flow was claimed: an empty one in
    its place would look like a first start."""
    topic = internal_topic(brokers, metadata, topics.checkpoint)
    if topic.topic_id != topic_id:
        raise Refused(
            f"cluster {brokers.name}: {topic.name} was deleted and created again while the flow ran",
            hint="Where the flow stands was in the topic that is gone. Restore it before you start the flow again.",
        )


def require_leaders(brokers: Brokers, metadata: Metadata, names: Iterable[str], lane: int) -> None:
    """Raises BrokerError while a partition that the lane writes has no leader.

    Whoever takes the lane's identities then has the coordinator abort what is open, and Kafka 4.3 gives up a marker for
    a partition without a leader (KAFKA-20734).
    """
    for name in names:
        leader = internal_topic(brokers, metadata, name).partitions.get(lane)
        if leader is not None and leader.node is None:
            raise BrokerError(f"cluster {brokers.name}: {name}[{lane}]", LEADER_NOT_AVAILABLE)


def offset_of(brokers: Brokers, metadata: Metadata, name: str, partition: int, which: int, isolation: int = 0) -> int:
    """One offset of one partition. Raises BrokerError when its leader cannot say."""
    answer = brokers.list_offsets(metadata, {(name, partition): which}, isolation)[name, partition]
    if isinstance(answer, BrokerError):
        raise answer
    return answer


class Lookout:
    """Tells an idle lane that somebody else writes to its checkpoint: nothing else would, until it has something to
    write itself. A look costs one small request, at most every LOOKOUT_SECONDS; a busy lane needs none."""

    def __init__(self, brokers: Brokers, topic: str, lane: int) -> None:
        self._brokers = brokers
        self._topic = topic
        self._lane = lane
        self.reset()

    def reset(self) -> None:
        """We have just written there ourselves; the markers of that may still be on their way."""
        self._end: int | None = None
        self._due: float | None = None

    def stranger(self, now: float) -> bool:
        """Has the partition grown since it was quiet? False also when its leader does not say."""
        if self._due is None:
            self._due = now + LOOKOUT_SECONDS
        if now < self._due:
            return False
        self._due = now + LOOKOUT_SECONDS
        try:
            end = offset_of(self._brokers, self._brokers.metadata([self._topic]), self._topic, self._lane, LATEST)
        except (BrokerError, ConnectionLost):
            return False
        before, self._end = self._end, end
        return before is not None and end != before


def read_lane(brokers: Brokers, metadata: Metadata, topics: InternalTopics, lane: int) -> LaneState:
    """Everything the lane's owner must know, complete: called after both identities are taken.

    The bound is the leader's end, uncommitted: with both identities taken, nothing of this lane can be open below it.
    Raises Refused when a transaction stays open below the bound, or when the lane records do not ascend: in both cases
    somebody else writes there. Raises BrokerError or ConnectionLost when the leader cannot be asked.
    """
    topic = internal_topic(brokers, metadata, topics.checkpoint)
    start = offset_of(brokers, metadata, topic.name, lane, EARLIEST)
    bound = offset_of(brokers, metadata, topic.name, lane, LATEST)
    return fold(topic.name, lane, brokers.read_committed(topic, lane, start, bound, STRANGER_SECONDS))


def look_lane(brokers: Brokers, metadata: Metadata, topics: InternalTopics, lane: int) -> LaneState:
    """What is committed at this moment; for commands that only look. A lane at work is always a little further."""
    topic = internal_topic(brokers, metadata, topics.checkpoint)
    start = offset_of(brokers, metadata, topic.name, lane, EARLIEST)
    stable = offset_of(brokers, metadata, topic.name, lane, LATEST, READ_COMMITTED)
    return fold(topic.name, lane, brokers.read_committed(topic, lane, start, stable, STRANGER_SECONDS))


def look_first(brokers: Brokers, metadata: Metadata, topics: InternalTopics) -> LaneState | None:
    """Lane 0's state, whose flow record says what the flow is; None if the flow never started.

    Raises BrokerError, ConnectionLost; Refused when an internal topic is missing beside others, or where a checkpoint
    has lost its flow record.
    """
    failed = [name for name in topics.names() if name in metadata.errors]
    if failed:
        raise BrokerError(f"cluster {brokers.name}: describing {failed[0]}", metadata.errors[failed[0]])
    if not any(name in metadata.topics for name in topics.names()):
        return None
    first = look_lane(brokers, metadata, topics, 0)
    if first.flow is None and first.lane is not None:
        raise Refused(
            f"cluster {brokers.name}: {topics.checkpoint} has a lane's checkpoint but no flow record",
            hint="Records of this topic were deleted. Where the flow stands is unknown; restore the topic.",
        )
    return None if first.flow is None else first


def wait_until_decided(brokers: Brokers, metadata: Metadata, topics: InternalTopics, lane: int, seconds: float) -> None:
    """Return when every transaction that the lane has begun by now has an outcome that can be read.

    Raises Refused when one is still open after that many seconds. Raises BrokerError, ConnectionLost.
    """
    bound = offset_of(brokers, metadata, topics.checkpoint, lane, LATEST)
    patience = brokers.deadline(seconds)
    while offset_of(brokers, metadata, topics.checkpoint, lane, LATEST, READ_COMMITTED) < bound:
        if brokers.network.now() >= patience:
            raise Refused(
                f"{topics.checkpoint}[{lane}]: a transaction of this lane is open",
                hint="Ask again. What a dead process left open ends with the next start, or with its time-out.",
            )
        brokers.network.sleep(0.02)


def follow_ledger(brokers: Brokers, metadata: Metadata, topics: InternalTopics, lane: int) -> Iterator[Entry]:
    """The committed ledger records of a lane, from the oldest that is left to the leader's end.

    Whoever has seen the one that the checkpoint names last can leave; what is open behind it is not waited for.
    """
    topic = internal_topic(brokers, metadata, topics.ledger)
    start = offset_of(brokers, metadata, topic.name, lane, EARLIEST)
    bound = offset_of(brokers, metadata, topic.name, lane, LATEST)
    for entries in brokers.follow(topic, lane, start, bound, STRANGER_SECONDS):
        yield from entries


def fold(topic: str, lane: int, entries: list[Entry]) -> LaneState:
    """The newest record per key. Raises Refused for a record that no lane of this flow can have written."""
    flow: FlowRecord | None = None
    head: LaneRecord | None = None
    committed_ms: int | None = None
    newest: dict[RouteKey, tuple[str, bytes | None]] = {}
    for entry in entries:
        place = f"{topic}[{lane}]@{entry.offset}"
        match records.decode_key(place, entry.key):
            case ["flow"] if entry.value is not None:
                flow = records.decode(place, FlowRecord, entry.value)
            case ["lane"] if entry.value is not None:
                record = records.decode(place, LaneRecord, entry.value)
                if head is not None and record.n <= head.n:
                    raise Refused(
                        f"{place}: transaction {record.n} follows {head.n}: somebody else writes to this topic",
                        hint="Only the lanes of this flow may write it; see who else can with kafka-acls.sh --list.",
                    )
                head, committed_ms = record, entry.timestamp_ms
            case ["pos", str(name), int(partition)]:
                newest[name, partition] = (place, entry.value)
            case ["flow"] | ["lane"] as key:
                raise Refused(
                    f"{place}: {key[0]} record deleted: somebody else writes to this topic",
                    hint="Only the lanes of this flow may write it; see who else can with kafka-acls.sh --list.",
                )
            case key:
                raise Refused(
                    f"{place}: unknown key {key!r}",
                    hint="Only the lanes of this flow may write it, with this version of eomirror or an older one.",
                )
    positions = {
        key: records.decode(place, PositionRecord, value) for key, (place, value) in newest.items() if value is not None
    }
    return LaneState(flow, head, positions, committed_ms)
