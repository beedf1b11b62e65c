"""What a flow tells about itself while it runs."""

from __future__ import annotations

import pytest

from eomirror.errors import Reason
from eomirror.model import LaneView, RouteView
from eomirror.records import State
from eomirror.worker import progress


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
