"""Which source offsets became which target offsets: tallies while a lane runs, the hash-chained ledger for good."""

from __future__ import annotations

import enum
import hashlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Final, NamedTuple

import msgspec

from eomirror import _fastpath, records
from eomirror.errors import Reason, Refused
from eomirror.records import Gap, LaneRecord, LedgerRecord, LedgerRoute, Tally

MAX_RUNS_PER_ROUTE = 64
# Uncommitted in a lane. A ledger record is a single record of some bytes per run, in a batch of its own.
MAX_RUNS_PER_TRANSACTION = 200_000
LEDGER_SECONDS = 1.0
LAST_OFFSET: Final = (1 << 63) - 1


class Run(NamedTuple):
    """`size` records, contiguous on both sides, beginning at these offsets."""

    source_first: int
    target_first: int
    size: int


def decode_runs(flat: Iterable[int]) -> Iterator[Run]:
    """The runs of a tally. Raises ValueError when the numbers are not whole triples of ascending runs."""
    numbers = iter(flat)
    source = target = 0
    for source_skip in numbers:
        try:
            target_skip, count = next(numbers), next(numbers)
        except StopIteration:
            raise ValueError("runs end within a triple") from None
        if source_skip < 0 or target_skip < 0 or count < 1:
            raise ValueError(f"not a run: {(source_skip, target_skip, count)}")
        source, target = source + source_skip, target + target_skip
        yield Run(source, target, count)
        source, target = source + count, target + count


def encode_runs(runs: Iterable[Run]) -> tuple[int, ...]:
    """Runs as delta-coded triples. Raises ValueError unless each begins at or after the end of the one before."""
    flat: list[int] = []
    source = target = 0
    for run in runs:
        if run.source_first < source or run.target_first < target or run.size < 1:
            raise ValueError(f"runs do not ascend at {run}")
        flat += (run.source_first - source, run.target_first - target, run.size)
        source, target = run.source_first + run.size, run.target_first + run.size
    return tuple(flat)


class Book:
    """The tally of one route while it grows. Mutable, owned by one lane."""

    __slots__ = ("_digest", "_runs", "_tally")

    def __init__(self, tally: Tally = Tally()) -> None:  # noqa: B008 - Tally is frozen
        self._tally = tally
        self._runs = list(decode_runs(tally.runs))
        self._digest = int(tally.digest, 16)

    @property
    def empty(self) -> bool:
        return not self._runs and self._tally == Tally()

    @property
    def run_count(self) -> int:
        return len(self._runs)

    def wrote(self, batch: _fastpath.Batch, base_offset: int) -> None:
        """A batch was appended at the target with its first record at `base_offset`."""
        target = base_offset
        for source_first, count in batch.runs:
            last = self._runs[-1] if self._runs else None
            if last and last.source_first + last.size == source_first and last.target_first + last.size == target:
                self._runs[-1] = last._replace(size=last.size + count)
            else:
                self._runs.append(Run(source_first, target, count))
            target += count
        tally = self._tally
        self._digest = _fastpath.crc32c_combine(self._digest, batch.payload_crc, batch.payload_bytes)
        known = tally.max_timestamp_ms
        newest = batch.max_timestamp if known is None else max(known, batch.max_timestamp)
        self._tally = msgspec.structs.replace(
            tally,
            records=tally.records + batch.count,
            bytes=tally.bytes + len(batch.view),
            max_timestamp_ms=newest,
        )

    def dropped(self, control_batches: int, aborted_records: int) -> None:
        """Control batches and records of aborted transactions were read and not copied."""
        tally = self._tally
        self._tally = msgspec.structs.replace(
            tally,
            control_batches=tally.control_batches + control_batches,
            aborted_records=tally.aborted_records + aborted_records,
        )

    def accept(self, gap: Gap) -> None:
        """A person accepted that these source offsets are left out."""
        self._tally = msgspec.structs.replace(self._tally, gaps=(*self._tally.gaps, gap))

    def leave_out(self, gap: Gap, *, quarantined: bool) -> None:
        """The flow's `on_bad_record` left these source offsets out. Neighbours become one gap."""
        tally = self._tally
        count, gaps = gap.next - gap.first, tally.gaps
        last = gaps[-1] if gaps else None
        if last is not None and (last.next, last.reason, last.by) == (gap.first, gap.reason, gap.by):
            gap, gaps = msgspec.structs.replace(gap, first=last.first), gaps[:-1]
        self._tally = msgspec.structs.replace(
            tally,
            gaps=(*gaps, gap),
            quarantined=tally.quarantined + (count if quarantined else 0),
            dropped=tally.dropped + (0 if quarantined else count),
        )

    def tally(self) -> Tally:
        return msgspec.structs.replace(self._tally, runs=encode_runs(self._runs), digest=f"{self._digest:08x}")


