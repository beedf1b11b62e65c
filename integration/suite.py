"""`make test`: lint, types, unit and integration tests in one go; the last line counts `N passed, N failed, N skipped`.

What needs no broker goes first, two steps side by side, each printed whole when it ends. The integration tests follow
in three processes, each with clusters of its own; they wait for brokers more than they compute.

A step whose tool is missing fails. `ALLOW_SKIP=name[,name]` skips a step by its own name or by the name of a
prerequisite that it needs (see `make prereqs`), and counts it as skipped. So is a check that says by exit 77 that this
machine cannot make it.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from checks.variant import SKIPPED

from .cluster import ROOT

BIN = Path(sys.executable).parent


@dataclass(frozen=True)
class Step:
    """One part of the suite: its commands, and the prerequisites without which it cannot run."""

    name: str
    commands: tuple[tuple[str, ...], ...]
    needs: frozenset[str] = frozenset()
    tests: bool = False  # pytest, whose own counts are added
    alone: bool = False  # after all others, straight to the terminal


@dataclass(frozen=True)
class Counts:
    """What the last line says."""

    passed: int = 0
    failed: int = 0
    skipped: int = 0

    def __add__(self, other: Counts) -> Counts:
        return Counts(self.passed + other.passed, self.failed + other.failed, self.skipped + other.skipped)

    def __str__(self) -> str:
        return f"{self.passed} passed, {self.failed} failed, {self.skipped} skipped"


PYTEST = (sys.executable, "-m", "pytest")
STEPS = (
    Step("unit", ((*PYTEST, "tests"),), tests=True),
    Step("sanitize", ((sys.executable, "-m", "checks.sanitize", "--quick"),)),
    Step("coverage", ((sys.executable, "-m", "checks.lines"),)),
    Step("types", ((str(BIN / "mypy"),),)),
    Step("lint", ((str(BIN / "ruff"), "check"), (str(BIN / "ruff"), "format", "--check"))),
    Step("fuzz", ((sys.executable, "-m", "checks.fuzz", "--seconds=10"),)),
    Step("instructions", ((sys.executable, "-m", "checks.instructions"),)),
    Step(
        "integration",
        ((*PYTEST, "integration", "--numprocesses=3", "--dist=worksteal"),),
        frozenset({"java", "maven"}),
        tests=True,
        alone=True,
    ),
)
SIDE_BY_SIDE = 2
MOST_SECONDS = 50 * 60  # of one command; the tests have limits of their own


def counts_of(report: Path, code: int) -> Counts:
    """The counts of a JUnit report. No report, no tests, or a failure beyond the tests: one failure."""
    try:
        suites = ElementTree.parse(report).getroot().iter("testsuite")
    except (OSError, ElementTree.ParseError):
        return Counts(failed=1)
    total = Counts()
    for suite in suites:
        tests, skipped = int(suite.get("tests", 0)), int(suite.get("skipped", 0))
        failed = int(suite.get("failures", 0)) + int(suite.get("errors", 0))
        total += Counts(max(0, tests - failed - skipped), failed, skipped)
    if (code != 0 or total == Counts()) and total.failed == 0:
        total += Counts(failed=1)
    return total


def counts_of_checks(codes: list[int]) -> Counts:
    """The counts of a step that is not pytest: one of each kind, by the exit codes of its commands."""
    if set(codes) - {0, SKIPPED}:
        return Counts(failed=1)
    return Counts(skipped=1) if SKIPPED in codes else Counts(passed=1)


def run(step: Step, output: IO[bytes] | None = None) -> Counts:
    """Runs one step, its output going to that file, by default to the terminal."""
    began = time.monotonic()
    total = Counts()
    if step.tests:
        for command in step.commands:
            with tempfile.TemporaryDirectory() as folder:
                report = Path(folder) / "report.xml"
                code = _call((*command, f"--junitxml={report}", "-o", "junit_family=xunit2"), output)
                total += counts_of(report, code)
    else:
        total = counts_of_checks([_call(command, output) for command in step.commands])
    _say(f"-- {step.name}: {total} in {time.monotonic() - began:.0f} s", output)
    return total


def side_by_side(steps: Iterable[Step]) -> Counts:
    """Runs steps two at a time, and prints what each has written when it ends."""

    def captured(step: Step) -> tuple[Counts, bytes]:
        with tempfile.TemporaryFile() as output:
            counts = run(step, output)
            output.seek(0)
            return counts, output.read()

    total = Counts()
    with ThreadPoolExecutor(SIDE_BY_SIDE) as pool:
        for done in as_completed([pool.submit(captured, step) for step in steps]):
            counts, text = done.result()
            sys.stdout.buffer.write(text)
            sys.stdout.flush()
            total += counts
    return total


def _call(command: tuple[str, ...], output: IO[bytes] | None) -> int:
    try:
        return subprocess.run(
            command, cwd=ROOT, check=False, stdout=output, stderr=output, timeout=MOST_SECONDS
        ).returncode
    except subprocess.TimeoutExpired:
        _say(f"{command[0]}: killed, for it took longer than {MOST_SECONDS // 60} minutes", output)
        return 1
    except OSError as error:
        _say(f"{command[0]}: {error.strerror}", output)
        return 1


def _say(text: str, output: IO[bytes] | None) -> None:
    if output is None:
        print(text, flush=True)
    else:
        output.write(text.encode() + b"\n")
        output.flush()


def main() -> int:
    """Runs the steps; 0 only if something passed and nothing failed."""
    allowed = {name for name in os.environ.get("ALLOW_SKIP", "").replace(",", " ").split() if name}
    known = {step.name for step in STEPS}.union(*(step.needs for step in STEPS))
    if unknown := allowed - known:
        print(f"ALLOW_SKIP: {', '.join(sorted(unknown))}: no such step or prerequisite")
        print(f"hint: The names are {', '.join(sorted(known))}.")
        return 2
    left_out = [step for step in STEPS if allowed & (step.needs | {step.name})]
    for step in left_out:
        print(f"-- {step.name}: skipped by name", flush=True)
    wanted = [step for step in STEPS if step not in left_out]
    together = [step for step in wanted if not step.alone]
    print(f"-- {', '.join(step.name for step in together)}", flush=True)
    total = side_by_side(together) + Counts(skipped=len(left_out))
    for step in wanted:
        if step.alone:
            print(f"-- {step.name}", flush=True)
            total += run(step)
    print(total, flush=True)
    return 0 if total.passed and not total.failed else 1


if __name__ == "__main__":
    sys.exit(main())
