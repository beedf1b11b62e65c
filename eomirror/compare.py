"""The records of one partition on both sides, compared one by one; pure, and a window at a time.

Where the ledger reaches, it says which target offset every source offset has, and the content proves it. What is older
than the ledger is paired by order. A record that only one side can still have is not comparable: it is counted by its
reason, and never as equal.
"""

from __future__ import annotations

import enum
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from typing import Final

import msgspec

from eomirror.ledger import Before, Trail
from eomirror.model import Seen

# How far a difference in the order is looked around, in records of each side.
NARROW: Final = 16
WIDE: Final = 1024
# How many differences are kept with their offsets; the rest are counted.
KEPT: Final = 1000
# How far back a record counts as the first of a double, at least.
REMEMBERED: Final = 32_768
# Every so many equal pairs, one is kept for the check of translations, up to that many.
SAMPLED_EVERY: Final = 499
SAMPLES: Final = 200

NO_TIME: Final = 0
CREATE_TIME: Final = 1

Expected = Callable[[Seen], Seen]


class Kind(enum.StrEnum):
    """What is different about a record."""

    CHANGED = "changed"  # the target's record has another content
    REORDERED = "reordered"  # the target has another record of the source in its place
    LOST = "lost"  # the source has it, the target has not
    DOUBLED = "doubled"  # the target has it once more
    FOREIGN = "foreign"  # the target has it, and nobody mirrored it
    VANISHED = "vanished"  # it was mirrored, and is missing in the middle of the source's log


class Only(enum.StrEnum):
    """Why only one side can have a record."""

    RETENTION = "retention"
    COMPACTION = "compaction"
    GONE = "the source's topic is gone"
    REPLACED = "of a log that is no more"


class Difference(msgspec.Struct, frozen=True):
    """One difference; an offset is None where the record is not on that side."""

    kind: Kind
    source: int | None
    target: int | None
    detail: str = ""

    def __str__(self) -> str:
        places = [("source", self.source), ("target", self.target)]
        where = ", ".join(f"{side} offset {offset}" for side, offset in places if offset is not None)
        return f"{self.kind}: {where}" + (f": {self.detail}" if self.detail else "")


class Side:
    """One side of a partition, read forward. `head` is the next record, None behind the last.

    `cleaned` tells the first offset that the log still has, at the moment it is asked: retention goes on while we read.
    `lacking` is the reason for what lies below it. `compacted`: records may be missing anywhere below the log's `end`,
    which cleaning leaves alone.
    """

    def __init__(
        self,
        windows: Iterator[list[Seen]],
        cleaned: Callable[[], int],
        *,
        compacted: bool = False,
        end: int | None = None,
        lacking: Only = Only.RETENTION,
    ) -> None:
        self._windows = windows
        self._window: list[Seen] = []
        self._at = -1
        self._cleaned = cleaned
        self._start: int | None = None
        self.compacted = compacted
        self._end = end
        self.lacking = lacking
        self.head: Seen | None = None
        self.advance()

    def advance(self) -> None:
        """On to the next record."""
        self._at += 1
        while self._at >= len(self._window):
            # What is missing in a window is judged by a log start that was asked for after the window was read.
            self._start = None
            window = next(self._windows, None)
            if window is None:
                self.head, self._window, self._at = None, [], -1
                return
            self._window, self._at = window, 0
        self.head = self._window[self._at]

    def excuse(self, offset: int) -> Only | None:
        """Why a record that was there at this offset may be missing now; None if nothing explains it."""
        if self._start is None:
            self._start = self._cleaned()
        if offset < self._start:
            return self.lacking
        return Only.COMPACTION if self.compacted and (self._end is None or offset < self._end) else None


