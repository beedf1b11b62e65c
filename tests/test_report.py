"""What the checkpoint and the source say, put together: never zero for what is not known."""

from __future__ import annotations

import pytest

from eomirror import records
from eomirror.brokers import Entry
from eomirror.checkpoint import LaneState, fold
from eomirror.config import FlowConfig, TopicsConfig
from eomirror.errors import Reason
from eomirror.lag import Oldest
from eomirror.model import lane_of
from eomirror.records import Fault, FlowRecord, LaneRecord, Owner, PositionRecord, State
from eomirror.report import Here, LaneReport, RouteReport, Standing, judge

FLOW = FlowConfig(name="dr", source="paris", target="dublin", topics=TopicsConfig(include=("orders",)), lanes=2)
RECORD = FlowRecord(v=1, flow="dr", source_cluster_id="S", target_cluster_id="T", lanes=2, created_ms=1)
OWNER = Owner("host", 7, "x", 1_000)
HEAD = LaneRecord(v=1, n=9, generation=1, owner=OWNER, announced={})
NOW = 1_000_000


def position(next_offset: int, **more: object) -> PositionRecord:
    return PositionRecord(
        v=1, next_offset=next_offset, source_topic_id="id", target_topic_id="t", transaction=3, **more
    )  # type: ignore[arg-type]


def only(
    at: PositionRecord | None,
    here: dict[tuple[str, int], Here] | None,
    *,
    topic: str = "orders",
    committed_ms: int | None = NOW,
    unread: bool = False,
) -> RouteReport:
    """The report of the one partition 0 of a topic."""
    lane = lane_of(topic, 0, 2)
    lanes = {n: LaneState(RECORD if n == 0 else None, HEAD, {}, committed_ms) for n in range(2)}
    if at is not None:
        lanes[lane] = LaneState(RECORD if lane == 0 else None, HEAD, {(topic, 0): at}, committed_ms)
    troubles = {}
    if unread:
        del lanes[lane]
        troubles = {lane: "no leader"}
    report = judge(FLOW, Standing(RECORD, lanes, troubles), here, (), at_ms=NOW, stall_after=60.0)
    assert [route.place for route in report.routes] == [f"{topic}[0]"]
    return report.routes[0]


def here(start: int | None, end: int | None, oldest: Oldest | None = None, **more: str) -> dict[tuple[str, int], Here]:
    return {("orders", 0): Here(**{"topic_id": "id", **more}, start=start, end=end, oldest=oldest)}


def test_a_log_that_cannot_be_read_is_said_to_be_that() -> None:
    refused = "cluster paris: looking at orders[0]@10: TOPIC_AUTHORIZATION_FAILED (29)"
    seen = only(position(10), here(0, 12, unread=refused))
    assert (seen.state, seen.lag_records, seen.lag_seconds, seen.note) == ("ACTIVE", 2, None, refused)
    gone = only(position(10), here(11, 12, unread=refused))
    assert gone.note == "the source starts at 11: offsets 10 to 10 are gone"  # which says it better


def test_nothing_left_is_caught_up() -> None:
    seen = only(position(10), here(0, 10))
    assert (seen.state, seen.lag_records, seen.lag_seconds, seen.note) == ("CAUGHT_UP", 0, 0.0, None)


def test_only_markers_left_is_caught_up_too() -> None:
    seen = only(position(10), here(0, 12, Oldest(None)))
    assert (seen.state, seen.lag_records, seen.lag_seconds) == ("CAUGHT_UP", 2, 0.0)


def test_behind_with_a_lane_at_work_is_active() -> None:
    seen = only(position(10), here(0, 12, Oldest(NOW - 90_000)), committed_ms=NOW - 1_000)
    assert (seen.state, seen.lag_records, seen.lag_seconds) == ("ACTIVE", 2, 90.0)


def test_behind_with_a_lane_that_does_not_commit_is_stalled() -> None:
    seen = only(position(10), here(0, 12, Oldest(NOW - 90_000)), committed_ms=NOW - 61_000)
    assert seen.state == "STALLED"


def test_new_records_after_a_long_silence_are_not_a_stall() -> None:
    seen = only(position(10), here(0, 12, Oldest(NOW - 500)), committed_ms=NOW - 3_600_000)
    assert (seen.state, seen.lag_seconds) == ("ACTIVE", 0.5)


@pytest.mark.parametrize(
    ("answers", "note"),
    [
        (None, None),
        ({}, "the source has no such partition"),
        (here(0, 5, topic_id="other"), "the source's topic was deleted and created anew"),
        (here(None, None, cause="no leader"), "no leader"),
        (here(0, 5), "the source ends at 5, below the position"),
    ],
)
def test_what_the_source_does_not_say_is_unknown(answers: dict[tuple[str, int], Here] | None, note: str | None) -> None:
    seen = only(position(10), answers)
    assert (seen.state, seen.position) == ("ACTIVE", 10)
    assert (seen.lag_records, seen.lag_seconds, seen.note) == (None, None, note)


def test_a_gap_is_told_before_a_worker_meets_it() -> None:
    seen = only(position(10), here(15, 20))
    assert (seen.lag_records, seen.lag_seconds) == (10, None)
    assert seen.note == "the source starts at 15: offsets 10 to 14 are gone"


def test_a_fault_stays_a_fault_however_small_the_lag() -> None:
    fault = Fault(Reason.SOURCE_GAP, "gone", 5)
    seen = only(position(10, state=State.FAULTED, fault=fault), here(0, 10))
    assert (seen.state, seen.fault, seen.lag_records) == ("FAULTED", fault, 0)


def test_a_topic_without_a_position_is_not_mirrored_yet() -> None:
    seen = only(None, here(0, 10))
    assert (seen.state, seen.position, seen.lag_records, seen.note) == (None, None, None, "not mirrored yet")


def test_a_lane_that_cannot_be_read_says_nothing_about_its_partitions() -> None:
    seen = only(None, here(0, 10), unread=True)
    assert (seen.state, seen.lag_records, seen.note) == (None, None, "its lane cannot be read")


def test_a_topic_that_is_no_longer_selected_is_said_to_stand_still() -> None:
    seen = only(position(10), {("old", 0): Here("id", 0, 15)}, topic="old")
    assert (seen.selected, seen.note) == (False, "not selected by the configuration, so nobody mirrors it")


def test_a_flow_that_never_started_has_no_lanes() -> None:
    report = judge(FLOW, Standing(None, {}, {}), here(0, 10), (), at_ms=NOW, stall_after=60.0)
    assert (report.record, report.lanes) == (None, ())
    assert [(r.state, r.lag_records) for r in report.routes] == [(None, None)]


def test_lanes_are_told_by_their_newest_record() -> None:
    def entry(offset: int, n: int) -> Entry:
        value = records.encode(LaneRecord(v=1, n=n, generation=1, owner=OWNER, announced={}))
        return Entry(offset, 100 + offset, records.lane_key(), value)

    state = fold("checkpoint", 0, [Entry(0, 5, records.flow_key(), records.encode(RECORD)), entry(1, 1), entry(4, 2)])
    report = judge(FLOW, Standing(RECORD, {0: state}, {1: "no leader"}), {}, (), at_ms=NOW, stall_after=60.0)
    assert report.lanes == (LaneReport(0, OWNER, 2, 104), LaneReport(1, trouble="no leader"))
