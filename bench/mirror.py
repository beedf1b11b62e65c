"""`make bench`: eomirror beside MirrorMaker 2, the same topics in one run, rounds interleaved, outputs checked.

    python -m bench.mirror                                   everything, about an hour
    python -m bench.mirror --scenario batches-1 --rounds 5   one of them
    python -m bench.mirror --smoke                           seconds per round: does it work?
    python -m bench.mirror --readme                          the newest result into the README's table

Writes bench/results/mirror-<date>.md, .json and .svg files; a smoke run writes them to .work/bench, for its figures
mean nothing.
"""

from __future__ import annotations

import argparse
import datetime
import json
import re
import shlex
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from confluent_kafka import KafkaException

from eomirror.errors import EomirrorError
from integration.cluster import ROOT, ClusterError, start_pair
from integration.demo import Interrupted, interruptible
from integration.oracle import CheckError

from . import about, check, live, report, rounds
from .peer import SYSTEMS
from .prepare import prepare
from .rounds import Pair, Timing
from .scenarios import REHEARSED, SCENARIOS, Scenario
from .segments import LogError
from .systems import relative
from .watch import Failed

RESULTS = ROOT / "bench" / "results"
SMOKE = ROOT / ".work" / "bench"
ROUNDS = 3
SMOKE_TIMING = Timing(seconds=3.0, warm_up=1.0, jvm_warm_up=1.0, rehearsal=1.0, kills=1, least=0.1)
SMOKE_SHARE = 0.8  # of a scenario's rate: nothing has warmed up in a smoke run
BROKERS = {
    "log.segment.delete.delay.ms": 500,
    "log.cleaner.backoff.ms": 15000,
    "num.recovery.threads.per.data.dir": 2,
}


