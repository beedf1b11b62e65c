"""Rounds with a live stream: how late records arrive, and how long a killed replicator keeps them waiting."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from array import array
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from integration import oracle
from integration.cluster import ROOT, tethered

from . import check
from .measure import Sample, Window, histogram, percentile, series, window
from .rounds import MARKER_BYTES, START_SECONDS, Pair, Timing, commits, costs, marker_count, samples
from .scenarios import Scenario
from .systems import Running, System
from .watch import Failed, Growth, Watch, settled

LOOK_SECONDS = 0.5
ARRIVE_SECONDS = 60.0  # until a replicator that has fallen behind is level with the stream
RECOVER_SECONDS = 120.0
BETWEEN_KILLS = 3.0  # seconds that records must have flowed evenly before the next kill


class Part:
    """The producer or the consumer of a stream."""

    def __init__(self, *arguments: str) -> None:
        self._process = subprocess.Popen(
            tethered([sys.executable, "-m", "bench.stream", *arguments]),
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self.pid = self._process.pid
        self.last = ""  # the last line that it has printed
        self._reader = threading.Thread(target=self._listen, daemon=True)
        self._reader.start()

    def _listen(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self.last = line

    def end(self, timeout: float = 60.0) -> str:
        """Closes its stdin and returns its last line. Raises Failed."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            code = self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            self.kill()
            raise Failed(f"a part of the stream did not end within {timeout:.0f} s") from None
        self._reader.join(10)
        if code != 0:
            raise Failed(f"a part of the stream ended with exit code {code}")
        return self.last

    def kill(self) -> None:
        """Ends it at once."""
        self._process.kill()
        self._process.wait()


@dataclass
class Live:
    """A replicator at work on a stream that is produced and read."""

    pair: Pair
    topic: str
    running: Running
    watch: Watch
    consumer: Part
    arrivals_file: Path
    produced: dict[str, Any]  # what the producer has done; empty until it has ended
    _producer: Part

    @property
    def arrived(self) -> tuple[float, int]:
        """When the newest record that has arrived was sent (seconds), and how many have arrived."""
        newest, count = map(int, (self.consumer.last or "0 0").split())
        return newest / 1e9, count

    @property
    def delay(self) -> float:
        """Seconds since the newest record that has arrived was sent."""
        return time.monotonic() - self.arrived[0]

    def wait_level(self, timeout: float = ARRIVE_SECONDS) -> None:
        """Waits until records arrive within half a second. Raises Failed."""
        self._wait(lambda: self.delay <= 0.5, timeout, "records that arrive within half a second")

    def wait_later(self, moment: float, timeout: float) -> None:
        """Waits until a record has arrived that was sent after that moment. Raises Failed."""
        self._wait(lambda: self.arrived[0] > moment, timeout, "a new record")

    def _wait(self, condition: Callable[[], bool], timeout: float, what: str) -> None:
        deadline = time.monotonic() + timeout
        while not condition():
            if not self.running.alive:
                raise Failed(f"it ended by itself with exit code {self.running.process.returncode}")
            if time.monotonic() > deadline:
                raise Failed(f"waited {timeout:.0f} s for {what}")
            time.sleep(0.02)

    def finish(self) -> check.Verdict | str:
        """Ends the stream, lets it arrive, stops the replicator, compares both sides; a difference comes in words."""
        self.produced = json.loads(self._producer.end())
        self._wait(lambda: self.arrived[1] >= self.produced["sent"], ARRIVE_SECONDS, "the last records")
        self.watch.stop()
        self.running.stop()
        settled(self.pair.target, self.topic)
        self.consumer.end()
        if self.produced["failed"]:
            return f"{self.produced['failed']} records were not produced"
        report = oracle.compare(self.pair.source.bootstrap, self.pair.target.bootstrap, [self.topic], processes=2)
        if not report.ok:
            return report.text()
        prepared = check.read_source(self.pair.source, self.topic)
        verdict = check.compare(prepared, self.pair.target, [seen.stable for seen in self.watch.seen])
        return verdict.wrong or verdict

    def arrivals(self) -> tuple[array[int], array[int]]:
        """Of every record that has arrived, in that order: the moment at which it was sent (ns), and its delay (ns)."""
        numbers: array[int] = array("q")
        numbers.frombytes(self.arrivals_file.read_bytes())
        return numbers[0::2], numbers[1::2]


