"""What the kernel is to do, in slow plain Python: one readable statement of each rule, sharing no code with it.

`pack` and `read_records` are the oracle, `Runs` is the offset map as a list. How records become batches again is in
reference_rewrite, what the formats before magic 2 hold in reference_old. Integers are Python's own: every limit is
stated, not inherited.
"""

from __future__ import annotations

import dataclasses
import struct
import zlib
from collections.abc import Iterator, Sequence
from typing import Any

import reference_codecs
import reference_old
from reference_format import (
    CONTROL,
    HEADER,
    LOG_APPEND_TIME,
    LZ4,
    NONE,
    TRANSACTIONAL,
    ZSTD,
    Header,
    Malformed,
    Reader,
    TooLarge,
    crc32c,
)
from reference_rewrite import MERGE_IN_ALL, Member, Out, Parsed, RecordTooLarge, drafts, gathered, out_of, written

Read = tuple[int, int, bytes | None, bytes | None, list[Header]]


@dataclasses.dataclass(frozen=True)
class Failure:
    """A batch that ends the walk; what the kernel calls BatchError, without the text."""

    reason: str
    offset: int
    next_offset: int | None


class BadBatch(Exception):
    def __init__(self, failure: Failure) -> None:
        super().__init__(failure)
        self.failure = failure


@dataclasses.dataclass(frozen=True)
class Found:
    """A whole batch of a range, checked as far as its header and CRC go."""

    data: bytes
    base_offset: int
    leader_epoch: int
    attributes: int
    last_delta: int
    base_timestamp: int
    max_timestamp: int
    producer_id: int
    count: int
    old: bool = False  # magic 0 or 1; base_offset is then the lowest that its first record can have

    @property
    def codec(self) -> int:
        return self.attributes & 7

    @property
    def next_offset(self) -> int:
        return self.base_offset + self.last_delta + 1

    def failure(self, reason: str, position: int) -> Failure:
        offset = max(self.base_offset, position) if self.old else self.base_offset
        return Failure(reason, offset, self.next_offset if self.next_offset > position else None)


class Walk:
    """The batches of data[start:end] in order; whoever walks advances `position`. `incomplete`: the last one is cut."""

    def __init__(self, data: bytes, start: int, end: int, position: int) -> None:
        self.rest = data[start:end]
        self.position = position
        self.incomplete = False

    def __iter__(self) -> Iterator[Found]:
        expected = 0
        first = True
        while self.rest:
            found = self._next(expected)
            if found is None:
                self.incomplete = True
                if first:
                    raise BadBatch(Failure("CORRUPT_BATCH", self.position, None))
                return
            first = False
            yield found
            self.rest = self.rest[len(found.data) :]
            expected = found.next_offset

    def _next(self, expected: int) -> Found | None:
        rest = self.rest
        unreadable = BadBatch(Failure("CORRUPT_BATCH", self.position, None))
        if len(rest) < 12:
            return None
        base_offset, length = struct.unpack_from(">qi", rest)
        if length < 14:
            raise unreadable
        if len(rest) < 17:
            return None
        if not 0 <= rest[16] <= 2:
            raise unreadable
        if len(rest) < 12 + length:
            return None
        if base_offset < expected:
            raise unreadable
        if rest[16] < 2:
            return self._old(rest[: 12 + length], base_offset, expected)
        if length < 49:
            raise unreadable
        data = rest[: 12 + length]
        (_, _, leader_epoch, _, crc, attributes, last_delta, base_ts, max_ts, producer_id, _, _, count) = HEADER.unpack(
            data[:61]
        )
        found = Found(data, base_offset, leader_epoch, attributes, last_delta, base_ts, max_ts, producer_id, count)
        if last_delta < 0 or found.next_offset >= 1 << 63:
            raise unreadable
        if crc != crc32c(data[21:]) or not 0 <= count <= last_delta + 1 or (count == 0 and len(data) > 61):
            raise BadBatch(found.failure("CORRUPT_BATCH", self.position))
        if found.codec > ZSTD:
            raise BadBatch(found.failure("UNKNOWN_CODEC", self.position))
        return found

    def _old(self, data: bytes, offset: int, expected: int) -> Found:
        if offset + 1 >= 1 << 63:
            raise BadBatch(Failure("CORRUPT_BATCH", self.position, None))
        codec = reference_old.codec_of(data)
        first = offset if codec == NONE else expected
        found = Found(data, first, -1, codec, offset - first, -1, -1, -1, 1, old=True)
        if zlib.crc32(data[16:]) != int.from_bytes(data[12:16], "big"):
            raise BadBatch(found.failure("CORRUPT_BATCH", self.position))
        if codec > LZ4:
            raise BadBatch(found.failure("UNKNOWN_CODEC", self.position))
        return found


