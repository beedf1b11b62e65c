"""One target in one process under libFuzzer: `python -m checks.fuzzing TARGET [libFuzzer options]`. See checks.fuzz."""

from __future__ import annotations

import sys

import atheris
from fuzztargets import TARGETS


def main() -> None:
    """Never returns: libFuzzer ends the process."""
    target = TARGETS[sys.argv.pop(1)]
    atheris.Setup(sys.argv, target, enable_python_coverage=False)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
