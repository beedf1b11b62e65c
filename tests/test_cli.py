"""The verbs without a cluster: what they answer, what they say when they cannot, and what they exit with."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from configtext import MINIMAL

from eomirror import __version__, logs
from eomirror import config as configuration
from eomirror.checkpoint import LaneState
from eomirror.cli import app, faults, standing
from eomirror.cli.app import guarded
from eomirror.errors import Exit, Reason
from eomirror.records import Desired, Fault, FlowRecord, PositionRecord, State
from eomirror.report import FlowReport, RouteReport, Standing

RECORD = FlowRecord(v=1, flow="dr", source_cluster_id="S", target_cluster_id="T", lanes=1, created_ms=1)
NOBODY = "127.0.0.1:1"

CONFIG = """\
apiVersion: eomirror/v1
clusters:
  paris: {bootstrap: "127.0.0.1:1", client: {client.rack: "r1"}}
  dublin: {bootstrap: "${env:DUBLIN:-localhost:1}"}
flows:
  - {name: dr, source: paris, target: dublin, topics: {include: ["orders"]}}
  - {name: back, source: dublin, target: paris, topics: {include: ["users"]}}
"""


@pytest.fixture(autouse=True)
def _own_setting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    file = tmp_path / "eomirror.yaml"
    file.write_text(CONFIG)
    monkeypatch.setenv("EOMIRROR_CONFIG", str(file))
    monkeypatch.setenv("NO_COLOR", "1")
    level, style = logs.configured()
    yield
    logs.configure(level, style)  # type: ignore[arg-type]


def route(partition: int, seconds: float | None, **more: Any) -> RouteReport:
    values: dict[str, Any] = {
        "topic": "orders",
        "partition": partition,
        "lane": 0,
        "state": "ACTIVE",
        "position": 1,
        "source_start": 0,
        "source_end": 5,
        "lag_records": 4,
        "lag_seconds": seconds,
        "target_end": 1,
        "fault": None,
        "selected": True,
        "note": None,
    }
    return RouteReport(**{**values, **more})


def standing_at(
    monkeypatch: pytest.MonkeyPatch,
    *routes: RouteReport,
    record: FlowRecord | None = RECORD,
    trouble: tuple[str, ...] = (),
) -> None:
    found = FlowReport("dr", "paris", "dublin", record, (), routes, trouble, 1_000)
    monkeypatch.setattr(standing, "look", lambda _config, _flow: found)


def faulted_with(monkeypatch: pytest.MonkeyPatch, fault: Fault | None) -> list[Desired]:
    """A flow whose only partition orders[0] stands with this fault; the orders that are given about it."""
    state = State.FAULTED if fault else State.ACTIVE
    position = PositionRecord(
        v=1, next_offset=7, source_topic_id="", target_topic_id="", transaction=1, state=state, fault=fault
    )
    stand = Standing(RECORD, {0: LaneState(RECORD, None, {("orders", 0): position})}, {})
    found = [faults.Found("dr", ("orders", 0), position, fault, None)] if fault else []
    given: list[Desired] = []
    monkeypatch.setattr(faults, "_read", lambda _config, _flow: (stand, found))
    monkeypatch.setattr(faults, "order", lambda _target, _flow, _key, desired: given.append(desired))
    return given


# --- misuse


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["statsu"], "error: no such command 'statsu'. Did you mean 'status'?\n"),
        (["frobnicate"], "error: no such command 'frobnicate'\n"),
        (["fault", "accept", "dr", "orders"], "error: missing argument 'partition'\n"),
        (["run", "dr", "back"], "error: got unexpected extra argument(s) (back)\n"),
        (["status", "--nope"], "error: no such option: --nope\n"),
        (["lag", "--max", "30"], "error: --max: '30' is not a duration\n"),
        (["run", "-o", "json"], "error: run answers with its log\n"),
    ],
)
def test_misuse_is_named_and_exits_2(capsys: pytest.CaptureFixture[str], arguments: list[str], message: str) -> None:
    assert guarded(app, arguments) == Exit.USAGE
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.startswith(message)
    assert told.err.splitlines()[1].startswith("hint: ")


@pytest.mark.parametrize("arguments", [["status", "bak"], ["lag", "bak"], ["run", "bak"], ["fault", "list", "bak"]])
def test_an_unknown_flow_is_answered_with_the_nearest(
    capsys: pytest.CaptureFixture[str], arguments: list[str], tmp_path: Path
) -> None:
    assert guarded(app, arguments) == Exit.USAGE
    assert capsys.readouterr().err == (
        f'error: {tmp_path / "eomirror.yaml"}: no flow is named "bak"\nhint: did you mean "back"?\n'
    )


def test_no_verb_is_answered_with_the_verbs(capsys: pytest.CaptureFixture[str]) -> None:
    assert guarded(app, []) == Exit.USAGE
    told = capsys.readouterr()
    assert "Commands:" in told.out + told.err


def test_every_verb_has_help(capsys: pytest.CaptureFixture[str]) -> None:
    for verb in (
        ["run"],
        ["status"],
        ["lag"],
        ["translate"],
        ["version"],
        ["fault", "list"],
        ["fault", "accept"],
        ["config", "show"],
    ):
        assert guarded(app, [*verb, "--help"]) == Exit.OK
        assert capsys.readouterr().out.startswith(f"Usage: eomirror {' '.join(verb)}")


# --- configuration and version


def test_a_good_configuration_is_one_line(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert guarded(app, ["config", "validate"]) == Exit.OK
    assert capsys.readouterr().out == f"{tmp_path / 'eomirror.yaml'}: ok, 2 clusters, 2 flows\n"


def test_every_problem_of_a_configuration_is_told_with_its_place(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    file = tmp_path / "bad.yaml"
    file.write_text(CONFIG.replace("target: dublin", "targt: dublin").replace('"users"', '"("'))
    assert guarded(app, ["config", "validate", "-c", str(file)]) == Exit.USAGE
    told = capsys.readouterr().err
    assert f"error: {file}:6:" in told
    assert f"\n{file}:7:" in told
    assert 'did you mean "target"?' in told


def test_a_missing_configuration_names_the_file(capsys: pytest.CaptureFixture[str]) -> None:
    assert guarded(app, ["status", "-c", "/nowhere.yaml"]) == Exit.USAGE
    assert capsys.readouterr().err.startswith("error: /nowhere.yaml: the configuration cannot be read")


def test_the_shown_configuration_reads_back_as_the_same(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert guarded(app, ["config", "show"]) == Exit.OK
    again = tmp_path / "again.yaml"
    again.write_text(capsys.readouterr().out)
    assert configuration.load(again).flows == configuration.load(tmp_path / "eomirror.yaml").flows


def test_the_shown_configuration_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert guarded(app, ["config", "show", "-o", "json"]) == Exit.OK
    answer = json.loads(capsys.readouterr().out)
    assert (answer["kind"], answer["items"][0]["clusters"]["paris"]["bootstrap"]) == ("Config", NOBODY)


TRANSFORM = """\
    transform:
      - set: {header: region, value: "{source_cluster}/${env:REGION:-eu}"}
      - provenance: {}