def records_of(batch: Found, position: int) -> list[Parsed]:
    """Everything in a batch of data; Malformed, or BadBatch where the payload does not unpack."""
    if not batch.old:
        return parse_records(batch, unpacked(batch, position))
    try:
        return reference_old.records(batch.data, batch.base_offset)
    except TooLarge:
        raise BadBatch(batch.failure("RECORD_TOO_LARGE", position)) from None


def unpacked(batch: Found, position: int) -> bytes:
    try:
        return reference_codecs.unpack(batch.codec, batch.data[61:])
    except Malformed:
        raise BadBatch(batch.failure("CORRUPT_BATCH", position)) from None
    except TooLarge:
        raise BadBatch(batch.failure("RECORD_TOO_LARGE", position)) from None


def parse_records(batch: Found, payload: bytes, *, only_first: bool = False) -> list[Parsed]:
    """Every record of the payload; Malformed unless they fill it exactly."""
    reader = Reader(payload)
    out: list[Parsed] = []
    previous = -1
    for _ in range(1 if only_first else batch.count):
        size = reader.varint()
        body = Reader(reader.take(size))
        attributes = body.take(1)[0]
        timestamp_delta, delta = body.varint(64), body.varint()
        at = body.at
        key, value = body.sized(nullable=True), body.sized(nullable=True)
        after = body.at
        headers: list[Header] = []
        header_count = body.varint()
        if header_count < 0:
            raise Malformed("header count")
        for _ in range(header_count):
            name = body.sized(nullable=False)
            assert name is not None
            headers.append((name, body.sized(nullable=True)))
        body.end()
        if not previous < delta <= batch.last_delta:
            raise Malformed("offset delta")
        previous = delta
        logged = bool(batch.attributes & LOG_APPEND_TIME)
        timestamp = batch.max_timestamp if logged else batch.base_timestamp + timestamp_delta
        if not -(1 << 63) <= timestamp < 1 << 63:
            raise Malformed("timestamp")
        rest, fields = body.data[at:], body.data[at:after]
        out.append(Parsed(batch.base_offset + delta, timestamp, attributes, key, value, headers, rest, fields))
    if not only_first:
        reader.end()
    return out


# ---- the rules


class Aborted:
    """Which batches belong to aborted transactions: an entry opens a drop for its producer, an ABORT marker ends it."""

    def __init__(self, entries: list[tuple[int, int]]) -> None:
        self.waiting = sorted(entries, key=lambda entry: entry[1])
        self.open: set[int] = set()

    def drops(self, batch: Found) -> bool:
        while self.waiting and self.waiting[0][1] <= batch.next_offset - 1:
            self.open.add(self.waiting.pop(0)[0])
        if batch.attributes & CONTROL:
            if self._marker(batch) == 0:
                self.open.discard(batch.producer_id)
            return False
        return bool(batch.attributes & TRANSACTIONAL) and batch.producer_id in self.open

    def _marker(self, batch: Found) -> int | None:
        if batch.count == 0:
            return None
        if batch.codec != NONE:
            raise Malformed("compressed marker")
        key = parse_records(batch, batch.data[61:], only_first=True)[0].key
        if key is None or len(key) < 4 or key[0] >= 128:
            raise Malformed("marker key")
        return int.from_bytes(key[2:4], "big", signed=True)


@dataclasses.dataclass
class Result:
    next_offset: int
    next_sequence: int
    batches: list[Out] = dataclasses.field(default_factory=list)
    last_leader_epoch: int = -1
    records: int = 0
    control_batches: int = 0
    aborted_records: int = 0
    incomplete: bool = False
    error: Failure | None = None


