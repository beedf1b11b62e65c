"""The independent check: plain confluent-kafka consumers, read_committed, none of eomirror's code.

    report = compare(source.bootstrap, target.bootstrap, ["orders"])
    assert report.ok, report.text()

Every partition is read on both sides in lock step up to its last stable offset: count, order, key, value, headers,
timestamp and its type must be equal. Times that the source's broker set (LogAppendTime) must be CreateTime on the
target, for there they are the records' own. A partition that differs is read once more, and each difference is named:
lost, duplicated, reordered, changed, or foreign (a record that the source never had).
"""

from __future__ import annotations

import argparse
import hashlib
import multiprocessing
import signal
import sys
import time
from bisect import bisect_left
from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from confluent_kafka import Consumer, IsolationLevel, KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec

SILENCE = 30.0  # seconds without an answer after which a reader gives up
WORK_LIMIT = 180.0  # seconds for one partition
SHOWN = 5  # differences described per partition
STAMPS = {0: "no timestamp", 1: "CreateTime", 2: "LogAppendTime"}

Content = tuple[bytes | None, bytes | None, Any, tuple[int, int]]  # key, value, headers, (timestamp type, ms)


class CheckError(Exception):
    """The check could not be made: a side does not answer or lacks a partition."""


@dataclass(frozen=True)
class Found:
    """What the comparison of one partition found. All zero but `records` means equal."""

    topic: str
    partition: int
    records: int = 0  # records of the source
    lost: int = 0
    duplicated: int = 0
    reordered: int = 0
    changed: int = 0
    foreign: int = 0
    notes: tuple[str, ...] = ()  # the first differences in words

    @property
    def ok(self) -> bool:
        """True if both sides are equal."""
        return not (self.lost or self.duplicated or self.reordered or self.changed or self.foreign)


@dataclass
class Report:
    """The sum over all partitions."""

    partitions: list[Found] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """True if every partition is equal on both sides."""
        return all(found.ok for found in self.partitions)

    def total(self, name: str) -> int:
        """The sum of one figure: records, lost, duplicated, reordered, changed or foreign."""
        return sum(getattr(found, name) for found in self.partitions)

    def text(self) -> str:
        """One line per partition that differs, followed by its first differences; one line if none does."""
        lines = []
        for found in sorted(self.partitions, key=lambda one: (one.topic, one.partition)):
            if not found.ok:
                figures = ("lost", "duplicated", "reordered", "changed", "foreign")
                counts = ", ".join(f"{getattr(found, name)} {name}" for name in figures if getattr(found, name))
                lines.append(f"{found.topic}[{found.partition}]: {found.records} records: {counts}")
                lines += [f"  {note}" for note in found.notes]
        return "\n".join(lines) or f"{self.total('records')} records equal in {len(self.partitions)} partitions"


# -- the pure part -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Difference:
    """One difference; indices into the two lists, None where the record is not on that side."""

    kind: str
    source: int | None
    target: int | None


def differences(source: Sequence[bytes], target: Sequence[bytes]) -> list[Difference]:
    """What must happen to the source's list of digests to become the target's, in target order where it has one.

    Equal digests are matched first to first; of the matched ones, those outside the longest rising subsequence are
    reordered. A missing and a surplus record between the same neighbours are one changed record.
    """
    waiting: dict[bytes, deque[int]] = defaultdict(deque)
    for index, digest in enumerate(source):
        waiting[digest].append(index)
    known = set(waiting)
    pairs: list[tuple[int, int]] = []  # (source index, target index) in target order
    surplus: list[int] = []
    for index, digest in enumerate(target):
        if waiting.get(digest):
            pairs.append((waiting[digest].popleft(), index))
        else:
            surplus.append(index)
    missing = sorted(index for queue in waiting.values() for index in queue)
    steady = _rising([pair[0] for pair in pairs])
    in_place = [pair for pair, stays in zip(pairs, steady, strict=True) if stays]
    found = [Difference("reordered", *pair) for pair, stays in zip(pairs, steady, strict=True) if not stays]

    # The slot of an unmatched record: how many records in place come before it.
    sources, targets = [pair[0] for pair in in_place], [pair[1] for pair in in_place]
    slots: dict[int, deque[int]] = defaultdict(deque)
    for index in missing:
        slots[bisect_left(sources, index)].append(index)
    for index in surplus:
        if target[index] in known:
            found.append(Difference("duplicated", None, index))
            continue
        slot = slots.get(bisect_left(targets, index))
        found.append(Difference("changed", slot.popleft(), index) if slot else Difference("foreign", None, index))
    found += [Difference("lost", index, None) for slot in slots.values() for index in slot]
    return sorted(found, key=lambda one: (one.target is None, one.target or 0, one.source or 0))


