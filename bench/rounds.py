"""One round of one system: mirror a prepared topic from its beginning, and say what that took."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from integration.cluster import Cluster

from . import check
from .measure import Sample, Window, series, window
from .scenarios import EOMIRROR, Scenario
from .segments import Marker
from .systems import System, Task
from .watch import Failed, Seen, Watch, delete_topics, settled

START_SECONDS = 120.0  # until the first record is visible
# A window begins with a commit and ends with one; those of an interval of one second are a second and more apart.
SLACK_SECONDS = 5.0
MARKER_BYTES = 78  # of the batch with the one record that ends a transaction in a partition


@dataclass(frozen=True)
class Timing:
    """How long things are measured, in seconds."""

    seconds: float = 30.0
    warm_up: float = 5.0  # after the first visible record
    jvm_warm_up: float = 10.0  # MirrorMaker 2's, which compiles meanwhile, and everybody's with a live stream
    rehearsal: float = 20.0  # of each rehearsed system, once per run with a prepared topic and once with a stream
    kills: int = 3
    least: float | None = None  # seconds that a window must have, or it has no figure; None: `seconds`

    def of(self, system: System) -> float:
        """The system's warm-up."""
        return self.warm_up if system.name.startswith(EOMIRROR) else self.jvm_warm_up

    @property
    def prepared(self) -> float:
        """Seconds of work that a prepared topic must hold for eomirror."""
        return self.seconds + self.warm_up + 2

    def suffices(self, measured: Window | None) -> bool:
        """Is the window long enough for a figure? If it is not, the prepared topic was too short."""
        return measured is not None and measured.seconds >= (self.seconds if self.least is None else self.least)


@dataclass(frozen=True)
class Pair:
    """The two clusters, and a folder for configurations and logs."""

    source: Cluster
    target: Cluster
    folder: Path

    def task(self, scenario: Scenario, topic: str, label: str) -> Task:
        """What a system is told to do."""
        folder = self.folder / label
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        return Task(
            self.source,
            self.target,
            topic,
            folder,
            scenario.data.codec,
            scenario.flow,
            scenario.overlays,
            scenario.header,
        )

    def clean(self, keep: Callable[[str], bool]) -> None:
        """Removes what a round has left: all topics of the target, and those of the source that are not to be kept."""
        delete_topics(self.target, lambda _: False)
        delete_topics(self.source, keep)


def rehearse(pair: Pair, scenario: Scenario, system: System, seconds: float) -> None:
    """Lets the brokers' JVMs compile what the system asks of them for the topic `orders`; nothing is measured.

    Raises Failed."""
    running = system.start(pair.task(scenario, "orders", "rehearsal"))
    watch = Watch(running, pair.source, pair.target, "orders", scenario.data.partitions)
    try:
        watch.wait_until(watch.wait_visible(START_SECONDS) + seconds, lambda _: False)
    finally:
        watch.stop()
        running.stop()


def throughput(
    pair: Pair, scenario: Scenario, system: System, prepared: check.Prepared, timing: Timing, label: str
) -> dict[str, Any]:
    """Figures of one round, or {"wrong": why there are none}."""
    task = pair.task(scenario, prepared.topic, label)
    running = system.start(task)
    watch = Watch(running, pair.source, pair.target, prepared.topic, scenario.data.partitions)
    try:
        startup = watch.wait_visible(START_SECONDS)
        ends = startup + timing.of(system) + timing.seconds + SLACK_SECONDS
        watch.wait_until(ends, lambda seen: sum(seen.stable) >= prepared.records)
    except Failed as failed:
        return {"wrong": str(failed), "log": running.tail()}
    finally:
        watch.stop()
        running.stop()
    settled(pair.target, prepared.topic)
    verdict = check.compare(prepared, pair.target, [seen.stable for seen in watch.seen])
    if verdict.wrong is not None:
        return {"wrong": verdict.wrong}
    counted = samples(watch.seen, verdict.counts)
    measured = window(counted, timing.of(system), timing.seconds)
    if measured is None or not timing.suffices(measured):
        length = measured.seconds if measured else 0.0
        short = f"the prepared topic was too short, or commits too rare: a window of {length:.1f} s"
        return {"wrong": short, "checked_records": verdict.records}
    return {
        **costs(measured),
        "megabytes_per_s": measured.records / measured.seconds * scenario.data.record_bytes / 1e6,
        "commits_per_s": commits(measured, watch.seen, verdict.markers),
        "peak_rss": watch.peak,
        "startup_s": startup,
        "series": series(counted),
        "checked_records": verdict.records,
    }


def samples(seen: Sequence[Seen], counts: Sequence[Sequence[int]]) -> list[Sample]:
    """What was seen, with the records that were visible at each moment."""
    return [
        Sample(one.at, sum(visible), one.replicator, one.source + one.target, one.others)
        for one, visible in zip(seen, counts, strict=True)
    ]


def costs(measured: Window) -> dict[str, Any]:
    """Speed and CPU of a window."""
    first, last, millions = measured.first, measured.last, measured.records / 1e6
    return {
        "records_per_s": measured.records / measured.seconds,
        "cpu_per_million": (last.replicator - first.replicator) / millions,
        "broker_cpu_per_million": (last.brokers - first.brokers) / millions,
        "replicator_cores": (last.replicator - first.replicator) / measured.seconds,
        "other_cores": (last.others - first.others) / measured.seconds,
        "window_s": measured.seconds,
        "window_records": measured.records,
    }


def commits(measured: Window, seen: Sequence[Seen], markers: Sequence[Sequence[Marker]]) -> float | None:
    """Transactions that became visible in a window, per second; None if there were none at all.

    A transaction is a producer id and an epoch, which transactions of version 2 never use twice.
    """
    if not any(markers):
        return None
    found = {(one.producer_id, one.epoch) for one in _within(measured, seen, markers) if one.commits}
    return len(found) / measured.seconds


def marker_count(measured: Window, seen: Sequence[Seen], markers: Sequence[Sequence[Marker]]) -> int:
    """Markers of committed and aborted transactions that a window has brought, in all partitions."""
    return len(_within(measured, seen, markers))


def _within(measured: Window, seen: Sequence[Seen], markers: Sequence[Sequence[Marker]]) -> list[Marker]:
    stable = {one.at: one.stable for one in seen}
    first, last = stable[measured.first.at], stable[measured.last.at]
    return [
        one
        for partition, ones in enumerate(markers)
        for one in ones
        if first[partition] <= one.offset < last[partition]
    ]
