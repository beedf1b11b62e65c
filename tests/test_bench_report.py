"""A result as Markdown and as the README's table."""

from __future__ import annotations

import json
from typing import Any

import pytest

from bench import mirror, report
from bench.rounds import Timing
from bench.scenarios import INTERVAL, SCENARIOS
from tests.benchresults import WHOLE, complete, fast, result, scenario, slow


def section(text: str, name: str) -> str:
    return text.partition(f"\n## {name}")[2].partition("\n## ")[0]


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


def test_a_system_without_a_round_is_not_called_wrong() -> None:
    text = report.markdown(result(scenario("recovery", "recovery", eomirror=[]), incomplete="KeyError: 1"), {})
    assert "| eomirror | - | 0 of 0 |" in text
    assert "WRONG" not in text


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
