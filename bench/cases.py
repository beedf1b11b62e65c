"""The kernel's micro-benchmarks: for the clock (`bench.kernel`), for counting instructions (`checks.instructions`)."""

from __future__ import annotations

import collections
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from eomirror import _fastpath as kernel

from .batches import LZ4, frame, runs

RECORD = 200  # bytes
STAMP: dict[str, int] = {"producer_id": 41, "producer_epoch": 3, "base_sequence": 0, "max_batch_bytes": 1 << 20}


@dataclass(frozen=True)
class Case:
    """One thing to measure: `run(prepare())`, of which only `run` counts, does `count` units over `size` bytes."""

    name: str
    unit: str
    count: int
    size: int
    prepare: Callable[[], Any]
    run: Callable[[Any], object]
    goal: float | None = None  # ns per unit


@dataclass(frozen=True)
class Scale:
    """How large the cases are."""

    batches: int  # of 1000 records
    singles: int  # batches of one record
    runs: int
    lookups: int


def cases(scale: Scale) -> list[Case]:
    """All of them; building the frames and the map takes a while."""
    large = frame(scale.batches, 1000, RECORD)
    records = scale.batches * 1000
    recipe = kernel.Recipe(
        [
            ("set", b"origin", (b"paris/orders/3/", "offset")),
            ("set", b"region", (b"eu-west-1",)),
            ("set", b"hop", (b"1",)),
        ]
    )
    room = bytearray(len(large))

    def packing(data: bytes, **options: Any) -> tuple[Callable[[], Any], Callable[[Any], object]]:
        def run(copy: bytearray) -> object:
            packed = kernel.pack(copy, 0, len(copy), 0, [], **STAMP, **options)
            if packed.error is not None:
                raise packed.error
            return packed

        return lambda: bytearray(data), run

    out = [
        Case("memcpy", "record", records, len(large), lambda: large, lambda data: room.__setitem__(slice(None), data)),
        Case("CRC-32C", "record", records, len(large), lambda: large, kernel.crc32c),
        Case("pass through", "record", records, len(large), *packing(large), 25),
        Case("three headers set", "record", records, len(large), *packing(large, recipe=recipe), 120),
    ]
    for name, codec, goal in (("singles merged", 0, 250), ("lz4 singles merged", LZ4, None)):
        singles = frame(scale.singles, 1, RECORD, codec)
        out.append(Case(name, "record", scale.singles, len(singles), *packing(singles), goal))
    return out + lookups(scale)


def lookups(scale: Scale) -> list[Case]:
    """Random offsets looked up both ways, each in some run; the call from Python is part of it."""
    offsets = kernel.OffsetMap()
    # In pieces, as the ledger holds them; the lists of ten million runs would take gigabytes.
    for piece in runs(scale.runs):
        offsets.extend(piece)
    last = offsets.floor((1 << 63) - 1)
    assert last is not None
    source_end, target_end = last[0] + last[2], last[1] + last[2]
    rng = random.Random(3)

    def looking(verb: Callable[[int], object], end: int) -> tuple[Callable[[], Any], Callable[[Any], object]]:
        wanted = [rng.randrange(end) for _ in range(scale.lookups)]
        return lambda: wanted, lambda which: collections.deque(map(verb, which), maxlen=0)

    return [
        Case("source to target", "lookup", scale.lookups, 0, *looking(offsets.to_target, source_end), 200),
        Case("target to source", "lookup", scale.lookups, 0, *looking(offsets.to_source, target_end), 200),
    ]
