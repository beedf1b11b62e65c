"""What a lane writes about itself in a transaction: decided purely, from what it knows, before anything is sent."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from eomirror import ledger, records
from eomirror.checkpoint import InternalTopics, LaneState
from eomirror.errors import Refused
from eomirror.identity import Identity
from eomirror.model import Lease, RouteKey
from eomirror.records import IdentityName, LaneRecord, PositionRecord, ProducerRecord
from eomirror.route import Route
from eomirror.transaction import Write


class Settlement(msgspec.Struct, frozen=True):
    """One transaction's internal records. `following` is the lane record that it commits, `moved` its positions."""

    following: LaneRecord
    moved: dict[RouteKey, PositionRecord]
    writes: list[Write]
    ledgered: bool


def opening_head(lease: Lease, state: LaneState) -> LaneRecord:
    """The lane record of a new owner: the next generation, everything else as it was.

    Raises Refused for positions without a lane record: their transaction numbers would start again from 0.
    """
    if state.lane is not None:
        return msgspec.structs.replace(state.lane, generation=state.lane.generation + 1, owner=lease.owner)
    if state.positions:
        raise Refused(
            f"{InternalTopics.of(lease.flow).checkpoint}[{lease.lane}]: positions without a lane record",
            hint="Records of this topic were deleted; where the lane stands is unknown. Restore the topic.",
        )
    return LaneRecord(v=records.VERSION, n=0, generation=1, owner=lease.owner, announced={})


def announcement(lease: Lease, head: LaneRecord, identity: Identity, now_ms: int) -> Settlement:
    """A producer id makes itself known, in a transaction that holds nothing else but the lane record."""
    topics = InternalTopics.of(lease.flow)
    announced: dict[IdentityName, int] = {**head.announced, identity.name: identity.producer_id}
    following = msgspec.structs.replace(head, n=head.n + 1, announced=announced)
    record = ProducerRecord(
        v=records.VERSION,
        flow=lease.flow,
        source_cluster_id=lease.source_cluster_id,
        lane=lease.lane,
        identity=identity.name,
        announced_at_ms=now_ms,
    )
    entry = (records.producer_key(identity.producer_id), records.encode(record))
    writes = [_checkpoint(topics, lease.lane, following, {}), Write(topics.producers, lease.lane, [entry])]
    return Settlement(following, {}, writes, ledgered=False)


def settlement(
    lease: Lease,
    head: LaneRecord,
    touched: dict[RouteKey, Route],
    rewinds: dict[str, int],
    now_ms: int,
    *,
    ledger_due: bool,
    others: Sequence[Write] = (),
) -> Settlement:
    """Checkpoint and, when due, ledger of a transaction. `touched` are the routes that moved or have runs pending,
    `others` records for further internal topics.

    The ledger is due for the caller's reasons, or when a route has as many runs as its position record should carry.
    """
    topics = InternalTopics.of(lease.flow)
    full = any(route.book.run_count >= ledger.MAX_RUNS_PER_ROUTE for route in touched.values())
    entries = tuple(r.ledger() for r in touched.values() if not r.book.empty) if ledger_due or full else ()
    ledgered = bool(entries)
    following = msgspec.structs.replace(head, n=head.n + 1)
    writes = list(others)
    if ledgered:
        value, digest = ledger.chain(lease.lane, head, entries, written_at_ms=now_ms, rewinds=rewinds)
        writes.append(Write(topics.ledger, lease.lane, [(records.ledger_key(lease.lane), value)]))
        following = msgspec.structs.replace(
            following, ledger_sequence=head.ledger_sequence + 1, ledger_hash=digest, ledger_n=head.n
        )
    moved = {
        key: route.position(head.n, ledgered=ledgered) for key, route in touched.items() if route.changed or ledgered
    }
    writes.append(_checkpoint(topics, lease.lane, following, moved))
    return Settlement(following, moved, writes, ledgered)


def _checkpoint(
    topics: InternalTopics, lane: int, following: LaneRecord, moved: dict[RouteKey, PositionRecord]
) -> Write:
    entries: list[tuple[bytes, bytes | None]] = [
        (records.position_key(*key), records.encode(position)) for key, position in moved.items()
    ]
    return Write(topics.checkpoint, lane, [*entries, (records.lane_key(), records.encode(following))])
