"""`make fuzz`: the kernel's targets under libFuzzer and the sanitizers, guided by coverage, for so many seconds in all.

First it must find a bug: the planted over-read, from the checked-in seeds alone, within a minute. What is found later
is kept in .work/fuzz/found.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from .sanitize import PLANTED, REPORT, environment
from .variant import ROOT, SKIPPED, WORK, CannotCheck, Missing, sanitized

sys.path[:0] = [str(ROOT / "tests")]
from fuzztargets import CORPUS, TARGETS  # noqa: E402

HOME = WORK / "fuzz"
SITE = HOME / "site"
LOCK = ROOT / "requirements-fuzz.lock"
# One allocation may be the largest payload that is unpacked, and what a re-encode may add to it.
PROOF_SECONDS = 60  # the planted bug is found in 10
MEMORY = ("-malloc_limit_mb=700", "-rss_limit_mb=3072")


@dataclass(frozen=True)
class Outcome:
    """One run of one target."""

    executions: int
    edges: int
    code: int
    output: str


def fuzzer() -> str:
    """Install atheris into a folder of its own; returns the runtime to preload, sanitizers and libFuzzer in one."""
    runtime, stamp = SITE / "asan_with_fuzzer.so", HOME / "locked"
    if not runtime.exists() or not stamp.exists() or stamp.read_bytes() != LOCK.read_bytes():
        shutil.rmtree(SITE, ignore_errors=True)
        options = [
            "--disable-pip-version-check",
            "-q",
            "--require-hashes",
            "--only-binary=:all:",
            "--target",
            str(SITE),
        ]
        command = [sys.executable, "-m", "pip", "install", *options, "-r", str(LOCK)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode or not runtime.exists():
            raise Missing(
                f"{done.stdout}{done.stderr}\natheris is missing: it could not be installed for this Python\n"
                "hint: PyPI has it for CPython 3.11 to 3.13 on x86-64 Linux; any other check works without it."
            )
        stamp.write_bytes(LOCK.read_bytes())
    return str(runtime)


def run(target: str, seconds: int, variables: dict[str, str], grown: Path) -> Outcome:
    """One target for some seconds; it begins with its seeds and what `grown` holds, and adds to the latter."""
    found = HOME / "found"
    for folder in (grown, found):
        folder.mkdir(parents=True, exist_ok=True)
    options = [f"-max_total_time={seconds}", "-timeout=20", "-max_len=8192", "-print_final_stats=1", *MEMORY]
    prefix = f"-artifact_prefix={found}/{target}-"
    command = [sys.executable, "-P", "-m", "checks.fuzzing", target, *options, prefix, str(grown), str(CORPUS / target)]
    done = subprocess.run(command, cwd=ROOT, env=variables, capture_output=True, text=True, check=False)
    output = done.stdout + done.stderr
    executions = re.findall(r"^stat::number_of_executed_units: (\d+)", output, re.M) or re.findall(
        r"^#(\d+)", output, re.M
    )
    edges = [int(number) for number in re.findall(r"cov: (\d+)", output)]
    return Outcome(int(executions[-1]) if executions else 0, max(edges, default=0), done.returncode, output)


def prove(variables: dict[str, str]) -> bool:
    """Whether the planted over-read is found in time."""
    began = time.monotonic()
    for target in ("pack", "fetch_response"):
        for folder in ("found", "proof"):
            shutil.rmtree(HOME / folder, ignore_errors=True)
        outcome = run(target, PROOF_SECONDS, {**variables, PLANTED: "1"}, HOME / "proof")
        if outcome.code == 0 or REPORT not in outcome.output:
            print(f"   {target}: a planted over-read was not found in {PROOF_SECONDS} s: this check sees nothing")
            print(outcome.output[-3000:])
            return False
        spent = time.monotonic() - began
        print(f"   {target}: planted over-read found after {outcome.executions} executions, {spent:.0f} s", flush=True)
    shutil.rmtree(HOME / "found", ignore_errors=True)
    return True


def main() -> int:
    """0 when the planted bug was found and no other."""
    arguments = argparse.ArgumentParser(prog="checks.fuzz", description="Fuzz the kernel, guided by coverage.")
    arguments.add_argument("--seconds", type=int, default=60, help="for all targets together")
    total: int = arguments.parse_args().seconds
    try:
        preload = fuzzer()
        variables = environment(sanitized().build(), preload)
    except CannotCheck as error:
        print(error)
        return SKIPPED if isinstance(error, Missing) else 1
    variables["PYTHONPATH"] += f":{SITE}"
    if not prove(variables):
        return 1
    executions = edges = failed = 0
    for target in TARGETS:
        outcome = run(target, max(1, total // len(TARGETS)), variables, HOME / "corpus" / target)
        executions += outcome.executions
        edges += outcome.edges
        print(f"   {target:15} {outcome.executions:9} executions {outcome.edges:6} edges", flush=True)
        if outcome.code or not outcome.edges:
            failed += 1
            print(outcome.output[-6000:])
            show(target)
    print(f"   {len(TARGETS)} targets: {executions} executions, {edges} edges, {failed} with findings")
    return 1 if failed else 0


def show(target: str) -> None:
    """How to see a finding again."""
    for path in sorted((HOME / "found").glob(f"{target}-*")):
        print(f"   kept: {path.relative_to(ROOT)}")
        print("   hint: Copy it into tests/corpus and run `make sanitize`.")


if __name__ == "__main__":
    sys.exit(main())