class Findings:
    """What the comparison of one partition has found so far. `pairs` are (source, target) offsets of some equal
    records, for whoever wants to check them otherwise."""

    def __init__(self) -> None:
        self.equal = 0
        self.different: Counter[Kind] = Counter()
        self.not_comparable: Counter[Only] = Counter()
        self.differences: list[Difference] = []
        self.pairs: list[tuple[int, int]] = []
        self._open: list[tuple[int, int | None, int | None]] = []  # index of a difference, hash expected, hash found
        self._recent: dict[int, tuple[int, int]] = {}
        self._before: dict[int, tuple[int, int]] = {}

    def same(self, source: Seen, target: Seen) -> None:
        """A pair that is equal."""
        self.equal += 1
        if len(self._recent) >= REMEMBERED:
            self._before, self._recent = self._recent, {}
        self._recent[_hash(target)] = (source.offset, target.offset)
        if self.equal % SAMPLED_EVERY == 1 and len(self.pairs) < SAMPLES:
            self.pairs.append((source.offset, target.offset))

    def pair(self, expected: Seen, target: Seen) -> None:
        """A source record, as the target must have it, and the target's record in its place."""
        if same_content(expected, target):
            self.same(expected, target)
            return
        found = self.first_of(target)
        if found is not None:
            self.add(Difference(Kind.DOUBLED, expected.offset, target.offset, _again(found)))
        elif self.add(Difference(Kind.CHANGED, expected.offset, target.offset, described(expected, target))):
            self._open.append((len(self.differences) - 1, _hash(expected), _hash(target)))

    def lost(self, expected: Seen, target: int | None, detail: str) -> None:
        """A source record that the target should have and has not."""
        if self.add(Difference(Kind.LOST, expected.offset, target, detail)):
            self._open.append((len(self.differences) - 1, _hash(expected), None))

    def surplus(self, target: Seen, detail: str) -> None:
        """A target record that nobody mirrored."""
        found = self.first_of(target)
        if found is not None:
            self.add(Difference(Kind.DOUBLED, None, target.offset, _again(found)))
        elif self.add(Difference(Kind.FOREIGN, None, target.offset, detail)):
            self._open.append((len(self.differences) - 1, None, _hash(target)))

    def first_of(self, target: Seen) -> tuple[int, int] | None:
        """(source, target) offsets of a record just before that has the same key, value and timestamp."""
        known = _hash(target)
        return self._recent.get(known) or self._before.get(known)

    def add(self, difference: Difference) -> bool:
        """Count a difference; whether it was kept."""
        self.different[difference.kind] += 1
        if len(self.differences) >= KEPT:
            return False
        self.differences.append(difference)
        return True

    def close(self) -> None:
        """Name what is another record of the source that is missing in its own place."""
        owners = {expected: index for index, expected, _ in self._open if expected is not None}
        merged: set[int] = set()
        for index, _, found in self._open:
            owner = owners.get(found) if found is not None else None
            if owner is None or owner == index:
                continue
            old, origin = self.differences[index], self.differences[owner]
            if old.kind is Kind.CHANGED:
                self._rename(index, old.source, old.target, f"holds the record of source offset {origin.source}")
            elif origin.kind is Kind.LOST:
                # Lost in one place and foreign in another: one record that was moved.
                self._rename(owner, origin.source, old.target, "it is not in its place")
                self.different[Kind.FOREIGN] -= 1
                merged.add(index)
        self.differences = [one for index, one in enumerate(self.differences) if index not in merged]
        self.different, self.not_comparable = +self.different, +self.not_comparable
        self._open = []

    def _rename(self, index: int, source: int | None, target: int | None, detail: str) -> None:
        self.different[self.differences[index].kind] -= 1
        self.different[Kind.REORDERED] += 1
        self.differences[index] = Difference(Kind.REORDERED, source, target, detail)


def as_mirrored(source: Seen) -> Seen:
    """A source record as a flow without `transform:` writes it. Times that the source's broker set are the record's own
    on the target; a record of the oldest format has none, which today's format writes as -1."""
    kind, ms = source.timestamp
    if kind == CREATE_TIME:
        return source
    return source._replace(timestamp=(CREATE_TIME, -1 if kind == NO_TIME else ms))


def same_content(expected: Seen, target: Seen) -> bool:
    """Key, value, headers in their order, timestamp and its type."""
    return expected[1:] == target[1:]


