"""One result from several runs: the newest finished measurement of each scenario, and nothing that does not belong."""

from __future__ import annotations

from typing import Any

import pytest

from bench import report
from bench.join import Unlike, joined
from bench.rounds import Timing
from bench.scenarios import SCENARIOS

EVERY = [one.name for one in SCENARIOS]


def run(day: int, names: list[str], *, rounds: int = 3, missing: int = 0, **more: Any) -> dict[str, Any]:
    """A run of that day; `missing` rounds of the last system of the last scenario were never begun."""
    found: list[dict[str, Any]] = []
    for one in SCENARIOS:
        if one.name in names:
            systems = [
                {"name": name, "rounds": [{"day": day}] * one.rounds(name, rounds), "settings": "", "title": name}
                for name in one.systems
            ]
            found.append({"name": one.name, "kind": one.kind, "title": one.title, "systems": systems})
    if missing:
        del found[-1]["systems"][-1]["rounds"][-missing:]
    return {
        "machine": {"cpu": "Some CPU"},
        "brokers": {"heap_mb": 512},
        "smoke": False,
        "versions": {"eomirror": f"0.1.0, commit {day}", "Kafka": "4.3.1"},
        "timing": {"rounds": rounds, **vars(Timing())},
        "load_before": [float(day)],
        "started": f"2026-11-{day}T10:00:00+00:00",
        "finished": f"2026-11-{day}T11:00:00+00:00",
        "minutes": 30.0,
        "command": f"run {day}",
        "incomplete": "interrupted" if missing else None,
        "scenarios": found,
        **more,
    }


def days(result: dict[str, Any]) -> list[tuple[str, int]]:
    return [(one["name"], one["systems"][0]["rounds"][0]["day"]) for one in result["scenarios"]]


def test_what_one_run_left_over_comes_from_the_next() -> None:
    first, second = run(20, EVERY[:4], missing=1), run(21, EVERY[3:])
    both = joined([second, first])
    assert days(both) == [(name, 20) for name in EVERY[:3]] + [(name, 21) for name in EVERY[3:]]
    assert (both["incomplete"], both["minutes"], both["command"]) == (None, 60.0, "run 20; run 21")
    assert both["versions"]["eomirror"] == "0.1.0, commit 20 and 0.1.0, commit 21"
    assert [part["scenarios"] for part in both["parts"]] == [EVERY[:3], EVERY[3:]]
    assert report.refusal(both) is None
    assert str(report.refusal(joined([first]))).startswith(f"without {EVERY[3]} by eomirror")


def test_the_newest_finished_run_of_a_scenario_counts() -> None:
    both = joined([run(22, EVERY[1:3], missing=1), run(21, EVERY[:2]), run(20, EVERY)])
    assert days(both)[:4] == [(EVERY[0], 21), (EVERY[1], 22), (EVERY[2], 20), (EVERY[3], 20)]


def test_a_run_of_which_nothing_is_taken_is_not_named() -> None:
    both = joined([run(20, EVERY[:1]), run(21, EVERY)])
    assert both["command"] == "run 21"
    assert both["versions"]["eomirror"] == "0.1.0, commit 21"


@pytest.mark.parametrize(
    ("more", "what"),
    [
        ({"machine": {"cpu": "Another"}}, "machine"),
        ({"brokers": {"heap_mb": 1024}}, "brokers"),
        ({"smoke": True}, "smoke"),
        ({"versions": {"eomirror": "0.1.0", "Kafka": "4.2.0"}}, "Kafka"),
        ({"timing": {"rounds": 3, **vars(Timing(seconds=10))}}, "seconds"),
    ],
)
def test_runs_that_cannot_be_compared_are_refused(more: dict[str, Any], what: str) -> None:
    with pytest.raises(Unlike, match=f"^{what} differs: "):
        joined([run(20, EVERY), run(21, EVERY, **more)])


def test_nothing_finished_is_no_result() -> None:
    with pytest.raises(Unlike, match="no run has finished"):
        joined([run(20, EVERY[:1], missing=1)])


def test_a_scenario_that_is_no_more_is_named() -> None:
    old = run(20, EVERY[:1])
    old["scenarios"].append({**old["scenarios"][0], "name": "carrier-pigeons"})
    with pytest.raises(Unlike, match=r"^carrier-pigeons: "):
        joined([old])
