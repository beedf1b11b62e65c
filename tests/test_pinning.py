"""First positions: decided once, from what both clusters say, and never guessed when one of them does not."""

from __future__ import annotations

import msgspec
import pytest

from eomirror.brokers import EARLIEST, LATEST
from eomirror.errors import Reason
from eomirror.model import RouteKey
from eomirror.pinning import pin
from eomirror.records import Fault, Gap, PositionRecord, State
from eomirror.route import pinned
from tests.fakes import NEW, OLD, FakeBrokers, Log, position, spec

KEY = ("orders", 0)


def _clusters(there: Log | None = None, **source: int) -> tuple[FakeBrokers, FakeBrokers]:
    paris, dublin = FakeBrokers("paris"), FakeBrokers("dublin")
    paris.add("orders", Log(**(source or {"first": 3, "end": 90, "stable": 80})), topic_id=OLD)
    dublin.add("orders", there or Log(), topic_id=NEW)
    return paris, dublin


def _pin(
    clusters: tuple[FakeBrokers, FakeBrokers],
    start: int = EARLIEST,
    known: dict[RouteKey, PositionRecord] | None = None,
    *,
    late: bool = False,
) -> dict[RouteKey, PositionRecord]:
    paris, dublin = clusters
    return pin(paris, dublin, dublin.metadata(), {KEY: spec(start=start)}, known or {}, late=late, now_ms=77)


@pytest.mark.parametrize(
    ("start", "late", "offset"),
    [
        (EARLIEST, False, 3),
        (EARLIEST, True, 3),
        (LATEST, False, 80),  # the last stable offset: what is open now is mirrored whole
        (LATEST, True, 3),  # a topic that turned up later is mirrored from its beginning
        (500, False, 44),
        (500, True, 44),
        (900, False, 80),  # after the last record
        (900, True, 80),
    ],
)
def test_where_a_new_route_begins(start: int, late: bool, offset: int) -> None:
    clusters = _clusters(first=3, end=90, stable=80, at_500=44)
    assert _pin(clusters, start, late=late) == {KEY: pinned(OLD, NEW, 3, offset)}


def test_what_lies_below_the_start_is_put_down_as_left_out() -> None:
    clusters = _clusters(first=3, end=90, stable=80, at_500=44)
    left_out = {start: _pin(clusters, start)[KEY].pending.gaps for start in (EARLIEST, LATEST, 500)}
    assert left_out == {EARLIEST: (), LATEST: (Gap(3, 80),), 500: (Gap(3, 44),)}


def test_a_pinned_route_is_never_pinned_again() -> None:
    assert _pin(_clusters(), known={KEY: position(1)}) == {}


def test_a_target_that_holds_something_is_faulted_and_told() -> None:
    pins = _pin(_clusters(Log(first=5, end=9)))
    fault = Fault(
        Reason.TARGET_NOT_EMPTY, "the target already holds offsets 5 to 8 that this flow did not write", 77, 3
    )
    assert pins == {KEY: msgspec.structs.replace(pinned(OLD, NEW, 3, 3), state=State.FAULTED, fault=fault)}


def test_a_target_whose_records_were_all_deleted_is_empty() -> None:
    assert _pin(_clusters(Log(first=9, end=9))) == {KEY: pinned(OLD, NEW, 3, 3)}


@pytest.mark.parametrize("cluster", [0, 1])
@pytest.mark.parametrize("start", [EARLIEST, LATEST, 500])
def test_a_leader_that_is_away_makes_it_wait(cluster: int, start: int) -> None:
    clusters = _clusters()
    clusters[cluster].away.add(KEY)
    assert _pin(clusters, start) == {}


def test_a_source_that_does_not_answer_makes_it_wait() -> None:
    clusters = _clusters()
    clusters[0].down = True
    assert _pin(clusters) == {}


@pytest.mark.parametrize("cluster", [0, 1])
def test_a_topic_that_is_not_there_makes_it_wait(cluster: int) -> None:
    clusters = _clusters()
    clusters[cluster].ids.clear()
    assert _pin(clusters) == {}


def test_a_partition_that_the_target_lacks_waits_and_the_others_do_not() -> None:
    paris, dublin = _clusters()
    paris.add("orders", Log(3, 9), Log(4, 9))
    specs = {KEY: spec(), ("orders", 1): spec(("orders", 1))}
    pins = pin(paris, dublin, dublin.metadata(), specs, {}, late=False, now_ms=77)
    assert pins == {KEY: pinned(OLD, NEW, 3, 3)}


def test_a_topic_created_again_since_it_was_discovered_waits_for_the_next_look() -> None:
    clusters = _clusters()
    clusters[0].ids["orders"] = NEW
    assert _pin(clusters) == {}