def described(expected: Seen, target: Seen) -> str:
    """Which fields differ, and where; the content itself is nobody's business."""
    told = []
    for name, ours, theirs in (("key", expected.key, target.key), ("value", expected.value, target.value)):
        if ours != theirs:
            told.append(f"{name} differs {_apart(ours, theirs)}")
    if expected.headers != target.headers:
        counts = len(expected.headers), len(target.headers)
        if counts[0] != counts[1]:
            told.append(f"headers differ ({counts[1]} instead of {counts[0]})")
        else:
            pairs = zip(expected.headers, target.headers, strict=True)
            first = next(number for number, (ours, theirs) in enumerate(pairs, 1) if ours != theirs)
            told.append(f"headers differ (number {first} of {counts[0]})")
    if expected.timestamp != target.timestamp:
        (kind, ours_ms), (found, theirs_ms) = expected.timestamp, target.timestamp
        told.append(f"timestamp is {theirs_ms} instead of {ours_ms}" if kind == found else "timestamp type differs")
    return ", ".join(told)


def _apart(ours: bytes | None, theirs: bytes | None) -> str:
    if ours is None or theirs is None:
        return f"({'null' if theirs is None else 'not null'} instead of {'null' if ours is None else 'not null'})"
    if len(ours) != len(theirs):
        return f"({len(theirs)} bytes instead of {len(ours)})"
    first = next(at for at, (a, b) in enumerate(zip(ours, theirs, strict=True)) if a != b)
    return f"at byte {first} of {len(ours)}"


def _again(found: tuple[int, int]) -> str:
    return f"the record of source offset {found[0]} again, which is at target offset {found[1]}"


def _hash(seen: Seen) -> int:
    """Stands for a record where a name for a difference is sought; equality is never decided by it."""
    return hash((seen.key, seen.value, seen.timestamp[1]))


# --- by the ledger


def by_ledger(ours: Side, theirs: Side, trail: Trail, expected: Expected, found: Findings) -> None:
    """Compare what both sides give with what the runs say: each source record in a run has its target offset, each
    target record in a run its source offset."""
    to_target = trail.offsets.to_target
    while True:
        source, target = ours.head, theirs.head
        if source is not None:
            wanted = to_target(source.offset)
            if wanted is None:
                _unmirrored(source, trail, found)
                ours.advance()
                continue
            if target is None or wanted < target.offset:
                excuse = theirs.excuse(wanted)
                if excuse is None:
                    found.lost(expected(source), wanted, "the target has no record there")
                else:
                    found.not_comparable[excuse] += 1
                ours.advance()
                continue
            if wanted == target.offset:
                found.pair(expected(source), target)
                ours.advance()
                theirs.advance()
                continue
        if target is None:
            return
        _unmatched(target, ours, trail, found)
        theirs.advance()


def _unmirrored(source: Seen, trail: Trail, found: Findings) -> None:
    """A source record in no run."""
    if any(gap.first <= source.offset < gap.next for gap in trail.left_out):
        return  # on a person's word, or it lies below the flow's start
    first = trail.offsets.ceiling(0)
    if trail.before is Before.LOST and (first is None or source.offset < first[0]):
        found.not_comparable[Only.REPLACED] += 1
    else:
        found.lost(source, None, "it is in no run of the ledger")


def _unmatched(target: Seen, ours: Side, trail: Trail, found: Findings) -> None:
    """A target record that no visible source record has sent."""
    origin = trail.offsets.to_source(target.offset)
    if origin is not None:
        excuse = ours.excuse(origin)
        if excuse is None:
            found.add(Difference(Kind.VANISHED, origin, target.offset, "the source no longer has it"))
        else:
            found.not_comparable[excuse] += 1
        return
    first = trail.offsets.target_ceiling(0)
    older = (trail.replaced or trail.before is Before.LOST) and (first is None or target.offset < first[1])
    if older or any(low <= target.offset < end for low, end in trail.orphans):
        found.not_comparable[Only.REPLACED] += 1
    else:
        found.surplus(target, "it is in no run of the ledger")


# --- by order