def _rising(values: list[int]) -> list[bool]:
    """Marks one longest strictly rising subsequence."""
    tails: list[int] = []  # index of the smallest last value of a subsequence of each length
    heads: list[int] = []
    before: list[int] = []
    for index, value in enumerate(values):
        length = bisect_left(heads, value)
        before.append(tails[length - 1] if length else -1)
        if length == len(tails):
            tails.append(index)
            heads.append(value)
        else:
            tails[length] = index
            heads[length] = value
    marks = [False] * len(values)
    at = tails[-1] if tails else -1
    while at >= 0:
        marks[at] = True
        at = before[at]
    return marks


def digest(content: Content) -> bytes:
    """16 bytes that stand for a record's content."""
    return hashlib.blake2b(repr(content).encode(), digest_size=16).digest()


def describe_change(source: Content, target: Content) -> str:
    """Which fields differ, and how."""
    changes = []
    for name, ours, theirs in zip(("key", "value", "headers"), source[:3], target[:3], strict=True):
        if ours != theirs:
            changes.append(f"{name} {_short(ours)} became {_short(theirs)}")
    if mirrored_stamp(source[3]) != target[3]:
        stamps = [f"{STAMPS.get(kind, kind)} {ms}" for kind, ms in (source[3], target[3])]
        changes.append(f"{stamps[0]} became {stamps[1]}")
    return "; ".join(changes) or "nothing changed"


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:45]}... ({len(text)} characters)"


# -- reading -----------------------------------------------------------------------------------------------------------


def make_reader(bootstrap: str) -> Consumer:
    """A consumer that reads what is committed, from where it is told, and says where a partition ends."""
    return Consumer(
        {
            "bootstrap.servers": bootstrap,
            "group.id": "oracle.reads.without.a.group",
            "enable.auto.commit": False,
            "auto.offset.reset": "error",
            "isolation.level": "read_committed",
            "enable.partition.eof": True,
            "check.crcs": True,
            "fetch.wait.max.ms": 50,
            "fetch.error.backoff.ms": 50,
            "queued.max.messages.kbytes": 16384,
            "log_level": 0,
        }
    )


def read(reader: Consumer, topic: str, partition: int, start: int, end: int) -> Iterator[list[Any]]:
    """Batches of committed messages of [start, end). `end` must be a last stable offset, so that it is reached.

    Raises CheckError if nothing comes for 30 s.
    """
    if start >= end:
        return
    reader.assign([TopicPartition(topic, partition, start)])
    heard = time.monotonic()
    while True:
        batch = []
        done = False
        # With a timeout, consume() would use it up unless it finds as many as asked for.
        for message in reader.consume(2000, 0) or [reader.poll(0.2)]:
            if message is None:
                continue
            heard = time.monotonic()
            if message.error() is None:
                if message.offset() >= end:
                    done = True
                    break
                batch.append(message)
            elif message.error().code() == KafkaError._PARTITION_EOF:
                # Markers and aborted records at the very end are no messages: only this event tells of passing them.
                here = (message.topic(), message.partition()) == (topic, partition)
                done = done or (here and message.offset() >= end)
            elif message.error().code() != KafkaError._TRANSPORT:
                raise CheckError(f"{topic}[{partition}]: {message.error()}")
        if batch:
            yield batch
        if done:
            return
        if time.monotonic() - heard > SILENCE:
            raise CheckError(f"{topic}[{partition}]: no record and no end for {SILENCE:.0f} s below offset {end}")


def content_of(message: Any) -> Content:
    """What must be equal on both sides."""
    return message.key(), message.value(), message.headers(), message.timestamp()