"""


def test_the_resolved_configuration_says_what_is_done_to_headers(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "eomirror.yaml").write_text(MINIMAL + TRANSFORM)
    assert guarded(app, ["config", "show", "--resolved"]) == Exit.OK
    told = capsys.readouterr().out
    assert "commit:\n    interval: auto\n" in told
    assert (
        '  recipe:\n  - set "region" = ***\n  - add "eomirror.origin" = "paris/{topic}/{partition}/{offset}"\n' in told
    )
    assert guarded(app, ["config", "show", "--resolved", "-o", "json"]) == Exit.OK
    flow = json.loads(capsys.readouterr().out)["items"][0]["flows"][0]
    assert flow["recipe"] == [
        'set "region" = ***',
        'add "eomirror.origin" = "paris/{topic}/{partition}/{offset}"',
    ]
    assert flow["transform"][1] == {"provenance": {"header": "eomirror.origin"}}


def test_a_transform_is_checked_with_the_configuration(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    file = tmp_path / "eomirror.yaml"
    file.write_text(MINIMAL + TRANSFORM.replace("{source_cluster}", "{source}"))
    assert guarded(app, ["config", "validate"]) == Exit.USAGE
    assert capsys.readouterr().err == (
        f"error: {file}:11:38: flows[0].transform[0].set.value: the value of ${{env:REGION:-eu}} holds an unknown "
        'placeholder\nhint: did you mean "{source_cluster}"?\n'
    )


def test_the_schema_is_a_json_schema(capsys: pytest.CaptureFixture[str]) -> None:
    assert guarded(app, ["config", "schema"]) == Exit.OK
    assert json.loads(capsys.readouterr().out) == configuration.schema()


def test_version_names_what_it_stands_on(capsys: pytest.CaptureFixture[str]) -> None:
    assert guarded(app, ["version", "-o", "json"]) == Exit.OK
    answer = json.loads(capsys.readouterr().out)
    assert (answer["apiVersion"], answer["kind"]) == ("eomirror/v1", "Version")
    item = answer["items"][0]
    assert list(item) == ["eomirror", "python", "kernel_crc32c", "librdkafka", "confluent_kafka", "kio"]
    assert (item["eomirror"], item["python"]) == (__version__, sys.version.split()[0])
    assert guarded(app, ["version"]) == Exit.OK
    assert capsys.readouterr().out.split()[:2] == ["eomirror", __version__]


# --- clusters that are away


@pytest.mark.parametrize(
    "arguments",
    [["status", "back"], ["lag", "back"], ["fault", "list", "back"], ["fault", "retry", "back", "users", "0", "--yes"]],
)
def test_a_target_that_is_away_exits_4_and_names_its_address(
    capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    assert guarded(app, arguments) == Exit.PREFLIGHT
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err == (
        f"error: cluster paris: no broker answers ({NOBODY}: Connection refused)\n"
        f"hint: See that its brokers are up and that clusters.paris.bootstrap ({NOBODY}) is right.\n"
    )


def test_a_start_without_a_target_exits_4(capsys: pytest.CaptureFixture[str]) -> None:
    assert guarded(app, ["run", "back", "--dry-run"]) == Exit.PREFLIGHT
    assert f"hint: See that dublin (localhost:1) and paris ({NOBODY}) are up" in capsys.readouterr().err


def test_a_refused_start_is_an_event_where_the_log_is_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert guarded(app, ["run", "back"]) == Exit.PREFLIGHT
    event = json.loads(capsys.readouterr().err)
    assert (event["event"], event["exit"], event["error"]["type"]) == ("run.refused", 4, "Preflight")


def test_status_without_the_source_says_what_it_knows(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    standing_at(monkeypatch, route(0, None, lag_records=None, source_end=None), trouble=("paris is away",))
    assert guarded(app, ["status", "dr"]) == Exit.OK
    assert "\nunknown: paris is away\n" in capsys.readouterr().out


@pytest.fixture
def _heard_interrupts() -> Iterator[None]:
    """A suite that runs in the background is deaf to SIGINT, and its children would inherit that."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("_heard_interrupts")
