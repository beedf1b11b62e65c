"""The independent check of a mirrored topic, fast enough for tens of millions of records.

Every committed record of both logs is hashed (timestamp, key, value, headers) as it lies in the segment files, and
record n of a target partition must be record n of the source partition. That the broker shows its readers what was
checked is made sure of twice: its last stable offset must be the one that the files give, and the end of each partition
is read by a plain read_committed consumer. The target may hold less than the source, for a round ends when its time is
over; it may hold nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from confluent_kafka import Consumer

from integration import oracle
from integration.cluster import Cluster

from .segments import Compared, Hashes, Log, LogError, Marker, content

TAIL = 500  # offsets at the end of each partition that a consumer reads


@dataclass(frozen=True)
class Prepared:
    """A topic of the source, read once: what every target must hold."""

    topic: str
    records: int
    bytes: int  # of its batches
    batches: int
    hashes: tuple[Hashes, ...]


@dataclass(frozen=True)
class Verdict:
    """What a target holds."""

    records: int  # equal ones
    wrong: str | None  # what is not equal, in words
    counts: tuple[tuple[int, ...], ...]  # by wanted moment: committed records below its offsets, by partition
    markers: tuple[list[Marker], ...]  # by partition


def _log(cluster: Cluster, topic: str, partition: int) -> Log:
    return Log(cluster.log_dir / f"{topic}-{partition}")


def read_source(cluster: Cluster, topic: str, header: tuple[str, str] | None = None) -> Prepared:
    """Hashes a source topic to which nobody writes any more; with `header`, as its copy must be once that is added.

    Raises LogError, also when the broker doesn't show all of it.
    """
    encoded = (header[0].encode(), header[1].encode()) if header else None

    def read(partition: int) -> tuple[Log, Hashes]:
        log = _log(cluster, topic, partition)
        return log, log.hashes(encoded)

    stable = cluster.end_offsets(topic, committed=True)
    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(read, sorted(stable)))
    for partition, (log, _) in enumerate(found):
        if log.stable != stable[partition]:
            raise LogError(f"{topic}[{partition}]: files end at {log.stable}, the broker says {stable[partition]}")
    return Prepared(
        topic,
        sum(hashes.count for _, hashes in found),
        sum(log.bytes for log, _ in found),
        sum(log.batches for log, _ in found),
        tuple(hashes for _, hashes in found),
    )


def compare(prepared: Prepared, cluster: Cluster, wanted: Sequence[Sequence[int]] = ()) -> Verdict:
    """Compares the target's topic, and counts its committed records below some offsets.

    `wanted` are offsets by partition, of ascending moments. Nobody may write to the topic any more.
    """
    stable = cluster.end_offsets(prepared.topic, committed=True)

    def read(partition: int) -> tuple[Log, Compared]:
        log = _log(cluster, prepared.topic, partition)
        return log, log.compare(prepared.hashes[partition], [moment[partition] for moment in wanted])

    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(read, range(len(prepared.hashes))))
    wrong = []
    for partition, (log, compared) in enumerate(found):
        place = f"{prepared.topic}[{partition}]"
        if not compared.ok:
            wrong.append(f"{place}: {explain(compared, prepared.hashes[partition])}")
        elif log.stable != stable[partition]:
            wrong.append(f"{place}: files end at {log.stable}, the broker says {stable[partition]}")
    if not wrong:
        wrong = _tails(prepared, cluster, stable, [compared.records for _, compared in found])
    return Verdict(
        sum(compared.records for _, compared in found),
        "; ".join(wrong) or None,
        tuple(zip(*(compared.counts for _, compared in found), strict=True)),
        tuple(log.markers for log, _ in found),
    )


def explain(compared: Compared, hashes: Hashes) -> str:
    """The first difference in words."""
    at = compared.records
    if compared.surplus:
        return f"more than the {hashes.count} records of the source"
    assert compared.different is not None
    there = hashes.find(compared.different, at)
    if there is None:
        return f"record {at} is none of the source's"
    return f"record {at} is the source's record {there}: {'lost' if there > at else 'doubled'} or reordered"


def _tails(prepared: Prepared, cluster: Cluster, stable: Mapping[int, int], counts: Sequence[int]) -> list[str]:
    """What a read_committed consumer sees at the end of each partition, against the source's last hashes."""
    reader = oracle.make_reader(cluster.bootstrap)
    wrong = []
    try:
        for partition, end in stable.items():
            seen = _read_tail(reader, prepared.topic, partition, end)
            hashes, count = prepared.hashes[partition], counts[partition]
            expected = [hashes[index] for index in range(max(0, count - len(seen)), count)]
            if seen != expected:
                wrong.append(f"{prepared.topic}[{partition}]: a consumer sees other records at its end")
    finally:
        reader.close()
    return wrong


def _read_tail(reader: Consumer, topic: str, partition: int, end: int) -> list[int]:
    seen = []
    for messages in oracle.read(reader, topic, partition, max(0, end - TAIL), end):
        seen += [_hash(message) for message in messages]
    return seen


def _hash(message: Any) -> int:
    return content(message.timestamp()[1], message.key(), message.value(), message.headers() or ())
