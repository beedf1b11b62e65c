"""Refused batches across rewinds: parts grow smaller until one record is refused alone, and nothing is endless."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from eomirror.blame import APART_REQUESTS, BARRED_SECONDS, MAX_CUTS, SUSPECT_TIMES, Apart, Blame
from eomirror.errors import Faulted, Reason, Rewind
from tests.fakes import route

KEY = ("orders", 0)


def refused(first: int, end: int, records: int | None = None) -> Rewind:
    doubt = Rewind("produce_refused", "no")
    count = end - first if records is None else records
    fault = Faulted(*KEY, Reason.RECORD_TOO_LARGE, "too large", offset=first, next_offset=end, records=count)
    doubt.faults = (fault,)
    return doubt


def barred() -> Rewind:
    doubt = Rewind("produce_refused", "no")
    doubt.barred = (Faulted(*KEY, Reason.TARGET_REFUSED, "TOPIC_AUTHORIZATION_FAILED (29)", offset=5),)
    return doubt


@given(st.integers(1, 400_000), st.data())
def test_one_bad_record_of_any_batch_is_named_alone(count: int, data: st.DataObject) -> None:
    bad = data.draw(st.integers(0, count - 1))
    blame, position, first, end = Blame(), 0, 0, count
    for _ in range(MAX_CUTS):
        blame.take(refused(first, end), 0.0)
        if blame.certain:
            break
        # What a lane does then: it writes up to the next boundary, commits, and goes on there.
        while (edge := blame.boundary(KEY, position)) is not None and edge <= bad:
            position = edge
        parts = blame.apart(KEY, position)
        assert parts is not None
        assert parts.first <= bad < parts.end
        assert (parts.end - parts.first) / parts.most <= APART_REQUESTS
        first = parts.first + (bad - parts.first) // parts.most * parts.most
        end = min(first + parts.most, parts.end)
    fault = blame.certain[KEY]
    assert (fault.offset, fault.next_offset) == (bad, bad + 1)


def test_what_lies_before_a_smaller_part_is_committed_first() -> None:
    blame = Blame()
    blame.take(refused(0, 1200), 0.0)
    assert (blame.apart(KEY, 0), blame.boundary(KEY, 0)) == (Apart(0, 1200, 3), None)
    blame.take(refused(600, 603), 0.0)
    assert (blame.apart(KEY, 0), blame.boundary(KEY, 0)) == (Apart(0, 1200, 3), 600)
    assert (blame.apart(KEY, 600), blame.boundary(KEY, 600)) == (Apart(600, 603, 1), 603)
    assert (blame.apart(KEY, 603), blame.boundary(KEY, 603)) == (Apart(0, 1200, 3), None)


def test_a_batch_that_is_refused_in_turn_with_another_ends() -> None:
    blame = Blame()
    takes = 0
    while not blame.certain:
        blame.take(refused(0, 10) if takes % 2 else refused(10, 20), 0.0)
        takes += 1
    assert takes <= MAX_CUTS + 1


def test_what_is_committed_is_forgotten() -> None:
    blame = Blame()
    blame.take(refused(0, 1200), 0.0)
    blame.take(refused(600, 603), 0.0)
    blame.committed({KEY: route(next_offset=603)}, 0.0)
    assert (blame.apart(KEY, 603), blame.boundary(KEY, 603)) == (Apart(0, 1200, 3), None)
    blame.committed({KEY: route(next_offset=1200)}, 0.0)
    assert blame.apart(KEY, 1200) is None


def test_a_partition_without_the_right_to_write_is_tried_again_later_and_later() -> None:
    blame, now = Blame(), 100.0
    pauses = []
    for _ in range(8):
        blame.take(barred(), now)
        assert blame.barred(now) == {KEY: "TOPIC_AUTHORIZATION_FAILED (29)"}
        again = blame.next_try(now)
        assert again is not None
        pauses.append(again - now)
        now = again
        assert (blame.barred(now), blame.next_try(now)) == ({}, None)
    assert pauses == sorted(pauses)
    assert (pauses[0], pauses[-1]) == BARRED_SECONDS
    assert blame.certain == {}
    written = route(next_offset=7)
    written.leader = 1
    blame.committed({KEY: written}, now)
    blame.take(barred(), now)
    assert blame.next_try(now) == now + BARRED_SECONDS[0]


def test_cuts_are_counted_anew_when_the_partition_has_moved() -> None:
    blame = Blame()
    for bad in range(0, 100_000, 2_500):
        blame.take(refused(0, 100_000), 0.0)
        blame.take(refused(bad, bad + 200), 0.0)
        blame.take(refused(bad, bad + 1), 0.0)
        assert blame.certain[KEY].offset == bad
        blame.certain.clear()
        blame.committed({KEY: route(next_offset=bad + 1)}, 0.0)


def test_a_suspect_is_faulted_although_others_commit_in_between() -> None:
    blame, other = Blame(), route(next_offset=9, key=("orders", 1))
    suspected = Rewind("produce_refused", "no")
    suspected.suspects = (Faulted(*KEY, Reason.TARGET_REFUSED, "odd", offset=5, next_offset=6),)
    for _ in range(SUSPECT_TIMES):
        assert blame.certain == {}
        blame.take(suspected, 0.0)
        if not blame.certain:
            blame.committed({KEY: route(next_offset=5), other.key: other}, 0.0)
    assert set(blame.certain) == {KEY}


def test_a_suspect_that_went_well_in_the_end_is_none() -> None:
    blame = Blame()
    suspected = Rewind("produce_refused", "no")
    suspected.suspects = (Faulted(*KEY, Reason.TARGET_REFUSED, "odd", offset=5, next_offset=6),)
    for _ in range(SUSPECT_TIMES * 3):
        blame.take(suspected, 0.0)
        blame.committed({KEY: route(next_offset=6)}, 0.0)
    assert blame.certain == {}
