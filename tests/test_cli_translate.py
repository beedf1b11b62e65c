"""`eomirror translate`: what it answers, word for word, and how it refuses."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from eomirror import logs
from eomirror.cli import app
from eomirror.cli import translate as verb
from eomirror.cli.app import guarded
from eomirror.errors import Exit, Reason
from eomirror.ledger import Before, Trail
from eomirror.model import RouteKey
from eomirror.records import Gap, Tally
from eomirror.translation import RouteMap

NOBODY = "127.0.0.1:1"
CONFIG = f"""\
apiVersion: eomirror/v1
clusters:
  paris: {{bootstrap: "localhost:1"}}
  dublin: {{bootstrap: "{NOBODY}"}}
flows:
  - {{name: dr, source: paris, target: dublin, topics: {{include: ["orders"]}}}}
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


Told = Callable[..., tuple[int, str, str]]


@pytest.fixture
def told(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Told:
    """Runs the verb against 100..199 -> 50..149 and 205 -> 151, position 210; (exit code, stdout, stderr)."""

    def run(*arguments: str, note: str | None = None, gaps: tuple[Gap, ...] = ()) -> tuple[int, str, str]:
        trail = Trail(Before.UNKNOWN)
        trail.add("a test", Tally((100, 50, 100, 5, 1, 1), gaps=gaps))

        def look(_config: object, _flow: object, key: RouteKey, target_offset: int | None) -> RouteMap:
            return RouteMap("dr", key, trail, 210, 152, max(152, target_offset or 0), note)

        monkeypatch.setattr(verb, "look", look)
        code = guarded(app, ["translate", *arguments])
        out, err = capsys.readouterr()
        return code, out, err

    return run


@pytest.mark.parametrize(
    ("arguments", "lines"),
    [
        (["160"], ["source offset 160 -> target offset 110, exact", "in the run 100..199 -> 50..149"]),
        (
            ["202"],
            [
                "source offset 202 -> target offset 151, the start of the next run",
                "in a gap (a marker, aborted, compacted or left out); next comes the run 205 -> 151",
            ],
        ),
        (
            ["208"],
            [
                "source offset 208 -> target offset 152, the end",
                "everything below it is mirrored; the next record will be there or behind it",
            ],
        ),
        (["110", "--reverse"], ["target offset 110 -> source offset 160, exact", "in the run 100..199 -> 50..149"]),
        (
            ["150", "--reverse"],
            [
                "target offset 150 -> source offset 205, the start of the next run",
                "in a gap (a commit marker, or not ours); next comes the run 205 -> 151",
            ],
        ),
        (
            ["153", "--reverse"],
            [
                "target offset 153 -> source offset 210, the end",
                "everything below it is mirrored; the next record will be there or behind it",
            ],
        ),
    ],
)
def test_two_lines_say_what_was_found(told: Told, arguments: list[str], lines: list[str]) -> None:
    assert told("dr", "orders", "3", *arguments) == (Exit.OK, f"orders[3]: {lines[0]}\n  {lines[1]}\n", "")


def test_a_note_is_told_below(told: Told) -> None:
    code, out, _ = told("dr", "orders", "3", "160", note="orders[3] is FAULTED")
    assert (code, out.splitlines()[2:]) == (Exit.OK, ["  orders[3] is FAULTED"])


LEFT_OUT = (Gap(200, 203), Gap(204, 205, Reason.TARGET_REFUSED, "ada"), Gap(206, 208, Reason.SOURCE_GAP))
LINES = [
    "  source offsets 200..202 were left out: below the flow's start",
    "  source offset 204 was left out: TARGET_REFUSED, accepted by ada",
    "  source offsets 206..207 were left out: SOURCE_GAP, accepted by unknown",
]
ITEMS = [
    {"first": 200, "next": 203, "reason": "START", "by": None},
    {"first": 204, "next": 205, "reason": "TARGET_REFUSED", "by": "ada"},
    {"first": 206, "next": 208, "reason": "SOURCE_GAP", "by": None},
]


@pytest.mark.parametrize(
    ("arguments", "gaps"),
    [
        (["160"], []),
        (["201"], [0, 1]),
        (["203"], [1]),
        (["206"], [2]),
        (["150", "--reverse"], [0, 1]),
        (["151", "--reverse"], [0, 1]),
        (["152", "--reverse"], [2]),
    ],
)
def test_what_was_left_out_is_told_in_lines_and_items(told: Told, arguments: list[str], gaps: list[int]) -> None:
    code, out, _ = told("dr", "orders", "3", *arguments, gaps=LEFT_OUT)
    assert (code, out.splitlines()[2:]) == (Exit.OK, [LINES[i] for i in gaps])
    code, out, _ = told("dr", "orders", "3", "-o", "json", *arguments, gaps=LEFT_OUT)
    assert (code, json.loads(out)["items"][0]["left_out"]) == (Exit.OK, [ITEMS[i] for i in gaps])


def test_the_end_does_not_call_mirrored_what_was_left_out(told: Told) -> None:
    out = told("dr", "orders", "3", "206", gaps=LEFT_OUT)[1]
    assert out.splitlines()[1] == ("  everything else below it is mirrored; the next record will be there or behind it")


@pytest.mark.parametrize("reverse", [False, True])
def test_json_has_both_offsets_whichever_was_asked_for(told: Told, reverse: bool) -> None:
    code, out, err = told("dr", "orders", "3", "-o", "json", *(["110", "--reverse"] if reverse else ["160"]))
    assert (code, err) == (Exit.OK, "")
    assert json.loads(out) == {
        "apiVersion": "eomirror/v1",
        "kind": "Translation",
        "items": [
            {
                "flow": "dr",
                "topic": "orders",
                "partition": 3,
                "reverse": reverse,
                "source_offset": 160,
                "target_offset": 110,
                "found": "exact",
                "run": {"source_first": 100, "target_first": 50, "records": 100},
                "position": 210,
                "target_end": 152,
                "left_out": [],
                "note": None,
            }
        ],
    }


def test_the_end_has_no_run_in_json(told: Told) -> None:
    item = json.loads(told("dr", "orders", "3", "210", "-o", "json")[1])["items"][0]
    assert (item["target_offset"], item["found"], item["run"]) == (152, "end", None)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["211"], "orders[3]: source offset 211 is not mirrored yet: the position is 210"),
        (["99"], "orders[3]: source offset 99 is older than the ledger, which begins at source offset 100"),
        (["49", "--reverse"], "orders[3]: target offset 49 is older than the ledger, which begins at target offset 50"),
    ],
)
def test_what_cannot_be_answered_exits_7_and_prints_no_offset(told: Told, arguments: list[str], message: str) -> None:
    code, out, err = told("dr", "orders", "3", *arguments)
    assert (code, out) == (Exit.REFUSED, "")
    assert err.startswith(f"error: {message}\nhint: ")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["bad", "orders", "0", "0"], 'no flow is named "bad"'),
        (["dr", "orders", "0"], "missing argument 'offset'"),
        (["dr", "orders", "x", "0"], "invalid value for 'partition'"),
        (["dr", "orders", "0", "-5"], "no such option: -5"),
        (["dr", "orders", "-1", "5"], "no such option: -1"),
        (["dr", "orders", "0", "--", "-5"], "invalid value for 'offset': "),
        (["dr", "orders", "0", str(1 << 63)], "invalid value for 'offset': "),
    ],
)
def test_misuse_exits_2(told: Told, arguments: list[str], message: str) -> None:
    code, out, err = told(*arguments)
    assert (code, out) == (Exit.USAGE, "")
    assert message in err
    assert err.splitlines()[1].startswith("hint: ")


def test_a_target_that_is_away_exits_4(capsys: pytest.CaptureFixture[str]) -> None:
    assert guarded(app, ["translate", "dr", "orders", "0", "5"]) == Exit.PREFLIGHT
    told = capsys.readouterr()
    assert (told.out, told.err.splitlines()[0]) == (
        "",
        f"error: cluster dublin: no broker answers ({NOBODY}: Connection refused)",
    )
