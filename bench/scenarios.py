"""What is measured, and what eomirror wants to reach in it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from .prepare import Data

EOMIRROR, ONE_IDENTITY, WITH_FLOOR = "eomirror", "eomirror-one-identity", "eomirror-floor"
EXACTLY_ONCE, INTERVAL, AT_LEAST_ONCE = "mm2-exactly-once", "mm2-interval", "mm2-at-least-once"
# They mirror before the first measured round, so that the brokers' JVMs are warm for both.
REHEARSED = (EOMIRROR, EXACTLY_ONCE)
HEADER = ("region", "eu-west-1")


@dataclass(frozen=True)
class Scenario:
    """One row of the benchmark.

    throughput  a prepared topic is mirrored from its beginning
    latency     records are produced at an even rate
    recovery    the same, and the replicator is killed meanwhile
    """

    name: str
    title: str
    kind: Literal["throughput", "latency", "recovery"]
    data: Data
    rate: int  # records/s: produced; or, of a prepared topic, more than anything mirrors, for that is how long it is
    systems: Mapping[str, float]  # name -> its share of the rounds, at least one round
    flow: Mapping[str, Any] = field(default_factory=dict)  # eomirror's settings that are not the defaults
    overlays: tuple[str, ...] = ()  # further property files of MirrorMaker 2
    header: tuple[str, str] | None = None  # is set in every record
    note: str = ""  # what a reader of the result should know

    def rounds(self, system: str, rounds: int) -> int:
        """How many of `rounds` rounds a system takes part in."""
        return max(1, round(rounds * self.systems[system]))

    def order(self, number: int, rounds: int, place: int) -> list[str]:
        """The systems of round `number`, in order, if this is the run's scenario number `place`.

        The first one is another in the next round, and in the next scenario, for many have one round only.
        """
        names = [name for name in self.systems if number < self.rounds(name, rounds)]
        turn = (number + place) % max(len(names), 1)
        return names[turn:] + names[:turn]


# A round of every system takes about a minute. Three rounds where the goals are, one elsewhere: about an hour.
EVERY = {EOMIRROR: 1.0, EXACTLY_ONCE: 1.0}
ONCE = {EOMIRROR: 0.34, EXACTLY_ONCE: 0.34}
LOOSE = {AT_LEAST_ONCE: 0.34}
UNPAIRED = {ONE_IDENTITY: 0.34}
FLOOR = {WITH_FLOOR: 0.34}
BY_INTERVAL = {INTERVAL: 0.34}
INTERVAL_NOTE = "By interval: one transaction per second and task, not one per poll."

SCENARIOS = (
    Scenario(
        "batches-1000",
        "producer batches of 1000 records",
        "throughput",
        Data(218, 1000),
        2_300_000,
        {**EVERY, **UNPAIRED, **LOOSE, **BY_INTERVAL},
        note=INTERVAL_NOTE,
    ),
    Scenario(
        "batches-10",
        "producer batches of 10 records",
        "throughput",
        Data(218, 10),
        2_400_000,
        {**EVERY, **BY_INTERVAL},
        note=INTERVAL_NOTE,
    ),
    Scenario(
        "batches-1",
        "one record per producer batch",
        "throughput",
        Data(218, 1),
        2_000_000,
        {**EVERY, **LOOSE, **BY_INTERVAL},
        note=INTERVAL_NOTE,
    ),
    Scenario(
        "batches-1000-lz4",
        "producer batches of 1000 records, LZ4",
        "throughput",
        Data(218, 1000, "lz4"),
        3_500_000,
        ONCE,
    ),
    Scenario(
        "batches-10-lz4", "producer batches of 10 records, LZ4", "throughput", Data(218, 10, "lz4"), 1_800_000, ONCE
    ),
    Scenario("batches-1-lz4", "one record per producer batch, LZ4", "throughput", Data(218, 1, "lz4"), 1_000_000, ONCE),
    Scenario("large-zstd", "records of 1 KB, Zstandard", "throughput", Data(1024, 100, "zstd"), 900_000, ONCE),
    Scenario(
        "aborts",
        "a transactional source, a tenth of it aborted",
        "throughput",
        Data(218, 1000, aborted_tenths=1),
        2_200_000,
        ONCE,
    ),
    Scenario(
        "header",
        "a header set in every record",
        "throughput",
        Data(218, 1000, headers=False),
        2_200_000,
        EVERY,
        overlays=("header",),
        header=HEADER,
        note="MirrorMaker 2 makes the header with InsertHeader, which needs another header converter than the default; "
        "that one writes headers that a record already has in Base64. So these records have none.",
    ),
    Scenario(
        "latency-1k",
        "1000 records/s, one by one",
        "latency",
        Data(218, 1),
        1_000,
        {**EVERY, **UNPAIRED, **FLOOR, **LOOSE},
        overlays=("latency",),
        note="A longer floor between the commits of a lane trades delay for CPU and for bytes in the internal topics.",
    ),
    Scenario(
        "latency-10k",
        "10 000 records/s, one by one",
        "latency",
        Data(218, 1),
        10_000,
        {**ONCE, **LOOSE},
        overlays=("latency",),
    ),
    Scenario(
        "partitions",
        "1000 records/s over 300 partitions",
        "latency",
        Data(218, 1, partitions=300),
        1_000,
        ONCE,
        overlays=("latency",),
    ),
    Scenario(
        "recovery",
        "killed at 1000 records/s and started again at once",
        "recovery",
        Data(218, 1),
        1_000,
        ONCE,
        overlays=("latency",),
    ),
)


@dataclass(frozen=True)
class Goal:
    """What eomirror's figure should be: at least so many times the peer's, at most that share of it, or at most that.

    The peer is MirrorMaker 2 exactly-once.
    """

    scenario: str
    figure: str
    kind: Literal["times", "share", "most"]
    bound: float
    text: str

    def met(self, ours: float | None, peer: float | None) -> bool | None:
        """None if a figure is missing."""
        if ours is None or (self.kind != "most" and not peer):
            return None
        if self.kind == "most":
            return ours <= self.bound
        assert peer is not None
        return ours >= self.bound * peer if self.kind == "times" else ours <= self.bound * peer


def _against_peer(scenario: str, times: float, divisor: int | None = None) -> list[Goal]:
    goals = [Goal(scenario, "records_per_s", "times", times, f"at least {times:g} x")]
    if divisor is not None:
        goals.append(Goal(scenario, "cpu_per_million", "share", 1 / divisor, f"at most 1/{divisor}"))
    return goals


GOALS = (
    *_against_peer("batches-1000", 6, 15),
    *_against_peer("batches-1000-lz4", 6, 15),
    *_against_peer("batches-10", 4, 8),
    *_against_peer("batches-10-lz4", 4, 8),
    *_against_peer("batches-1", 3, 8),
    *_against_peer("header", 3),
    *(Goal(one.name, "peak_rss", "most", 250e6, "at most 250 MB") for one in SCENARIOS),
    Goal("latency-1k", "p50_ms", "most", 6, "at most 6 ms"),
    Goal("latency-1k", "p99_ms", "most", 20, "at most 20 ms"),
    Goal("latency-1k", "internal_ratio", "most", 0.5, "below 0.5"),
)