def mirrored_stamp(stamp: tuple[int, int]) -> tuple[int, int]:
    """(timestamp type, ms) that the target must have for that of the source. Records without a time (message format 0)
    keep having none, which today's format writes as -1."""
    return {0: (1, -1), 2: (1, stamp[1])}.get(stamp[0], stamp)


def mirrored(content: Content) -> Content:
    """What the target must have for that content of the source."""
    return (*content[:3], mirrored_stamp(content[3]))


def bounds(bootstrap: str, topics: Sequence[str]) -> dict[tuple[str, int], tuple[int, int]]:
    """(topic, partition) -> (log start offset, last stable offset). Raises CheckError if a topic is missing."""
    admin = AdminClient({"bootstrap.servers": bootstrap, "log_level": 0})
    known = admin.list_topics(timeout=30).topics
    wanted = []
    for topic in topics:
        if topic not in known:
            raise CheckError(f"{topic}: no such topic at {bootstrap}")
        wanted += [TopicPartition(topic, partition) for partition in known[topic].partitions]
    sides = []
    for spec in (OffsetSpec.earliest(), OffsetSpec.latest()):
        futures = admin.list_offsets(
            dict.fromkeys(wanted, spec), isolation_level=IsolationLevel.READ_COMMITTED, request_timeout=30
        )
        sides.append({(tp.topic, tp.partition): future.result(40).offset for tp, future in futures.items()})
    return {place: (sides[0][place], sides[1][place]) for place in sides[0]}


# -- comparing ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Job:
    """One partition to compare, with the offsets between which to read on each side."""

    topic: str
    partition: int
    source: tuple[int, int]
    target: tuple[int, int]


class Comparer:
    """Compares partitions one after the other with one pair of consumers."""

    def __init__(self, source: str, target: str) -> None:
        self._source, self._target = make_reader(source), make_reader(target)

    def close(self) -> None:
        """Ends both consumers."""
        self._source.close()
        self._target.close()

    def compare(self, job: Job) -> Found:
        """The verdict on one partition. Memory is bounded by the consumers' queues as long as both sides are equal."""
        count = self._equal_count(job)
        return self._explain(job) if count is None else Found(job.topic, job.partition, count)

    def _sides(self, job: Job) -> tuple[Iterator[list[Any]], Iterator[list[Any]]]:
        return (
            read(self._source, job.topic, job.partition, *job.source),
            read(self._target, job.topic, job.partition, *job.target),
        )

    def _equal_count(self, job: Job) -> int | None:
        """The number of records if both sides are equal, None at the first difference."""
        ours, theirs = self._sides(job)
        count = 0
        left: list[Any] = []
        right: list[Any] = []
        while True:
            left = left or next(ours, [])
            right = right or next(theirs, [])
            if not left or not right:
                return count if not left and not right else None
            size = min(len(left), len(right))
            for a, b in zip(left[:size], right[:size], strict=True):
                if (
                    a.value() != b.value()
                    or a.key() != b.key()
                    or mirrored_stamp(a.timestamp()) != b.timestamp()
                    or a.headers() != b.headers()
                ):
                    return None
            count += size
            left, right = left[size:], right[size:]

    def _explain(self, job: Job) -> Found:
        """Reads both sides to the end, 16 bytes kept per record, and names every difference."""
        offsets: list[list[int]] = []
        digests: list[list[bytes]] = []
        for side, of_source in zip(self._sides(job), (True, False), strict=True):
            offsets.append([])
            digests.append([])
            for batch in side:
                offsets[-1] += [message.offset() for message in batch]
                contents = [content_of(message) for message in batch]
                digests[-1] += [digest(mirrored(content) if of_source else content) for content in contents]
        all_found = differences(digests[0], digests[1])
        if not all_found:
            raise CheckError(f"{job.topic}[{job.partition}]: differed once and not again; somebody still writes to it")
        notes = tuple(self._note(job, one, offsets) for one in all_found[:SHOWN])
        if len(all_found) > SHOWN:
            notes += (f"... and {len(all_found) - SHOWN} more",)
        kinds = [one.kind for one in all_found]
        figures = {kind: kinds.count(kind) for kind in set(kinds)}
        return replace(Found(job.topic, job.partition, len(digests[0]), notes=notes), **figures)

    def _note(self, job: Job, one: Difference, offsets: list[list[int]]) -> str:
        ours = None if one.source is None else offsets[0][one.source]
        theirs = None if one.target is None else offsets[1][one.target]
        if ours is not None and theirs is not None:
            place = f"{one.kind}: source offset {ours}, target offset {theirs}"
            if one.kind == "reordered":
                return place
            contents = (self._fetch(self._source, job, ours), self._fetch(self._target, job, theirs))
            return f"{place}: {describe_change(*contents)}"
        if ours is not None:
            return f"{one.kind}: source offset {ours}: {_brief(self._fetch(self._source, job, ours))}"
        assert theirs is not None
        return f"{one.kind}: target offset {theirs}: {_brief(self._fetch(self._target, job, theirs))}"

    @staticmethod
    def _fetch(reader: Consumer, job: Job, offset: int) -> Content:
        reader.assign([TopicPartition(job.topic, job.partition, offset)])
        deadline = time.monotonic() + SILENCE
        while time.monotonic() < deadline:
            message = reader.poll(0.2)
            if message is not None and message.error() is None:
                return content_of(message)
        raise CheckError(f"{job.topic}[{job.partition}]: offset {offset} cannot be read again")


