"""Where eomirror's time goes in a scenario: Python and compiled code together, then with the operating system.

    python -m bench.profile batches-1
    python -m bench.profile latency-1k --seconds 20

py-spy samples the Python and native stacks together; it is installed on demand into an environment of its own under
.work. perf, where the machine has it, samples once more and also sees the operating system. The stacks stay in
.work/bench/profile-<scenario>.raw, one per line, as flame graphs want them.
"""

from __future__ import annotations

import argparse
import contextlib
import re
import shutil
import subprocess
import sys
import tempfile
import time
import venv
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from checks.variant import WORK
from integration.cluster import ROOT, ClusterError, start_pair

from . import live
from .mirror import BROKERS, chosen
from .peer import SYSTEMS
from .prepare import prepare
from .rounds import START_SECONDS, Pair
from .scenarios import EOMIRROR, Scenario
from .watch import Failed, Watch

PY_SPY = "py-spy==0.4.3"
RATE = 250  # samples per second
TOP = 25
WARM_UP = 4.0  # seconds
# Where a thread that waits is found: py-spy takes it for busy while it unwinds native stacks.
WAITS = re.compile(r"(poll|select|epoll_wait|clock_nanosleep|pthread_cond_\w+|sem_\w+|0x[0-9a-f]+) \(libc\.so")


def py_spy() -> Path:
    """The command, installed if it is not there yet. Raises subprocess.CalledProcessError."""
    folder = WORK / "py-spy"
    command = folder / "bin" / "py-spy"
    if not command.exists():
        venv.create(folder, with_pip=True, clear=True)
        install = [str(folder / "bin" / "python"), "-m", "pip", "-q", "--disable-pip-version-check", "install", PY_SPY]
        subprocess.run(install, check=True)
    return command


def parse_stacks(text: str) -> list[tuple[list[str], int]]:
    """Lines of `outermost;...;innermost count` as (names of functions with their file, samples), without what waits."""
    found = []
    for line in text.splitlines():
        frames, _, count = line.rpartition(" ")
        # Without the line number all samples of a function count together.
        names = [re.sub(r":\d+\)$", ")", frame) for frame in frames.split(";")]
        if count.isdigit() and not WAITS.match(names[-1]):
            found.append((names, int(count)))
    return found


def top(stacks: list[tuple[list[str], int]], many: int = TOP) -> list[tuple[str, float, float]]:
    """(function, share of the samples in itself, share with what it calls), those with the most in themselves first."""
    own: Counter[str] = Counter()
    whole: Counter[str] = Counter()
    for frames, count in stacks:
        own[frames[-1]] += count
        for name in set(frames):
            whole[name] += count
    total = sum(own.values()) or 1
    return [(name, count / total, whole[name] / total) for name, count in own.most_common(many)]


def table(rows: list[tuple[str, float, float]]) -> str:
    """The rows of `top` for people."""
    lines = ["   self  with callees  function"]
    lines += [f"  {own:5.1%}         {whole:5.1%}  {name}" for name, own, whole in rows]
    return "\n".join(lines)


@contextmanager
def _at_work(pair: Pair, scenario: Scenario, seconds: float) -> Iterator[int]:
    """The process id of an eomirror that has been busy with the scenario for a while."""
    system = SYSTEMS[EOMIRROR]
    if scenario.kind != "throughput":
        with live.stream(pair, scenario, system, scenario.name) as streaming:
            time.sleep(WARM_UP)
            yield streaming.running.pid
        return
    prepare(pair.source, "orders", scenario.data, round(scenario.rate * (WARM_UP + seconds)))
    running = system.start(pair.task(scenario, "orders", scenario.name))
    watch = Watch(running, pair.source, pair.target, "orders", scenario.data.partitions, 1.0)
    try:
        watch.wait_visible(START_SECONDS)
        time.sleep(WARM_UP)
        yield running.pid
    finally:
        watch.stop()
        running.kill()


def _sample(pid: int, seconds: float, out: Path) -> None:
    command = [str(py_spy()), "record", "--native", "--pid", str(pid), "--duration", f"{seconds:.0f}"]
    command += ["--rate", str(RATE), "--format", "raw", "--output", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if not out.exists():
        raise Failed(f"py-spy failed\n{done.stdout}{done.stderr}")


def _perf(pid: int, seconds: float, folder: Path) -> str:
    """perf's flat profile, or why there is none."""
    if shutil.which("perf") is None:
        return "no perf\nhint: On Debian the package linux-perf gives it."
    data = str(folder / "perf.data")
    record = ["perf", "record", "-q", "-e", "cpu-clock", "-F", str(RATE), "-p", str(pid), "-o", data]
    done = subprocess.run([*record, "--", "sleep", f"{seconds:.0f}"], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        return f"perf record failed\n{done.stderr.strip()}"
    report = ["perf", "report", "-i", data, "--stdio", "-q", "--sort", "dso,symbol", "--percent-limit", "0.7"]
    told = subprocess.run(report, capture_output=True, text=True, check=False).stdout
    return "\n".join(line.rstrip() for line in told.splitlines() if line.strip())


def main() -> int:
    """Profiles one scenario."""
    parser = argparse.ArgumentParser(prog="bench.profile", description=__doc__.splitlines()[0])
    parser.add_argument("scenario")
    parser.add_argument("--seconds", type=float, default=10.0, help="of each of the two profiles")
    given = parser.parse_args()
    (scenario,) = chosen([given.scenario], [EOMIRROR])
    WORK.joinpath("bench").mkdir(parents=True, exist_ok=True)
    out = WORK / "bench" / f"profile-{scenario.name}.raw"
    out.unlink(missing_ok=True)
    py_spy()
    with tempfile.TemporaryDirectory(prefix="profile-", dir=WORK) as name, contextlib.ExitStack() as stack:
        try:
            source, target = start_pair(name, quick=False, overrides=BROKERS)
            stack.callback(source.kill)
            stack.callback(target.kill)
            pair = Pair(source, target, Path(name) / "rounds")
            pid = stack.enter_context(_at_work(pair, scenario, 2 * given.seconds + 2))
            _sample(pid, given.seconds, out)
            system = _perf(pid, given.seconds, Path(name))
        except (ClusterError, Failed) as error:
            print(f"profile: {error}")
            return 1
    stacks = parse_stacks(out.read_text())
    busy = sum(count for _, count in stacks) / RATE / given.seconds
    print(f"{scenario.name}: {scenario.title}\n\npy-spy: {busy:.2f} cores busy ({out.relative_to(ROOT)})")
    print(table(top(stacks)))
    print(f"\nperf, the operating system included\n{system}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
