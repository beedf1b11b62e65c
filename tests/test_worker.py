"""What a flow tells about itself while it runs."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from eomirror.brokers import EARLIEST
from eomirror.config import DiscoveryConfig, FlowConfig, TopicsConfig
from eomirror.control import Control
from eomirror.errors import Reason
from eomirror.model import LaneView, Orders, RouteSpec, RouteView
from eomirror.records import Desired, State
from eomirror.topology import Plan
from eomirror.units import Duration
from eomirror.worker import Worker, progress, this_process


def lane(*routes: tuple[State, int, int | None], waiting: str | None = None) -> LaneView:
    """A lane with routes of (state, next offset, last stable offset of the source)."""
    views = tuple(
        RouteView(("orders", i), state, offset, stable, None, Reason.SOURCE_GAP if state is State.FAULTED else None)
        for i, (state, offset, stable) in enumerate(routes)
    )
    return LaneView(0, 7, 10, 100, 3, 1, views, caught_up=False, waiting=waiting)


@pytest.mark.parametrize(
    ("states", "lag", "faulted"),
    [
        ([(State.ACTIVE, 5, 9), (State.ACTIVE, 7, 7)], 4, 0),
        ([(State.ACTIVE, 5, 9), (State.RETRYING, 0, 3)], 7, 0),
        ([(State.ACTIVE, 5, 9), (State.ACTIVE, 7, None)], None, 0),
        ([(State.ACTIVE, 9, 9), (State.FAULTED, 7, None)], None, 1),  # not read, so nobody knows how far it is behind
        ([(State.ACTIVE, 5, 9), (State.FAULTED, 7, 27)], 24, 1),
        ([(State.ACTIVE, 5, 9), (State.PAUSED, 7, None)], 4, 0),
        ([], 0, 0),
    ],
)
def test_lag_is_the_sum_or_unknown(states: list[tuple[State, int, int | None]], lag: int | None, faulted: int) -> None:
    told = progress([lane(*states), lane((State.ACTIVE, 1, 1))])
    assert (told.lag, told.faulted, told.records, told.transactions) == (lag, faulted, 20, 6)


def test_lag_is_unknown_while_a_lane_waits() -> None:
    told = progress([lane(waiting="blocked: InitProducerId"), lane((State.ACTIVE, 1, 1))])
    assert (told.lag, told.waiting) == (None, ("blocked: InitProducerId",))


DESIRED = Desired(v=1, action="retry", since_ms=7, by="ann", why="", at_ms=8)
KEY = ("orders", 0)
PLAN = Plan(routes={KEY: RouteSpec(*KEY, "0" * 32, EARLIEST, 1000)}, seen=frozenset({"orders"}))


@pytest.fixture
def watch(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Callable[[], Plan]], SimpleNamespace]]:
    """Starts the two look-outs of a worker with one lane, and returns that lane; an order about KEY has been given."""
    quick = DiscoveryConfig(interval=Duration(1))
    flow = FlowConfig(
        name="dr", source="paris", target="dublin", topics=TopicsConfig(include=("orders",)), lanes=1, discovery=quick
    )
    cluster: Any = SimpleNamespace(brokers=lambda _role: SimpleNamespace(close=lambda: None))
    worker = Worker(flow, cluster, cluster, this_process(), lambda _step: None)
    threads: list[threading.Thread] = []
    monkeypatch.setattr("eomirror.worker.CONTROL_SECONDS", 0.001)
    monkeypatch.setattr(Control, "read", lambda _self: {KEY: DESIRED})

    def start(discover: Callable[[], Plan]) -> SimpleNamespace:
        watched: Any = SimpleNamespace(orders=Orders({}, {}), stop=threading.Event())
        monkeypatch.setattr(worker, "_discover", discover)
        worker._lanes[0] = watched
        for look_out in (worker._watch_topics, worker._watch_control):
            threads.append(threading.Thread(target=look_out, daemon=True))
            threads[-1].start()
        return watched

    yield start
    worker.stop()
    for thread in threads:
        thread.join(5)
        assert not thread.is_alive()


def soon(condition: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + 20
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.001)
    return condition()


def test_an_order_does_not_wait_for_a_discovery_that_hangs(
    watch: Callable[[Callable[[], Plan]], SimpleNamespace],
) -> None:
    answered = threading.Event()

    def hangs() -> Plan:
        answered.wait(30)
        return PLAN

    watched = watch(hangs)
    try:
        assert soon(lambda: watched.orders.desired == {KEY: DESIRED})
        assert watched.orders.routes == {}
    finally:
        answered.set()
    assert soon(lambda: watched.orders == Orders(PLAN.routes, {KEY: DESIRED}))
