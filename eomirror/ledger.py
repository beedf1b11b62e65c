"""Which source offsets became which target offsets: tallies while a lane runs, the hash-chained ledger for good."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import msgspec

from eomirror import _fastpath, records
from eomirror.records import Gap, LaneRecord, LedgerRecord, LedgerRoute, Tally

MAX_RUNS_PER_ROUTE = 64
LEDGER_SECONDS = 1.0


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
        return self._tally == Tally() and not self._runs

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
