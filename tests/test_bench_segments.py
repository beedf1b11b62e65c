"""The benchmark's prepared logs are what a broker would have stored, and its check sees what is wrong."""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import reference_format as fmt
from reference_format import CONTROL, TRANSACTIONAL, Rec

from bench import segments
from bench.check import explain
from bench.prepare import EPOCH_MS, Data, templates
from bench.segments import Log, LogError, content, fill
from eomirror import _fastpath as kernel
from integration import rawlog

SHAPES = {
    "plain": Data(218, 10),
    "singles": Data(218, 1),
    "lz4": Data(218, 50, "lz4"),
    "zstd": Data(1024, 20, "zstd"),
    "without headers": Data(218, 10, headers=False),
}
RECORDS = [Rec(n, EPOCH_MS + n * 7, b"key-%d" % n, b"value-%d" % n * n, ((b"a", b"1"), (b"", None))) for n in range(40)]


def segment(folder: Path, *batches: bytes, base: int = 0) -> Path:
    """A partition folder with one segment."""
    folder.mkdir(exist_ok=True)
    (folder / f"{base:020d}.log").write_bytes(b"".join(batches))
    return folder


def batch(base: int, records: Sequence[Rec], *, producer: int = -1, epoch: int = -1, flags: int = 0) -> bytes:
    """The records as one batch from offset `base` on."""
    first = min(rec.timestamp for rec in records)
    payload = b"".join(fmt.write_record(replace(rec, delta=n), first) for n, rec in enumerate(records))
    last = max(rec.timestamp for rec in records)
    return fmt.write_batch(
        base,
        payload,
        count=len(records),
        last_delta=len(records) - 1,
        attributes=flags,
        base_timestamp=first,
        max_timestamp=last,
        producer_id=producer,
        producer_epoch=epoch,
    )


def marker(base: int, producer: int, *, commits: bool, epoch: int = 0) -> bytes:
    """A control batch."""
    record = Rec(0, EPOCH_MS, struct.pack(">hh", 0, int(commits)), struct.pack(">hi", 0, 0))
    return batch(base, [record], producer=producer, epoch=epoch, flags=TRANSACTIONAL | CONTROL)


def in_transaction(base: int, records: Sequence[Rec], producer: int = 7) -> bytes:
    return batch(base, records, producer=producer, epoch=0, flags=TRANSACTIONAL)


@pytest.fixture
def source(tmp_path: Path) -> Log:
    """RECORDS, ten to a batch."""
    return Log(segment(tmp_path / "source", *(batch(at, RECORDS[at : at + 10]) for at in range(0, 40, 10))))


# -- filling


@pytest.mark.parametrize("shape", SHAPES)
def test_a_filled_log_holds_what_was_asked_for(tmp_path: Path, shape: str) -> None:
    data = SHAPES[shape]
    made = templates(data)[:3]
    count = fill(tmp_path, made, 1, 200, EPOCH_MS)
    stored = [record for one in rawlog.partition_batches(tmp_path) for record in rawlog.records(one)]
    assert [record.offset for record in stored] == list(range(count))
    assert 200 <= count < 200 + data.batch
    assert len({(record.timestamp, record.key) for record in stored}) == count
    assert {len(record.headers) for record in stored} == {2 if data.headers else 0}
    one = next(rawlog.partition_batches(tmp_path))
    assert (one.count, one.codec) == (data.batch, data.codec)
    assert len(one.payload()) == data.batch * data.record_bytes


@pytest.mark.parametrize("shape", SHAPES)
def test_a_filled_log_has_right_checksums_and_no_gaps(tmp_path: Path, shape: str) -> None:
    count = fill(tmp_path, templates(SHAPES[shape])[:3], 0, 200, EPOCH_MS)
    (path,) = tmp_path.glob("*.log")
    frame = bytearray(path.read_bytes())
    stamp = {"producer_id": 41, "producer_epoch": 3, "base_sequence": 0, "max_batch_bytes": 1 << 20}
    packed = kernel.pack(frame, 0, len(frame), 0, [], **stamp)
    assert packed.error is None
    assert (packed.records, packed.next_offset) == (count, count)