def chain(
    lane: int,
    head: LaneRecord,
    routes: tuple[LedgerRoute, ...],
    *,
    written_at_ms: int,
    rewinds: dict[str, int],
) -> tuple[bytes, str]:
    """The next ledger record of a lane: (value, its hash, which becomes the head of the chain)."""
    record = LedgerRecord(
        v=records.VERSION,
        lane=lane,
        sequence=head.ledger_sequence,
        previous=head.ledger_hash,
        first_n=0 if head.ledger_n is None else head.ledger_n + 1,
        last_n=head.n,
        written_at_ms=written_at_ms,
        routes=routes,
        rewinds=rewinds,
    )
    value = records.encode(record)
    return value, hashlib.sha256(value).hexdigest()


# --- reading it back


class Share(msgspec.Struct, frozen=True):
    """One route's share of a ledger record, its tally not decoded yet: most shares are other routes'."""

    source_topic: str
    source_partition: int
    tally: msgspec.Raw


class LedgerOutline(msgspec.Struct, frozen=True, kw_only=True):
    """A LedgerRecord as far as its chain goes."""

    v: int
    lane: int
    sequence: int
    previous: str
    routes: tuple[Share, ...]


_OUTLINES = msgspec.json.Decoder(LedgerOutline)


def _outline(place: str, value: bytes) -> LedgerOutline:
    """A month of ledger records is read for one answer: one pass for those that are in order."""
    try:
        record = _OUTLINES.decode(value)
    except records.UNREADABLE:
        record = None
    return record if record is not None and record.v == records.VERSION else records.decode(place, LedgerOutline, value)


class Chain:
    """Holds the ledger records of a lane, read from old to new, to their chain. `sequence` is the number that must come
    next, None before the first; that one may have any, because retention deletes from the beginning."""

    def __init__(self, lane: int) -> None:
        self._lane = lane
        self.sequence: int | None = None
        self.hash = ""

    def read(self, place: str, value: bytes | None) -> LedgerOutline:
        """The next record. Raises Refused unless it follows the one before."""
        if value is None:
            raise _broken(f"{place}: a record without a value")
        record = _outline(place, value)
        if record.lane != self._lane:
            raise _broken(f"{place}: a record of lane {record.lane}")
        if self.sequence is not None and (record.sequence, record.previous) != (self.sequence, self.hash):
            raise _broken(f"{place}: ledger record {record.sequence} does not follow record {self.sequence - 1}")
        self.sequence, self.hash = record.sequence + 1, hashlib.sha256(value).hexdigest()
        return record


class Before(enum.Enum):
    """What is known of the offsets below the first run of a trail."""

    NOTHING = "nothing of them was mirrored"
    UNKNOWN = "the ledger's beginning was deleted"
    LOST = "the target was created again, or lost records"