class Run:
    """One run from the first broker to the last round."""

    def __init__(self, scenarios: list[Scenario], count: int, timing: Timing, smoke: bool) -> None:
        self.scenarios, self.count, self.timing, self.smoke = scenarios, count, timing, smoke
        self.began = time.monotonic()
        self.found: list[dict[str, Any]] = []
        self._rehearsed: set[Callable[..., None]] = set()  # those that were run
        self._facts = about.facts()

    def __call__(self, folder: Path) -> None:
        """Measures everything. What it had found before it raised anything is kept in `found`."""
        source, target = start_pair(folder, quick=False, overrides=BROKERS)
        with source, target:
            pair = Pair(source, target, folder / "rounds")
            for place, scenario in enumerate(self.scenarios):
                self._scenario(pair, scenario, place)

    def result(self, incomplete: str | None) -> dict[str, Any]:
        """All that was found; `incomplete` says why that is not everything."""
        return {
            **self._facts,
            "incomplete": incomplete and relative(incomplete),
            "command": shlex.join(["python", "-m", "bench.mirror", *sys.argv[1:]]),
            "finished": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "minutes": round((time.monotonic() - self.began) / 60, 1),
            "smoke": self.smoke,
            "timing": {"rounds": self.count, **vars(self.timing)},
            "brokers": {"heap_mb": 512, "jvm": "-XX:+UseG1GC", **BROKERS},
            "scenarios": self.found,
        }

    def _scenario(self, pair: Pair, scenario: Scenario, place: int) -> None:
        self._say(f"{scenario.name}: {scenario.title}")
        began = time.monotonic()
        prepared = None
        if scenario.kind == "throughput":
            rate = scenario.rate * (SMOKE_SHARE if self.smoke else 1)
            records = round(rate * self.timing.prepared)
            _require_space(pair.source.folder, scenario.data.log_bytes(records))
            prepare(pair.source, "orders", scenario.data, records)
            prepared = check.read_source(pair.source, "orders", scenario.header)
            seconds = time.monotonic() - began
            self._say(f"  prepared {prepared.records:,} records, {prepared.bytes / 1e9:.1f} GB in {seconds:.0f} s")
        self._rehearse(pair, scenario)
        results: dict[str, list[dict[str, Any]]] = {name: [] for name in scenario.systems}
        settings = {name: SYSTEMS[name].settings(pair.task(scenario, "orders", "settings")) for name in results}
        entry: dict[str, Any] = {
            "name": scenario.name,
            "title": scenario.title,
            "kind": scenario.kind,
            "note": scenario.note,
            "data": str(scenario.data),
            "partitions": scenario.data.partitions,
            "rate": scenario.rate if prepared is None else None,
            "prepared_records": prepared.records if prepared else None,
            "prepared_bytes": prepared.bytes if prepared else None,
            "systems": [
                {"name": name, "title": SYSTEMS[name].title, "settings": settings[name], "rounds": found}
                for name, found in results.items()
            ],
        }
        # From here on each round is in the result as soon as it ends, whatever becomes of the next one.
        self.found.append(entry)
        for number in range(self.count):
            # A slow minute of the machine meets all systems, for their rounds alternate.
            for name in scenario.order(number, self.count, place):
                label = f"{scenario.name}-{name}-{number}"
                results[name].append(self._round(pair, scenario, name, prepared, label))
                pair.clean(keep=lambda topic: topic == "orders")
        pair.clean(keep=lambda _: False)
        entry["seconds"] = round(time.monotonic() - began, 1)

    def _rehearse(self, pair: Pair, scenario: Scenario) -> None:
        """Once with the first prepared topic and once with the first stream, which ask different things of a broker."""
        rehearse = rounds.rehearse if scenario.kind == "throughput" else live.rehearse
        if rehearse in self._rehearsed:
            return
        self._rehearsed.add(rehearse)
        for name in REHEARSED:
            if name in scenario.systems:
                rehearse(pair, scenario, SYSTEMS[name], self.timing.rehearsal)
                pair.clean(keep=lambda topic: topic == "orders")
                self._say(f"  {name:18} rehearsed")

    def _round(
        self, pair: Pair, scenario: Scenario, name: str, prepared: check.Prepared | None, label: str
    ) -> dict[str, Any]:
        began = time.monotonic()
        system = SYSTEMS[name]
        try:
            if prepared is not None:
                found = rounds.throughput(pair, scenario, system, prepared, self.timing, label)
            elif scenario.kind == "latency":
                found = live.latency(pair, scenario, system, self.timing, label)
            else:
                found = live.recovery(pair, scenario, system, self.timing, label)
        except (CheckError, LogError) as error:
            found = {"wrong": f"cannot be checked: {error}"}
        except (KafkaException, EomirrorError, OSError) as error:
            found = {"wrong": _named(error)}
        if "wrong" in found:
            found["wrong"] = relative(found["wrong"])
        found["round_s"] = round(time.monotonic() - began, 1)
        self._say(f"  {name:18} {report.one_line(found)}")
        return found

    def _say(self, text: str) -> None:
        print(f"{time.monotonic() - self.began:6.0f} s  {text}", flush=True)


