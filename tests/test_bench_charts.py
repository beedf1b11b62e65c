"""A result as charts."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from itertools import pairwise

import pytest

from bench import charts, report
from bench.charts import Bar, Group, bar_chart
from bench.peer import SYSTEMS
from bench.scenarios import SCENARIOS
from tests.benchresults import WHOLE, fast, result, scenario, slow

PAGES = ("#ffffff", "#0d1117")


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
