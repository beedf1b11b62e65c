"""Figures of running processes, from /proc, and figures made of many figures."""

from __future__ import annotations

import bisect
import itertools
import math
import os
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

TICK = 1 / os.sysconf("SC_CLK_TCK")
PROC = Path("/proc")


@dataclass(frozen=True)
class Stat:
    """One process: its parent, and the CPU seconds of itself and of its children that have ended."""

    pid: int
    parent: int
    cpu: float


def parse_stat(text: str) -> Stat:
    """A line of /proc/<pid>/stat (proc(5)); the name in it may hold blanks and parentheses. Raises ValueError."""
    head, _, rest = text.rpartition(")")
    fields = rest.split()
    if len(fields) < 15:
        raise ValueError(f"not a line of /proc/<pid>/stat: {text[:60]!r}")
    # utime, stime, cutime, cstime
    return Stat(int(head.split()[0]), int(fields[1]), sum(map(int, fields[11:15])) * TICK)


def parse_peak(text: str) -> int:
    """VmHWM of a /proc/<pid>/status in bytes; 0 for a process that has no memory any more."""
    for line in text.splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return 0


def family(root: int, stats: Iterable[Stat]) -> list[Stat]:
    """The process and all its descendants; empty if it is gone."""
    every = list(stats)
    found = [one for one in every if one.pid == root]
    for one in found:
        found += [child for child in every if child.parent == one.pid]
    return found


def processes(proc: Path = PROC) -> list[Stat]:
    """Every process as it is now."""
    found = []
    for folder in proc.iterdir():
        if folder.name.isdigit():
            try:
                found.append(parse_stat((folder / "stat").read_text()))
            except (OSError, ValueError):
                continue  # it has just ended
    return found


def parse_busy(text: str) -> float:
    """CPU seconds that all cores have spent on anything, from /proc/stat."""
    user, nice, system, _, _, irq, softirq, steal = map(int, text.split(maxsplit=9)[1:9])
    return (user + nice + system + irq + softirq + steal) * TICK


def busy() -> float:
    """CPU seconds of the whole machine so far."""
    return parse_busy((PROC / "stat").read_text())


@dataclass(frozen=True)
class Usage:
    """CPU seconds so far and peak resident bytes of a process and its descendants."""

    cpu: float
    peak: int


def usage(root: int, stats: Iterable[Stat], proc: Path = PROC) -> Usage:
    """What a process tree has used; zeros if it is gone."""
    members = family(root, stats)
    peak = 0
    for one in members:
        try:
            peak += parse_peak((proc / str(one.pid) / "status").read_text())
        except OSError:
            continue
    return Usage(sum(one.cpu for one in members), peak)


def percentile(ordered: Sequence[float], share: float) -> float:
    """The smallest value that at least that share of the ascending values does not exceed (nearest rank)."""
    if not ordered:
        raise ValueError("no values")
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


@dataclass(frozen=True)
class Spread:
    """The median of some rounds and their range."""

    median: float
    least: float
    most: float
    rounds: int


def spread(values: Iterable[float | None]) -> Spread | None:
    """Of the rounds that have a figure; None if none has."""
    known = [value for value in values if value is not None]
    return Spread(statistics.median(known), min(known), max(known), len(known)) if known else None


@dataclass(frozen=True)
class Sample:
    """What was seen at one moment: seconds, records visible on the target, CPU seconds so far."""

    at: float
    records: int
    replicator: float
    brokers: float
    others: float


@dataclass(frozen=True)
class Window:
    """The measured part of a round, from one moment at which records became visible to another."""

    first: Sample
    last: Sample

    @property
    def seconds(self) -> float:
        """How long it was."""
        return self.last.at - self.first.at

    @property
    def records(self) -> int:
        """Records that became visible in it."""
        return self.last.records - self.first.records


def window(samples: Sequence[Sample], warm_up: float, seconds: float) -> Window | None:
    """From the first change `warm_up` seconds or more after the first visible record, to the first one `seconds` later.

    Both ends are moments of a change, so that a system that commits in large steps neither gains nor loses a part of
    one. If nothing changes that late any more, it ends with the last change and is shorter. None without two changes.
    """
    visible = next((one.at for one in samples if one.records > 0), None)
    if visible is None:
        return None
    changes = [
        now
        for before, now in itertools.pairwise(samples)
        if now.records > before.records and now.at >= visible + warm_up
    ]
    if not changes:
        return None
    first = changes[0]
    last = next((one for one in changes if one.at >= first.at + seconds), changes[-1])
    return Window(first, last) if last is not first else None


SERIES_SECONDS = 0.5


def series(samples: Iterable[Sample]) -> dict[str, list[float]]:
    """A course for the result: columns of samples that are at least half a second apart, the last one too.

    CPU seconds are 0 until something is visible, for nothing looks at the processes until then.
    """
    kept: list[Sample] = []
    last = None
    for one in samples:
        last = one
        if not kept or one.at >= kept[-1].at + SERIES_SECONDS:
            kept.append(one)
    if last is not None and kept[-1] is not last:
        kept.append(last)
    return {
        "at_s": [round(one.at, 2) for one in kept],
        "records": [one.records for one in kept],
        "replicator_cpu_s": [round(one.replicator, 2) for one in kept],
        "broker_cpu_s": [round(one.brokers, 2) for one in kept],
    }


BUCKETS_PER_DECADE, LEAST_MS, DECADES = 8, 0.1, 5


def histogram(values: Iterable[float]) -> dict[str, list[float]]:
    """Values of ms in 40 buckets, logarithmic from 0.1 ms to 10 s: their upper bounds, and how many are in each.

    A bound belongs to its bucket. What is less is in the first bucket, what is more in the last one.
    """
    bounds = [LEAST_MS * 10 ** (step / BUCKETS_PER_DECADE) for step in range(1, DECADES * BUCKETS_PER_DECADE + 1)]
    counts = [0] * len(bounds)
    for value in values:
        counts[min(bisect.bisect_left(bounds, value), len(bounds) - 1)] += 1
    return {"up_to_ms": [float(f"{bound:.4g}") for bound in bounds], "records": [*counts]}
