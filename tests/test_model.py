"""Values that cross modules; the lane of a partition is fixed for the life of a flow."""

from __future__ import annotations

import collections

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eomirror.model import Receipt, lane_of


@pytest.mark.parametrize(
    ("topic", "partition", "lanes", "lane"),
    [
        ("orders", 0, 4, 2),
        ("orders", 3, 4, 1),
        ("orders", 5, 4, 3),
        ("a", 0, 3, 0),
        ("", 0, 7, 0),
        ("café", 2, 5, 4),
        ("__eomirror", 11, 16, 9),
        ("orders", 0, 1, 0),
    ],
)
def test_the_lane_of_a_partition_is_forever(topic: str, partition: int, lanes: int, lane: int) -> None:
    """Golden values: another answer would look for positions in the wrong lane, and copy everything again."""
    assert lane_of(topic, partition, lanes) == lane


@given(st.text(max_size=20), st.integers(0, 10_000), st.integers(1, 64))
def test_consecutive_partitions_go_round_the_lanes(topic: str, partition: int, lanes: int) -> None:
    first = lane_of(topic, partition, lanes)
    assert 0 <= first < lanes
    assert lane_of(topic, partition + 1, lanes) == (first + 1) % lanes


def test_topics_of_one_partition_are_spread() -> None:
    counts = collections.Counter(lane_of(f"topic-{number}", 0, 8) for number in range(8000))
    assert set(counts) == set(range(8))
    assert all(900 < count < 1100 for count in counts.values())


def test_a_receipt_is_one_sentence() -> None:
    receipt = Receipt(41, "b", 7, 640, 2, 0.01234, True)
    assert str(receipt) == "transaction 41 (b): 7 records of 2 routes, 640 bytes in 12.3 ms, ledger written"
