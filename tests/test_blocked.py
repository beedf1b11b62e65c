"""A transaction that is decided and waits for a marker is told with its partitions, and only if it goes on waiting."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from kio.schema.describe_transactions.v0 import request as messages

from eomirror import blocked
from eomirror.brokers import Brokers, Leader
from eomirror.errors import BrokerError
from eomirror.units import wall_ms
from tests.fakes import Clock

NAME = "eomirror.dr.0.a"


def state(name: str, kind: str, *places: tuple[str, int], began_s: int = 40, code: int = 0) -> Any:
    began = wall_ms() - began_s * 1000
    topics = [SimpleNamespace(topic=topic, partitions=[partition]) for topic, partition in places]
    return SimpleNamespace(
        error_code=code, transactional_id=name, transaction_state=kind, transaction_start_time=began, topics=topics
    )


class Coordinator:
    """Brokers of a cluster whose coordinator gives one answer after the other, the last one for ever."""

    def __init__(self, *answers: Any, offered: bool = True) -> None:
        self.answers = list(answers)
        self.connection = SimpleNamespace(supports=lambda _key: offered, module=lambda _key: messages)
        self.clock = Clock()
        self.network = self.clock
        self.asked: list[tuple[str, ...]] = []

    def coordinator(self, transactional_id: str) -> str:
        if not self.answers:
            raise BrokerError(f"coordinator of {transactional_id}", 15)
        return "here"

    def at(self, _address: str) -> Any:
        return self.connection

    def ask(self, _connection: Any, request: Any) -> Any:
        self.asked.append(request.transactional_ids)
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        return SimpleNamespace(transaction_states=[answer])

    transaction = Brokers.transaction

    def metadata(self, topics: set[str]) -> Any:
        leaders = {3: Leader(2, 5), 4: Leader(None, 5)}
        return SimpleNamespace(
            topics={topic: SimpleNamespace(partitions=leaders) for topic in topics if topic != "gone"}
        )


def waiting(cluster: Coordinator) -> str | None:
    return blocked.waiting(cluster, [NAME])  # type: ignore[arg-type]


def test_it_names_the_transaction_its_age_and_what_it_waits_for() -> None:
    cluster = Coordinator(state(NAME, "PrepareCommit", ("orders", 3), ("orders", 4), ("gone", 0)))
    told = waiting(cluster)
    assert told is not None
    head, _, where = told.partition(" waits for its marker on ")
    assert head in [f"transaction of {NAME}, begun {age} s ago, is committed and" for age in (40, 41, 42)]
    assert where == "gone[0] (no leader), orders[3] (broker 2), orders[4] (no leader)"
    assert cluster.clock.now == 1000.0 + blocked.AGAIN_SECONDS
    assert cluster.asked == [(NAME,), (NAME,)]


def test_an_abort_waits_too_and_many_partitions_are_counted() -> None:
    told = waiting(Coordinator(state(NAME, "PrepareAbort", *(("orders", n) for n in range(9)))))
    assert told is not None
    assert "is aborted and waits" in told
    assert told.endswith("orders[2] (no leader) and 6 more")


@pytest.mark.parametrize(
    "cluster",
    [
        Coordinator(state(NAME, "Ongoing", ("orders", 3))),
        Coordinator(state(NAME, "CompleteCommit")),
        Coordinator(state(NAME, "PrepareCommit", ("orders", 3), code=53)),
        Coordinator(state(NAME, "PrepareCommit", ("orders", 3)), state(NAME, "CompleteCommit")),
        Coordinator(
            state(NAME, "PrepareCommit", ("orders", 3)), state(NAME, "PrepareCommit", ("orders", 3), began_s=0)
        ),
        Coordinator(state(NAME, "PrepareCommit", ("orders", 3)), offered=False),
        Coordinator(),
    ],
    ids=["open", "complete", "not authorized", "finished meanwhile", "the next one", "not offered", "no coordinator"],
)
def test_whatever_goes_on_is_not_told(cluster: Coordinator) -> None:
    assert waiting(cluster) is None
