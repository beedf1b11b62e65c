"""`eomirror verify`: what it answers, word for word, and how it ends."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from eomirror import logs
from eomirror.cli import app
from eomirror.cli import verify as verb
from eomirror.cli.app import guarded
from eomirror.compare import Difference, Kind, Only
from eomirror.errors import Exit
from eomirror.verify import Compared, Verdict

NOBODY = "127.0.0.1:1"
CONFIG = f"""\
apiVersion: eomirror/v1
clusters:
  paris: {{bootstrap: "localhost:1"}}
  dublin: {{bootstrap: "{NOBODY}"}}
flows:
  - {{name: dr, source: paris, target: dublin, topics: {{include: ["orders"]}}}}
"""
EQUAL = Compared("orders", 0, 1_075_126, {}, {Only.RETENTION: 120}, mirrored=1_075_246, translations=400)
FLIPPED = Compared(
    "orders",
    1,
    7,
    {Kind.CHANGED: 7, Kind.FOREIGN: 1},
    {Only.RETENTION: 2, Only.COMPACTION: 1},
    (
        *(Difference(Kind.CHANGED, n, n + 3, "value differs at byte 4 of 9") for n in range(7)),
        Difference(Kind.FOREIGN, None, 99, "it is in no run of the ledger"),
    ),
    mirrored=17,
)
UNREAD = Compared("orders", 2, cause="cluster dublin: orders[2]: the topic is gone")
ODD = Compared("orders", 3, 5, ledger=("its runs end at 5",), mirrored=5, note="FAULTED (SOURCE_GAP): detail")


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
    """Runs the verb with these partitions as found; (exit code, stdout, stderr)."""

    def run(
        *partitions: Compared, arguments: tuple[str, ...] = (), ledger: tuple[str, ...] = ()
    ) -> tuple[int, str, str]:
        def judge(_config: object, _flow: object, _topics: list[str], sample: int | None) -> Verdict:
            return Verdict("dr", "paris", "dublin", partitions, ledger, sample, 1_700_000_000_000, 83.2)

        monkeypatch.setattr(verb, "judge", judge)
        code = guarded(app, ["verify", "dr", *arguments])
        out, err = capsys.readouterr()
        return code, out, err

    return run


def test_the_verdict_is_the_last_line(told: Told) -> None:
    code, out, err = told(EQUAL)
    assert (code, err) == (Exit.OK, "")
    assert out == (
        "TOPIC   PARTITION      EQUAL  DIFFERENT  NOT COMPARABLE\n"
        "orders          0  1 075 126          0             120\n"
        "\n"
        "verify: 1 075 126 records equal, 0 different, 120 not comparable (retention); 1m 23s\n"
    )


def test_differences_are_told_with_their_offsets_and_exit_3(told: Told) -> None:
    code, out, err = told(EQUAL, FLIPPED)
    assert (code, err) == (Exit.DIFFERS, "")
    assert out.splitlines()[3:] == [
        *(
            f"orders[1]: changed: source offset {n}, target offset {n + 3}: value differs at byte 4 of 9"
            for n in range(5)
        ),
        "orders[1]: and 3 more",
        "",
        "verify: 1 075 133 records equal, 8 different (7 changed, 1 foreign), "
        "123 not comparable (1 compaction, 122 retention); 1m 23s",
    ]


def test_what_is_wrong_with_the_ledger_exits_3_too(told: Told) -> None:
    code, out, _ = told(ODD, ledger=("a record does not follow",))
    assert code == Exit.DIFFERS
    assert out.splitlines()[2:] == [
        "orders[3]: ledger: its runs end at 5",
        "orders[3]: FAULTED (SOURCE_GAP): detail",
        "ledger: a record does not follow",
        "",
        "verify: 5 records equal, 0 different, 0 not comparable, 2 problems in the ledger; 1m 23s",
    ]


def test_what_was_not_compared_is_never_exit_0(told: Told) -> None:
    code, out, _ = told(EQUAL, UNREAD)
    assert code == Exit.REFUSED
    assert out.splitlines()[2:] == [
        "orders          2  not compared          -               -",
        "orders[2]: not compared: cluster dublin: orders[2]: the topic is gone",
        "",
        "verify: 1 075 126 records equal, 0 different, 120 not comparable (retention), "
        "1 partition not compared; 1m 23s",
    ]
    assert told(FLIPPED, UNREAD)[0] == Exit.DIFFERS


def test_a_sample_says_how_much_was_compared(told: Told) -> None:
    out = told(Compared("orders", 0, 4000, mirrored=1_075_246), arguments=("--sample", "4"))[1]
    assert out.splitlines()[-1] == (
        "verify: 4 000 of 1 075 246 records compared: 4 000 records equal, 0 different, 0 not comparable; 1m 23s"
    )


def test_of_many_partitions_those_that_need_a_look_are_shown(told: Told) -> None:
    many = tuple(Compared("bills", n, 2, mirrored=2) for n in range(30))
    assert told(*many)[1] == "\nverify: 60 records equal, 0 different, 0 not comparable; 1m 23s\n"
    shown = told(*many, FLIPPED, UNREAD, ODD)[1]
    assert "bills" not in shown
    assert shown.splitlines()[0].startswith("TOPIC")
    assert told(Compared("bills", 0, 1))[1].splitlines()[-1].startswith("verify: 1 record equal, ")


def test_json_has_the_same(told: Told) -> None:
    code, out, err = told(FLIPPED, UNREAD, arguments=("-o", "json"))
    assert (code, err) == (Exit.DIFFERS, "")
    whole = json.loads(out)
    assert (whole["apiVersion"], whole["kind"]) == ("eomirror/v1", "Verify")
    (item,) = whole["items"]
    partitions = item.pop("partitions")
    figures = {
        "equal": 7,
        "different": 8,
        "different_by_kind": {"changed": 7, "foreign": 1},
        "not_comparable": 3,
        "not_comparable_by_reason": {"compaction": 1, "retention": 2},
    }
    assert item == {
        "flow": "dr",
        "source": "paris",
        "target": "dublin",
        "at": "2023-11-14T22:13:20.000Z",
        "seconds": 83.2,
        "verdict": "differs",
        "sample": None,
        "mirrored": 17,
        **figures,
        "ledger": {"problems": [], "translations": 0},
    }
    assert partitions[0].pop("differences")[-1] == {
        "kind": "foreign",
        "source_offset": None,
        "target_offset": 99,
        "detail": "it is in no run of the ledger",
    }
    assert partitions[0] == {
        "topic": "orders",
        "partition": 1,
        "mirrored": 17,
        **figures,
        "ledger": {"problems": [], "translations": 0},
        "not_compared": None,
        "note": None,
    }
    assert partitions[1]["not_compared"] == UNREAD.cause
    assert json.loads(told(UNREAD, arguments=("-o", "json"))[1])["items"][0]["verdict"] == "incomplete"
    assert json.loads(told(EQUAL, arguments=("-o", "json"))[1])["items"][0]["verdict"] == "equal"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["bad"], 'no flow is named "bad"'),
        ([], "missing argument 'flow'"),
        (["dr", "--sample", "0"], "invalid value for '--sample'"),
    ],
)
def test_misuse_exits_2(capsys: pytest.CaptureFixture[str], arguments: list[str], message: str) -> None:
    assert guarded(app, ["verify", *arguments]) == Exit.USAGE
    out, err = capsys.readouterr()
    assert out == ""
    assert message in err


def test_a_cluster_that_is_away_exits_4(capsys: pytest.CaptureFixture[str]) -> None:
    assert guarded(app, ["verify", "dr"]) == Exit.PREFLIGHT
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.splitlines() == [
        f"error: cluster dublin: no broker answers ({NOBODY}: Connection refused)",
        f"hint: See that paris (localhost:1) and dublin ({NOBODY}) are up and rightly named.",
    ]
