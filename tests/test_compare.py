"""Comparing is never wrong: every planted difference is found with its offset, and what is equal raises no alarm."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eomirror.compare import (
    NARROW,
    WIDE,
    Difference,
    Findings,
    Kind,
    Only,
    Side,
    as_mirrored,
    by_ledger,
    by_order,
    described,
)
from eomirror.errors import Reason
from eomirror.ledger import Before, Run, Trail, encode_runs
from eomirror.model import Seen
from eomirror.records import Gap, Tally
from tests.batches import examples

LOOKS: dict[str, Callable[[Seen], Seen]] = {
    "key": lambda one: one._replace(key=b"another key"),
    "no key": lambda one: one._replace(key=None),
    "value": lambda one: one._replace(value=(one.value or b"") + b"!"),
    "header": lambda one: one._replace(headers=(*one.headers, ("tag", None))),
    "order of headers": lambda one: one._replace(headers=one.headers[::-1]),
    "timestamp": lambda one: one._replace(timestamp=(1, one.timestamp[1] + 1)),
    "type of timestamp": lambda one: one._replace(timestamp=(2, one.timestamp[1])),
}


def record(number: int, offset: int = 0, *, twin: bool = False) -> Seen:
    """The record with this number; twins have one content for all numbers."""
    name = b"twin" if twin else b"%d" % number
    return Seen(offset, b"key " + name, b"value " + name, (("a", name), ("b", b"")), (1, 0 if twin else 1000 + number))


class Mirrored:
    """Both sides of a partition that was mirrored rightly: `pairs` are (source, target) records, each with its run."""

    def __init__(self, runs: list[tuple[int, int, int]], twins: frozenset[int]) -> None:
        self.trail = Trail(Before.NOTHING)
        self.source: list[Seen] = []
        self.target: list[Seen] = []
        source = target = number = 0
        made = []
        for source_skip, target_skip, size in runs:
            source, target = source + source_skip, target + target_skip
            made.append(Run(source, target, size))
            for _ in range(size):
                self.source.append(record(number, source, twin=number in twins))
                self.target.append(record(number, target, twin=number in twins))
                source, target, number = source + 1, target + 1, number + 1
        self.trail.add("a test", Tally(encode_runs(made), records=number))

    def __len__(self) -> int:
        return len(self.source)


@st.composite
def mirrored(draw: st.DrawFn, least: int = 1, *, twins: bool = True) -> Mirrored:
    size = st.tuples(st.integers(0, 3), st.integers(0, 3), st.integers(1, 6))
    made = Mirrored(
        draw(st.lists(size, min_size=1, max_size=8)), draw(st.frozensets(st.integers(0, 30))) if twins else frozenset()
    )
    return made if len(made) >= least else Mirrored([(0, 0, least), (1, 2, 1)], frozenset())


def side(records: list[Seen], *, start: int = 0, compacted: bool = False, window: int = 3) -> Side:
    def windows() -> Iterator[list[Seen]]:
        for at in range(0, len(records), window):
            yield records[at : at + window]

    return Side(windows(), lambda: start, compacted=compacted)


def against_ledger(
    one: Mirrored,
    *,
    source: list[Seen] | None = None,
    target: list[Seen] | None = None,
    starts: tuple[int, int] = (0, 0),
    compacted: tuple[bool, bool] = (False, False),
) -> Findings:
    found = Findings()
    ours = side(one.source if source is None else source, start=starts[0], compacted=compacted[0])
    theirs = side(one.target if target is None else target, start=starts[1], compacted=compacted[1], window=5)
    by_ledger(ours, theirs, one.trail, as_mirrored, found)
    found.close()
    return found


def told(found: Findings) -> list[tuple[Kind, int | None, int | None]]:
    return [(one.kind, one.source, one.target) for one in found.differences]


def assert_all_equal(found: Findings, count: int, **missing: int) -> None:
    assert (found.equal, found.differences, +found.different) == (count, [], Counter())
    assert {only.name.lower(): number for only, number in found.not_comparable.items()} == missing


# --- by the ledger


@examples(60)
@given(mirrored())
def test_what_was_mirrored_is_equal(one: Mirrored) -> None:
    found = against_ledger(one)
    assert_all_equal(found, len(one))
    assert found.pairs[0] == (one.source[0].offset, one.target[0].offset)


@examples(80)
@given(mirrored(), st.data())
def test_retention_is_not_comparable_and_nothing_else(one: Mirrored, data: st.DataObject) -> None:
    cut = data.draw(st.integers(0, len(one))), data.draw(st.integers(0, len(one)))
    starts = tuple(
        records[at].offset if at < len(one) else records[-1].offset + 1
        for records, at in zip((one.source, one.target), cut, strict=True)
    )
    found = against_ledger(one, source=one.source[cut[0] :], target=one.target[cut[1] :], starts=(starts[0], starts[1]))
    missing = abs(cut[0] - cut[1])
    assert_all_equal(found, len(one) - max(cut), **({"retention": missing} if missing else {}))


@examples(80)
@given(mirrored(), st.data())
def test_compaction_of_both_sides_is_not_comparable_and_nothing_else(one: Mirrored, data: st.DataObject) -> None:
    kept = [data.draw(st.frozensets(st.integers(0, len(one) - 1))) for _ in range(2)]
    sides = [
        [r for n, r in enumerate(rs) if n in keep] for rs, keep in zip((one.source, one.target), kept, strict=True)
    ]
    found = against_ledger(one, source=sides[0], target=sides[1], compacted=(True, True))
    missing = len(kept[0] ^ kept[1])
    assert_all_equal(found, len(kept[0] & kept[1]), **({"compaction": missing} if missing else {}))


@examples(80)
@given(mirrored(), st.sampled_from(sorted(LOOKS)), st.data())
def test_a_flip_is_found_with_its_offset(one: Mirrored, look: str, data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(one) - 1))
    target = list(one.target)
    target[at] = LOOKS[look](target[at])
    found = against_ledger(one, target=target)
    assert found.equal == len(one) - 1
    (difference,) = found.differences
    assert (difference.source, difference.target) == (one.source[at].offset, target[at].offset)
    # Who looks only at key, value and time may take it for a double of a twin; changed it is in any case.
    assert difference.kind in (Kind.CHANGED, Kind.DOUBLED)


@examples(80)
@given(mirrored(2, twins=False), st.data())
def test_a_swap_is_two_records_in_another_order(one: Mirrored, data: st.DataObject) -> None:
    a, b = sorted(data.draw(st.lists(st.integers(0, len(one) - 1), min_size=2, max_size=2, unique=True)))
    target = list(one.target)
    target[a], target[b] = (
        target[b]._replace(offset=target[a].offset),
        target[a]._replace(offset=target[b].offset),
    )
    found = against_ledger(one, target=target)
    assert found.equal == len(one) - 2
    assert told(found) == [(Kind.REORDERED, one.source[at].offset, target[at].offset) for at in (a, b)]
    assert found.different == {Kind.REORDERED: 2}


@examples(80)
@given(mirrored(), st.data())
def test_a_dropped_record_is_lost(one: Mirrored, data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(one) - 1))
    found = against_ledger(one, target=one.target[:at] + one.target[at + 1 :])
    assert found.equal == len(one) - 1
    assert told(found) == [(Kind.LOST, one.source[at].offset, one.target[at].offset)]


@examples(80)
@given(mirrored(), st.data())
def test_a_record_that_vanished_from_the_source_is_told(one: Mirrored, data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(one) - 1))
    found = against_ledger(one, source=one.source[:at] + one.source[at + 1 :])
    assert found.equal == len(one) - 1
    assert told(found) == [(Kind.VANISHED, one.source[at].offset, one.target[at].offset)]


def outside(one: Mirrored) -> list[int]:
    """Target offsets in no run, the first behind the last one included."""
    end = one.target[-1].offset + 1
    return [offset for offset in range(end + 1) if one.trail.offsets.to_source(offset) is None]


@examples(80)
@given(mirrored(), st.data())
def test_a_foreign_write_is_found_with_its_offset(one: Mirrored, data: st.DataObject) -> None:
    offset = data.draw(st.sampled_from(outside(one)))
    target = sorted([*one.target, record(99, offset)])
    found = against_ledger(one, target=target)
    assert (found.equal, told(found)) == (len(one), [(Kind.FOREIGN, None, offset)])


@examples(80)
@given(mirrored(twins=False), st.data())
def test_a_double_is_told_with_what_it_doubles(one: Mirrored, data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(one) - 1))
    end = one.target[-1].offset + 3
    found = against_ledger(one, target=[*one.target, one.target[at]._replace(offset=end)])
    assert (found.equal, told(found)) == (len(one), [(Kind.DOUBLED, None, end)])
    assert f"source offset {one.source[at].offset} again" in found.differences[0].detail


@examples(80)
@given(mirrored(), st.data())
def test_a_source_record_that_was_never_mirrored_is_lost_unless_a_person_left_it_out(
    one: Mirrored, data: st.DataObject
) -> None:
    free = [o for o in range(one.source[-1].offset + 2) if one.trail.offsets.to_target(o) is None]
    offset = data.draw(st.sampled_from(free))
    source = sorted([*one.source, record(99, offset)])
    found = against_ledger(one, source=source)
    assert (found.equal, told(found)) == (len(one), [(Kind.LOST, offset, None)])
    reason = data.draw(st.sampled_from([Reason.RECORD_TOO_LARGE, None]))  # None: below the flow's start
    one.trail.left_out.append(Gap(offset, offset + 1, reason))
    assert_all_equal(against_ledger(one, source=source), len(one))


def test_what_an_accepted_fault_made_void_is_not_comparable() -> None:
    trail = Trail(Before.NOTHING)
    trail.add("a test", Tally((0, 0, 10), records=10))
    trail.add("a test", Tally((4, 11, 3), records=3, gaps=(Gap(10, 4, Reason.SOURCE_TRUNCATED),)))
    assert trail.orphans == [(4, 10)]
    source = [record(n, n) for n in range(4)] + [record(50 + n, 4 + n) for n in range(3)]
    target = [record(n, n) for n in range(10)] + [record(50 + n, 11 + n) for n in range(3)]
    found = Findings()
    by_ledger(side(source), side(target), trail, as_mirrored, found)
    assert_all_equal(found, 7, replaced=6)

    trail.add("a test", Tally((0, 20, 2), records=2, gaps=(Gap(7, 0, Reason.SOURCE_RECREATED),)))
    target += [record(90 + n, 20 + n) for n in range(2)]
    found = Findings()
    by_ledger(side([record(90 + n, n) for n in range(2)]), side(target), trail, as_mirrored, found)
    assert_all_equal(found, 2, replaced=13)

    trail.add("a test", Tally((2, 1, 1), records=1, gaps=(Gap(2, 2, Reason.TARGET_RECREATED),)))
    found = Findings()
    by_ledger(side([record(90 + n, n) for n in range(3)]), side([record(92, 1)]), trail, as_mirrored, found)
    assert_all_equal(found, 1, replaced=2)


def test_retention_during_the_reading_is_asked_for_after_what_it_took() -> None:
    one = Mirrored([(0, 0, 9)], frozenset())
    asked: list[int] = []

    def cleaned() -> int:
        asked.append(len(asked))
        return 0 if len(asked) == 1 else 7

    windows = iter([one.target[1:3], one.target[7:]])
    found = Findings()
    by_ledger(side(one.source), Side(windows, cleaned), one.trail, as_mirrored, found)
    # At the first window the log still began at 0; the second was read after retention went on to 7.
    assert told(found) == [(Kind.LOST, 0, 0)]
    assert (found.equal, found.not_comparable, len(asked)) == (4, {Only.RETENTION: 4}, 2)


# --- by order


def against_order(
    source: list[Seen],
    target: list[Seen],
    *,
    cut: tuple[bool, bool] = (False, False),
    compacted: tuple[bool, bool] = (False, False),
) -> Findings:
    found = Findings()
    by_order(
        side(source, compacted=compacted[0]),
        side(target, compacted=compacted[1], window=7),
        as_mirrored,
        found,
        counts=(len(source), len(target)),
        source_cut=cut[0],
        target_cut=cut[1],
    )
    found.close()
    return found


def sequence(size: int, twins: frozenset[int] = frozenset(), first: int = 0) -> list[Seen]:
    return [record(n, first + 2 * n, twin=n in twins) for n in range(size)]


sizes = st.integers(1, 4 * NARROW)
twin_sets = st.frozensets(st.integers(0, 4 * NARROW))


@examples(80)
@given(sizes, twin_sets, st.data())
def test_beginnings_that_retention_took_are_not_comparable(
    size: int, twins: frozenset[int], data: st.DataObject
) -> None:
    source, target = sequence(size, twins), sequence(size, twins, 5)
    a, b = data.draw(st.integers(0, size)), data.draw(st.integers(0, size))
    found = against_order(source[a:], target[b:], cut=(a > 0, b > 0))
    assert found.differences == []
    assert found.equal + found.not_comparable[Only.RETENTION] == size - min(a, b)
    assert found.equal == size - max(a, b)


@examples(80)
@given(sizes, st.data())
def test_planted_differences_are_found_without_a_ledger(size: int, data: st.DataObject) -> None:
    size += 4
    source, target = sequence(size), sequence(size, first=5)
    skip = data.draw(st.integers(0, size - 4))
    at = data.draw(st.integers(skip + 1, size - 2))
    where = source[at].offset, target[at].offset
    plant = data.draw(st.sampled_from(["flip", "swap", "drop", "double", "foreign"]))
    expected: list[tuple[Kind, int | None, int | None]] = []
    either: list[tuple[Kind, int | None, int | None]] = []
    equal = size - skip
    if plant == "flip":
        target[at] = LOOKS["value"](target[at])
        expected, equal = [(Kind.CHANGED, *where)], equal - 1
    elif plant == "swap":
        places = where[1], target[at + 1].offset
        target[at : at + 2] = [target[at + 1]._replace(offset=places[0]), target[at]._replace(offset=places[1])]
        # One stepped behind the other, or the other before it: both are right
        either = [(Kind.REORDERED, where[0], places[1]), (Kind.REORDERED, source[at + 1].offset, places[0])]
        equal -= 1
    elif plant == "drop":
        del target[at]
        expected, equal = [(Kind.LOST, where[0], None)], equal - 1
    elif plant == "double":
        target.insert(at + 1, target[at]._replace(offset=where[1] + 1))
        expected = [(Kind.DOUBLED, None, where[1] + 1)]
    else:
        target.insert(at + 1, record(999, where[1] + 1))
        expected = [(Kind.FOREIGN, None, where[1] + 1)]
    found = against_order(source[skip:], target)
    if skip:  # the source has lost its beginning: what only the target has there is its own to have
        found = against_order(source[skip:], target, cut=(True, False))
        assert found.not_comparable == {Only.RETENTION: skip}
    if plant == "swap":
        expected = [one for one in either if one in told(found)]
    assert (told(found), found.equal) == (expected, equal)
    assert len(expected) == 1


@examples(60)
@given(st.lists(st.integers(0, 6), max_size=40), st.lists(st.integers(0, 6), max_size=40))
def test_what_is_called_equal_is_equal_whatever_both_sides_hold(ours: list[int], theirs: list[int]) -> None:
    """Records of few contents in any order: each is counted once, no more are equal than can be, and no difference is
    told only of what is the same."""
    source = [record(number, at) for at, number in enumerate(ours)]
    target = [record(number, at) for at, number in enumerate(theirs)]
    found = against_order(source, target)
    assert found.equal <= (Counter(ours) & Counter(theirs)).total()
    assert (ours == theirs) == (not found.differences)
    from_source = sum(1 for one in found.differences if one.source is not None)
    from_target = sum(1 for one in found.differences if one.target is not None)
    assert (found.equal + from_source, found.equal + from_target) == (len(source), len(target))


@examples(60)
@given(sizes, st.data())
def test_compaction_without_a_ledger_is_no_difference(size: int, data: st.DataObject) -> None:
    kept = [data.draw(st.frozensets(st.integers(0, size - 1))) for _ in range(2)]
    sides = [[r for n, r in enumerate(sequence(size)) if n in keep] for keep in kept]
    found = against_order(sides[0], sides[1], compacted=(True, True))
    assert found.differences == []
    assert found.equal <= len(kept[0] & kept[1])
    assert 2 * found.equal + found.not_comparable[Only.COMPACTION] == len(kept[0]) + len(kept[1])


def test_what_is_nowhere_near_ends_with_everything_told() -> None:
    size = WIDE + 2 * NARROW
    source, target = sequence(size), [one._replace(value=b"else") for one in sequence(size)]
    found = against_order(source, target)
    assert (found.equal, found.different) == (0, {Kind.CHANGED: size})


# --- what is told


def test_times_set_by_the_broker_become_the_records_own() -> None:
    one = record(3)
    assert as_mirrored(one) is one
    assert as_mirrored(one._replace(timestamp=(2, 55))).timestamp == (1, 55)
    assert as_mirrored(one._replace(timestamp=(0, -1))).timestamp == (1, -1)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"key": None}, "key differs (null instead of not null)"),
        ({"value": b"value 4"}, "value differs at byte 6 of 7"),
        ({"value": b"v"}, "value differs (1 bytes instead of 7)"),
        ({"headers": ()}, "headers differ (0 instead of 2)"),
        ({"headers": (("a", b"3"), ("b", None))}, "headers differ (number 2 of 2)"),
        ({"timestamp": (1, 7)}, "timestamp is 7 instead of 1003"),
        ({"timestamp": (2, 1003)}, "timestamp type differs"),
        ({"key": b"key 4", "value": None}, "key differs at byte 4 of 5, value differs (null instead of not null)"),
    ],
)
def test_a_change_is_told_by_its_place_and_not_by_its_content(change: dict[str, object], words: str) -> None:
    assert described(record(3), record(3)._replace(**change)) == words  # type: ignore[arg-type]


def test_a_difference_names_the_offsets_that_there_are() -> None:
    assert str(Difference(Kind.CHANGED, 8, 9, "why")) == "changed: source offset 8, target offset 9: why"
    assert str(Difference(Kind.FOREIGN, None, 9)) == "foreign: target offset 9"


def test_compaction_excuses_nothing_behind_the_end_of_the_log() -> None:
    theirs = Side(iter(()), lambda: 0, compacted=True, end=60)
    assert theirs.excuse(59) is Only.COMPACTION
    assert theirs.excuse(60) is None
