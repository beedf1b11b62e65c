"""The records of the internal topics: JSON keys are arrays, JSON values are these Structs.

A person can read them with any console consumer. `v` is the version of the layout; a record of a newer version is
refused, never guessed at. Unknown fields of the same version are ignored, so that a field can be added.
"""

from __future__ import annotations

import enum
from typing import Any, Final, Literal, TypeVar

import msgspec

from eomirror.errors import Reason, Refused

VERSION: Final = 1
T = TypeVar("T", bound=msgspec.Struct)

# What decoding a stranger's bytes raises: msgspec.DecodeError and UnicodeDecodeError are ValueErrors.
UNREADABLE: Final = (ValueError, RecursionError)

IdentityName = Literal["a", "b"]


class Record(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What every value of an internal topic begins with: `v`, the version of its layout."""

    v: int


class State(enum.StrEnum):
    """What a route does; stored with its position."""

    ACTIVE = "ACTIVE"
    RETRYING = "RETRYING"
    BLOCKED = "BLOCKED"
    FAULTED = "FAULTED"
    PAUSED = "PAUSED"


TWINS_MS: Final = 60_000


class Owner(msgspec.Struct, frozen=True):
    """The process that holds a lane. `instance` is unique to one start of one process."""

    host: str
    pid: int
    instance: str
    started_ms: int

    def __str__(self) -> str:
        return f"pid {self.pid} on {self.host}"

    def yields_to(self, successor: Owner) -> bool:
        """Whether this process ends when that one has taken a lane from it.

        Two that start at once may each take a lane from the other; if both ended, nobody would be left. The one that
        was started later stays. Clocks differ between hosts, so beyond TWINS_MS the take-over alone counts.
        """
        if abs(successor.started_ms - self.started_ms) > TWINS_MS:
            return True
        return (successor.started_ms, successor.instance) > (self.started_ms, self.instance)


class Gap(msgspec.Struct, frozen=True, omit_defaults=True):
    """Source offsets `first` to `next` - 1 that were left out: `by` accepted a fault for this reason; where the flow's
    `on_bad_record` did, `by` says so. Without a reason they lie below the flow's `start`, and the source held them when
    the route was pinned.

    `next` at or below `first` says that nothing was left out: the source's log went back (it was truncated or created
    again, and the mirror goes on at `next`), or with TARGET_RECREATED, that what the target held is gone. A gap comes
    before the runs of its tally.
    """

    first: int
    next: int
    reason: Reason | None = None
    by: str = ""


class Tally(msgspec.Struct, frozen=True, omit_defaults=True):
    """What was mirrored of one route since its last ledger record.

    `quarantined` and `dropped` are the records that the flow's `on_bad_record` left out; each lies in one of `gaps`.
    `runs` holds delta-coded triples, flat: source offsets skipped since the end of the run before, the same for target
    offsets, count. The first triple counts from 0. `digest` is the CRC-32C of all record bytes as written (the part of
    each batch after its header), in order, as 8 hex digits.
    """

    runs: tuple[int, ...] = ()
    records: int = 0
    bytes: int = 0
    digest: str = "00000000"
    max_timestamp_ms: int | None = None
    control_batches: int = 0
    aborted_records: int = 0
    quarantined: int = 0
    dropped: int = 0
    gaps: tuple[Gap, ...] = ()


class FlowRecord(Record, frozen=True, kw_only=True):
    """Key `["flow"]` in checkpoint partition 0: what this flow is, fixed at its first start."""

    flow: str
    source_cluster_id: str
    target_cluster_id: str
    lanes: int
    created_ms: int


class LaneRecord(Record, frozen=True, kw_only=True):
    """Key `["lane"]`, in every transaction. `n` is the number of the next transaction.

    `generation` rises with every take-over. `announced` holds the producer ids that have announced themselves.
    `pinned_ms` is when the lane first had a position for every route, None before. `ledger_sequence` and `ledger_hash`
    are the head of the lane's chain of ledger records, `ledger_n` the last transaction that it covers.
    """

    n: int
    generation: int
    owner: Owner
    announced: dict[IdentityName, int]
    pinned_ms: int | None = None
    ledger_sequence: int = 0
    ledger_hash: str = ""
    ledger_n: int | None = None


class Fault(msgspec.Struct, frozen=True, omit_defaults=True):
    """Why a partition stands still. `next_offset` is where it would go on if what is wrong were left out; None means
    that this is known only when the fault is accepted."""

    reason: Reason
    detail: str
    since_ms: int
    next_offset: int | None = None


class PositionRecord(Record, frozen=True, kw_only=True):
    """Key `["pos", topic, partition]`: where a route stands.

    `next_offset` is the next source offset to mirror, `leader_epoch` that of the last batch consumed (None before the
    first, and where it has none: formats before Kafka 0.11). Topic ids are 32 hex digits. `target_end` is one past the
    last target offset written, None before the first write. `transaction` is the number of the transaction that wrote
    this record. `trouble` says what a RETRYING route waits for.
    """

    next_offset: int
    source_topic_id: str
    target_topic_id: str
    transaction: int
    leader_epoch: int | None = None
    target_end: int | None = None
    state: State = State.ACTIVE
    fault: Fault | None = None
    trouble: str | None = None
    pending: Tally = Tally()


class ProducerRecord(Record, frozen=True, kw_only=True):
    """Key `[producer id]` in the producers topic: this producer id is a lane's."""

    flow: str
    source_cluster_id: str
    lane: int
    identity: IdentityName
    announced_at_ms: int


