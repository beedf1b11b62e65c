"""What answers look like, to the character."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eomirror.brokers import Metadata
from eomirror.cli import faults, plans, render, standing
from eomirror.config import FlowConfig, TopicsConfig
from eomirror.errors import Reason
from eomirror.model import RouteSpec
from eomirror.records import Desired, Fault, FlowRecord, Owner, PositionRecord, State
from eomirror.report import FlowReport, LaneReport, RouteReport
from eomirror.topology import Create, Grow, Plan, internal_creates

NOW = 1_800_000_000_000
FLOW = FlowConfig(name="dr", source="paris", target="dublin", topics=TopicsConfig(include=("orders",)), lanes=2)
RECORD = FlowRecord(v=1, flow="dr", source_cluster_id="S", target_cluster_id="T", lanes=2, created_ms=NOW - 86_400_000)
OWNER = Owner("db1", 71, "x", NOW - 90_000)
GAP = Fault(Reason.SOURCE_GAP, "source starts at 812 but the checkpoint is 640", NOW - 192_000, 812)


def route(
    topic: str = "orders",
    partition: int = 0,
    state: str | None = "CAUGHT_UP",
    records: int | None = 0,
    seconds: float | None = 0.0,
    fault: Fault | None = None,
    note: str | None = None,
    selected: bool = True,
) -> RouteReport:
    end = None if records is None else 640 + records
    return RouteReport(topic, partition, 1, state, 640, 0, end, records, seconds, 641, fault, selected, note)


def report(*routes: RouteReport, record: FlowRecord | None = RECORD, trouble: tuple[str, ...] = ()) -> FlowReport:
    lanes = (LaneReport(0, OWNER, 5, NOW - 61_000), LaneReport(1, OWNER, 6, NOW - 3_000)) if record else ()
    return FlowReport("dr", "paris", "dublin", record, lanes, routes, trouble, NOW)


def shown(capsys: pytest.CaptureFixture[str], lines: object) -> str:
    render.emit_lines(lines)  # type: ignore[arg-type]
    return capsys.readouterr().out


def test_status_of_a_small_flow(capsys: pytest.CaptureFixture[str]) -> None:
    found = report(
        route(),
        route(partition=1, state="FAULTED", records=172, seconds=None, fault=GAP),
        route(partition=2, state="FAULTED", records=172, seconds=None, fault=GAP),
        route("users", 0, "ACTIVE", 3, 65.2),
    )
    assert shown(capsys, standing.status_lines(found, by_partition=None)) == (
        "flow dr: paris -> dublin, 2 lanes, 4 partitions\n"
        "last commit 3s ago, last owner pid 71 on db1 (started 1m 30s ago)\n"
        "TOPIC   PARTITION  LANE  STATE      POSITION  SOURCE END  LAG   BEHIND\n"
        "orders          0     1  CAUGHT_UP       640         640    0       0s\n"
        "orders          1     1  FAULTED         640         812  172  unknown\n"
        "orders          2     1  FAULTED         640         812  172  unknown\n"
        "users           0     1  ACTIVE          640         643    3    1m 5s\n"
        "\n"
        "orders[1], orders[2]: SOURCE_GAP since 3m 12s: source starts at 812 but the checkpoint is 640\n"
        '"eomirror fault list dr" says what can be done\n'
    )


def test_status_of_a_large_flow_is_told_by_topic(capsys: pytest.CaptureFixture[str]) -> None:
    found = report(
        *(route("orders", p, "CAUGHT_UP" if p else "ACTIVE", 0 if p else 7, 0.0 if p else 2.0) for p in range(40)),
        route("users", 0, "ACTIVE", None, None, note="no leader"),
    )
    assert shown(capsys, standing.status_lines(found, by_partition=None)).splitlines()[2:] == [
        "TOPIC   PARTITIONS  STATE                       LAG   BEHIND",
        "orders          40  1 ACTIVE, 39 CAUGHT_UP        7       2s",
        "users            1  ACTIVE                  unknown  unknown",
        "",
        "users[0]: no leader",
    ]


def test_status_of_a_flow_that_never_started(capsys: pytest.CaptureFixture[str]) -> None:
    assert shown(capsys, standing.status_lines(report(record=None), by_partition=None)) == (
        'flow dr: paris -> dublin, never started\n"eomirror run dr --dry-run" says what it would do\n'
    )


def test_lanes_of_several_owners_are_told_apart(capsys: pytest.CaptureFixture[str]) -> None:
    found = report(route())
    lanes = (
        LaneReport(0, OWNER, 5, NOW - 61_000),
        LaneReport(1, Owner("db2", 9, "y", NOW), 6, NOW),
        LaneReport(2, trouble="no leader"),
    )
    found = FlowReport(found.flow, "paris", "dublin", RECORD, lanes, (), ("lane 2: no leader",), NOW)
    assert shown(capsys, standing.status_lines(found, by_partition=None)).splitlines()[1:] == [
        "lanes 0: last commit 1m 1s ago, last owner pid 71 on db1 (started 1m 30s ago)",
        "lanes 1: last commit 0s ago, last owner pid 9 on db2 (started 0s ago)",
        "unknown: lane 2: no leader",
    ]


def test_lag_shows_the_unknown_first_then_the_furthest_behind(capsys: pytest.CaptureFixture[str]) -> None:
    found = report(
        route("a", 0),
        route("b", 0, "ACTIVE", 9, 3.0),
        route("c", 0, "ACTIVE", 2, 400.0),
        route("d", 0, "ACTIVE", None, None),
    )
    assert shown(capsys, standing.lag_lines([found], by_partition=True)) == (
        "FLOW  TOPIC  PARTITION  STATE      RECORDS   BEHIND\n"
        "dr    d              0  ACTIVE     unknown  unknown\n"
        "dr    c              0  ACTIVE           2   6m 40s\n"
        "dr    b              0  ACTIVE           9       3s\n"
        "dr    a              0  CAUGHT_UP        0       0s\n"
    )
    assert shown(capsys, standing.lag_lines([found], by_partition=False)).splitlines()[1].split() == [
        "dr",
        "d",
        "1",
        "unknown",
        "unknown",
    ]


def test_a_long_name_is_never_cut_where_nobody_looks(capsys: pytest.CaptureFixture[str]) -> None:
    name = "t" * 249
    out = shown(capsys, standing.lag_lines([report(route(name))], by_partition=True))
    assert name in out
    assert len(out.splitlines()) == 2
    assert "\x1b" not in out


def found_fault(reason: Reason, next_offset: int | None, ordered: Desired | None = None) -> faults.Found:
    fault = Fault(reason, "the batch is\x1b[2J broken", NOW - 192_000, next_offset)
    position = PositionRecord(
        v=1, next_offset=640, source_topic_id="", target_topic_id="", transaction=1, state=State.FAULTED, fault=fault
    )
    return faults.Found("dr", ("orders", 3), position, fault, ordered)


def test_a_fault_says_what_can_be_done_and_how(capsys: pytest.CaptureFixture[str]) -> None:
    ordered = Desired(v=1, action="retry", since_ms=NOW - 192_000, by="ann", why="", at_ms=NOW - 4_000)
    one = found_fault(Reason.CORRUPT_BATCH, 700, ordered)
    assert shown(capsys, faults.list_lines([one], [], NOW, complete=True)) == (
        "flow dr: orders[3]: CORRUPT_BATCH since 2027-01-15T07:56:48.000Z (3m 12s ago)\n"
        "  at source offset 640: the batch is\\x1b[2J broken\n"
        "  accept: the batch is left out; the gap is put in the ledger (source offsets 640 to 699)\n"
        "          eomirror fault accept dr orders 3\n"
        "  retry:  tries the same offset again; nothing is left out\n"
        "          eomirror fault retry dr orders 3\n"
        "  ordered: retry by ann 4s ago, not carried out yet\n"
    )


def test_a_batch_without_a_known_end_cannot_be_accepted(capsys: pytest.CaptureFixture[str]) -> None:
    one = found_fault(Reason.CORRUPT_BATCH, None)
    lines = shown(capsys, faults.list_lines([one], [], NOW, complete=True)).splitlines()
    assert lines[2] == "  accept: cannot be accepted, where the next batch begins is not known"
    assert faults.fault_item(one)["accept"] is None


@pytest.mark.parametrize(
    ("never", "complete", "expected"),
    [([], True, "no faults\n"), (["dr"], True, "flow dr has never been started\n"), ([], False, "")],
)
def test_no_faults_is_said_only_when_it_is_known(
    capsys: pytest.CaptureFixture[str], never: list[str], complete: bool, expected: str
) -> None:
    assert shown(capsys, faults.list_lines([], never, NOW, complete=complete)) == expected


def test_a_dry_run_names_what_it_would_create(capsys: pytest.CaptureFixture[str]) -> None:
    plan = Plan(
        creates=(Create("orders", 2, -1, {"retention.ms": "5", "cleanup.policy": "delete"}),),
        grows=(Grow("users", 3),),
        routes={("users", p): RouteSpec("users", p, "id", -2, 1) for p in range(2)},
        problems=("bad: left",),
        warnings=("small: batches",),
    )
    internal = {create.topic: None for create in internal_creates(FLOW)}
    target = Metadata("T", {}, internal, frozenset(), {})  # type: ignore[arg-type]
    one = plans.preview(FLOW, plan, target)
    assert one.routes == (("orders", 0), ("orders", 1), ("users", 0), ("users", 1), ("users", 2))
    assert sum(one.per_lane.values()) == 5
    assert shown(capsys, plans.lines(one)) == (
        "flow dr: paris -> dublin\n"
        "would mirror 5 partitions of 2 topics in 2 lanes, 2 to 3 partitions each\n"
        "        TOPIC   PARTITIONS  REPLICAS  CONFIGS\n"
        "create  orders           2   default  cleanup.policy=delete retention.ms=5\n"
        "grow    users            3\n"
        "left out: bad: left\n"
        "warning: small: batches\n"
    )
    item = plans.item(one)
    assert (item["first_start"], item["routes"], item["creates"][0]["replication_factor"]) == (False, 5, None)


def test_a_first_start_also_creates_the_internal_topics() -> None:
    one = plans.preview(FLOW, Plan(), Metadata("T", {}, {}, frozenset(), {}))
    assert [create["topic"] for create in plans.item(one)["creates"]] == [
        "__eomirror.dr.checkpoint",
        "__eomirror.dr.producers",
        "__eomirror.dr.ledger",
        "__eomirror.dr.control",
    ]


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (None, "unknown"),
        (0, "0s"),
        (0.0004, "1ms"),
        (0.34, "340ms"),
        (0.9997, "1s"),
        (59.6, "1m"),
        (61, "1m 1s"),
        (3_600, "1h"),
        (3_661, "1h 1m"),
        (90_061, "1d 1h"),
        (86_400 * 400, "400d"),
    ],
)
def test_spans(seconds: float | None, expected: str) -> None:
    assert render.span(seconds) == expected


@given(st.floats(0, 1e9))
def test_a_span_is_right_to_its_second_unit(seconds: float) -> None:
    sizes = {"d": 86_400, "h": 3_600, "m": 60, "s": 1}
    parts = render.span(seconds).split()
    if parts[0].endswith("ms"):
        assert abs(int(parts[0][:-2]) / 1000 - seconds) <= 0.001
        return
    told = sum(int(part[:-1]) * sizes[part[-1]] for part in parts)
    smallest = {"d": 3_600, "h": 60, "m": 1, "s": 1}[parts[0][-1]]
    assert -0.51 <= seconds - told < smallest + 0.51


@given(st.text())
def test_no_text_reaches_a_terminal_as_a_command(text: str) -> None:
    assert render.clean(text).isprintable()


def test_moments_are_utc() -> None:
    assert (render.moment(None), render.moment(0), render.moment(NOW + 5)) == (
        None,
        "1970-01-01T00:00:00.000Z",
        "2027-01-15T08:00:00.005Z",
    )


def test_json_is_one_object_of_the_stable_shape(capsys: pytest.CaptureFixture[str]) -> None:
    found = report(route(state=None, records=None, seconds=None), trouble=("source away",))
    render.emit_json("Status", [standing.status_item(found)])
    answer = json.loads(capsys.readouterr().out)
    assert list(answer) == ["apiVersion", "kind", "items"]
    assert (answer["apiVersion"], answer["kind"]) == ("eomirror/v1", "Status")
    item = answer["items"][0]
    assert item["lanes"][1] == {
        "lane": 1,
        "owner": {"host": "db1", "pid": 71, "instance": "x", "started": "2027-01-15T07:58:30.000Z"},
        "transactions": 6,
        "last_commit": "2027-01-15T07:59:57.000Z",
        "trouble": None,
    }
    assert item["routes"] == [
        {
            "topic": "orders",
            "partition": 0,
            "lane": 1,
            "state": None,
            "position": 640,
            "source_start": 0,
            "source_end": None,
            "target_end": 641,
            "lag_records": None,
            "lag_seconds": None,
            "selected": True,
            "note": None,
            "fault": None,
        }
    ]
    del item["lanes"], item["routes"]
    assert item == {
        "flow": "dr",
        "source": "paris",
        "target": "dublin",
        "started": True,
        "source_cluster_id": "S",
        "target_cluster_id": "T",
        "created": "2027-01-14T08:00:00.000Z",
        "at": "2027-01-15T08:00:00.000Z",
        "trouble": ["source away"],
    }
