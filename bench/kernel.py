"""`make bench-kernel`: the kernel on one core, beside memcpy and the CRC alone, in interleaved rounds.

Prints a table and writes it with machine, versions and command to bench/results/kernel-<date>.txt and .json.
"""

from __future__ import annotations

import datetime
import gc
import importlib.metadata
import json
import os
import platform
import shlex
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from eomirror import _fastpath as kernel

from .cases import Case, Scale, cases

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "bench" / "results"
SCALE = Scale(batches=40, singles=20_000, runs=10_000_000, lookups=100_000)
ROUNDS = 21
SAMPLE_NS = 20_000_000  # what is measured in one round of a case, at least


def sample(case: Case) -> float:
    """CPU time in ns per unit."""
    spent = times = 0
    while spent < SAMPLE_NS:
        argument = case.prepare()
        # The thread's own time: what other processes do meanwhile is not counted.
        began = time.thread_time_ns()
        result = case.run(argument)
        spent += time.thread_time_ns() - began
        del result
        times += 1
    return spent / (times * case.count)


def measure(measured: list[Case]) -> dict[str, list[float]]:
    """Every case once per round, so that a slow second of the machine meets all of them alike."""
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    gc.disable()
    for case in measured:
        sample(case)
    samples: dict[str, list[float]] = {case.name: [] for case in measured}
    for _ in range(ROUNDS):
        for case in measured:
            samples[case.name].append(sample(case))
    return samples


def row(case: Case, samples: list[float]) -> dict[str, Any]:
    """One line of the result: ns per unit, GB/s of what went in, and the goal."""
    median = statistics.median(samples)
    return {
        "name": case.name,
        "unit": case.unit,
        "ns": round(median, 2),
        "ns_min": round(min(samples), 2),
        "ns_max": round(max(samples), 2),
        "gigabytes_per_s": round(case.size / case.count / median, 2) if case.size else None,
        "goal_ns": case.goal,
        "reached": None if case.goal is None else median < case.goal,
    }


def machine() -> dict[str, str]:
    """Where this ran, and with what."""
    cpu = next((line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")), "")
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") >> 30
    compiler = subprocess.run([os.environ.get("CC") or "cc", "--version"], capture_output=True, text=True, check=False)
    commit = subprocess.run(["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True)
    versions = [f"{name} {importlib.metadata.version(name)}" for name in ("cython", "cramjam", "eomirror")]
    return {
        "machine": f"{cpu.partition(': ')[2] or platform.machine()}, {os.cpu_count()} CPUs, {memory} GiB",
        "system": f"{platform.system()} {platform.release()}, {' '.join(platform.libc_ver())}",
        "versions": ", ".join([f"CPython {platform.python_version()}", *versions]),
        "compiler": compiler.stdout.partition("\n")[0],
        "crc32c": kernel.crc32c_implementation(),
        "commit": commit.stdout.strip(),
        "load": "{:.2f} {:.2f} {:.2f} before the run".format(*os.getloadavg()),
        "command": shlex.join(["python", "-m", "bench.kernel", *sys.argv[1:]]),
    }


def table(about: dict[str, str], rows: list[dict[str, Any]]) -> str:
    """The result for people."""
    lines = [f"{name + ':':10} {value}" for name, value in about.items()]
    lines += ["", f"CPU time on one core, records of 200 bytes, median (min..max) of {ROUNDS} interleaved rounds", ""]
    lines.append(f"{'':20} {'ns':>8}   {'min..max':17} {'per':8} {'GB/s':>6} {'goal':>7}  reached")
    for line in rows:
        speed = "" if line["gigabytes_per_s"] is None else f"{line['gigabytes_per_s']:.2f}"
        goal = "" if line["goal_ns"] is None else f"< {line['goal_ns']:.0f}"
        reached = {None: "", True: "yes", False: "NO"}[line["reached"]]
        spread = f"{line['ns_min']:.1f}..{line['ns_max']:.1f}"
        figures = f"{line['ns']:8.1f}   {spread:17} {line['unit']:8} {speed:>6} {goal:>7}  {reached}"
        lines.append(f"{line['name']:20} {figures}".rstrip())
    return "\n".join(lines) + "\n"


def main() -> int:
    """Always 0: the clock fails nothing."""
    about = machine()
    measured = cases(SCALE)
    samples = measure(measured)
    rows = [row(case, samples[case.name]) for case in measured]
    text = table(about, rows)
    print(text, end="")
    stem = RESULTS / f"kernel-{datetime.datetime.now(datetime.UTC):%Y-%m-%d}"
    RESULTS.mkdir(exist_ok=True)
    stem.with_suffix(".txt").write_text(text)
    stem.with_suffix(".json").write_text(json.dumps({**about, "results": rows}, indent=2) + "\n")
    print(f"written: {stem.relative_to(ROOT)}.txt and .json")
    return 0


if __name__ == "__main__":
    sys.exit(main())
