"""One result from several runs, each of which measured some of the scenarios.

    python -m bench.join bench/results/mirror-2026-11-29.json bench/results/mirror-2026-11-30.json

A run takes about an hour; what was left over, or is measured again after a change, need not measure the rest again.
The runs must be of one machine, with the same versions and the same times. Each scenario comes from the newest run
that finished it, and the result says which that was.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from integration.cluster import ROOT

from .mirror import RESULTS, write
from .scenarios import SCENARIOS

SAME = ("machine", "brokers", "smoke")
Result = Mapping[str, Any]


class Unlike(Exception):
    """Results that make no table together; the message says why."""


def joined(results: Sequence[Result]) -> dict[str, Any]:
    """The result of all of them together. Raises Unlike."""
    parts = sorted(results, key=lambda result: str(result["finished"]))
    for one in parts[1:]:
        for name, ours, theirs in _compared(parts[0], one):
            if ours != theirs:
                raise Unlike(f"{name} differs: {ours} and {theirs}")
    newest: dict[str, tuple[Result, Mapping[str, Any]]] = {}
    for result in parts:
        for scenario in result["scenarios"]:
            if _finished(result, scenario):
                newest[scenario["name"]] = result, scenario
    order = [one.name for one in SCENARIOS if one.name in newest]
    commits = dict.fromkeys(result["versions"]["eomirror"] for result, _ in newest.values())
    taken = [result for result in parts if any(one is result for one, _ in newest.values())]
    if not taken:
        raise Unlike("no run has finished a scenario")
    return {
        **parts[-1],
        "versions": {**parts[-1]["versions"], "eomirror": " and ".join(commits)},
        "started": taken[0]["started"],
        "load_before": taken[0]["load_before"],
        "minutes": round(sum(result["minutes"] for result in taken), 1),
        "command": "; ".join(result["command"] for result in taken),
        "incomplete": None,
        "timing": {**parts[-1]["timing"], "rounds": max(result["timing"]["rounds"] for result in taken)},
        "parts": [_part(result, [name for name in order if newest[name][0] is result]) for result in taken],
        "scenarios": [newest[name][1] for name in order],
    }


def _compared(first: Result, other: Result) -> list[tuple[str, Any, Any]]:
    values = [(name, first[name], other[name]) for name in SAME]
    values += [
        (name, first["versions"][name], other["versions"].get(name)) for name in first["versions"] if name != "eomirror"
    ]
    return values + [
        (name, value, other["timing"].get(name)) for name, value in first["timing"].items() if name != "rounds"
    ]


def _finished(result: Result, scenario: Mapping[str, Any]) -> bool:
    """Has every system had all its rounds?"""
    known = next((one for one in SCENARIOS if one.name == scenario["name"]), None)
    if known is None:
        raise Unlike(f"{scenario['name']}: there is no such scenario any more")
    wanted = {name: known.rounds(name, result["timing"]["rounds"]) for name in known.systems}
    return wanted == {system["name"]: len(system["rounds"]) for system in scenario["systems"]}


def _part(result: Result, names: Sequence[str]) -> dict[str, Any]:
    return {
        "finished": result["finished"],
        "eomirror": result["versions"]["eomirror"],
        "command": result["command"],
        "scenarios": list(names),
    }


def main() -> int:
    """Writes the result of all files beside the others."""
    parser = argparse.ArgumentParser(prog="bench.join", description=__doc__.splitlines()[0])
    parser.add_argument("results", nargs="+", type=Path, metavar="RESULT.json")
    given = parser.parse_args()
    try:
        path = write(joined([json.loads(path.read_text()) for path in given.results]), RESULTS)
    except (OSError, ValueError, Unlike) as error:
        print(f"join: {error}", file=sys.stderr)
        return 1
    print(f"written: {path.relative_to(ROOT)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
