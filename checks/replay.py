"""Run under a sanitizer by `checks.sanitize`: the whole corpus, again and again, and what memory it keeps."""

from __future__ import annotations

import ctypes
import gc
import sys

from fuzztargets import TARGETS, seeds

ROUNDS = 3
ALLOWED = 4096  # what the interpreter's own caches may move by


def main() -> int:
    """0 when the corpus runs through and leaves nothing behind."""
    allocated = ctypes.CDLL(None).__sanitizer_get_current_allocated_bytes
    allocated.restype = ctypes.c_size_t
    inputs = [(target, data) for target in TARGETS for _, data in seeds(target)]

    def play() -> int:
        for _ in range(ROUNDS):
            for target, data in inputs:
                TARGETS[target](data)
        gc.collect()
        return int(allocated())

    play()
    before = play()
    kept = play() - before
    print(f"   corpus: {len(inputs)} inputs, {3 * ROUNDS} times, {kept} bytes kept")
    if kept > ALLOWED:
        print(f"   the kernel loses memory: {kept} bytes in {ROUNDS} rounds")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