def by_order(
    ours: Side,
    theirs: Side,
    expected: Expected,
    found: Findings,
    *,
    counts: tuple[int, int],
    source_cut: bool,
    target_cut: bool,
) -> None:
    """Compare two sequences that end with the same record, of which retention has taken the beginnings.

    `counts` are the records of each, `source_cut` and `target_cut` say whether that side's beginning is missing: only
    then can the other side have more at the front. Where a side is compacted, records that have no equal are not
    comparable, for nobody knows where they belong.
    """
    lenient = ours.compacted or theirs.compacted
    surplus = 0 if lenient else counts[0] - counts[1]
    left, right = _skipped(ours, surplus if target_cut else 0), _skipped(theirs, -surplus if source_cut else 0)
    left = deque(map(expected, left))
    found.not_comparable[theirs.lacking] += max(surplus, 0) if target_cut else 0
    found.not_comparable[ours.lacking] += max(-surplus, 0) if source_cut else 0
    if _aligned(ours, theirs, expected):
        left.clear()
        right.clear()
    else:
        # Some difference further on makes the numbers wrong: what was skipped last is looked at again.
        found.not_comparable[theirs.lacking] -= len(left)
        found.not_comparable[ours.lacking] -= len(right)
    anchored = False
    while True:
        while _fill(left, ours, 1, expected) & _fill(right, theirs, 1) and same_content(left[0], right[0]):
            found.same(left.popleft(), right.popleft())
            anchored = True
        if not left and not right:
            return
        size = NARROW
        meeting = None
        while meeting is None and size <= WIDE:
            more = _fill(left, ours, size, expected) | _fill(right, theirs, size)
            meeting = _meeting(left, right)
            size = size * 4 if more else WIDE + 1
        i, j = meeting or (len(left), len(right))
        a, b = [left.popleft() for _ in range(i)], [right.popleft() for _ in range(j)]
        if lenient:
            found.not_comparable[Only.COMPACTION] += len(a) + len(b)
            continue
        if not anchored and len(a) > len(b) and target_cut:
            found.not_comparable[theirs.lacking] += len(a) - len(b)
            a = a[len(a) - len(b) :]
        elif not anchored and len(b) > len(a) and source_cut:
            found.not_comparable[ours.lacking] += len(b) - len(a)
            b = b[len(b) - len(a) :]
        anchored = anchored or meeting is not None
        _explain(a, b, found)


def _skipped(side: Side, number: int) -> deque[Seen]:
    """Pass so many records; the last few of them."""
    last: deque[Seen] = deque(maxlen=NARROW)
    while number > 0 and side.head is not None:
        last.append(side.head)
        side.advance()
        number -= 1
    return deque(last)


def _aligned(ours: Side, theirs: Side, expected: Expected) -> bool:
    if ours.head is None or theirs.head is None:
        return ours.head is theirs.head
    return same_content(expected(ours.head), theirs.head)


def _fill(buffer: deque[Seen], side: Side, size: int, expected: Expected | None = None) -> bool:
    """Up to `size` records in the buffer; whether it has that many."""
    while len(buffer) < size and side.head is not None:
        buffer.append(side.head if expected is None else expected(side.head))
        side.advance()
    return len(buffer) >= size


def _meeting(left: Sequence[Seen], right: Sequence[Seen]) -> tuple[int, int] | None:
    """Where both go on alike again with the fewest records left out; of several such places, one that is followed by
    another equal pair."""
    places: dict[int, list[int]] = {}
    for j, record in enumerate(right):
        places.setdefault(_hash(record), []).append(j)
    best: tuple[int, bool, int, int] | None = None
    for i, record in enumerate(left):
        if best is not None and i > best[0]:
            break
        for j in places.get(_hash(record), ()):
            if not same_content(record, right[j]):
                continue
            last = i + 1 == len(left) or j + 1 == len(right)
            single = not last and not same_content(left[i + 1], right[j + 1])
            rank = (i + j, single, i, j)
            best = rank if best is None else min(best, rank)
    return None if best is None else best[2:]


def _explain(a: list[Seen], b: list[Seen], found: Findings) -> None:
    """Name what is different between two stretches that lie in the same place."""
    missing = deque(a)
    strangers: list[Seen] = []
    for target in b:
        moved = next((source for source in missing if same_content(source, target)), None)
        if moved is None:
            strangers.append(target)
        else:
            missing.remove(moved)
            found.add(Difference(Kind.REORDERED, moved.offset, target.offset, "in another order"))
    for target in strangers:
        if found.first_of(target) is not None or not missing:
            found.surplus(target, "the source has no such record in this place")
        else:
            found.pair(missing.popleft(), target)
    for source in missing:
        found.lost(source, None, "the target has no such record in this place")
