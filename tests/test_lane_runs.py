"""A lane whose source has a gap behind every record, over the model of Kafka: its ledger records stay small."""

from __future__ import annotations

import pytest

from eomirror import ledger
from eomirror.brokers import EARLIEST
from eomirror.ledger import decode_runs
from eomirror.model import Orders, RouteSpec
from eomirror.pacing import Pace
from tests import lanes
from tests.kafkamodel import ModelCluster, ModelNetwork, Owner, Script
from tests.kafkamodel.records import Record

KEY = ("orders", 0)
RECORDS = 120


def longest(most: int, monkeypatch: pytest.MonkeyPatch) -> int:
    """The most runs in one ledger record, after all records were mirrored without a pause."""
    monkeypatch.setattr(ledger, "MAX_RUNS_PER_TRANSACTION", most)
    source, target = ModelCluster("source"), ModelCluster("target")
    lanes.prepare(source, target, {"orders": 1})
    for number in range(RECORDS):
        transaction = source.begin()
        transaction.write(*KEY, [Record(0, 1_700_000_000_000, b"k", b"%d" % number, ())])
        transaction.end(commit=True)
    orders = Orders({KEY: RouteSpec(*KEY, source.topics["orders"].topic_id.hex, EARLIEST, 1_048_588)})

    def main(network: Owner) -> None:
        lanes.make_lane(network, "X", source, target, orders, fetch_bytes=600, pace=Pace(8.0, 1 << 20, 8.0)).run()

    def done() -> bool:
        position = lanes.lane_state(target).positions.get(KEY)
        return position is not None and position.next_offset == 2 * RECORDS

    with ModelNetwork(source, target) as net:
        net.spawn("X", main)
        net.run(Script([]), until=done)
        net.settle()
        assert [owner.error for owner in net.owners if owner.error is not None] == []
    assert [r.content for r in target.committed(*KEY)] == [r.content for r in source.committed(*KEY)]
    found = [len(list(decode_runs(tally.runs))) for key, tally in lanes.tallies(target) if key == KEY]
    assert sum(found) >= RECORDS
    return max(found)


def test_many_runs_bring_the_commit_forward(monkeypatch: pytest.MonkeyPatch) -> None:
    assert longest(65, monkeypatch) < 100  # those of the requests in flight come on top
    assert longest(10_000, monkeypatch) == RECORDS