def test_a_log_goes_on_in_the_next_segment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(segments, "PIECE_BYTES", 4096)
    monkeypatch.setattr(segments, "SEGMENT_BYTES", 10_000)
    count = fill(tmp_path, templates(SHAPES["plain"])[:3], 0, 200, EPOCH_MS)
    names = sorted(int(path.stem) for path in tmp_path.glob("*.log"))
    assert len(names) > 3
    assert [one.base_offset for one in rawlog.partition_batches(tmp_path)] == list(range(0, count, 10))
    log = Log(tmp_path)
    assert (log.end, log.stable, log.batches) == (count, count, count // 10)
    assert log.compare(log.hashes()).records == count


# -- what is equal


def test_the_same_records_in_other_batches_are_equal(tmp_path: Path, source: Log) -> None:
    parts = (RECORDS[:3], RECORDS[3:25], RECORDS[25:])
    target, base = b"", 0
    for part in parts:
        target += in_transaction(base, part) + marker(base + len(part), 7, commits=True)
        base += len(part) + 1
    log = Log(segment(tmp_path / "target", target))
    compared = log.compare(source.hashes(), [0, 3, 4, 26, 27, 43])
    assert compared.ok
    assert (compared.records, compared.counts) == (40, [0, 3, 3, 25, 25, 40])
    assert [one.offset for one in log.markers] == [3, 26, 42]
    assert all(one.commits for one in log.markers)


@pytest.mark.parametrize("shape", SHAPES)
def test_compression_does_not_matter(tmp_path: Path, shape: str) -> None:
    count = fill(tmp_path, templates(SHAPES[shape])[:2], 0, 100, EPOCH_MS)
    log = Log(tmp_path)
    hashes = log.hashes()
    assert hashes.count == count
    stored = [record for one in rawlog.partition_batches(tmp_path) for record in rawlog.records(one)]
    expected = [
        content(one.timestamp, one.key, one.value, [(name.decode(), text) for name, text in one.headers])
        for one in stored
    ]
    assert [hashes[index] for index in range(count)] == expected


def test_a_part_of_the_source_is_enough(tmp_path: Path, source: Log) -> None:
    compared = Log(segment(tmp_path / "target", batch(0, RECORDS[:17]))).compare(source.hashes())
    assert (compared.ok, compared.records) == (True, 17)


def test_aborted_records_are_not_there_and_open_ones_not_yet(tmp_path: Path, source: Log) -> None:
    target = segment(
        tmp_path / "target",
        in_transaction(0, RECORDS[30:], producer=8),
        in_transaction(10, RECORDS[:5], producer=9),
        marker(15, 8, commits=False),
        marker(16, 9, commits=True),
        in_transaction(17, RECORDS[5:10], producer=8),
        marker(22, 8, commits=True),
        in_transaction(23, RECORDS[20:30], producer=9),
        in_transaction(33, RECORDS[30:], producer=8),
        marker(43, 8, commits=True),
    )
    log = Log(target)
    assert (log.stable, log.end) == (23, 44)
    compared = log.compare(source.hashes())
    assert (compared.ok, compared.records) == (True, 10)


def test_a_batch_that_is_still_being_written_does_not_count(tmp_path: Path, source: Log) -> None:
    target = segment(tmp_path / "target", batch(0, RECORDS[:10]), batch(10, RECORDS[10:20])[:-1])
    log = Log(target)
    assert (log.end, log.compare(source.hashes()).records) == (10, 10)


def test_an_added_header_is_expected_behind_the_others(tmp_path: Path, source: Log) -> None:
    added = [replace(rec, headers=(*rec.headers, (b"region", b"eu"))) for rec in RECORDS]
    log = Log(segment(tmp_path / "target", batch(0, added)))
    assert log.compare(source.hashes((b"region", b"eu"))).ok
    assert not log.compare(source.hashes((b"region", b"us"))).ok
    assert not log.compare(source.hashes()).ok


# -- what is not


def lost(records: list[Rec]) -> list[Rec]:
    return records[:12] + records[13:]


def doubled(records: list[Rec]) -> list[Rec]:
    return records[:12] + records[11:]


def swapped(records: list[Rec]) -> list[Rec]:
    return [*records[:12], records[13], records[12], *records[14:]]


def other(**change: object) -> Callable[[list[Rec]], list[Rec]]:
    def changed(records: list[Rec]) -> list[Rec]:
        return [*records[:12], replace(records[12], **change), *records[13:]]  # type: ignore[arg-type]

    return changed


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lost, "record 12 is the source's record 13: lost or reordered"),
        (doubled, "record 12 is the source's record 11: doubled or reordered"),
        (swapped, "record 12 is the source's record 13: lost or reordered"),
        (other(key=b"key-13"), "record 12 is none of the source's"),
        (other(key=None), "record 12 is none of the source's"),
        (other(value=b"value"), "record 12 is none of the source's"),
        (other(timestamp=EPOCH_MS), "record 12 is none of the source's"),
        (other(headers=()), "record 12 is none of the source's"),
        (other(headers=((b"", None), (b"a", b"1"))), "record 12 is none of the source's"),
    ],
)
def test_every_difference_is_seen(
    tmp_path: Path, source: Log, spoil: Callable[[list[Rec]], list[Rec]], words: str
) -> None:
    hashes = source.hashes()
    compared = Log(segment(tmp_path / "target", batch(0, spoil(RECORDS)))).compare(hashes)
    assert not compared.ok
    assert compared.records == 12
    assert explain(compared, hashes) == words


def test_more_than_the_source_has_is_wrong(tmp_path: Path, source: Log) -> None:
    hashes = source.hashes()
    compared = Log(segment(tmp_path / "target", batch(0, RECORDS + RECORDS[:1]))).compare(hashes)
    assert (compared.ok, compared.records) == (False, 40)
    assert explain(compared, hashes) == "more than the 40 records of the source"


@pytest.mark.parametrize("at", [16, 61])
def test_a_log_that_cannot_be_read_is_no_result(tmp_path: Path, source: Log, at: int) -> None:
    spoilt = bytearray(batch(0, RECORDS[:10]))
    spoilt[at] = 0xFF
    with pytest.raises(LogError):
        Log(segment(tmp_path / "target", bytes(spoilt))).compare(source.hashes())


def test_no_codec_is_taken_for_another(tmp_path: Path) -> None:
    snappy = batch(0, RECORDS[:10], flags=2)
    with pytest.raises(LogError, match="codec 2"):
        Log(segment(tmp_path / "target", snappy)).hashes()
