"""A result as Markdown, charts and the README's table; the scenarios, goals and settings behind it."""

from __future__ import annotations

import json
import re
import sys
import xml.etree.ElementTree as ElementTree
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from confluent_kafka import KafkaException

from bench import charts, mirror, report
from bench.charts import Bar, Group, bar_chart
from bench.mirror import chosen, write
from bench.peer import SYSTEMS, MirrorMaker, jvm_flags
from bench.rounds import Timing
from bench.scenarios import EOMIRROR, EXACTLY_ONCE, GOALS, INTERVAL, SCENARIOS, Goal
from bench.systems import Running, Task
from eomirror.errors import Refused
from integration.cluster import ROOT, ClusterError

PAGES = ("#ffffff", "#0d1117")


def fast(rate: float, cpu: float, **more: Any) -> dict[str, Any]:
    """A round of a prepared topic."""
    figures = {"megabytes_per_s": rate * 218 / 1e6, "broker_cpu_per_million": 1.5, "commits_per_s": 4.0}
    return {
        **figures,
        "records_per_s": rate,
        "cpu_per_million": cpu,
        "peak_rss": 1e8,
        "startup_s": 1.2,
        "window_s": 30.1,
        "other_cores": 0.05,
        **more,
    }


def slow(p50: float) -> dict[str, Any]:
    """A round of a stream."""
    figures = {"cpu_per_million": 60.0, "broker_cpu_per_million": 90.0, "commits_per_s": 90.0, "peak_rss": 7e7}
    return {**figures, "p50_ms": p50, "p99_ms": 3 * p50, "p999_ms": 4 * p50, "max_ms": 5 * p50, "internal_ratio": 0.6}


def scenario(name: str, kind: str, **rounds: list[dict[str, Any]]) -> dict[str, Any]:
    """One of a result; the systems' names with _ for -."""
    named = {key.replace("_", "-"): found for key, found in rounds.items()}
    systems = [{"name": n, "title": SYSTEMS[n].title, "settings": f"of {n}", "rounds": r} for n, r in named.items()]
    prepared = 5_000_000 if kind == "throughput" else None
    title = next(one.title for one in SCENARIOS if one.name == name)
    rate = None if prepared else 1000
    about = {"data": "218 B records", "rate": rate, "prepared_records": prepared, "note": ""}
    return {"name": name, "title": title, "kind": kind, **about, "systems": systems}


def result(*scenarios: dict[str, Any], **more: Any) -> dict[str, Any]:
    """A whole result."""
    return {
        "machine": {"cpu": "Some CPU", "cores": 2, "memory_gib": 23.5, "kernel": "Linux 6.1"},
        "versions": {"Kafka": "4.3.1", "Java": "17"},
        "load_before": [0.1, 0.2, 0.3],
        "finished": "2026-11-25T10:00:00+00:00",
        "minutes": 48.5,
        "command": "python -m bench.mirror",
        "smoke": False,
        "incomplete": None,
        "timing": {"rounds": 3, **vars(Timing())},
        "brokers": {"heap_mb": 512},
        "scenarios": list(scenarios),
        **more,
    }


WHOLE = result(
    scenario(
        "batches-1000",
        "throughput",
        eomirror=[fast(1_000_000, 0.3), fast(1_300_000, 0.2), fast(1_200_000, 0.25)],
        mm2_exactly_once=[fast(100_000, 10.0), fast(150_000, 8.0), fast(120_000, 9.0)],
        mm2_at_least_once=[{"wrong": "orders[2]: record 7 is the source's record 9: lost or reordered"}],
    ),
    scenario("latency-1k", "latency", eomirror=[slow(5.0)], mm2_exactly_once=[slow(10.0)]),
    scenario("recovery", "recovery", eomirror=[{"recovery_s": [1.0, 2.0, 4.0]}], mm2_exactly_once=[{"wrong": "no"}]),
)


def section(text: str, name: str) -> str:
    return text.partition(f"\n## {name}")[2].partition("\n## ")[0]