def _named(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"


def _require_space(folder: Path, size: int) -> None:
    """Raises ClusterError unless the disk takes a prepared topic and a copy."""
    free = shutil.disk_usage(folder).free
    if free < 2.5 * size:
        needed = f"{2.5 * size / 1e9:.0f} GB"
        raise ClusterError(f"{needed} of disk are needed, {free / 1e9:.0f} GB are free\nhint: --seconds makes it less.")


def as_json(result: dict[str, Any]) -> str:
    """JSON in which each list of numbers is one line."""
    text = json.dumps(result, indent=1)
    # A string holds no line ends, so only lists look like this.
    return re.sub(r"\[\n[-+.\deE,\s]+\]", lambda found: " ".join(found[0].split()), text) + "\n"


def write(result: dict[str, Any], folder: Path) -> Path:
    """Writes JSON, Markdown and charts; returns the Markdown's path. Never over an older result."""
    folder.mkdir(parents=True, exist_ok=True)
    day = f"mirror-{datetime.datetime.now(datetime.UTC):%Y-%m-%d}"
    names = [day, *(f"{day}-{number}" for number in range(2, 1000))]
    stem = next(folder / name for name in names if _created(folder / f"{name}.json", as_json(result)))
    charts = report.charts(result)
    for name, svg in charts.items():
        stem.with_name(f"{stem.name}-{name}.svg").write_text(svg)
    text = report.markdown(result, {name: f"{stem.name}-{name}.svg" for name in charts})
    stem.with_suffix(".md").write_text(text)
    return stem.with_suffix(".md")


def _created(path: Path, text: str) -> bool:
    # The name belongs to whoever makes the file: another run may write to the same folder.
    try:
        with path.open("x") as file:
            file.write(text)
    except FileExistsError:
        return False
    return True


def update_readme() -> str:
    """Puts the table of the newest result that is fit for it between the README's markers; returns what was done.

    Raises SystemExit if there is none.
    """
    found = {path: json.loads(path.read_text()) for path in RESULTS.glob("mirror-*.json")}
    told: list[str] = []
    for path in sorted(found, key=lambda path: str(found[path]["finished"]), reverse=True):
        refusal = report.refusal(found[path])
        if refusal is None:
            readme = ROOT / "README.md"
            table = report.readme_table(found[path], path.with_suffix(".md").relative_to(ROOT).as_posix())
            readme.write_text(report.with_table(readme.read_text(), table))
            return "\n".join([*told, f"{path.name} -> README.md"])
        told.append(f"{path.name} is not for the README: {refusal}")
    hint = 'hint: Run "make bench", to its end and without options.'
    raise SystemExit("\n".join([*told, "bench: no result for the README", hint]))


def chosen(names: list[str] | None, systems: list[str] | None) -> list[Scenario]:
    """The scenarios and systems of those names in the order of the table; all without names.

    Raises SystemExit for an unknown name.
    """
    known = [one.name for one in SCENARIOS]
    for what, given, there in (("scenario", names, known), ("system", systems, list(SYSTEMS))):
        if unknown := set(given or ()) - set(there):
            raise SystemExit(f"bench: no {what} {', '.join(sorted(unknown))}\nhint: There are {', '.join(there)}.")
    found = [one for one in SCENARIOS if not names or one.name in names]
    if systems:
        kept = [{name: share for name, share in one.systems.items() if name in systems} for one in found]
        found = [replace(one, systems=some) for one, some in zip(found, kept, strict=True) if some]
    return found


def main() -> int:
    """Runs the benchmark; exit 0 if every round was right."""
    parser = argparse.ArgumentParser(prog="bench.mirror", description=__doc__.splitlines()[0])
    parser.add_argument("--scenario", action="append", metavar="NAME", help="only this one; may be repeated")
    parser.add_argument("--system", action="append", metavar="NAME", help="only this one; may be repeated")
    parser.add_argument("--rounds", type=int, default=None, help=f"rounds of the main scenarios ({ROUNDS})")
    parser.add_argument("--seconds", type=float, default=None, help="measured seconds of a round (30)")
    parser.add_argument("--smoke", action="store_true", help="a few seconds per round; the figures mean nothing")
    parser.add_argument("--readme", action="store_true", help="only put the newest result into README.md")
    given = parser.parse_args()
    if given.readme:
        print(update_readme())
        return 0
    timing = SMOKE_TIMING if given.smoke else Timing()
    if given.seconds is not None:
        timing = replace(timing, seconds=given.seconds)
    count = given.rounds or (1 if given.smoke else ROUNDS)
    return measure(Run(chosen(given.scenario, given.system), count, timing, given.smoke))


def measure(run: Run) -> int:
    """Runs it and writes what was found, also when it ends early; an error that nobody expects is raised behind that.

    Returns 0 if every round was right.
    """
    (ROOT / ".work").mkdir(exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="bench-", dir=ROOT / ".work"))
    incomplete = unexpected = None
    try:
        with interruptible():
            run(folder)
    except Interrupted as interrupted:
        incomplete = f"interrupted by {interrupted}"
    except (ClusterError, LogError, Failed) as error:
        incomplete = str(error)
    except BaseException as error:  # noqa: BLE001 - raised below
        incomplete = _named(error)
        if not isinstance(error, KafkaException | EomirrorError):
            unexpected = error
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    every = [found for one in run.found for system in one["systems"] for found in system["rounds"]]
    if every:
        path = write(run.result(incomplete), SMOKE if run.smoke else RESULTS)
        print(f"written: {path.relative_to(ROOT) if path.is_relative_to(ROOT) else path}")
    wrong = sum("wrong" in found for found in every)
    print(f"bench: {incomplete or 'complete'}, {wrong} rounds are wrong", flush=True)
    if unexpected is not None:
        raise unexpected
    return 1 if wrong or incomplete else 0


if __name__ == "__main__":
    sys.exit(main())
