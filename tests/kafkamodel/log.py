"""One partition's log: appends with the broker's checks, producer state, open and aborted transactions, reads.

After Kafka 4.3.1: UnifiedLog, LogValidator, ProducerAppendInfo, ProducerStateManager.
"""

from __future__ import annotations

import bisect
import enum
import itertools
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from kio.schema.errors import ErrorCode

from .records import (
    BODY_AT,
    CODEC_MASK,
    CRC_FROM,
    HEADER_SIZE,
    BatchHeader,
    Record,
    control_batch,
    crc32c,
    placed,
    read_header,
    read_records,
    stamped,
)

RETAINED_BATCHES: Final = 5
MAX_SHORT: Final = 32767


class Fate(enum.Enum):
    """What became of a stored batch; the model writes it down when the marker arrives, so no reader has to filter."""

    PLAIN = "plain"
    OPEN = "open"
    COMMITTED = "committed"
    ABORTED = "aborted"
    CONTROL = "control"


@dataclass(slots=True)
class Stored:
    header: BatchHeader
    data: bytes
    fate: Fate
    segment: int = 0

    @property
    def records(self) -> tuple[Record, ...]:
        return read_records(self.data)


class Aborted(NamedTuple):
    """An entry of the aborted-transactions index; `last_offset` is the abort marker's."""

    producer_id: int
    first_offset: int
    last_offset: int


class Appended(NamedTuple):
    first_sequence: int
    last_sequence: int
    base_offset: int


@dataclass(slots=True)
class ProducerState:
    """What a partition remembers of one producer id. `first_offset` is that of its open transaction, if any."""

    epoch: int = -1
    batches: deque[Appended] = field(default_factory=lambda: deque(maxlen=RETAINED_BATCHES))
    first_offset: int | None = None
    coordinator_epoch: int = -1
    last_timestamp: int = -1

    def move_to(self, epoch: int) -> None:
        if epoch != self.epoch:
            self.batches.clear()
            self.epoch = epoch


@dataclass(slots=True)
class Verification:
    """A producer's partition is being added to its transaction; only the holder of this very guard may append."""

    epoch: int
    lowest_sequence: int


class Slice(NamedTuple):
    """What a fetch found. `records` may end inside a batch, as a broker cuts at the byte limit."""

    records: bytes
    aborted: tuple[Aborted, ...]