@pytest.fixture
def anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Results are written beneath this folder, and no machine is asked."""
    facts = {key: WHOLE[key] for key in ("machine", "versions", "load_before")}
    monkeypatch.setattr(mirror, "ROOT", tmp_path)
    monkeypatch.setattr(mirror, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(mirror.about, "facts", lambda: facts)
    return tmp_path


# -- Markdown


def test_a_table_says_what_its_figures_mean() -> None:
    text = report.markdown(WHOLE, {})
    assert "markers (78 bytes each) in the mirrored partitions" in section(text, "latency-1k")
    assert "-Xms1g and -Xmx1g" in section(text, "batches-1000")
    assert "-Xms1g" not in section(text, "recovery")


def test_rounds_are_shown_as_median_and_range() -> None:
    text = section(report.markdown(WHOLE, {}), "batches-1000")
    assert "| eomirror | 1 200 000 (1 000 000 to 1 300 000) | " in text
    assert "| MirrorMaker 2 exactly-once | 120 000 (100 000 to 150 000) | " in text
    assert "| 1.2 | 30.1 | 0.05 | 3 of 3 |" in text
    assert "disturbed" not in text


def test_it_is_said_how_many_partitions_a_topic_has() -> None:
    many = {**scenario("batches-1000", "throughput", eomirror=[fast(1e6, 0.3)]), "partitions": 12}
    stream = {**scenario("partitions", "latency", eomirror=[slow(5.0)]), "partitions": 300}
    text = report.markdown(result(many, stream, scenario("latency-1k", "latency", eomirror=[slow(5.0)])), {})
    assert "5 000 000 records prepared in 12 partitions." in section(text, "batches-1000")
    assert "218 B records in 300 partitions, 1000 per second" in section(text, "partitions")
    assert "218 B records in 4 partitions, 1000 per second" in section(text, "latency-1k")


def test_a_round_that_other_processes_disturbed_is_named() -> None:
    rounds = [fast(1e6, 0.3), fast(1e6, 0.3, other_cores=0.21)]
    text = report.markdown(result(scenario("batches-1", "throughput", eomirror=rounds)), {})
    assert "- disturbed, eomirror, round 2: other processes used 0.21 cores" in text
    assert text.count("- disturbed") == 1


def test_lists_of_numbers_are_one_line_each_in_the_json() -> None:
    found = {"series": {"at_s": [0.5, 1e-07, -3], "none": []}, "text": "[\n1\n]", "lists": [[1], ["2"]]}
    text = mirror.as_json(found)
    assert json.loads(text) == found
    assert '"at_s": [ 0.5, 1e-07, -3 ],' in text


def test_a_wrong_output_has_no_figure_and_says_why() -> None:
    text = section(report.markdown(WHOLE, {}), "batches-1000")
    assert "| MirrorMaker 2 at-least-once | WRONG | - | - | - | - | - | - | - | - | 0 of 1 |" in text
    assert "- WRONG, MirrorMaker 2 at-least-once: orders[2]: record 7 is the source's record 9" in text


def test_a_wrong_round_does_not_count_among_right_ones() -> None:
    rounds = [fast(1_000_000, 0.3), {"wrong": "lost", "records_per_s": 9e9}]
    text = report.markdown(result(scenario("batches-1", "throughput", eomirror=rounds)), {})
    assert "| eomirror | 1 000 000 | " in text
    assert "| 1 of 2 |" in text


def test_goals_are_shown_beside_the_figures() -> None:
    text = report.markdown(WHOLE, {})
    assert "- records/s: 10.0 x; goal at least 6 x: met" in section(text, "batches-1000")
    assert "- replicator CPU s per million: 1/36; goal at most 1/15: met" in section(text, "batches-1000")
    assert "- p50, ms: 5.0; goal at most 6 ms: met" in section(text, "latency-1k")
    assert "- internal bytes per mirrored byte: 0.60; goal below 0.5: **missed**" in section(text, "latency-1k")
    only = report.markdown(result(scenario("batches-1", "throughput", eomirror=[fast(1e6, 0.3)])), {})
    assert "- records/s: no figure; goal at least 3 x: not measured" in only


def test_the_faster_exactly_once_variant_of_the_peer_is_named() -> None:
    ours, slow_one, fast_one = ([fast(rate, 1.0)] for rate in (1e6, 1e5, 2.5e5))
    both = scenario("batches-1", "throughput", eomirror=ours, mm2_exactly_once=slow_one, mm2_interval=fast_one)
    text = report.markdown(result(both), {})
    assert "- records/s: 10.0 x; goal at least 3 x: met" in text
    line = "MirrorMaker 2 exactly-once, by interval: 250 000 records/s; eomirror: 4.0 x"
    assert f"- the faster exactly-once variant of MirrorMaker 2 is {line}" in text
    swapped = scenario("batches-1", "throughput", eomirror=ours, mm2_exactly_once=fast_one, mm2_interval=slow_one)
    assert "is MirrorMaker 2 exactly-once: 250 000 records/s" in report.markdown(result(swapped), {})
    assert "faster exactly-once variant" not in report.markdown(WHOLE, {})


def test_both_exactly_once_variants_are_measured_where_the_main_goals_are() -> None:
    assert {"batches-1000", "batches-10", "batches-1"} == {one.name for one in SCENARIOS if INTERVAL in one.systems}
    assert {one.rounds(INTERVAL, 3) for one in SCENARIOS if INTERVAL in one.systems} == {1}


def test_a_result_says_where_and_how_it_was_made() -> None:
    text = report.markdown(WHOLE, {"cpu": "mirror-cpu.svg"})
    for part in ("Some CPU, 2 cores, 23.5 GiB, Linux 6.1", "Kafka 4.3.1", "`python -m bench.mirror`, 48.5 minutes"):
        assert part in text
    assert "![cpu](mirror-cpu.svg)" in text
    assert "<summary>batches-1000: MirrorMaker 2 exactly-once</summary>\n\n```\nof mm2-exactly-once\n```" in text
    assert "smoke" not in text
    assert "figures mean nothing" in report.markdown({**WHOLE, "smoke": True}, {})
    assert "**Incomplete: interrupted" in report.markdown({**WHOLE, "incomplete": "interrupted by SIGINT"}, {})


def test_the_seconds_of_all_kills_count_together() -> None:
    text = section(report.markdown(WHOLE, {}), "recovery")
    assert "| eomirror | 2.0 (1.0 to 4.0) | 1 of 1 |" in text
    assert "| MirrorMaker 2 exactly-once | WRONG | 0 of 1 |" in text


def test_one_line_tells_the_figures_or_what_is_wrong() -> None:
    assert report.one_line({**fast(1e6, 0.3), "round_s": 45.2}).startswith("records/s 1 000 000, MB/s 218.0, ")
    assert report.one_line({"recovery_s": [1.0, 2.5], "round_s": 9.0}) == "SIGKILL to progress, s 1.0 2.5 (9 s in all)"
    assert report.one_line({"wrong": "lost", "round_s": 45.2}) == "WRONG: lost (45 s in all)"


@pytest.mark.parametrize(
    ("ours", "peer", "text"),
    [(79, 10, "7.9 x"), (10, 10, "1.0 x"), (1, 31, "1/31"), (10, 25, "1/2.5"), (0, 3, "0.0 x")],
)
def test_a_ratio_reads_well_both_ways(ours: float, peer: float, text: str) -> None:
    assert report.ratio(ours, peer) == text


# -- README


def test_the_readme_has_one_row_per_figure() -> None:
    lines = report.readme_table(WHOLE, "bench/results/mirror.md").splitlines()
    assert "| producer batches of 1000 records: records/s | 1 200 000 | 120 000 | 10.0 x |" in lines
    assert "| 1000 records/s, one by one: p50, ms | 5.0 | 10.0 | 1/2.0 |" in lines
    assert any(line.endswith("s | 2.0 | no figure |  |") for line in lines)
    assert "(bench/results/mirror.md)" in lines[-1]


def test_the_table_replaces_what_is_between_the_markers() -> None:
    text = f"before\n{report.BEGIN}\nold\n{report.END}\nafter\n"
    assert report.with_table(text, "new") == f"before\n{report.BEGIN}\nnew\n{report.END}\nafter\n"
    for wrong in ("", report.BEGIN, f"{report.END}{report.BEGIN}", f"{text}{report.BEGIN}"):
        with pytest.raises(ValueError, match="once each"):
            report.with_table(wrong, "new")


def complete(**more: Any) -> dict[str, Any]:
    """A result of every scenario by both systems."""
    kinds = {"throughput": [fast(1e6, 0.3)], "latency": [slow(5.0)], "recovery": [{"recovery_s": [1.0]}]}
    found = [scenario(o.name, o.kind, eomirror=kinds[o.kind], mm2_exactly_once=kinds[o.kind]) for o in SCENARIOS]
    return result(*found, **more)


@pytest.mark.parametrize(
    ("more", "why"),
    [
        ({}, None),
        ({"smoke": True}, "a smoke run"),
        ({"incomplete": "interrupted by SIGINT"}, "incomplete: interrupted by SIGINT"),
        ({"timing": {**vars(Timing()), "seconds": 20.0}}, "rounds of 20 s, less than 30 s"),
        ({"scenarios": complete()["scenarios"][:-1]}, "without recovery by eomirror, recovery by mm2-exactly-once"),
    ],
)
def test_only_a_whole_result_is_fit_for_the_readme(more: dict[str, Any], why: str | None) -> None:
    assert report.refusal(complete(**more)) == why


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


# -- charts


def luminance(colour: str) -> float:
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [one / 12.92 if one <= 0.04045 else ((one + 0.055) / 1.055) ** 2.4 for one in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("page", PAGES)
def test_everything_stands_out_from_light_and_dark_pages(page: str) -> None:
    def contrast(colour: str) -> float:
        low, high = sorted((luminance(colour), luminance(page)))
        return (high + 0.05) / (low + 0.05)

    assert contrast(charts.TEXT) > 4
    assert min(map(contrast, charts.COLOURS)) > 3


def test_every_chart_is_well_formed_and_within_its_frame() -> None:
    found = report.charts(WHOLE)
    assert set(found) == {"throughput", "cpu", "latency"}
    for svg in found.values():
        root = ElementTree.fromstring(svg)
        for rect in root.iter("{http://www.w3.org/2000/svg}rect"):
            assert 0 <= float(rect.attrib["x"]) + float(rect.attrib["width"]) <= float(root.attrib["width"]) - 60
            assert float(rect.attrib["y"]) + float(rect.attrib["height"]) <= float(root.attrib["height"])
    assert set(report.charts(result())) == set()


def test_every_system_has_a_colour_of_its_own_and_every_word_is_in_the_frame() -> None:
    everything = result(
        *(
            scenario(one.name, one.kind, **{n.replace("-", "_"): [fast(1e6, 0.3) | slow(5.0)] for n in one.systems})
            for one in SCENARIOS
        )
    )
    worn: dict[str, set[str]] = {}
    for svg in report.charts(everything).values():
        marks = list(ElementTree.fromstring(svg))
        for mark, following in pairwise(marks):
            if mark.get("height") == "12":  # of the legend
                worn.setdefault(str(following.text), set()).add(mark.attrib["fill"])
        texts = [mark for mark in marks if mark.tag.endswith("text")]
        for text in texts:
            length = 6.4 * len(text.text or "")
            first = float(text.attrib["x"]) - (length if text.attrib["text-anchor"] == "end" else 0.0)
            assert 0 <= first <= first + length <= charts.WIDTH, text.text
        labels = [text.text for text in texts if text.attrib["text-anchor"] == "end"]
        assert len(labels) == len(set(labels))
    assert set(worn) == {system.title for system in SYSTEMS.values()}
    assert all(len(colours) == 1 for colours in worn.values())
    assert len(set.union(*worn.values())) == len(worn)


def test_more_series_than_colours_are_refused() -> None:
    with pytest.raises(ValueError, match="7 series"):
        bar_chart("T", "n", [], [str(number) for number in range(7)])


def bars_of(svg: str) -> list[float]:
    return [float(width) for width in re.findall(r'width="([0-9.]+)" height="15"', svg)]


def test_bars_are_as_long_as_their_values() -> None:
    group = Group("a & b", (Bar("x", 10.0, "10"), Bar("y", 40.0, "40", 30.0, 50.0), Bar("z", None, "wrong")))
    svg = bar_chart("T", "n", [group], ["x", "y", "z"])
    short, long = bars_of(svg)
    assert long == pytest.approx(4 * short, rel=0.01)
    assert "a &amp; b" in svg
    assert ">wrong</text>" in svg
    assert svg.count("<path") == 1
    tenth, one, ten = bars_of(
        bar_chart("T", "n", [Group("g", tuple(Bar("x", v, "") for v in (0.1, 1, 10)))], ["x"], logarithmic=True)
    )
    assert ten - one == pytest.approx(one - tenth, rel=0.01)


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


def test_a_system_without_a_round_is_not_called_wrong() -> None:
    text = report.markdown(result(scenario("recovery", "recovery", eomirror=[]), incomplete="KeyError: 1"), {})
    assert "| eomirror | - | 0 of 0 |" in text
    assert "WRONG" not in text


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