def pack(
    data: bytes,
    start: int,
    end: int,
    position: int,
    aborted: list[tuple[int, int]],
    *,
    producer_id: int,
    producer_epoch: int,
    base_sequence: int,
    max_batch_bytes: int,
    recipe: Sequence[tuple[Any, ...]] | None = None,
    until: int = (1 << 63) - 1,
    apart: tuple[int, int, int] = (0, 0, 1),
) -> Result:
    """The limit is kept where nothing is compressed anew: what a compressor makes of a batch cannot be said here."""
    result = Result(position, base_sequence)
    judged: list[tuple[str, Found]] = []
    failure: Failure | None = None
    walk, drops = Walk(data, start, end, position), Aborted(aborted)
    halted = False
    try:
        for batch in walk:
            try:
                verdict = "aborted" if drops.drops(batch) else "control" if batch.attributes & CONTROL else "data"
            except Malformed:
                raise BadBatch(batch.failure("CORRUPT_BATCH", walk.position)) from None
            if batch.base_offset >= until:
                halted = True
                break
            walk.position = max(walk.position, batch.next_offset)
            empty = batch.next_offset <= position or (verdict == "data" and batch.count == 0)
            judged.append(("nothing" if empty else verdict, batch))
    except BadBatch as bad:
        failure = bad.failure
    try:
        _forward(judged, result, (producer_id, producer_epoch), max_batch_bytes, recipe, position, until, apart)
        for _, batch in judged:
            result.next_offset = max(result.next_offset, min(batch.next_offset, until))
        if halted:
            result.next_offset = max(result.next_offset, until)
        result.error = failure
        result.incomplete = walk.incomplete and not (failure and judged)
    except BadBatch as bad:
        result.error = bad.failure
    for verdict, batch in judged:
        # What lies wholly below the position where the walk ended was read; of a batch cut there, the beginning.
        after = min(batch.next_offset, result.next_offset)
        if after > max(position, batch.base_offset):
            result.last_leader_epoch = batch.leader_epoch
            if after == batch.next_offset:
                result.control_batches += verdict == "control"
                result.aborted_records += batch.count * (verdict == "aborted")
    return result


def _forward(
    judged: list[tuple[str, Found]],
    result: Result,
    producer: tuple[int, int],
    limit: int,
    recipe: Sequence[tuple[Any, ...]] | None,
    position: int,
    until: int,
    apart: tuple[int, int, int],
) -> None:
    """Batches for all that is data. Raises BadBatch, with everything before it in the result."""

    def add(out: Out) -> None:
        result.batches.append(out)
        result.records += out.count
        result.next_sequence = (result.next_sequence + out.count) % (1 << 31)

    def stand(index: int) -> None:
        for _, before in judged[:index]:
            result.next_offset = max(result.next_offset, min(before.next_offset, until))

    def member(batch: Found) -> Member:
        alone = batch.base_offset < apart[1] and batch.next_offset > apart[0]
        whole = position <= batch.base_offset and batch.next_offset <= until and batch.count == batch.last_delta + 1
        plain = recipe is None and whole and not batch.old and not batch.attributes & LOG_APPEND_TIME
        may_pass = len(batch.data) <= limit and (batch.count <= apart[2] or not alone)
        return Member(len(batch.data), batch.attributes, plain and may_pass, batch.old, alone)

    data = [(index, batch, member(batch)) for index, (verdict, batch) in enumerate(judged) if verdict == "data"]
    merge, spent = True, 0
    while data:
        size = gathered([one for _, _, one in data], limit) if merge else 1
        group, data = data[:size], data[size:]
        _, first, head = group[0]
        codec = max(batch.codec for _, batch, _ in group)
        if size == 1 and head.plain:
            add(_passed(first, (*producer, result.next_sequence)))
            continue
        parsed: list[tuple[int, list[Parsed]]] = []
        failed: BadBatch | None = None
        passes = False
        for index, batch, one in group:
            at = max([position, *(min(b.next_offset, until) for _, b in judged[:index])])
            if one.plain and codec and spent >= MERGE_IN_ALL:
                passes = True
                break
            try:
                records = records_of(batch, at)
            except (Malformed, BadBatch) as bad:
                failed = bad if isinstance(bad, BadBatch) else BadBatch(batch.failure("CORRUPT_BATCH", at))
                passes = one.plain
                break
            spent += len(unpacked(batch, at)) if batch.codec and not batch.old else 0
            parsed.append((len(batch.data), [rec for rec in records if position <= rec.offset < until]))
        too_large: RecordTooLarge | None = None
        try:
            done = drafts(parsed, None if codec else limit, recipe, most_records=apart[2] if head.apart else 1 << 31)
        except RecordTooLarge as record:
            done, too_large = record.done, record
        for draft in done:
            add(out_of(draft, first.attributes & ~7 | codec, (*producer, result.next_sequence)))
        if too_large is not None:
            result.next_offset = too_large.offset
            raise BadBatch(Failure("RECORD_TOO_LARGE", too_large.offset, too_large.offset + 1))
        if passes:
            # It was only to be gathered. Nobody else has read it either, and its readers may be more lenient.
            merge = False
            add(_passed(group[len(parsed)][1], (*producer, result.next_sequence)))
            data = group[len(parsed) + 1 :] + data
        elif failed is not None:
            stand(group[len(parsed)][0])
            raise failed


