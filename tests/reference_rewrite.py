"""How records become batches again, in slow plain Python: which batches are gathered, and where a batch is cut."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any

import reference_recipe
from reference_format import (
    CONTROL,
    DELETE_HORIZON,
    HEADER,
    LOG_APPEND_TIME,
    MAX_UNPACKED,
    TRANSACTIONAL,
    Header,
    varint,
    write_batch,
)

MERGE_BELOW, MERGE_BELOW_COMPRESSED = 16384, 4096
MERGE_UP_TO, MERGE_UNPACKED, MERGE_IN_ALL = 262144, 4194304, 33554432
MAX_HEADERS = 1 << 20
LASTING = ~(LOG_APPEND_TIME | TRANSACTIONAL | CONTROL | DELETE_HORIZON)


@dataclasses.dataclass(frozen=True)
class Parsed:
    """A record as read; `rest` is the bytes from key length to end, `fields` those up to the header count."""

    offset: int
    timestamp: int
    attributes: int
    key: bytes | None
    value: bytes | None
    headers: list[Header]
    rest: bytes
    fields: bytes


@dataclasses.dataclass(frozen=True)
class Out:
    """A batch as it must be produced; `data` is None where the bytes depend on the compressor."""

    data: bytes | None
    header: tuple[int, ...]  # the header's fields from attributes on
    records: bytes  # the payload before compression; of a pass-through, the payload as it was
    count: int
    runs: tuple[tuple[int, int], ...]
    max_timestamp: int
    source_bytes: int
    reencoded: bool


@dataclasses.dataclass
class Member:
    """A source batch as a gathering sees it."""

    size: int
    attributes: int
    plain: bool  # nothing of its records has to change, and it may be sent as it is
    old: bool = False  # magic 0 or 1
    apart: bool = False  # its records are wanted few by few

    @property
    def joins(self) -> bool:
        small = self.size < (MERGE_BELOW_COMPRESSED if self.attributes & 7 else MERGE_BELOW)
        return not self.apart and (small or not self.plain)


def gathered(members: Sequence[Member], max_batch_bytes: int) -> int:
    """How many batches the next produced one is made of.

    Neighbours are gathered as long as each is small or is re-encoded anyway, they have no more than one codec (and the
    same unknown attribute bits), all or none are of an old format, and their sizes together stay within MERGE_UP_TO and
    the target's limit.
    """
    most = min(MERGE_UP_TO, max_batch_bytes)
    first, size, count = members[0], members[0].size, 1
    found = {first.attributes & 7} - {0}
    for member in members[1:]:
        size += member.size
        if (
            not member.joins
            or not first.joins
            or first.attributes & LASTING & ~7 != member.attributes & LASTING & ~7
            or len(found | {member.attributes & 7} - {0}) > 1
            or first.old != member.old
            or size > most
        ):
            break
        found |= {member.attributes & 7} - {0}
        count += 1
    return count


class RecordTooLarge(Exception):
    """This record alone does not fit; `done` is what was written before it."""

    def __init__(self, offset: int, done: list[Draft]) -> None:
        super().__init__(offset)
        self.offset = offset
        self.done = done


@dataclasses.dataclass
class Draft:
    """A batch being filled."""

    payload: bytes = b""
    offsets: list[int] = dataclasses.field(default_factory=list)
    timestamps: list[int] = dataclasses.field(default_factory=list)
    source_bytes: int = 0


def rest_of(rec: Parsed, recipe: Sequence[tuple[Any, ...]] | None) -> bytes | None:
    """What follows a record's offset delta; None for more headers than the kernel holds."""
    if recipe is None:
        return rec.rest
    if len(rec.headers) + sum(step[0] in ("set", "add") for step in recipe) > MAX_HEADERS:
        return None
    headers = reference_recipe.apply(recipe, rec.headers, offset=rec.offset, timestamp=rec.timestamp)
    sized = [
        varint(len(name)) + name + (varint(-1) if value is None else varint(len(value)) + value)
        for name, value in headers
    ]
    return rec.fields + varint(len(headers)) + b"".join(sized)


def drafts(
    batches: Iterable[tuple[int, list[Parsed]]],
    limit: int | None,
    recipe: Sequence[tuple[Any, ...]] | None,
    *,
    most_records: int,
) -> list[Draft]:
    """Records of (source size, records) batches, filled up greedily: a draft ends where the next record would pass the
    limit, or its timestamp is more than int64 away from the first one's.

    limit None: compressed, so the limit is kept elsewhere; but no batch is added to MERGE_UNPACKED bytes.
    """
    most = (256 << 20) if limit is None else limit - 61
    assert MAX_UNPACKED == 256 << 20
    done: list[Draft] = []
    draft = Draft()
    for size, records in batches:
        if limit is None and 61 + len(draft.payload) >= MERGE_UNPACKED:
            done.append(draft)
            draft = Draft()
        counted = False
        for rec in records:
            rest = rest_of(rec, recipe)
            while True:
                delta = rec.timestamp - draft.timestamps[0] if draft.offsets else 0
                body = bytes([rec.attributes]) + varint(delta) + varint(len(draft.offsets)) + (rest or b"")
                body = varint(len(body)) + body
                fits = -(1 << 63) <= delta < 1 << 63 and len(draft.payload) + len(body) <= most
                if rest is not None and fits and len(draft.offsets) < most_records:
                    break
                if not draft.offsets:
                    raise RecordTooLarge(rec.offset, done)
                done.append(draft)
                draft = Draft()
            draft.payload += body
            draft.offsets.append(rec.offset)
            draft.timestamps.append(rec.timestamp)
            draft.source_bytes += 0 if counted else size
            counted = True
    return [*done, draft] if draft.offsets else done


def runs_of(offsets: list[int]) -> list[tuple[int, int]]:
    runs: list[tuple[int, int]] = []
    for offset in offsets:
        if runs and offset == sum(runs[-1]):
            runs[-1] = (runs[-1][0], runs[-1][1] + 1)
        else:
            runs.append((offset, 1))
    return runs


def out_of(draft: Draft, attributes: int, stamp: tuple[int, int, int]) -> Out:
    """A draft as a batch to be produced; stamp is (producer id, epoch, base sequence)."""
    count = len(draft.offsets)
    return written(
        draft.payload,
        attributes,
        stamp,
        base_timestamp=draft.timestamps[0],
        max_timestamp=max(draft.timestamps),
        runs=runs_of(draft.offsets),
        count=count,
        source_bytes=draft.source_bytes,
        reencoded=True,
    )


def written(
    payload: bytes,
    attributes: int,
    stamp: tuple[int, int, int],
    *,
    base_timestamp: int,
    max_timestamp: int,
    runs: list[tuple[int, int]],
    count: int,
    source_bytes: int,
    reencoded: bool,
) -> Out:
    """The batch around a payload. Of the source's attributes, the codec and unknown bits stay."""
    attributes = attributes & LASTING | TRANSACTIONAL
    data = write_batch(
        0,
        payload,
        count=count,
        last_delta=count - 1,
        attributes=attributes,
        leader_epoch=-1,
        base_timestamp=base_timestamp,
        max_timestamp=max_timestamp,
        producer_id=stamp[0],
        producer_epoch=stamp[1],
        sequence=stamp[2],
    )
    header = HEADER.unpack(data[:61])[5:]
    known = None if reencoded and attributes & 7 else data
    return Out(known, header, payload, count, tuple(runs), max_timestamp, source_bytes, reencoded)
