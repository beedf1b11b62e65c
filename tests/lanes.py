"""Production lanes over the model of Kafka: the same classes as in a worker, only the sockets are replaced."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Literal

import pytest

from eomirror import checkpoint, logs, records
from eomirror.brokers import EARLIEST, Brokers
from eomirror.checkpoint import InternalTopics, LaneState
from eomirror.ends import Foreign
from eomirror.lane import Lane
from eomirror.ledger import Run, decode_runs
from eomirror.model import Lease, Orders, RouteKey, RouteSpec
from eomirror.pacing import Pace
from eomirror.records import LedgerRecord, Owner, Tally
from eomirror.source import Source
from eomirror.transaction import Transactions
from eomirror.transform import Step
from eomirror.wire import Address, Network
from tests.kafkamodel import ModelCluster

FLOW = "dr"
TOPICS = InternalTopics.of(FLOW)
TopicPartitions = dict[str, int]


class Watched(Transactions):
    """Transactions whose findings a test sees too."""

    def __init__(self, brokers: Brokers, told: list[Foreign], step: Callable[[str], None]) -> None:
        super().__init__(brokers, f"eomirror.{FLOW}.0", transaction_timeout_ms=15_000, step=step, patience=5.0)
        self._told = told

    def foreign(self) -> list[Foreign]:
        found = super().foreign()
        self._told += found
        return found


@pytest.fixture(autouse=True, scope="module")
def quiet() -> Iterator[None]:
    """Only errors are logged. A module that runs lanes names it `_quiet`."""
    level, style = logs.configured()
    logs.configure("error", "json")
    yield
    logs.configure(level, style)


def no_step(step: str) -> None:
    """The step hook of a lane that nobody watches."""


def prepare(source: ModelCluster, target: ModelCluster, topics: TopicPartitions) -> None:
    """What a worker does before its lanes start: topics on both sides, internal topics on the target."""
    for topic, partitions in topics.items():
        source.create_topic(topic, partitions)
        target.create_topic(topic, partitions)
    target.create_topic(TOPICS.checkpoint, 1, compact=True, log_append_time=True, max_message_bytes=16 << 20)
    target.create_topic(TOPICS.producers, 1, compact=True, log_append_time=True)
    target.create_topic(TOPICS.ledger, 1, log_append_time=True, max_message_bytes=16 << 20)
    target.create_topic(TOPICS.control, 1, compact=True, log_append_time=True)
    target.create_topic(TOPICS.quarantine, 1, log_append_time=True, max_message_bytes=96 << 20)


def orders(source: ModelCluster, topics: TopicPartitions) -> Orders:
    specs = [
        RouteSpec(topic, p, source.topics[topic].topic_id.hex, EARLIEST, 1_048_588)
        for topic, partitions in topics.items()
        for p in range(partitions)
    ]
    return Orders({spec.key: spec for spec in specs})


def make_lane(
    network: Network,
    name: str,
    source: ModelCluster,
    target: ModelCluster,
    given: Orders,
    *,
    step: Callable[[str], None] = no_step,
    max_bytes: int = 300,
    fetch_bytes: int = 400,
    transform: tuple[Step, ...] = (),
    pace: Pace | None = None,
    told: list[Foreign] | None = None,
    on_bad_record: Literal["fault", "quarantine", "drop"] = "fault",
) -> Lane:
    """A lane that commits often, so that a run of the model holds many transactions; unless it has another pace. What
    it finds out about foreign writes is also in `told`."""

    def brokers(cluster: ModelCluster) -> Brokers:
        return Brokers(cluster.name, [Address(cluster.name, 9092)], f"test-{name}", network)

    target_brokers = brokers(target)
    return Lane(
        Lease(
            FLOW,
            0,
            source.cluster_id,
            Owner("host", 1, name, 0),
            target.topics[TOPICS.checkpoint].topic_id.hex,
            source.name,
            transform,
            on_bad_record,
        ),
        Source(brokers(source), max_bytes=fetch_bytes),
        brokers(source),
        target_brokers,
        Watched(target_brokers, [] if told is None else told, step),
        pace or Pace(None, max_bytes, 1.0),
        step,
        given,
        clock_ms=lambda: 1_700_000_000_000 + int(network.now() * 1000),
    )


def lane_state(target: ModelCluster) -> LaneState:
    """The checkpoint as the target's committed log has it, read without production connections."""
    entries = [
        checkpoint.Entry(r.offset, r.timestamp, r.key or b"", r.value) for r in target.committed(TOPICS.checkpoint, 0)
    ]
    return checkpoint.fold(TOPICS.checkpoint, 0, entries)


def ledger_records(target: ModelCluster) -> list[LedgerRecord]:
    return [
        records.decode(f"ledger@{r.offset}", LedgerRecord, r.value or b"") for r in target.committed(TOPICS.ledger, 0)
    ]


def tallies(target: ModelCluster) -> Iterator[tuple[RouteKey, Tally]]:
    """Every tally of every route in order: those of the ledger, then what is pending in the checkpoint."""
    for record in ledger_records(target):
        for route in record.routes:
            yield (route.source_topic, route.source_partition), route.tally
    for key, position in lane_state(target).positions.items():
        yield key, position.pending


def runs(target: ModelCluster) -> Iterator[tuple[RouteKey, Run]]:
    for key, tally in tallies(target):
        for run in decode_runs(tally.runs):
            yield key, run
