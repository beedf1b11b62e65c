"""Rewrites what lies in a stopped broker's log: consumers find other records there, with right checksums."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tests.reference_format import Rec, write_batch, write_record

from .rawlog import HEADER, Record, batches, records, segments

Records = dict[int, Record]


def tamper(folder: Path, edit: Callable[[Records], None]) -> None:
    """Applies `edit` to the records of a partition by offset: content may change and records may go, none may come.

    The broker must be down. Batches become uncompressed; indexes are left to the broker to make anew.
    """
    found = {path: [(batch, path.read_bytes()) for batch in batches(path)] for path in segments(folder)}
    data = [batch for listed in found.values() for batch, _ in listed if not batch.control]
    known = {record.offset: record for batch in data for record in records(batch)}
    edit(known)
    for path, listed in found.items():
        raws = [(batch.control, whole[batch.position : batch.position + batch.size]) for batch, whole in listed]
        path.write_bytes(b"".join(raw if control else _batch(raw, known) for control, raw in raws))
    for pattern in ("*.index", "*.timeindex"):
        for index in folder.glob(pattern):
            index.unlink()


def _batch(raw: bytes, known: Records) -> bytes:
    base, _, epoch, _, _, attributes, last, base_ms, max_ms, producer, producer_epoch, sequence, _ = HEADER.unpack_from(
        raw
    )
    mine = [known[offset] for offset in range(base, base + last + 1) if offset in known]
    payload = b"".join(
        write_record(Rec(one.offset - base, one.timestamp, one.key, one.value, one.headers), base_ms) for one in mine
    )
    return write_batch(
        base,
        payload,
        count=len(mine),
        last_delta=last,
        attributes=attributes & ~7,
        leader_epoch=epoch,
        base_timestamp=base_ms,
        max_timestamp=max_ms,
        producer_id=producer,
        producer_epoch=producer_epoch,
        sequence=sequence,
    )
