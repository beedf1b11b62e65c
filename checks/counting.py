"""Run under callgrind by `checks.instructions`: each micro-benchmark once and twice, its counts dumped by name."""

from __future__ import annotations

import ctypes
import gc
import sys

from bench.cases import Scale, cases

SCALE = Scale(batches=2, singles=1000, runs=100_000, lookups=1000)


def main() -> None:
    """For each case `name=N=units` with N runs, so that the difference of 2 and 1 is what one run costs."""
    valgrind = ctypes.CDLL(sys.argv[1])
    measured = cases(SCALE)
    gc.collect()
    gc.disable()
    for case in measured:
        case.run(case.prepare())
        for times in (1, 2):
            arguments = [case.prepare() for _ in range(times)]
            valgrind.begin()
            for argument in arguments:
                case.run(argument)
            valgrind.end(f"{case.name}={times}={case.count}".encode())


if __name__ == "__main__":
    main()