def test_ctrl_c_while_a_cluster_keeps_silent_ends_quietly(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        file = tmp_path / "silent.yaml"
        file.write_text(CONFIG.replace("${env:DUBLIN:-localhost:1}", f"127.0.0.1:{silent.getsockname()[1]}"))
        command = subprocess.Popen(
            [sys.executable, "-m", "eomirror.cli", "status", "dr", "-c", str(file)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        accepted, _ = silent.accept()  # it has asked, and waits
        with accepted:
            command.send_signal(signal.SIGINT)
            out, err = command.communicate(timeout=30)
    assert (command.returncode, out, err) == (130, b"", b"")


def test_a_reader_that_has_gone_ends_it_quietly() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    ended = subprocess.run(
        [sys.executable, "-m", "eomirror.cli", "config", "schema"], stdout=writer, stderr=subprocess.PIPE, timeout=60
    )
    os.close(writer)
    assert (ended.returncode, ended.stderr) == (141, b"")


def test_what_nobody_foresaw_exits_1_and_can_be_reported(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise KeyError("unforeseen")

    monkeypatch.setattr(standing, "look", broken)
    assert guarded(app, ["status", "dr"]) == Exit.BUG
    told = capsys.readouterr().err
    assert "error: a bug in eomirror: KeyError: 'unforeseen'" in told
    assert "test_cli.py" in told


# --- lag


@pytest.mark.parametrize(
    ("routes", "code", "complaints"),
    [
        ([route(0, 30.0), route(1, 0.0)], Exit.OK, []),
        ([route(0, 30.1), route(1, 0.0)], Exit.THRESHOLD, ["error: dr: orders[0] is 30s behind, over 30s"]),
        ([route(0, None, note="gone")], Exit.THRESHOLD, ["error: dr: lag of orders[0] is unknown: gone"]),
        ([route(0, None, state="PAUSED"), route(1, None, selected=False)], Exit.OK, []),
        ([route(0, 90.0, state="FAULTED")], Exit.THRESHOLD, ["error: dr: orders[0] is 1m 30s behind, over 30s"]),
    ],
)
def test_a_lag_over_the_threshold_exits_5_and_says_which(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    routes: list[RouteReport],
    code: Exit,
    complaints: list[str],
) -> None:
    standing_at(monkeypatch, *routes)
    assert guarded(app, ["lag", "dr", "--max", "30s"]) == code
    assert capsys.readouterr().err.splitlines() == complaints


def test_many_partitions_over_the_threshold_do_not_flood(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    standing_at(monkeypatch, *(route(p, 99.0) for p in range(25)))
    assert guarded(app, ["lag", "dr", "--max", "30s", "-o", "json"]) == Exit.THRESHOLD
    told = capsys.readouterr()
    assert len(json.loads(told.out)["items"]) == 25
    assert told.err.splitlines()[10:] == ["error: and 15 more"]


def test_a_flow_that_never_started_is_over_any_threshold(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    standing_at(monkeypatch, route(0, None, state=None), record=None)
    assert guarded(app, ["lag", "dr", "--max", "1d"]) == Exit.THRESHOLD
    assert capsys.readouterr().err == "error: flow dr has never been started on dublin\n"
    assert guarded(app, ["lag", "dr"]) == Exit.OK


def test_a_lag_that_nobody_can_know_is_not_a_success(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    standing_at(monkeypatch, route(0, None, lag_records=None), trouble=("paris is away",))
    assert guarded(app, ["lag", "dr", "-o", "json"]) == Exit.PREFLIGHT
    told = capsys.readouterr()
    item = json.loads(told.out)["items"][0]
    assert (item["lag_records"], item["lag_seconds"]) == (None, None)
    assert told.err == "error: paris is away\n"


# --- faults


GAP = Fault(Reason.SOURCE_GAP, "gone", 44, 9)


@pytest.mark.parametrize("action", ["accept", "retry"])
def test_an_order_is_for_exactly_this_fault(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, action: str
) -> None:
    given = faulted_with(monkeypatch, GAP)
    assert guarded(app, ["fault", action, "dr", "orders", "0", "--yes", "--why", "drill"]) == Exit.OK
    assert [(d.action, d.since_ms, d.why) for d in given] == [(action, 44, "drill")]
    assert capsys.readouterr().out.splitlines()[-1].startswith("ordered: ")


def test_a_dry_run_of_an_order_orders_nothing(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    given = faulted_with(monkeypatch, GAP)
    assert guarded(app, ["fault", "accept", "dr", "orders", "0", "--dry-run"]) == Exit.OK
    assert given == []
    assert capsys.readouterr().out.endswith(
        "accept: goes on at the first offset that the source still has; the gap is put in the ledger\n"
        "dry run: nothing was changed\n"
    )


def test_without_a_terminal_nothing_is_decided_unasked(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    given = faulted_with(monkeypatch, GAP)
    monkeypatch.setattr(faults, "_at_terminal", lambda: False)
    assert guarded(app, ["fault", "accept", "dr", "orders", "0"]) == Exit.USAGE
    assert given == []
    assert '"eomirror fault accept dr orders 0 --yes"' in capsys.readouterr().err


@pytest.mark.parametrize(
    ("answer", "code", "orders"), [("y\n", Exit.OK, 1), ("n\n", Exit.REFUSED, 0), ("", Exit.REFUSED, 0)]
)
def test_a_person_is_asked(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, answer: str, code: Exit, orders: int
) -> None:
    given = faulted_with(monkeypatch, GAP)
    typed = tmp_path / "typed"
    typed.write_text(answer)
    with typed.open() as keyboard:
        monkeypatch.setattr(sys, "stdin", keyboard)
        monkeypatch.setattr(faults, "_at_terminal", lambda: True)
        assert guarded(app, ["fault", "accept", "dr", "orders", "0"]) == code
    assert len(given) == orders


@pytest.mark.parametrize(
    ("fault", "arguments", "message"),
    [
        (None, ["accept", "dr", "orders", "0"], "flow dr: orders[0] is not faulted, it is ACTIVE"),
        (GAP, ["retry", "dr", "orders", "5"], "flow dr: orders[5] is not mirrored by this flow"),
        (
            Fault(Reason.CORRUPT_BATCH, "torn", 44),
            ["accept", "dr", "orders", "0"],
            "flow dr: orders[0]: CORRUPT_BATCH cannot be accepted: where the next batch begins is not known",
        ),
    ],
)
def test_what_cannot_be_decided_is_refused(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    fault: Fault | None,
    arguments: list[str],
    message: str,
) -> None:
    given = faulted_with(monkeypatch, fault)
    assert guarded(app, ["fault", *arguments, "--yes"]) == Exit.REFUSED
    assert capsys.readouterr().err.startswith(f"error: {message}\nhint: ")
    assert given == []


def test_faults_as_json(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    faulted_with(monkeypatch, GAP)
    assert guarded(app, ["fault", "list", "dr", "-o", "json"]) == Exit.OK
    assert json.loads(capsys.readouterr().out) == {
        "apiVersion": "eomirror/v1",
        "kind": "Faults",
        "items": [
            {
                "flow": "dr",
                "topic": "orders",
                "partition": 0,
                "state": "FAULTED",
                "position": 7,
                "reason": "SOURCE_GAP",
                "detail": "gone",
                "since": "1970-01-01T00:00:00.044Z",
                "accept": {
                    "effect": "goes on at the first offset that the source still has; the gap is put in the ledger",
                    "command": "eomirror fault accept dr orders 0",
                },
                "retry": {
                    "effect": "tries the same offset again; nothing is left out",
                    "command": "eomirror fault retry dr orders 0",
                },
                "ordered": None,
            }
        ],
    }