class Trail:
    """The runs of one route that still count, gathered from its tallies from old to new, and `left_out`: the gaps
    between them that a person, or the flow's `start`, has made.

    An accepted fault can make runs void, and its gap says so. A source that was created again begins a new log: the
    offsets of the old one mean nothing any more. Of a source that was truncated, the offsets from the cut on mean other
    records now. Of a target that was created again or lost records, nobody knows what is left.

    `orphans` are the target offsets, as (first, next), whose records the truncated source no longer has. `replaced`
    says that target offsets below the first run are of a source that was created again. `counted` and `covered` are
    the records of all tallies, as counted and in runs.
    """

    def __init__(self, before: Before) -> None:
        self.before = before
        self.offsets = _fastpath.OffsetMap()
        self.left_out: list[Gap] = []
        self.orphans: list[tuple[int, int]] = []
        self.replaced = False
        self.counted = self.covered = 0

    def add(self, place: str, tally: Tally) -> None:
        """The next tally. Raises Refused when its runs are none, or do not lie beyond those before."""
        for gap in tally.gaps:
            if gap.reason is Reason.SOURCE_RECREATED:
                self.replaced = self.replaced or self.before is not Before.NOTHING or len(self.offsets) > 0
                self._forget(Before.NOTHING)
            elif gap.reason is Reason.TARGET_RECREATED:
                self._forget(Before.LOST)
            elif gap.next > gap.first:
                self.left_out.append(gap)
            else:
                self._cut(gap.next)
        try:
            self.offsets.extend(tally.runs)
        except (ValueError, OverflowError) as error:
            raise _broken(f"{place}: {error}") from error
        self.counted += tally.records
        self.covered += sum(tally.runs[2::3])

    def _forget(self, before: Before) -> None:
        self.offsets, self.before = _fastpath.OffsetMap(), before
        self.left_out, self.orphans = [], []

    def _cut(self, cut: int) -> None:
        """The source lost what it had from this offset on, and those offsets are other records now."""
        kept = _below(self.offsets, cut)
        last, kept_last = self.offsets.floor(LAST_OFFSET), kept.floor(LAST_OFFSET)
        if last is not None and last != kept_last:
            first = 0 if kept_last is None else kept_last[1] + kept_last[2]
            self.orphans.append((first, last[1] + last[2]))
        self.offsets = kept
        self.left_out = [
            msgspec.structs.replace(old, next=min(old.next, cut)) for old in self.left_out if old.first < cut
        ]


def gather(
    topic: str,
    head: LaneRecord,
    lane: int,
    route: tuple[str, int],
    pending: Tally,
    entries: Iterable[tuple[int, bytes | None]],
) -> Trail:
    """The trail of one route; see `gather_all`."""
    return gather_all(topic, head, lane, {route: pending}, entries)[route]


def gather_all(
    topic: str,
    head: LaneRecord,
    lane: int,
    pending: Mapping[tuple[str, int], Tally],
    entries: Iterable[tuple[int, bytes | None]],
) -> dict[tuple[str, int], Trail]:
    """The trails of routes from (offset, value) of their lane's ledger records, and the tallies not in them yet.

    `head` is the lane record that was committed with `pending`: later ledger records are left unread. Raises Refused
    for a record that does not follow the one before, and when the last one is not the one that the head names.
    """
    trails = {route: Trail(Before.UNKNOWN if head.ledger_sequence else Before.NOTHING) for route in pending}
    chain = Chain(lane)
    for offset, value in entries if head.ledger_sequence else ():
        place = f"{topic}[{lane}]@{offset}"
        record = chain.read(place, value)
        if record.sequence == 0:
            for trail in trails.values():
                trail.before = Before.NOTHING
        for share in record.routes:
            known = trails.get((share.source_topic, share.source_partition))
            if known is not None:
                known.add(place, _tally(place, share.tally))
        if record.sequence + 1 >= head.ledger_sequence:
            break
    if chain.sequence is not None and (chain.sequence, chain.hash) != (head.ledger_sequence, head.ledger_hash):
        raise _broken(
            f"{topic}[{lane}]: the ledger's last record is {chain.sequence - 1}, "
            f"the checkpoint names record {head.ledger_sequence - 1} with hash {head.ledger_hash[:12]}"
        )
    for route, tally in pending.items():
        trails[route].add(f"{route[0]}[{route[1]}]", tally)
    return trails


def _tally(place: str, raw: msgspec.Raw) -> Tally:
    try:
        return msgspec.json.decode(raw, type=Tally)
    except records.UNREADABLE as error:
        raise _broken(f"{place}: {error}") from error


def _below(offsets: _fastpath.OffsetMap, cut: int) -> _fastpath.OffsetMap:
    """The runs, and the first part of one, that lie below a source offset."""
    kept = _fastpath.OffsetMap()
    for source, target, count in offsets.runs():
        if source >= cut:
            break
        kept.append(source, target, min(count, cut - source))
    return kept


def _broken(message: str) -> Refused:
    return Refused(
        message,
        hint="The ledger's chain is broken: somebody else wrote to this topic, or took records out of it. See who can "
        "with kafka-acls.sh --list.",
    )
