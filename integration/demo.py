"""`make demo`: a million records mirrored by a process that is killed again and again, then checked one by one.

The last line of stdout is the verdict; the exit code is 0 only if it ends with "exactly once".
KEEP=1 leaves the clusters up.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

from confluent_kafka import IsolationLevel, KafkaException, TopicPartition
from confluent_kafka.admin import OffsetSpec

from . import oracle, workload
from .cluster import ROOT, Cluster, ClusterError, start_pair, tethered
from .compaction import HELD
from .process import ENTRY, INSTALLED, write_config
from .rawlog import CODECS, Survey, Tails, survey
from .show import Phase, Show

FLOW = "demo"
TOPICS = [topic.name for topic in workload.TOPICS]
KILLS = 5  # at least
OPEN_KILLS = 2  # of them, at least
KILL_TIME = 150.0  # seconds for all kills
START_TIME = 60.0  # seconds from a start to its first commit
PATIENCE = 1.5  # seconds spent on looking for an open transaction before killing anyway


class Failed(Exception):
    """The demo cannot say "exactly once"; the message says why."""


class Interrupted(BaseException):
    """Ctrl-C or SIGTERM."""


@dataclass
class Kills:
    """The kills so far. One counts if records were committed on the target since the last one and the lag was not 0."""

    counted: int = 0
    in_open_transaction: int = 0
    lags: list[int] = field(default_factory=list)

    @property
    def enough(self) -> bool:
        """True when the demo's promise about kills is kept."""
        return self.counted >= KILLS and self.in_open_transaction >= OPEN_KILLS

    def __str__(self) -> str:
        return f"{self.counted} kills ({self.in_open_transaction} in an open transaction)"


