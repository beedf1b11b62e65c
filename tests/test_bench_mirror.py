"""A run of the benchmark: what it writes, how it ends early; its scenarios, goals and settings."""

from __future__ import annotations

import json
import re
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from confluent_kafka import KafkaException

from bench import mirror, report
from bench.mirror import chosen, write
from bench.peer import SYSTEMS, MirrorMaker, jvm_flags
from bench.rounds import Timing
from bench.scenarios import EOMIRROR, EXACTLY_ONCE, GOALS, SCENARIOS, Goal
from bench.systems import Running, Task
from eomirror.errors import Refused
from integration.cluster import ROOT, ClusterError
from tests.benchresults import WHOLE, complete, scenario, slow


@pytest.fixture
def anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Results are written beneath this folder, and no machine is asked."""
    facts = {key: WHOLE[key] for key in ("machine", "versions", "load_before")}
    monkeypatch.setattr(mirror, "ROOT", tmp_path)
    monkeypatch.setattr(mirror, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(mirror.about, "facts", lambda: facts)
    return tmp_path


# -- what is written


def test_a_result_is_never_written_over_an_older_one(tmp_path: Path) -> None:
    first, second = write(WHOLE, tmp_path), write(WHOLE, tmp_path)
    assert first != second
    assert second.name == f"{first.stem}-2.md"
    assert {path.suffix for path in tmp_path.iterdir()} == {".md", ".json", ".svg"}
    for chart in re.findall(r"!\[\w+\]\((.*)\)", second.read_text()):
        assert (tmp_path / chart).exists()


def test_two_runs_never_take_the_same_name(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: write(WHOLE, tmp_path), range(16)))
    assert len(set(found)) == 16
    assert all(json.loads(path.with_suffix(".json").read_text()) == WHOLE for path in found)


def test_the_readme_gets_the_newest_result_that_is_fit(anywhere: Path) -> None:
    readme = anywhere / "README.md"
    readme.write_text(f"{report.BEGIN}\n{report.END}\n")
    with pytest.raises(SystemExit, match='hint: Run "make bench"'):
        mirror.update_readme()
    write(complete(finished="2026-11-25T10:00:00+00:00"), anywhere / "results")
    write(complete(finished="2026-11-26T10:00:00+00:00"), anywhere / "results")
    smoke = write(complete(finished="2026-11-27T10:00:00+00:00", smoke=True), anywhere / "results")
    told = mirror.update_readme().splitlines()
    assert told[0] == f"{smoke.stem}.json is not for the README: a smoke run"
    assert "2026-11-26, Some CPU" in readme.read_text()
    (anywhere / "results" / told[1].partition(" ")[0]).unlink()
    mirror.update_readme()
    assert "2026-11-25, Some CPU" in readme.read_text()


# -- runs that end early


class Breaking(mirror.Run):
    """Finds one scenario, then breaks."""

    def __init__(self, error: BaseException) -> None:
        super().__init__([], 1, Timing(), smoke=False)
        self._error = error

    def __call__(self, folder: Path) -> None:
        self.found.append(scenario("recovery", "recovery", eomirror=[{"recovery_s": [1.0]}]))
        raise self._error


def written(folder: Path) -> dict[str, Any]:
    (path,) = (folder / "results").glob("*.json")
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def test_an_unexpected_error_loses_nothing_and_is_raised(anywhere: Path) -> None:
    with pytest.raises(ZeroDivisionError):
        mirror.measure(Breaking(ZeroDivisionError("by 0")))
    found = written(anywhere)
    assert found["incomplete"] == "ZeroDivisionError: by 0"
    assert found["scenarios"][0]["systems"][0]["rounds"] == [{"recovery_s": [1.0]}]


def test_an_expected_error_makes_the_result_incomplete(anywhere: Path) -> None:
    assert mirror.measure(Breaking(ClusterError("target: down"))) == 1
    assert written(anywhere)["incomplete"] == "target: down"


def test_what_fails_in_a_round_is_that_rounds_and_the_rounds_before_a_break_are_kept(
    anywhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outcomes = iter(
        [slow(5.0), KafkaException("no leader"), OSError(f"{ROOT}/segment"), Refused("no right"), RuntimeError("bug")]
    )

    def latency(*_: object) -> dict[str, Any]:
        outcome = next(outcomes)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    monkeypatch.setattr(mirror.live, "latency", latency)
    monkeypatch.setattr(mirror.live, "rehearse", lambda *_: None)
    (only,) = chosen(["latency-1k"], [EXACTLY_ONCE])
    run = mirror.Run([only], 15, Timing(), smoke=False)
    pair: Any = SimpleNamespace(task=lambda *_: task(anywhere), clean=lambda keep: None)
    with pytest.raises(RuntimeError, match="bug"):
        run._scenario(pair, only, 0)
    ((system,),) = [one["systems"] for one in run.found]
    assert [found.get("wrong") for found in system["rounds"]] == [
        None,
        "KafkaException: no leader",
        "OSError: ./segment",
        "Refused: no right",
    ]
    assert system["rounds"][0]["p50_ms"] == 5.0


def test_both_systems_rehearse_before_the_first_stream_and_never_again(
    anywhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    happened: list[str] = []
    monkeypatch.setattr(
        mirror.live, "rehearse", lambda _, one, system, __: happened.append(f"{one.name} {system.name}")
    )
    monkeypatch.setattr(mirror.live, "latency", lambda *_: happened.append("measured") or slow(5.0))
    first, second = chosen(["latency-1k", "latency-10k"], [])
    run = mirror.Run([first, second], 1, Timing(), smoke=False)
    pair: Any = SimpleNamespace(task=lambda *_: task(anywhere), clean=lambda keep: None)
    run._scenario(pair, first, 0)
    run._scenario(pair, second, 1)
    assert happened[:3] == [f"latency-1k {EOMIRROR}", f"latency-1k {EXACTLY_ONCE}", "measured"]
    assert set(happened[2:]) == {"measured"}


# -- scenarios, goals, settings


def test_every_scenario_has_both_systems_and_every_goal_a_scenario() -> None:
    names = [one.name for one in SCENARIOS]
    assert len(names) == len(set(names))
    for one in SCENARIOS:
        assert {EOMIRROR, EXACTLY_ONCE} <= set(one.systems) <= set(SYSTEMS)
        assert all(1 <= one.rounds(name, 3) <= 3 for name in one.systems)
        assert all(one.rounds(name, 1) == 1 for name in one.systems)
    for goal in GOALS:
        (kind,) = [one.kind for one in SCENARIOS if one.name == goal.scenario]
        assert goal.figure in report.COLUMNS[kind] or goal.figure == "peak_rss"


def test_no_system_is_always_the_first_in_scenarios_of_one_round() -> None:
    places = {one.name: place for place, one in enumerate(SCENARIOS)}
    single = [one for one in SCENARIOS if one.rounds(EOMIRROR, 3) == 1]
    firsts = [one.order(0, 3, places[one.name])[0] for one in single]
    assert len(single) >= 5
    assert 0 < firsts.count(EOMIRROR) < len(firsts)
    assert all(sorted(one.order(0, 3, places[one.name])) == sorted(one.systems) for one in single)


@pytest.mark.parametrize("rounds", [1, 2, 3, 5])
def test_every_system_takes_part_in_as_many_rounds_as_are_its_share(rounds: int) -> None:
    for place, one in enumerate(SCENARIOS):
        met = Counter(name for number in range(rounds) for name in one.order(number, rounds, place))
        assert met == {name: one.rounds(name, rounds) for name in one.systems}


def test_the_first_system_is_another_in_the_next_round() -> None:
    (one,) = [one for one in SCENARIOS if one.name == "header"]
    assert [one.order(number, 3, 8) for number in range(3)] == [
        [EOMIRROR, EXACTLY_ONCE],
        [EXACTLY_ONCE, EOMIRROR],
        [EOMIRROR, EXACTLY_ONCE],
    ]


@pytest.mark.parametrize(
    ("kind", "bound", "ours", "peer", "met"),
    [
        ("times", 6, 600, 100, True),
        ("times", 6, 599, 100, False),
        ("share", 1 / 8, 1, 8, True),
        ("share", 1 / 8, 1.1, 8, False),
        ("most", 20, 20, None, True),
        ("most", 20, 20.1, None, False),
        ("times", 6, 600, None, None),
        ("most", 20, None, 1, None),
    ],
)
def test_a_goal_is_met_or_not_or_cannot_be_told(
    kind: Any, bound: float, ours: float | None, peer: float | None, met: bool | None
) -> None:
    assert Goal("batches-1", "records_per_s", kind, bound, "").met(ours, peer) is met


def test_scenarios_and_systems_are_chosen_by_name() -> None:
    assert [one.name for one in chosen(["recovery", "batches-1"], None)] == ["batches-1", "recovery"]
    assert len(chosen(None, None)) == len(SCENARIOS)
    (only,) = chosen(["batches-1"], [EOMIRROR])
    assert list(only.systems) == [EOMIRROR]
    with pytest.raises(SystemExit, match="no scenario batch"):
        chosen(["batch"], None)
    with pytest.raises(SystemExit, match="no system mm2"):
        chosen(None, ["mm2"])


def task(folder: Path, **more: Any) -> Task:
    source, target = (SimpleNamespace(name=name, bootstrap=f"{name}:9092") for name in ("source", "target"))
    return Task(source, target, "orders", folder, **more)  # type: ignore[arg-type]


def test_the_peers_settings_are_those_of_its_files(tmp_path: Path) -> None:
    peer = SYSTEMS[EXACTLY_ONCE]
    assert isinstance(peer, MirrorMaker)
    text = peer.properties(task(tmp_path, codec="lz4", overlays=("header",), header=("region", "eu")), 1234)
    for line in (
        "source.bootstrap.servers = source:9092",
        "source->target.topics = orders",
        "target.exactly.once.source.support = enabled",
        "dedicated.mode.enable.internal.rest = true",
        "source.consumer.isolation.level = read_committed",
        "target.producer.compression.type = lz4",
        "listeners = http://127.0.0.1:1234",
        "source->target.transforms.region.value.literal = eu",
    ):
        assert line in text.splitlines()
    loose = SYSTEMS["mm2-at-least-once"]
    assert isinstance(loose, MirrorMaker)
    assert "exactly.once" not in loose.properties(task(tmp_path), 1)
    assert "-Xmx1g" in jvm_flags()
    assert all(flag.startswith("-") for flag in jvm_flags())


def test_the_end_of_a_log_names_no_place_of_the_machine(tmp_path: Path) -> None:
    log = tmp_path / "log"
    running = Running([sys.executable, "-c", f"print('cannot read {ROOT}/x')"], log, {})
    running.process.wait(30)
    assert running.tail() == "cannot read ./x"


def test_eomirrors_settings_name_every_default(tmp_path: Path) -> None:
    text = SYSTEMS[EOMIRROR].settings(task(tmp_path, header=("region", "eu")))
    command = "# PYTHONPATH=integration/absent .venv/bin/python -m eomirror.cli run bench"
    for line in (command, "  lanes: 4", "    max_bytes: 64MiB", "      header: region", "    bootstrap: source:9092"):
        assert line in text.splitlines()


@pytest.mark.parametrize(
    ("system", "topic", "internal"),
    [
        (EOMIRROR, "__eomirror.bench.checkpoint", True),
        (EOMIRROR, "orders", False),
        (EXACTLY_ONCE, "mm2-offsets.source.internal", True),
        (EXACTLY_ONCE, "source.checkpoints.internal", True),
        (EXACTLY_ONCE, "__transaction_state", False),
        (EXACTLY_ONCE, "orders", False),
    ],
)
def test_each_system_knows_its_own_topics(system: str, topic: str, internal: bool) -> None:
    assert SYSTEMS[system].is_internal(topic) is internal