class LedgerRoute(msgspec.Struct, frozen=True, omit_defaults=True):
    """One route's share of a ledger record."""

    source_topic: str
    source_partition: int
    target_topic: str
    target_partition: int
    tally: Tally
    source_lso: int | None = None


class LedgerRecord(Record, frozen=True, kw_only=True):
    """Key: the lane number. `previous` is the SHA-256 of the previous ledger record's value, so that the records of a
    lane form a chain. `first_n` to `last_n` are the numbers of the transactions it covers."""

    lane: int
    sequence: int
    previous: str
    first_n: int
    last_n: int
    written_at_ms: int
    routes: tuple[LedgerRoute, ...]
    rewinds: dict[str, int] = {}


class Desired(Record, frozen=True, kw_only=True):
    """Key `["desired", ["fault", topic, partition]]` in the control topic: what a person wants done about a fault.

    It is meant for exactly the fault with this `since_ms`; a later fault of the same partition needs its own.
    """

    action: Literal["accept", "retry"]
    since_ms: int
    by: str
    why: str
    at_ms: int


class Event(Record, frozen=True, kw_only=True):
    """Key `["event", ulid]` in the control topic: what was done; the operators' history."""

    verb: str
    scope: list[str | int]
    by: str
    why: str
    at_ms: int


def flow_key() -> bytes:
    return msgspec.json.encode(["flow"])


def lane_key() -> bytes:
    return msgspec.json.encode(["lane"])


def position_key(topic: str, partition: int) -> bytes:
    return msgspec.json.encode(["pos", topic, partition])


def producer_key(producer_id: int) -> bytes:
    return msgspec.json.encode([producer_id])


def ledger_key(lane: int) -> bytes:
    return msgspec.json.encode(lane)


def fault_scope(topic: str, partition: int) -> list[str | int]:
    return ["fault", topic, partition]


def desired_key(scope: list[str | int]) -> bytes:
    return msgspec.json.encode(["desired", scope])


def event_key(ulid: str) -> bytes:
    return msgspec.json.encode(["event", ulid])


def encode(record: Record) -> bytes:
    return msgspec.json.encode(record)


def decode_key(place: str, key: bytes) -> list[Any]:
    """A key as a list. Raises Refused when it is not a JSON array: somebody else writes there."""
    try:
        return msgspec.json.decode(key, type=list[Any])
    except UNREADABLE as error:
        raise _stranger(place, error) from error


def decode(place: str, kind: type[T], value: bytes) -> T:
    """A value as its Struct. Raises Refused for one that cannot be read or is of a newer layout."""
    # The version first: a newer layout may have other fields, and must not look like a stranger's record.
    try:
        layout = msgspec.json.decode(value, type=Record).v
    except UNREADABLE as error:
        raise _stranger(place, error) from error
    if layout != VERSION:
        raise Refused(
            f"{place}: {kind.__name__} has layout {layout}, this eomirror reads {VERSION}",
            hint="Run the eomirror that wrote it, or a newer one.",
        )
    try:
        return msgspec.json.decode(value, type=kind)
    except UNREADABLE as error:
        raise _stranger(place, error) from error


def _stranger(place: str, error: Exception) -> Refused:
    return Refused(
        f"{place}: not a record of eomirror: {error}",
        hint="Only the lanes of this flow may write this topic; see who else can with kafka-acls.sh --list.",
    )