class Writer:
    """The workload as a process of its own."""

    def __init__(self, source: Cluster, given: argparse.Namespace, part: str) -> None:
        command = [sys.executable, "-m", "integration.workload", "--bootstrap", source.bootstrap, "--part", part]
        command += ["--records", str(given.records), "--seconds", str(given.seconds), "--seed", str(given.seed)]
        self.progress: dict[str, object] = {"visible": 0, "reached": False, "done": False}
        self._process = subprocess.Popen(
            tethered(command),
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self._reader = threading.Thread(target=self._listen, daemon=True)
        self._reader.start()

    def _listen(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self.progress = json.loads(line)

    @property
    def visible(self) -> int:
        """Records written so far that a read_committed reader gets."""
        return int(str(self.progress.get("visible", 0)))

    @property
    def reached(self) -> bool:
        """True once this part has all its records. Raises Failed if the workload ended without them."""
        if self._process.poll() not in (None, 0) or "failed" in self.progress:
            raise Failed(f"the workload failed: {self.progress.get('failed', self._process.poll())}")
        return bool(self.progress["reached"])

    def finish(self, timeout: float = 60.0) -> int:
        """Ends the workload after what it has begun, and returns the records that it made visible."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise Failed(f"the workload did not end within {timeout:.0f} s") from None
        self._reader.join(10)
        if self._process.returncode != 0 or not self.progress.get("done"):
            raise Failed(f"the workload failed: {self.progress.get('failed', self._process.returncode)}")
        return self.visible

    def kill(self) -> None:
        """Ends it at once."""
        self._process.kill()
        self._process.wait()


class Mirror:
    """One life of `eomirror run demo`."""

    def __init__(self, folder: Path, number: int, config: Path) -> None:
        self.log = folder / f"eomirror-{number}.log"
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                tethered([*ENTRY, "run", FLOW]),
                cwd=ROOT,
                env={**os.environ, **INSTALLED, "EOMIRROR_CONFIG": str(config)},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def check(self) -> None:
        """Raises Failed if the process ended by itself."""
        if (code := self._process.poll()) is not None:
            raise Failed(f"eomirror ended by itself with exit code {code}\n{self.tail()}")

    def kill(self) -> None:
        """SIGKILL."""
        self._process.kill()
        self._process.wait()

    def drain(self, timeout: float = 30.0) -> None:
        """SIGTERM; raises Failed unless it ends by itself with 0."""
        self.check()
        self._process.terminate()
        try:
            code = self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            self.kill()
            raise Failed(f"eomirror did not drain within {timeout:.0f} s of SIGTERM\n{self.tail()}") from None
        if code != 0:
            raise Failed(f"eomirror exited {code} after SIGTERM, not 0\n{self.tail()}")

    def tail(self, lines: int = 15) -> str:
        """The end of its log."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])


class Demo:
    """The demo from the first broker to the verdict."""

    def __init__(self, given: argparse.Namespace, show: Show, folder: Path, keep: bool) -> None:
        self.given = given
        self.show = show
        self.folder = folder
        self.keep = keep
        self.random = random.Random(given.seed)
        self.kills = Kills()
        self.config = folder / "eomirror.yaml"
        self.clusters: tuple[Cluster, ...] = ()
        self.writer: Writer | None = None
        self.mirror: Mirror | None = None
        self._lives = 0

    @property
    def source(self) -> Cluster:
        """The cluster that is written to."""
        return self.clusters[0]

    @property
    def target(self) -> Cluster:
        """The cluster that eomirror writes to."""
        return self.clusters[1]

    # -- the story --------------------------------------------------------------------------------------------------

    def run(self) -> str:
        """All phases; returns the verdict. Raises Failed."""
        self._start()
        self._write_backlog()
        self._look_at_source()
        # From here on both logs only grow, so their tails can be followed.
        self.at_source = Tails(self.source.log_dir, TOPICS)
        self.at_target = Tails(self.target.log_dir, TOPICS)
        self._mirror()
        return self._check()

    def _start(self) -> None:
        with self.show.phase("clusters") as phase:
            self.clusters = start_pair(self.folder, tether=not self.keep)
            workload.create_topics(self.source)
            # The copy of the compacted topic exists beforehand: the target's cleaner leaves it alone until the check.
            compacted = next(topic for topic in workload.TOPICS if topic.name == workload.COMPACTED)
            held = {"cleanup.policy": "compact", **HELD}
            self.target.create_topic(compacted.name, compacted.partitions, held)
            write_config(
                self.config,
                clusters={"source": self.source.bootstrap, "target": self.target.bootstrap},
                flow=FLOW,
                topics={"include": TOPICS},
            )
            phase.update(detail=f"source {self.source.bootstrap}, target {self.target.bootstrap}")

    def _write_backlog(self) -> None:
        goal = sum(workload.goals(self.given.records, "backlog").values())
        with self.show.phase("backlog", goal) as phase:
            self.writer = Writer(self.source, self.given, "backlog")
            while not self.writer.reached:
                phase.update(self.writer.visible, f"{self.writer.visible:,} records")
                time.sleep(0.1)
            visible = self.writer.finish()
            phase.update(
                visible, f"{visible:,} records in {len(TOPICS)} topics, {self.writer.progress['aborted']:,} aborted"
            )

    def _look_at_source(self) -> None:
        with self.show.phase("compaction") as phase:
            workload.wait_until_compacted(self.source)
            phase.update(detail=f"{workload.COMPACTED} compacted, then held for the comparison")
        with self.show.phase("source log") as phase:
            cases = self._hard_cases()
            codecs = ", ".join(f"{cases[f'codec {codec}']:,} {codec}" for codec in CODECS)
            phase.update(
                detail=f"batches: {codecs}; {cases['tiny batches']:,} tiny, {cases['LogAppendTime batches']:,}"
                f" LogAppendTime, {cases['aborted batches']:,} aborted, {cases['gaps inside batches']:,} with gaps,"
                f" {cases['gaps between batches']:,} gaps between them"
            )

    def _hard_cases(self) -> Counter[str]:
        """How often the source's segment files hold each hard case. Raises Failed if one is not there."""
        whole = Survey()
        for topic in workload.TOPICS:
            folders = [self.source.log_dir / f"{topic.name}-{partition}" for partition in range(topic.partitions)]
            cases = survey(folders, sample=10).cases
            if topic.every_batch and cases[topic.every_batch] != cases["batches"]:
                raise Failed(
                    f"{topic.name}: {cases[topic.every_batch]} {topic.every_batch} of {cases['batches']} batches"
                )
            whole.cases.update(cases)
        if missing := whole.missing(workload.HARD_CASES):
            raise Failed(f"the source log lacks {', '.join(missing)}")
        return whole.cases

    def _mirror(self) -> None:
        total = sum(sum(workload.goals(self.given.records, part).values()) for part in ("backlog", "live"))
        with self.show.phase("mirror", total) as phase:
            self.writer = Writer(self.source, self.given, "live")
            self._mirror_and_kill(phase)
            self.writer.finish()
            expected = self._settled_source()
            phase.update(total=expected)
            deadline = time.monotonic() + 60
            assert self.mirror is not None
            while (arrived := self._progress(phase)) < expected:
                self.mirror.check()
                if time.monotonic() > deadline:
                    raise Failed(f"not caught up: {arrived:,} of {expected:,} records after 60 s\n{self.mirror.tail()}")
                time.sleep(0.1)
            self.mirror.drain()
            phase.update(
                arrived,
                f"{arrived:,} records, {self.kills}, lag at the kills {min(self.kills.lags):,}"
                f" to {max(self.kills.lags):,} records, caught up, drained",
            )

    def _settled_source(self) -> int:
        """Committed records of the source once the markers of its last transactions are written too."""
        deadline = time.monotonic() + 30
        while True:
            expected = self.at_source.advance()
            if not self.at_source.open_records:
                return expected
            if time.monotonic() > deadline:
                raise Failed(f"{self.at_source.open_records} records of the source are still in open transactions")
            time.sleep(0.02)

    def _mirror_and_kill(self, phase: Phase) -> None:
        """Kills and restarts until the kills are enough and the workload has its records; leaves eomirror running."""
        assert self.writer is not None
        deadline = time.monotonic() + KILL_TIME
        at_last_kill = 0
        self._begin_life()
        while not (self.kills.enough and self.writer.reached):
            if time.monotonic() > deadline:
                raise Failed(f"only {self.kills} within {KILL_TIME:.0f} s")
            self._wait_for_commits(phase, at_last_kill)
            self._rest(phase, self.random.uniform(0.3, 4.0))
            lag, committed = self._hunt(phase, at_last_kill)
            assert self.mirror is not None
            self.mirror.kill()
            is_open = self._open_transaction()
            if lag > 0 and committed > at_last_kill:
                self.kills.counted += 1
                self.kills.in_open_transaction += is_open
                self.kills.lags.append(lag)
            # Looked at after the kill has settled: what this life still committed is no work of the next one.
            at_last_kill = self.at_target.advance()
            self._begin_life()

    def _begin_life(self) -> None:
        self._lives += 1
        self.mirror = Mirror(self.folder, self._lives, self.config)

    def _wait_for_commits(self, phase: Phase, before: int) -> None:
        """Until the target holds more committed records than `before`."""
        assert self.mirror is not None
        deadline = time.monotonic() + START_TIME
        while self._progress(phase) <= before:
            self.mirror.check()
            if time.monotonic() > deadline:
                raise Failed(f"nothing committed within {START_TIME:.0f} s of a start\n{self.mirror.tail()}")
            time.sleep(0.05)

    def _rest(self, phase: Phase, seconds: float) -> None:
        """Lets it work for a while."""
        assert self.mirror is not None
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            self.mirror.check()
            self._progress(phase)
            time.sleep(0.05)

    def _hunt(self, phase: Phase, at_last_kill: int) -> tuple[int, int]:
        """Returns (lag, committed on the target) at a moment for a kill: there is lag, and in every second life an open
        transaction, if one shows in time.
        """
        assert self.mirror is not None
        patience = time.monotonic() + (PATIENCE if self._lives % 2 else 0.0)
        while True:
            # Source first: what is written between the two looks makes the lag smaller than it is, never larger.
            written = self.at_source.advance()
            committed = self.at_target.advance()
            lag = written - committed
            late = time.monotonic() > patience
            if lag > 0 and committed > at_last_kill and (late or self.at_target.open_records):
                return lag, committed
            if time.monotonic() > patience + 10:
                return lag, committed
            self.mirror.check()
            phase.update(committed)

    def _progress(self, phase: Phase) -> int:
        assert self.writer is not None
        committed = self.at_target.advance()
        lag = self.at_source.advance() - committed
        phase.update(committed, f"{self.kills.counted} kills, {self.kills.in_open_transaction} open, lag {lag:,}")
        return committed

    def _open_transaction(self) -> bool:
        """True if a data partition of the target has records behind its last stable offset, and they stay there.

        The kill may have come after EndTxn was sent; then the markers are written now and the second look sees it.
        """
        first = self._unstable()
        time.sleep(0.05)
        return bool(first & self._unstable())

    def _unstable(self) -> set[tuple[str, int, int]]:
        """(topic, partition, last stable offset) of the target's data partitions in which a transaction is open."""
        known = self.target.topics()
        wanted = [TopicPartition(topic, p) for topic in TOPICS for p in range(known.get(topic, 0))]
        ends = []
        for isolation in (IsolationLevel.READ_COMMITTED, IsolationLevel.READ_UNCOMMITTED):
            latest = dict.fromkeys(wanted, OffsetSpec.latest())
            futures = self.target.admin.list_offsets(latest, isolation_level=isolation, request_timeout=10)
            ends.append({(tp.topic, tp.partition): future.result(15).offset for tp, future in futures.items()})
        stable, high = ends
        return {(*place, offset) for place, offset in stable.items() if offset < high[place]}

    def _check(self) -> str:
        ends = oracle.bounds(self.source.bootstrap, TOPICS)
        with self.show.phase("check", len(ends)) as phase:
            seen: list[oracle.Found] = []

            def note(found: oracle.Found) -> None:
                seen.append(found)
                phase.update(len(seen), f"{sum(one.records for one in seen):,} records compared")

            report = oracle.compare(
                self.source.bootstrap, self.target.bootstrap, TOPICS, source_bounds=ends, processes=2, progress=note
            )
            records = report.total("records")
            phase.update(len(seen), f"{records:,} records compared one by one in {len(seen)} partitions")
        if not report.ok:
            self.show.line(report.text())
        return verdict(report, self.kills, self.given.records)

    # -- the end ----------------------------------------------------------------------------------------------------

    def stop(self) -> None:
        """Stops what runs and removes what was written; with KEEP=1 the clusters stay."""
        if self.mirror is not None:
            self.mirror.kill()
        if self.writer is not None:
            self.writer.kill()
        if self.keep and self.clusters:
            self._tell_how_to_look()
            return
        for cluster in self.clusters:
            cluster.kill()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _tell_how_to_look(self) -> None:
        config = self.config
        python = os.path.relpath(sys.executable, Path.cwd())
        console = f"java -cp '{ROOT}/.work/kafka/libs/*' org.apache.kafka.tools.consumer.ConsoleConsumer"
        pids = " ".join(str(cluster.pid) for cluster in self.clusters)
        for text in (
            f"the clusters are up: source {self.source.bootstrap}, target {self.target.bootstrap}",
            f"  {python} -m eomirror.cli status -c {config}",
            f"  {python} -m eomirror.cli lag -c {config}",
            f"  {python} -m eomirror.cli run {FLOW} -c {config}",
            f"  {console} --bootstrap-server {self.target.bootstrap} --topic orders --from-beginning"
            " --isolation-level read_committed --formatter-property print.headers=true --max-messages 10",
            f"  {python} -m integration.oracle --source {self.source.bootstrap} --target {self.target.bootstrap} "
            + " ".join(TOPICS),
            f"stop and remove them: kill {pids}; rm -r {self.folder}",
        ):
            self.show.line(text)


def verdict(report: oracle.Report, kills: Kills, wanted: int) -> str:
    """The last line; raises Failed with the true one if it cannot say "exactly once"."""
    figures = ", ".join(f"{report.total(name)} {name}" for name in ("lost", "duplicated", "reordered"))
    line = f"{report.total('records')} records, {kills}, {figures}"
    if not report.ok:
        raise Failed(f"{line}, {report.total('changed')} changed, {report.total('foreign')} foreign: NOT exactly once")
    if report.total("records") < wanted:
        raise Failed(f"{line}, but {wanted} records were to be mirrored")
    if not kills.enough:
        raise Failed(f"{line}, but {KILLS} kills ({OPEN_KILLS} in an open transaction) were to happen")
    return f"demo: {line}, exactly once"


@contextmanager
def interruptible() -> Iterator[None]:
    """SIGINT, SIGTERM and SIGHUP end the block with Interrupted, once; more of them disturb nothing that follows."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

    def interrupt(number: int, _frame: FrameType | None) -> None:
        for one in numbers:
            signal.signal(one, signal.SIG_IGN)
        raise Interrupted(signal.Signals(number).name)

    for number in numbers:
        signal.signal(number, interrupt)
    try:
        yield
    finally:
        for number in numbers:
            signal.signal(number, signal.SIG_IGN)


def main() -> int:
    """Runs the demo; the last line printed is its verdict."""
    parser = argparse.ArgumentParser(prog="demo", description=__doc__.splitlines()[0])
    parser.add_argument("--records", type=int, default=1_000_000)
    parser.add_argument("--seconds", type=float, default=60.0, help="how long the workload goes on while it mirrors")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6))
    given = parser.parse_args()
    show = Show()
    parent = ROOT / ".work"
    parent.mkdir(exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="demo-", dir=parent))
    demo = Demo(given, show, folder, keep=bool(os.environ.get("KEEP")))
    try:
        with interruptible():
            last, code = demo.run(), 0
    except Interrupted as interrupted:
        last, code = f"demo: interrupted by {interrupted}", 130
    except (Failed, ClusterError, KafkaException, oracle.CheckError, TimeoutError) as error:
        cause, _, more = str(error).partition("\n")
        if more:
            show.line(more)
        last, code = f"demo: {cause}", 1
    finally:
        demo.stop()
    show.line(last)
    return code


if __name__ == "__main__":
    sys.exit(main())