class PartitionLog:
    """A single replica: what is appended is at once below the high watermark."""

    def __init__(
        self,
        topic: str,
        partition: int,
        *,
        max_message_bytes: int,
        log_append_time: bool,
        compact: bool,
        segment_batches: int | None,
        transactions: int = 2,
        verifies: bool = True,
    ) -> None:
        self.topic = topic
        self.partition = partition
        self.max_message_bytes = max_message_bytes
        self.log_append_time = log_append_time
        self.compact = compact
        self.segment_batches = segment_batches
        self.transactions = transactions
        self.verifies = verifies
        self._pushed = 0
        self.leader_epoch = 0
        self.log_start = 0
        self.end = 0
        self.batches: list[Stored] = []
        self.aborted: list[Aborted] = []
        self.producers: dict[int, ProducerState] = {}
        self.verifying: dict[int, Verification] = {}
        self.epoch_starts: list[tuple[int, int]] = [(0, 0)]

    def __str__(self) -> str:
        return f"{self.topic}[{self.partition}]"

    @property
    def last_stable_offset(self) -> int:
        open_offsets = [p.first_offset for p in self.producers.values() if p.first_offset is not None]
        return min(open_offsets, default=self.end)

    # --- appending

    def has_ongoing(self, producer_id: int, epoch: int) -> bool:
        state = self.producers.get(producer_id)
        return state is not None and state.first_offset is not None and state.epoch == epoch

    def outdated(self, producer_id: int, epoch: int) -> bool:
        """The partition itself knows a newer epoch: nobody need be asked."""
        state = self.producers.get(producer_id)
        return state is not None and epoch < state.epoch

    def verify(self, producer_id: int, epoch: int, sequence: int) -> Verification:
        """The guard under which a batch may begin this producer's transaction here."""
        guard = self.verifying.setdefault(producer_id, Verification(epoch, sequence))
        if epoch > guard.epoch:
            guard.epoch, guard.lowest_sequence = epoch, sequence
        elif epoch == guard.epoch:
            guard.lowest_sequence = min(guard.lowest_sequence, sequence)
        return guard

    def append(self, data: bytes, guard: Verification | None, now_ms: int) -> tuple[ErrorCode, int]:
        """A client's batch. Returns the error and the base offset, which for a known batch is that of the original."""
        error = self._invalid(data)
        if error:
            return error, -1
        header = read_header(data)
        if header.producer_id >= 0:
            state = self.producers.get(header.producer_id, ProducerState())
            span = (header.base_sequence, header.last_sequence)
            if header.producer_epoch == state.epoch:
                for known in state.batches:
                    if (known.first_sequence, known.last_sequence) == span:
                        return ErrorCode.none, known.base_offset
            # The coordinator's word may have been overtaken by the marker that ends the transaction: the marker takes
            # the guard away, so that no record is appended outside the transaction it was checked for.
            if (
                header.transactional
                and self.verifies
                and not self.has_ongoing(header.producer_id, header.producer_epoch)
                and (guard is None or self.verifying.get(header.producer_id) is not guard)
            ):
                outdated = self.outdated(header.producer_id, header.producer_epoch)
                return ErrorCode.invalid_producer_epoch if outdated else ErrorCode.invalid_txn_state, -1
            error = self._out_of_turn(header, state)
            if error:
                return error, -1
        return ErrorCode.none, self._store(data, header, now_ms)

    def _invalid(self, data: bytes) -> ErrorCode:
        if len(data) < HEADER_SIZE:
            return ErrorCode.invalid_record
        header = read_header(data)
        if header.magic != 2:
            return ErrorCode.unsupported_for_message_format
        size = BODY_AT + header.length
        if header.length < HEADER_SIZE - BODY_AT or size > len(data):
            return ErrorCode.corrupt_message
        if size < len(data):  # a second batch
            return ErrorCode.invalid_record
        if header.base_offset != 0 or header.control:
            return ErrorCode.invalid_record
        if header.count <= 0 or header.count != header.last_offset_delta + 1:
            return ErrorCode.invalid_record
        if header.producer_id >= 0 and (header.producer_epoch < 0 or header.base_sequence < 0):
            return ErrorCode.invalid_record
        if size > self.max_message_bytes:
            return ErrorCode.message_too_large
        if crc32c(memoryview(data)[CRC_FROM:]) != header.crc:
            return ErrorCode.corrupt_message
        if header.attributes & CODEC_MASK == 0:
            offsets = [r.offset for r in read_records(data)]
            if offsets != list(range(header.count)):
                return ErrorCode.invalid_record
        if self.refused_records(data):
            return ErrorCode.invalid_record
        return ErrorCode.none

    def refused_records(self, data: bytes) -> list[tuple[int, str]]:
        """(index in the batch, message) of the records that a compacted topic refuses for want of a key."""
        if not self.compact:
            return []
        where = f"Compacted topic cannot accept message without key in topic partition {self.topic}-{self.partition}."
        return [(index, where) for index, record in enumerate(read_records(data)) if record.key is None]

    def _out_of_turn(self, header: BatchHeader, state: ProducerState) -> ErrorCode:
        epoch, sequence = header.producer_epoch, header.base_sequence
        if epoch < state.epoch:
            return ErrorCode.invalid_producer_epoch
        guard = self.verifying.get(header.producer_id)
        begins_late = self.transactions == 2 and sequence != 0 and not state.batches
        if guard is not None and (sequence > guard.lowest_sequence or begins_late):
            return ErrorCode.out_of_order_sequence_number
        if epoch != state.epoch:
            if sequence != 0 and state.epoch != -1:
                return ErrorCode.out_of_order_sequence_number
        else:
            last = state.batches[-1].last_sequence if state.batches else -1
            if sequence != (last + 1) & 0x7FFFFFFF:
                return ErrorCode.out_of_order_sequence_number
        if state.first_offset is not None and not header.transactional:
            return ErrorCode.invalid_txn_state
        return ErrorCode.none

    def _store(self, data: bytes, header: BatchHeader, now_ms: int) -> int:
        offset = self.end
        if self.log_append_time:
            data = stamped(data, now_ms)
        data = placed(data, offset, self.leader_epoch)
        fate = Fate.PLAIN
        if header.producer_id >= 0:
            state = self.producers.setdefault(header.producer_id, ProducerState())
            state.move_to(header.producer_epoch)
            state.batches.append(Appended(header.base_sequence, header.last_sequence, offset))
            state.last_timestamp = header.max_timestamp
            if header.transactional:
                fate = Fate.OPEN
                self.verifying.pop(header.producer_id, None)
                if state.first_offset is None:
                    state.first_offset = offset
        self._push(data, fate)
        return offset

    def _push(self, data: bytes, fate: Fate) -> None:
        header = read_header(data)
        segment = self._pushed // self.segment_batches if self.segment_batches else 0
        self._pushed += 1
        self.batches.append(Stored(header, data, fate, segment))
        self.end = header.last_offset + 1

    def append_marker(
        self, producer_id: int, epoch: int, *, commit: bool, now_ms: int, coordinator_epoch: int = 0
    ) -> None:
        """The end of a transaction. With version 2 its epoch is one above that of the data it ends."""
        state = self.producers.setdefault(producer_id, ProducerState())
        same = epoch == state.epoch and state.first_offset is not None and epoch != MAX_SHORT
        if epoch < state.epoch or (same and self.transactions == 2):
            raise AssertionError(
                f"{self}: marker of producer {producer_id} has epoch {epoch}, the log is at {state.epoch}"
            )
        offset = self.end
        self._push(
            placed(
                control_batch(offset, now_ms, producer_id, epoch, commit=commit, coordinator_epoch=coordinator_epoch),
                offset,
                self.leader_epoch,
            ),
            Fate.CONTROL,
        )
        self.verifying.pop(producer_id, None)
        if state.first_offset is not None:
            fate = Fate.COMMITTED if commit else Fate.ABORTED
            for batch in self._from(state.first_offset):
                if batch.fate is Fate.OPEN and batch.header.producer_id == producer_id:
                    batch.fate = fate
            if not commit:
                self.aborted.append(Aborted(producer_id, state.first_offset, offset))
        state.move_to(epoch)
        state.first_offset = None
        state.coordinator_epoch = coordinator_epoch
        state.last_timestamp = now_ms

    def append_raw(self, data: bytes, *, fate: Fate = Fate.PLAIN) -> int:
        """A batch as it is, at the end of the log: what compaction or an old producer may have left."""
        offset = self.end
        self._push(placed(data, offset, self.leader_epoch), fate)
        return offset

    # --- reading

    def _from(self, offset: int) -> Iterator[Stored]:
        """Batches that end at or after `offset`."""
        first = bisect.bisect_left(self.batches, offset, key=lambda b: b.header.last_offset)
        return itertools.islice(self.batches, first, None)

    def available(self, offset: int, bound: int) -> int:
        """Bytes from `offset` up to `bound`."""
        return sum(len(b.data) for b in self._from(offset) if b.header.last_offset < bound)

    def read(self, offset: int, bound: int, max_bytes: int, *, at_least_one: bool, committed: bool) -> Slice:
        """Whole batches from the one that holds `offset`, up to `bound`; the last one may be cut by `max_bytes`.

        A first batch that would be cut is left out: a broker answers with nothing instead. And it reads from one
        segment at a time: what follows in the next one is for the next fetch.
        """
        out = bytearray()
        upper = offset
        segment = None
        for batch in self._from(offset):
            if batch.header.last_offset >= bound or len(out) >= max_bytes:
                break
            segment = batch.segment if segment is None else segment
            if batch.segment != segment:
                break
            room = max_bytes - len(out)
            if not out and len(batch.data) > room and not at_least_one:
                break
            out += batch.data if len(batch.data) <= room or (at_least_one and not out) else batch.data[:room]
            upper = batch.header.last_offset + 1
        aborted: tuple[Aborted, ...] = ()
        if committed and out:
            found = (a for a in self.aborted if a.last_offset >= offset and a.first_offset < upper)
            aborted = tuple(sorted(found, key=lambda a: a.first_offset))
        return Slice(bytes(out), aborted)

    def committed(self, offset: int = 0) -> Iterator[Stored]:
        """Data batches that a read_committed consumer sees from `offset` on."""
        stable = self.last_stable_offset
        for batch in self._from(offset):
            if batch.header.last_offset >= stable:
                return
            if batch.fate in (Fate.PLAIN, Fate.COMMITTED):
                yield batch

    def at_timestamp(self, timestamp: int, bound: int) -> Record | None:
        """The first record at or after a timestamp in ms, below `bound`. Markers are records like all others here."""
        for batch in self.batches:
            if batch.header.max_timestamp >= timestamp:
                for record in batch.records:
                    if record.timestamp >= timestamp and self.log_start <= record.offset < bound:
                        return record
        return None

    def newest(self, bound: int) -> Record | None:
        """The record with the highest timestamp below `bound`; the first of several."""
        below = (r for b in self.batches for r in b.records if r.offset < bound)
        return max(below, key=lambda r: (r.timestamp, -r.offset), default=None)

    # --- what befalls a log

    def end_of_epoch(self, epoch: int) -> tuple[int, int]:
        """(largest known epoch <= `epoch`, the offset where it ends); (-1, -1) if there is none."""
        for i in range(len(self.epoch_starts) - 1, -1, -1):
            known, _ = self.epoch_starts[i]
            if known <= epoch:
                last = i + 1 == len(self.epoch_starts)
                return known, self.end if last else self.epoch_starts[i + 1][1]
        return -1, -1

    def elect(self) -> None:
        """A new leader epoch."""
        self.leader_epoch += 1
        self.epoch_starts.append((self.leader_epoch, self.end))

    def delete_until(self, offset: int) -> None:
        """Retention, or DeleteRecords: the log now starts at `offset`, which may lie inside a batch."""
        self.log_start = max(self.log_start, min(offset, self.end))
        self.batches = list(self._from(self.log_start))

    def truncate(self, offset: int) -> None:
        """An unclean election: what lay at and above `offset` is gone, and a new leader epoch begins."""
        self.batches = [b for b in self.batches if b.header.last_offset < offset]
        self.end = self.batches[-1].header.last_offset + 1 if self.batches else min(offset, self.end)
        self.aborted = [a for a in self.aborted if a.last_offset < self.end]
        self.producers = {}
        for batch in self.batches:
            header = batch.header
            if header.producer_id < 0:
                continue
            state = self.producers.setdefault(header.producer_id, ProducerState())
            state.move_to(header.producer_epoch)
            if header.control:
                state.first_offset = None
            else:
                state.batches.append(Appended(header.base_sequence, header.last_sequence, header.base_offset))
                if batch.fate is not Fate.PLAIN and state.first_offset is None:
                    state.first_offset = header.base_offset
        for batch in self.batches:
            if batch.fate in (Fate.COMMITTED, Fate.ABORTED):
                first = self.producers[batch.header.producer_id].first_offset
                if first is not None and batch.header.base_offset >= first:
                    batch.fate = Fate.OPEN
        self.epoch_starts = [(e, s) for e, s in self.epoch_starts if s <= self.end]
        self.elect()
