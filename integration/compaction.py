"""The log cleaner on demand: topics that it cleans within seconds, and then leaves alone for good."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path

from .cluster import Cluster
from .rawlog import Batch, partition_batches

# Segments roll by the time of their records, however few there are; the last segment is never cleaned.
CLEANING = {"cleanup.policy": "compact", "segment.ms": 2000, "min.cleanable.dirty.ratio": 0.01}
HELD = {"min.cleanable.dirty.ratio": 1.0, "min.compaction.lag.ms": 1 << 50, "segment.ms": 604_800_000}

ROUNDS = 1.0  # seconds in which the cleaner looks several times


def has_gaps(batch: Batch) -> bool:
    """True if the cleaner has taken some of the batch's records."""
    return 0 < batch.count < batch.last_delta + 1


def wait_compacted(
    cluster: Cluster, topics: Mapping[str, int], *shown: Callable[[Batch], bool], timeout: float = 180.0
) -> None:
    """Waits until every partition of the topics (name -> partitions) has a batch of each wanted kind, then holds the
    cleaner off.

    Returns when the log no longer changes. Raises TimeoutError.
    """
    deadline = time.monotonic() + timeout
    folders = [cluster.log_dir / f"{topic}-{number}" for topic, count in topics.items() for number in range(count)]
    while not all(_shows(folder, shown) for folder in folders):
        if time.monotonic() > deadline:
            raise TimeoutError(f"{', '.join(topics)}: not compacted within {timeout:.0f} s")
        time.sleep(0.2)
    for topic in topics:
        cluster.set_config(topic, HELD)
    # A cleaning that had begun goes on to its end; the log is final when two looks, some cleaner rounds apart, agree.
    before: list[tuple[str, int]] = []
    while True:
        time.sleep(ROUNDS)
        now = [(str(path), path.stat().st_size) for folder in folders for path in sorted(folder.iterdir())]
        if now == before and not any(name.endswith((".cleaned", ".swap")) for name, _ in now):
            return
        before = now
        if time.monotonic() > deadline:
            raise TimeoutError(f"{', '.join(topics)}: still being cleaned after {timeout:.0f} s")


def _shows(folder: Path, shown: tuple[Callable[[Batch], bool], ...]) -> bool:
    try:
        batches = list(partition_batches(folder))
    except FileNotFoundError:  # the cleaner has just replaced a segment
        return False
    return all(any(wanted(batch) for batch in batches) for wanted in shown)
