"""What the checks of the kernel conclude from what they measured."""

from __future__ import annotations

import pytest

from checks.instructions import per_unit, worse
from checks.lines import ranges, share


def dump(name: str, total: int) -> str:
    return f"version: 1\ndesc: Trigger: Client Request: {name}\nevents: Ir\ntotals: {total}\n"


def test_one_run_costs_what_the_second_added() -> None:
    dumps = [dump("pass through=1=100", 7000), dump("pass through=2=100", 12_000), dump("memcpy=1=9", 5), "totals: 8\n"]
    dumps.append(dump("memcpy=2=9", 10))
    assert per_unit(dumps) == {"pass through": 50.0}


@pytest.mark.parametrize(
    ("counts", "names"),
    [
        ({"a": 100.0, "b": 10.0}, []),
        ({"a": 109.9, "b": 1.0}, []),
        ({"a": 110.1, "b": 10.0}, ["a"]),
        ({"a": 100.0}, ["b"]),
        ({"a": 100.0, "b": 10.0, "c": 1.0}, ["c"]),
    ],
)
def test_above_the_tolerance_or_on_one_side_only_is_worse(counts: dict[str, float], names: list[str]) -> None:
    assert worse({"a": 100.0, "b": 10.0}, counts) == names


def test_lines_are_shown_as_ranges() -> None:
    assert ranges([3, 4, 5, 9, 11, 12]) == "3-5, 9, 11-12"
    assert ranges([]) == ""


def test_nothing_to_reach_is_not_reached() -> None:
    assert share(200, 10) == 95.0
    assert share(0, 0) == 0.0
