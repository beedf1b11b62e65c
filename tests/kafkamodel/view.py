"""What must be true of a mirror at every moment, judged on the clusters' own logs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

from .cluster import ModelCluster
from .records import Record

Route = tuple[tuple[str, int], tuple[str, int]]


def repeated(records: Iterable[Record], key: Callable[[Record], Any] = lambda r: r.value) -> dict[Any, int]:
    """What occurs more than once, and how often."""
    return {k: n for k, n in Counter(key(r) for r in records).items() if n > 1}


class ExactlyOnce:
    """Target partitions against source partitions: the committed records of the target are the source's first ones.

    Count, order, key, value, headers and timestamps, but not offsets. `check` looks at what is new since the last call,
    so it can follow every step; what a read_committed reader has once seen, it has seen.
    """

    def __init__(self, source: ModelCluster, target: ModelCluster, routes: Iterable[Route]) -> None:
        self.source = source
        self.target = target
        self.routes = list(routes)
        self._seen = {r: [0, 0, 0] for r in self.routes}  # next source offset, next target offset, records

    def check(self) -> None:
        for route in self.routes:
            (topic, partition), (copy, number) = route
            seen = self._seen[route]
            fresh = self.target.committed_batches(copy, number, seen[1])
            if not fresh:
                continue
            wanted = iter(self.source.committed(topic, partition, seen[0]))
            for batch in fresh:
                for record in batch.records:
                    original = next(wanted, None)
                    if original is None or original.content != record.content:
                        raise AssertionError(
                            f"{copy}[{number}]: record {seen[2]} at target offset {record.offset} is "
                            f"{record.content}, the source has {original and original.content} there"
                        )
                    seen[0] = original.offset + 1
                    seen[2] += 1
                seen[1] = batch.header.last_offset + 1

    @property
    def mirrored(self) -> int:
        """Records that have become visible so far."""
        return sum(s[2] for s in self._seen.values())

    def complete(self) -> bool:
        """True once every committed source record is visible on the target."""
        self.check()
        return all(
            not self.source.committed(topic, partition, self._seen[route][0])
            for route in self.routes
            for topic, partition in [route[0]]
        )