def _brief(content: Content) -> str:
    return f"key {_short(content[0])}, value {_short(content[1])}, timestamp {content[3][1]}"


_COMPARER: Comparer | None = None


def _begin_worker(source: str, target: str) -> None:
    global _COMPARER
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole terminal; the parent decides
    _COMPARER = Comparer(source, target)


def _work(job: Job) -> Found:
    assert _COMPARER is not None
    return _COMPARER.compare(job)


def compare(
    source: str,
    target: str,
    topics: Sequence[str],
    *,
    source_bounds: dict[tuple[str, int], tuple[int, int]] | None = None,
    processes: int = 1,
    progress: Callable[[Found], None] | None = None,
) -> Report:
    """Compares the topics on both clusters (bootstrap addresses) up to their last stable offsets.

    source_bounds  (topic, partition) -> (first offset, end) when not the whole source partition counts
    processes      partitions are compared by that many processes; 1 stays in this one
    progress       called once per partition

    Raises CheckError when the check cannot be made; a difference is never an exception.
    """
    ours = source_bounds or bounds(source, topics)
    theirs = bounds(target, topics)
    if ours.keys() != theirs.keys():
        only = ", ".join(f"{topic}[{partition}]" for topic, partition in sorted(ours.keys() ^ theirs.keys()))
        raise CheckError(f"{only}: on one side only")
    # The longest first, so that no process is left with it at the end.
    jobs = [Job(*place, ours[place], theirs[place]) for place in ours]
    jobs.sort(key=lambda job: job.source[0] - job.source[1])
    report = Report()

    def note(found: Found) -> None:
        report.partitions.append(found)
        if progress:
            progress(found)

    if processes == 1:
        comparer = Comparer(source, target)
        try:
            for job in jobs:
                note(comparer.compare(job))
        finally:
            comparer.close()
        return report
    # Leaving the block, in whatever way, ends the processes at once.
    with multiprocessing.get_context("spawn").Pool(processes, _begin_worker, (source, target)) as pool:
        results = pool.imap_unordered(_work, jobs)
        try:
            for _ in jobs:
                note(results.next(WORK_LIMIT))
        except multiprocessing.TimeoutError:
            raise CheckError(f"no partition was compared for {WORK_LIMIT:.0f} s") from None
    return report


def main() -> int:
    """Compares topics from the command line; exit 3 if they differ."""
    parser = argparse.ArgumentParser(prog="oracle", description=__doc__.splitlines()[0])
    parser.add_argument("--source", required=True, help="bootstrap address")
    parser.add_argument("--target", required=True, help="bootstrap address")
    parser.add_argument("topics", nargs="+")
    given = parser.parse_args()
    try:
        report = compare(given.source, given.target, given.topics, processes=2)
    except (CheckError, KafkaException) as error:
        print(error)
        return 1
    print(report.text())
    return 0 if report.ok else 3


if __name__ == "__main__":
    sys.exit(main())