def _passed(batch: Found, stamp: tuple[int, int, int]) -> Out:
    return written(
        batch.data[61:],
        batch.attributes,
        stamp,
        base_timestamp=batch.base_timestamp,
        max_timestamp=batch.max_timestamp,
        runs=[(batch.base_offset, batch.count)],
        count=batch.count,
        source_bytes=len(batch.data),
        reencoded=False,
    )


def read_records(data: bytes, start: int, end: int, aborted: list[tuple[int, int]], position: int = 0) -> list[Read]:
    walk, drops = Walk(data, start, end, position), Aborted(aborted)
    out: list[Read] = []
    for batch in walk:
        try:
            if batch.old:
                raise Malformed("internal topics never hold it")
            dropped = drops.drops(batch) or batch.attributes & CONTROL
            if not dropped and batch.count and batch.next_offset > walk.position:
                for rec in parse_records(batch, unpacked(batch, walk.position)):
                    if rec.offset >= position:
                        out.append((rec.offset, rec.timestamp, rec.key, rec.value, rec.headers))
        except Malformed:
            raise BadBatch(batch.failure("CORRUPT_BATCH", walk.position)) from None
        walk.position = max(walk.position, batch.next_offset)
    return out


def next_offset(data: bytes, start: int, end: int, position: int) -> tuple[int, int]:
    """By the headers alone: a CRC that does not match is not seen."""
    at, epoch, rest, expected = position, -1, data[start:end], 0
    while len(rest) >= 26:
        base_offset, length = struct.unpack_from(">qi", rest)
        if rest[16] < 2 and 14 <= length <= len(rest) - 12:
            if base_offset < expected or base_offset + 1 >= 1 << 63 or rest[17] & 7 > LZ4:
                break
            expected = base_offset + 1
            if expected > at:
                at, epoch = expected, -1
            rest = rest[12 + length :]
            continue
        if len(rest) < 61:
            break
        (last_delta,) = struct.unpack_from(">i", rest, 23)
        (count,) = struct.unpack_from(">i", rest, 57)
        whole = 49 <= length <= len(rest) - 12 and rest[16] == 2
        if not whole or base_offset < expected or last_delta < 0 or base_offset + last_delta + 1 >= 1 << 63:
            break
        if not 0 <= count <= last_delta + 1 or (count == 0 and length > 49) or rest[22] & 7 > ZSTD:
            break
        expected = base_offset + last_delta + 1
        if expected > at:
            at, epoch = expected, struct.unpack_from(">i", rest, 12)[0]
        rest = rest[12 + length :]
    return at, epoch


# ---- the offset map


class Runs:
    """Runs of one partition as (source first, target first, count), one mirrored record at a time."""

    def __init__(self) -> None:
        self.pairs: list[tuple[int, int]] = []

    def append(self, source_first: int, target_first: int, count: int) -> None:
        if min(source_first, target_first) < 0 or count < 1:
            raise ValueError
        if self.pairs and (source_first <= self.pairs[-1][0] or target_first <= self.pairs[-1][1]):
            raise ValueError
        self.pairs += [(source_first + i, target_first + i) for i in range(count)]

    def runs(self) -> list[tuple[int, int, int]]:
        out: list[tuple[int, int, int]] = []
        for source, target in self.pairs:
            if out and (source, target) == (out[-1][0] + out[-1][2], out[-1][1] + out[-1][2]):
                out[-1] = (out[-1][0], out[-1][1], out[-1][2] + 1)
            else:
                out.append((source, target, 1))
        return out

    def to_target(self, source: int) -> int | None:
        return dict(self.pairs).get(source)

    def to_source(self, target: int) -> int | None:
        return {t: s for s, t in self.pairs}.get(target)

    def floor(self, source: int) -> tuple[int, int, int] | None:
        return max((run for run in self.runs() if run[0] <= source), default=None)

    def ceiling(self, source: int) -> tuple[int, int, int] | None:
        return min((run for run in self.runs() if run[0] >= source), default=None)
