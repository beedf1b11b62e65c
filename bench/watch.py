"""Watches a round from outside: what readers can see on the target, and what it costs."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from confluent_kafka import KafkaException

from integration.cluster import Cluster, ClusterError

from .measure import busy, processes, usage
from .systems import Running


class Failed(Exception):
    """A round that has no figure; the message says why."""


@dataclass(frozen=True)
class Seen:
    """One look: seconds since the replicator was started, last stable offset by partition, CPU seconds so far."""

    at: float
    stable: tuple[int, ...]
    replicator: float
    source: float
    target: float
    others: float  # of all else, the kernel's own threads too, but not of this benchmark

    @property
    def visible(self) -> bool:
        """Is there anything for a read_committed reader?"""
        return any(self.stable)


class Growth:
    """Bytes written to some topics: the largest size that each of their segment files has had."""

    def __init__(self, places: list[tuple[Cluster, Callable[[str], bool]]]) -> None:
        self._places = places
        self._sizes: dict[str, int] = {}

    def look(self) -> int:
        """Bytes so far."""
        for cluster, belongs in self._places:
            for folder in cluster.log_dir.iterdir():
                if belongs(folder.name.rpartition("-")[0]):
                    try:
                        for path in folder.glob("*.log"):
                            size = path.stat().st_size
                            self._sizes[str(path)] = max(size, self._sizes.get(str(path), 0))
                    except OSError:
                        continue  # a topic that is just being deleted
        return sum(self._sizes.values())


class Watch:
    """Looks again and again, in a thread of its own, from the start of the replicator to `stop`."""

    def __init__(
        self, running: Running, source: Cluster, target: Cluster, topic: str, partitions: int, interval: float = 0.1
    ) -> None:
        self.seen: list[Seen] = []
        self.peak = 0  # of the replicator's tree, resident bytes
        self.helpers: list[int] = []  # processes of this benchmark, which are nobody's load
        self._running, self._source, self._target, self._topic = running, source, target, topic
        self._partitions = partitions
        self._interval = interval
        self.began = time.monotonic()  # the same clock as the moments of a stream
        self._stopping = threading.Event()
        self._exists = False
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            while not self._stopping.is_set():
                self._look()
                # Before anything is visible, a start is being timed.
                self._stopping.wait(self._interval if self.seen[-1].visible else 0.02)
        except BaseException as error:  # noqa: BLE001 - raised by whoever waits
            self._failure = error

    def _look(self) -> None:
        stable = self._stable()
        at = time.monotonic() - self.began
        if not any(stable):
            # Only a start is being timed; looking at all processes would slow it down.
            self.seen.append(Seen(at, stable, 0.0, 0.0, 0.0, 0.0))
            return
        stats = processes()
        used = usage(self._running.pid, stats)
        source, target = (usage(cluster.pid, stats).cpu for cluster in (self._source, self._target))
        known = used.cpu + source + target + sum(usage(pid, stats).cpu for pid in self.helpers) + time.process_time()
        self.peak = max(self.peak, used.peak)
        self.seen.append(Seen(at, stable, used.cpu, source, target, busy() - known))

    def _stable(self) -> tuple[int, ...]:
        if not self._exists:
            self._exists = self._topic in self._target.topics()
        if self._exists:
            try:
                offsets = self._target.end_offsets(self._topic, committed=True, partitions=self._partitions)
                return tuple(offsets[partition] for partition in range(self._partitions))
            except KafkaException:
                if self.seen and self.seen[-1].visible:
                    raise
        return (0,) * self._partitions

    def now(self) -> float:
        """Seconds since the replicator was started."""
        return time.monotonic() - self.began

    def wait_visible(self, timeout: float) -> float:
        """Seconds from the start to the first visible record. Raises Failed."""
        self._wait(lambda: bool(self.seen) and self.seen[-1].visible, timeout, "a record on the target")
        return next(one.at for one in self.seen if one.visible)

    def wait_until(self, at: float, complete: Callable[[Seen], bool]) -> None:
        """Waits until that many seconds after the start, or until everything is there. Raises Failed."""
        while self.now() < at and not complete(self.seen[-1]):
            self._check()
            time.sleep(0.05)

    def _wait(self, condition: Callable[[], bool], timeout: float, what: str) -> None:
        deadline = time.monotonic() + timeout
        while not condition():
            self._check()
            if time.monotonic() > deadline:
                raise Failed(f"waited {timeout:.0f} s for {what}")
            time.sleep(0.01)

    def _check(self) -> None:
        if self._failure is not None:
            raise Failed(f"the target does not answer: {self._failure}")
        if not self._running.alive:
            raise Failed(f"it ended by itself with exit code {self._running.process.returncode}")

    def stop(self) -> None:
        """Ends the watch; what was seen stays."""
        self._stopping.set()
        self._thread.join(30)


def settled(cluster: Cluster, topic: str, timeout: float = 10.0) -> dict[int, int]:
    """Last stable offset by partition once nothing is open, or as it is after that many seconds."""
    deadline = time.monotonic() + timeout
    while True:
        stable = cluster.end_offsets(topic, committed=True)
        if stable == cluster.end_offsets(topic) or time.monotonic() > deadline:
            return stable
        time.sleep(0.05)


def delete_topics(cluster: Cluster, keep: Callable[[str], bool]) -> None:
    """Deletes every topic but Kafka's own and those to keep; returns when their files are gone too."""
    doomed = [name for name in cluster.topics() if not name.startswith(("__consumer_", "__transaction_", "__share_"))]
    for name in doomed:
        if not keep(name):
            cluster.delete_topic(name)
    deadline = time.monotonic() + 60
    while any(folder.name.endswith("-delete") for folder in cluster.log_dir.iterdir()):
        if time.monotonic() > deadline:
            raise ClusterError(f"{cluster.name}: deleted topics are still on disk after 60 s")
        time.sleep(0.1)
