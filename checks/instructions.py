"""`make instructions`: what the kernel's micro-benchmarks cost in instructions, beside the checked-in baseline.

Counted by callgrind, so a busy machine changes nothing. Fails when a case costs more than the tolerance above its
baseline. Counts of another compiler, Python or library are not comparable: exit 77, which `make test` counts as
skipped.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from .variant import ROOT, SKIPPED, WORK, CannotCheck, compiler, compiler_version

BASELINE = ROOT / "bench" / "instructions.json"
TOLERANCE = 0.1  # where objects lie in memory makes some per cent, and that depends on the folder's name
NOT_OURS = {"memcpy"}


def setting() -> dict[str, str]:
    """What must be equal for two counts to be compared."""
    flags = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    return {
        "machine": platform.machine() + (" avx2" if re.search(r"\bavx2\b", flags) else ""),
        "compiler": compiler_version(),
        "python": f"{platform.python_version()}, {platform.python_compiler()}",
        "libc": " ".join(platform.libc_ver()),
        **{name: importlib.metadata.version(name) for name in ("cython", "cramjam")},
    }


def count() -> dict[str, float]:
    """Instructions per unit of each case. Raises CannotCheck."""
    WORK.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=WORK) as name:
        folder = Path(name)
        library = folder / "callgrind.so"
        build = [*compiler(), "-O1", "-shared", "-fPIC", str(ROOT / "checks/callgrind.c"), "-o", str(library)]
        _call(build, dict(os.environ))
        tool = ["valgrind", "--tool=callgrind", "--instr-atstart=no", f"--callgrind-out-file={folder / 'out'}"]
        kept = {name: os.environ[name] for name in ("HOME", "LD_LIBRARY_PATH", "PATH") if name in os.environ}
        environment = {**kept, "PYTHONHASHSEED": "0", "PYTHONPATH": str(ROOT)}
        _call([*tool, sys.executable, "-P", "-m", "checks.counting", str(library)], environment)
        return per_unit([path.read_text() for path in folder.glob("out.*")])


def _call(command: list[str], environment: dict[str, str]) -> None:
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise CannotCheck(f"{' '.join(command)} failed\n{done.stdout}{done.stderr}")


def per_unit(dumps: list[str]) -> dict[str, float]:
    """From callgrind's dumps, named `case=runs=units`: two runs less one is one run without what surrounds it."""
    totals: dict[str, dict[str, int]] = {}
    units: dict[str, int] = {}
    for dump in dumps:
        trigger = re.search(r"^desc: Trigger: Client Request: (.+)=(\d)=(\d+)$", dump, re.M)
        total = re.search(r"^totals: (\d+)$", dump, re.M)
        if trigger and total:
            name, runs, size = trigger.groups()
            totals.setdefault(name, {})[runs] = int(total[1])
            units[name] = int(size)
    return {
        name: round((runs["2"] - runs["1"]) / units[name], 2)
        for name, runs in sorted(totals.items())
        if name not in NOT_OURS
    }


def worse(baseline: dict[str, float], counts: dict[str, float]) -> list[str]:
    """Names of the cases above their baseline and the tolerance, and of those that only one side has."""
    return sorted(
        name
        for name in baseline.keys() | counts.keys()
        if name not in counts or name not in baseline or counts[name] > baseline[name] * (1 + TOLERANCE)
    )


def accept(counts: dict[str, float]) -> None:
    """Write the baseline."""
    content = {"setting": setting(), "instructions": counts}
    BASELINE.write_text(json.dumps(content, indent=2) + "\n")
    print(f"   written: {BASELINE.relative_to(ROOT)}")


def main() -> int:
    """0 within the tolerance, 1 above it, 77 if there is nothing to compare."""
    accepting = bool(os.environ.get("ACCEPT"))
    if shutil.which("valgrind") is None:
        print("   skipped: valgrind is missing (apt-get install valgrind)")
        return SKIPPED
    baseline = json.loads(BASELINE.read_text()) if BASELINE.exists() else {"setting": {}, "instructions": {}}
    here = setting()
    different = [name for name in here if baseline["setting"].get(name) != here[name]]
    if different and not accepting:
        for name in different:
            print(f"   not comparable: {name} is {here[name]}, the baseline's is {baseline['setting'].get(name)}")
        return SKIPPED
    try:
        counts = count()
    except CannotCheck as error:
        print(error)
        return 1
    known = baseline["instructions"]
    print(f"   {'instructions per record or lookup':34} {'baseline':>10} {'now':>10}")
    for name, now in counts.items():
        before = known.get(name)
        change = f"{100 * (now / before - 1):+6.1f} %" if before else "    new"
        print(f"   {name:34} {before or 0:10.1f} {now:10.1f} {change}")
    if accepting:
        accept(counts)
        return 0
    for name in (above := worse(known, counts)):
        print(f"   {name}: more than {100 * TOLERANCE:.0f} % above its baseline, or only in one of the two")
    if above:
        print("   hint: If that is right, `make instructions ACCEPT=1` makes it the new baseline.")
    return 1 if above else 0


if __name__ == "__main__":
    sys.exit(main())
