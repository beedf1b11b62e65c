"""`make test`: lint, types, unit and integration tests in one go; the last line counts `N passed, N failed, N skipped`.

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
from dataclasses import dataclass
from pathlib import Path

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


STEPS = (
    Step("lint", ((str(BIN / "ruff"), "check"), (str(BIN / "ruff"), "format", "--check"))),
    Step("types", ((str(BIN / "mypy"),),)),
    Step("unit", ((sys.executable, "-m", "pytest", "tests"),), tests=True),
    Step("coverage", ((sys.executable, "-m", "checks.lines"),)),
    Step("sanitize", ((sys.executable, "-m", "checks.sanitize", "--quick"),)),
    Step("fuzz", ((sys.executable, "-m", "checks.fuzz", "--seconds=10"),)),
    Step("instructions", ((sys.executable, "-m", "checks.instructions"),)),
    Step("integration", ((sys.executable, "-m", "pytest", "integration"),), frozenset({"java", "maven"}), tests=True),
)


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


def run(step: Step) -> Counts:
    """Runs one step, its output going straight to the terminal."""
    if not step.tests:
        return counts_of_checks([_call(command) for command in step.commands])
    total = Counts()
    for command in step.commands:
        with tempfile.TemporaryDirectory() as folder:
            report = Path(folder) / "report.xml"
            total += counts_of(report, _call((*command, f"--junitxml={report}", "-o", "junit_family=xunit2")))
    return total


def _call(command: tuple[str, ...]) -> int:
    try:
        return subprocess.run(command, cwd=ROOT, check=False).returncode
    except OSError as error:
        print(f"{command[0]}: {error.strerror}", flush=True)
        return 1


def main() -> int:
    """Runs the steps; 0 only if something passed and nothing failed."""
    allowed = {name for name in os.environ.get("ALLOW_SKIP", "").replace(",", " ").split() if name}
    known = {step.name for step in STEPS}.union(*(step.needs for step in STEPS))
    if unknown := allowed - known:
        print(f"ALLOW_SKIP: {', '.join(sorted(unknown))}: no such step or prerequisite")
        print(f"hint: The names are {', '.join(sorted(known))}.")
        return 2
    total = Counts()
    for step in STEPS:
        began = time.monotonic()
        if allowed & (step.needs | {step.name}):
            print(f"-- {step.name}: skipped by name", flush=True)
            total += Counts(skipped=1)
            continue
        print(f"-- {step.name}", flush=True)
        counts = run(step)
        print(f"-- {step.name}: {counts} in {time.monotonic() - began:.0f} s", flush=True)
        total += counts
    print(total, flush=True)
    return 0 if total.passed and not total.failed else 1


if __name__ == "__main__":
    sys.exit(main())