@contextmanager
def stream(pair: Pair, scenario: Scenario, system: System, label: str) -> Iterator[Live]:
    """Starts everything, waits until records arrive; at the end nothing of it is left running."""
    topic = f"live-{label}"
    task = pair.task(scenario, topic, label)
    pair.source.create_topic(topic, scenario.data.partitions)
    running = system.start(task)
    watch = Watch(running, pair.source, pair.target, topic, scenario.data.partitions, LOOK_SECONDS)
    parts: list[Part] = []
    try:
        what = ("--topic", topic, "--partitions", str(scenario.data.partitions))
        where = ("--bootstrap", pair.source.bootstrap, *what)
        parts.append(Part("produce", *where, "--rate", str(scenario.rate)))
        watch.wait_visible(START_SECONDS)
        out = task.folder / "arrivals"
        where = ("--bootstrap", pair.target.bootstrap, *what)
        parts.append(Part("consume", *where, "--out", str(out)))
        live = Live(pair, topic, running, watch, parts[1], out, {}, parts[0])
        watch.helpers += [part.pid for part in parts]
        live.wait_level()
        yield live
    finally:
        watch.stop()
        for part in parts:
            part.kill()
        running.kill()


def rehearse(pair: Pair, scenario: Scenario, system: System, seconds: float) -> None:
    """As `rounds.rehearse`, with a stream. Raises Failed."""
    with stream(pair, scenario, system, "rehearsal"):
        time.sleep(seconds)


def latency(pair: Pair, scenario: Scenario, system: System, timing: Timing, label: str) -> dict[str, Any]:
    """Figures of one round, or {"wrong": why there are none}."""
    internal = Growth([(pair.source, system.is_internal), (pair.target, system.is_internal)])
    states = Growth([(pair.target, lambda name: name == "__transaction_state")])
    try:
        with stream(pair, scenario, system, label) as live:
            # The brokers' JVMs have many small requests to get used to, whoever sends them.
            time.sleep(timing.jvm_warm_up)
            began = time.monotonic()
            sizes = [(internal.look(), states.look())]
            while time.monotonic() < began + timing.seconds:
                time.sleep(min(LOOK_SECONDS, max(0.0, began + timing.seconds - time.monotonic())))
                sizes.append((internal.look(), states.look()))
            ended = time.monotonic()
            verdict = live.finish()
            if isinstance(verdict, str):
                return {"wrong": verdict}
            stamps, delays = live.arrivals()
            counted = samples(live.watch.seen, verdict.counts)
            measured = _window(counted, began - live.watch.began, ended - live.watch.began)
            marked = marker_count(measured, live.watch.seen, verdict.markers) * MARKER_BYTES / measured.seconds
    except Failed as failed:
        return {"wrong": str(failed)}
    chosen = sorted(d / 1e6 for s, d in zip(stamps, delays, strict=True) if began <= s / 1e9 < ended)
    grown, state = ((last - first) / (ended - began) for first, last in zip(sizes[0], sizes[-1], strict=True))
    mirrored = measured.records / measured.seconds * scenario.data.record_bytes
    return {
        **costs(measured),
        "commits_per_s": commits(measured, live.watch.seen, verdict.markers),
        "p50_ms": percentile(chosen, 0.5),
        "p99_ms": percentile(chosen, 0.99),
        "p999_ms": percentile(chosen, 0.999),
        "max_ms": chosen[-1],
        "latency_records": len(chosen),
        "histogram": histogram(chosen),
        "series": series(counted),
        "produced_per_s": live.produced["sent"] / live.produced["seconds"],
        "producer_late_ms": live.produced["late_ms"],
        "internal_ratio": (grown + marked) / mirrored,
        "internal_bytes_per_s": grown,
        "marker_bytes_per_s": marked,
        "state_ratio": state / mirrored,
        "peak_rss": live.watch.peak,
        "checked_records": verdict.records,
    }


def _window(counted: Sequence[Sample], began: float, ended: float) -> Window:
    """What was seen between two moments, from change to change. Raises Failed."""
    measured = window([one for one in counted if began <= one.at <= ended], 0.0, ended - began)
    if measured is None:
        raise Failed("nothing became visible while it was measured")
    return measured


def recovery(pair: Pair, scenario: Scenario, system: System, timing: Timing, label: str) -> dict[str, Any]:
    """Seconds from each SIGKILL, with a restart at once, to the arrival of a record that was sent after it."""
    kills = []
    try:
        with stream(pair, scenario, system, label) as live:
            for _ in range(timing.kills):
                live.wait_level()
                time.sleep(BETWEEN_KILLS)
                kills.append(time.monotonic())
                live.running.kill_and_restart()
                live.wait_later(kills[-1], RECOVER_SECONDS)
            live.wait_level()
            verdict = live.finish()
            if isinstance(verdict, str):
                return {"wrong": verdict}
            stamps, delays = live.arrivals()
    except Failed as failed:
        return {"wrong": str(failed)}
    recovered = [recovery_seconds(stamps, delays, round(kill * 1e9)) for kill in kills]
    return {"recovery_s": recovered, "checked_records": verdict.records}


def recovery_seconds(stamps: array[int], delays: array[int], kill: int) -> float:
    """Seconds from a moment (ns) to the first arrival of a record sent after it."""
    return min(s + d for s, d in zip(stamps, delays, strict=True) if s > kill) / 1e9 - kill / 1e9
