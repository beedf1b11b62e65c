"""Rewrites what lies in a stopped broker's log: other records with right checksums, or batches that nobody can read.

The broker must have been stopped by SIGTERM: one that died looks through its log, and cuts it where a batch is wrong.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tests.reference_format import Rec, with_right_crc, write_batch, write_record

from .rawlog import HEADER, Batch, Record, batches, partition_batches, records, segments

Records = dict[int, Record]

ATTRIBUTES = 21  # where they begin in a batch


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


def corrupt(folder: Path, offset: int) -> Batch:
    """Flips a bit in the last record of the batch that holds this offset, beside its CRC. Returns the batch."""
    batch = _holding(folder, offset)
    _patch(batch, lambda raw: raw[:-1] + bytes([raw[-1] ^ 1]))
    return batch


def give_codec(folder: Path, offset: int, codec: int) -> Batch:
    """Says in the batch that holds this offset, under a right CRC, that it has this codec. Returns the batch."""
    batch = _holding(folder, offset)
    low = ATTRIBUTES + 1  # the codec is in the low bits of an int16

    def claim(raw: bytes) -> bytes:
        return with_right_crc(raw[:low] + bytes([raw[low] & ~7 | codec]) + raw[low + 1 :])

    _patch(batch, claim)
    return batch


def _holding(folder: Path, offset: int) -> Batch:
    return next(batch for batch in partition_batches(folder) if batch.base_offset <= offset <= batch.last_offset)


def _patch(batch: Batch, change: Callable[[bytes], bytes]) -> None:
    with batch.path.open("r+b") as file:
        file.seek(batch.position)
        raw = change(file.read(batch.size))
        assert len(raw) == batch.size
        file.seek(batch.position)
        file.write(raw)


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
