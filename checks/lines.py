"""`make coverage`: which lines of the kernel its tests reach, by file, from a build whose every line reports itself.

Fails below 95 %. Cython's line tracing works with CPython 3.11 (`linetrace`, plugin Cython.Coverage); elsewhere this is
exit 77, which `make test` counts as skipped.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from .variant import ROOT, SKIPPED, CannotCheck, traced

WANTED = 95.0
# Left out: where a function begins, with its arguments' defaults, which is never reported as run; and what stands at
# the margin, which runs at import and is reported for another file.
SETTINGS = r"""
[run]
plugins = Cython.Coverage
data_file = {folder}/lines
include = */fastpath/*, */_fastpath.pyx
[report]
exclude_lines =
    ^ *cdef [^=]*\(
    ^ *def
    ^    [a-zA-Z_ ]+=\w+,$
    ^[^ ]
"""
# Tests whose million headers and megabytes take minutes when every line reports itself.
TOO_LONG = "not (more_headers_than_a_list_holds or large_records_and_many_headers or 65_535_headers)"
EXAMPLES = "0.25"  # of Hypothesis; more of them find no more lines


def ranges(lines: list[int]) -> str:
    """`1-3, 7`."""
    out: list[list[int]] = []
    for line in lines:
        if out and line == out[-1][1] + 1:
            out[-1][1] = line
        else:
            out.append([line, line])
    return ", ".join(str(low) if low == high else f"{low}-{high}" for low, high in out)


def measured(folder: Path) -> dict[str, tuple[int, list[int]]]:
    """Lines and lines not reached of each file, after the kernel's tests. Raises CannotCheck when one of them fails."""
    settings = folder / "coveragerc"
    settings.write_text(SETTINGS.format(folder=folder))
    variables = {**os.environ, "PYTHONPATH": f"{folder}:{ROOT / 'tests'}", "EOMIRROR_EXAMPLES": EXAMPLES}
    files = sorted(str(path) for path in (ROOT / "tests").glob("test_fastpath_*.py"))
    options = [
        "-p",
        "no:cacheprovider",
        f"--rootdir={ROOT}",
        "--import-mode=append",
        "-o",
        "pythonpath=",
        "-x",
        "-q",
        "-k",
        TOO_LONG,
    ]
    coverage = [sys.executable, "-P", "-m", "coverage"]
    # From its own folder, where the generated C lies beside the sources that it names.
    for command in (
        [*coverage, "run", f"--rcfile={settings}", "-m", "pytest", *options, *files],
        [*coverage, "json", "-q", f"--rcfile={settings}", "-o", "lines.json"],
    ):
        done = subprocess.run(command, cwd=folder, env=variables, capture_output=True, text=True, check=False)
        if done.returncode:
            raise CannotCheck(f"{done.stdout}{done.stderr}")
    report = json.loads((folder / "lines.json").read_text())["files"]
    return {
        Path(name).name: (len(lines["executed_lines"]) + len(lines["missing_lines"]), lines["missing_lines"])
        for name, lines in report.items()
    }


def main() -> int:
    """0 when enough lines are reached."""
    if sys.implementation.name != "cpython" or sys.version_info[:2] != (3, 11):
        print(f"   skipped: lines are traced on CPython 3.11, this is {sys.version.split()[0]}")
        return SKIPPED
    try:
        files = measured(traced().build())
    except CannotCheck as error:
        print(error)
        return 1
    total = sum(lines for lines, _ in files.values())
    missed = sum(len(missing) for _, missing in files.values())
    for name, (lines, missing) in sorted(files.items()):
        print(f"   {name:16} {lines:5} lines {share(lines, len(missing)):6.1f} %   {ranges(missing)}".rstrip())
    reached = share(total, missed)
    print(f"   {'kernel':16} {total:5} lines {reached:6.1f} %   wanted: {WANTED:.0f} %")
    return 0 if reached >= WANTED else 1


def share(lines: int, missed: int) -> float:
    return 100.0 * (lines - missed) / lines if lines else 0.0


if __name__ == "__main__":
    sys.exit(main())
