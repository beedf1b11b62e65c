"""`make sanitize`: the kernel's tests and the fuzz corpus under AddressSanitizer and UndefinedBehaviorSanitizer.

First it must see a bug: with the planted over-read turned on, the same build and the same tests have to end in a
report. `--quick` makes do with fewer examples of Hypothesis.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

from .variant import ROOT, SKIPPED, CannotCheck, Missing, runtimes, sanitized

PLANTED = "EOMIRROR_PLANTED_OVERREAD"
REPORT = "AddressSanitizer: heap-buffer-overflow"


def environment(folder: Path, preload: str) -> dict[str, str]:
    """An interpreter that loads the sanitized build; every bytes object is a heap block of its own."""
    kept = {name: value for name, value in os.environ.items() if name not in ("LD_PRELOAD", PLANTED)}
    return {
        **kept,
        "LD_PRELOAD": preload,
        "PYTHONPATH": f"{folder}:{ROOT / 'tests'}:{ROOT}",
        "PYTHONMALLOC": "malloc",
        # The interpreter itself never frees everything; what the kernel keeps is measured by checks.replay.
        "ASAN_OPTIONS": "detect_leaks=0:allocator_may_return_null=1:detect_stack_use_after_return=1",
        "UBSAN_OPTIONS": "print_stacktrace=1",
    }


def tests(files: list[str], variables: dict[str, str], *, quiet: bool) -> subprocess.CompletedProcess[str]:
    """pytest on the sanitized build.

    Importing by append keeps the checkout's own package behind it; the sanitizers write to file descriptor 2, which is
    left alone.
    """
    options = ["-p", "no:cacheprovider", "--import-mode=append", "-o", "pythonpath=tests", "--capture=sys", "-x"]
    command = [sys.executable, "-P", "-m", "pytest", *options, *files]
    return subprocess.run(command, cwd=ROOT, env=variables, text=True, check=False, capture_output=quiet)


def main() -> int:
    """0 when the planted bug is reported and nothing else is."""
    began = time.monotonic()
    try:
        variables = environment(sanitized().build(), runtimes("libasan.so", "libubsan.so"))
    except CannotCheck as error:
        print(error)
        return SKIPPED if isinstance(error, Missing) else 1
    if "--quick" in sys.argv:
        variables["EOMIRROR_EXAMPLES"] = "0.3"
    print(f"   built in {time.monotonic() - began:.0f} s", flush=True)
    planted = tests(["tests/test_fastpath_corpus.py"], {**variables, PLANTED: "1"}, quiet=True)
    if planted.returncode == 0 or REPORT not in planted.stdout + planted.stderr:
        print("   a planted over-read was not reported: this check sees nothing")
        print(planted.stdout + planted.stderr)
        return 1
    print("   a planted over-read is reported", flush=True)
    files = sorted(str(path.relative_to(ROOT)) for path in (ROOT / "tests").glob("test_fastpath_*.py"))
    if tests(files, variables, quiet=False).returncode:
        return 1
    replay = [sys.executable, "-P", "-m", "checks.replay"]
    return subprocess.run(replay, cwd=ROOT, env=variables, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
