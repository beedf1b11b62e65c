"""Every reason, accepted and retried: where the route goes on, what the ledger says, and what is left alone."""

from __future__ import annotations

from typing import Any

import pytest

from eomirror.errors import BrokerError, ConnectionLost, Reason
from eomirror.faults import ACCEPTING, SKIPPING, resolve
from eomirror.records import Desired, Fault, Gap, PositionRecord, State, Tally
from eomirror.route import Route
from tests.fakes import NEW, OLD, FakeBrokers, Log, position, route

KEY = ("orders", 0)
AT = 100


def _clusters() -> tuple[FakeBrokers, FakeBrokers]:
    """A source that has offsets 60 to 499 and a target whose topic was created again."""
    source, target = FakeBrokers("paris"), FakeBrokers("dublin")
    source.add("orders", Log(60, 500), topic_id=NEW)
    target.add("orders", Log(0, 300), topic_id=NEW)
    return source, target


def _faulted(reason: Reason, next_offset: int | None) -> Route:
    fault = Fault(reason, "detail", 5, next_offset)
    return route(AT, leader_epoch=3, target_end=300, state=State.FAULTED, fault=fault)


def _resolve(
    standing: Route,
    action: Any = "accept",
    clusters: tuple[FakeBrokers, FakeBrokers] | None = None,
) -> bool:
    source, target = clusters or _clusters()
    desired = Desired(v=1, action=action, since_ms=5, by="ada", why="known", at_ms=9)
    return resolve(standing, desired, target, source)


def _after(next_offset: int = AT, gap: Gap | None = None, **fields: object) -> PositionRecord:
    base = {"target_end": 300, "leader_epoch": None if gap else 3, "transaction": 9}
    return position(next_offset, pending=Tally(gaps=(gap,)) if gap else Tally(), **(base | fields))


def _gap(reason: Reason, first: int, following: int) -> Gap:
    return Gap(first, following, reason, "ada")


# What accepting does: the fault's next_offset, and the position afterwards.
ACCEPTED: dict[Reason, tuple[int | None, PositionRecord]] = {
    Reason.MARKER_LOST: (AT, _after()),
    Reason.SOURCE_GAP: (140, _after(140, _gap(Reason.SOURCE_GAP, AT, 140))),
    Reason.SOURCE_RECREATED: (0, _after(60, _gap(Reason.SOURCE_RECREATED, AT, 60), source_topic_id=NEW)),
    Reason.TARGET_RECREATED: (
        AT,
        _after(gap=_gap(Reason.TARGET_RECREATED, AT, AT), target_topic_id=NEW, target_end=None, leader_epoch=3),
    ),
    Reason.SOURCE_DELETED: (None, _after(state=State.PAUSED)),
    Reason.SOURCE_TRUNCATED: (90, _after(90, _gap(Reason.SOURCE_TRUNCATED, AT, 90))),
    **{reason: (110, _after(110, _gap(reason, AT, 110))) for reason in SKIPPING},
    Reason.TARGET_NOT_EMPTY: (AT, _after()),
}


def test_every_reason_is_explained_and_tested() -> None:
    assert set(ACCEPTING) == set(ACCEPTED) == set(Reason)


@pytest.mark.parametrize("reason", Reason)
def test_accepting(reason: Reason) -> None:
    next_offset, expected = ACCEPTED[reason]
    standing = _faulted(reason, next_offset)
    assert _resolve(standing) is True
    assert standing.position(9, ledgered=False) == expected
    assert standing.changed


@pytest.mark.parametrize("reason", Reason)
def test_retrying_leaves_nothing_out_and_asks_nobody(reason: Reason) -> None:
    clusters = _clusters()
    for side in clusters:
        side.down = True
    standing = _faulted(reason, 140)
    assert _resolve(standing, "retry", clusters) is True
    assert standing.position(9, ledgered=False) == _after()


@pytest.mark.parametrize(
    ("reason", "next_offset"), [*((reason, None) for reason in sorted(SKIPPING)), (Reason.TARGET_RECREATED, AT)]
)
def test_what_cannot_be_accepted_yet_stays_as_it_is(reason: Reason, next_offset: int | None) -> None:
    clusters = _clusters()
    clusters[1].ids.clear()
    standing = _faulted(reason, next_offset)
    before = standing.position(9, ledgered=False)
    assert _resolve(standing, clusters=clusters) is False
    assert (standing.position(9, ledgered=False), standing.changed) == (before, False)


def test_a_recreated_source_that_is_gone_again_stays_as_it_is() -> None:
    standing = _faulted(Reason.SOURCE_RECREATED, 0)
    source, target = _clusters()
    del source.logs[KEY], source.ids["orders"]
    desired = Desired(v=1, action="accept", since_ms=5, by="ada", why="", at_ms=9)
    assert resolve(standing, desired, target, source) is False
    assert (standing.state, standing.source_topic_id) == (State.FAULTED, OLD)


@pytest.mark.parametrize("failure", ["down", "away"])
@pytest.mark.parametrize("reason", [Reason.SOURCE_GAP, Reason.SOURCE_TRUNCATED, Reason.SOURCE_RECREATED])
def test_a_source_that_does_not_answer_is_an_error_and_changes_nothing(reason: Reason, failure: str) -> None:
    clusters = _clusters()
    if failure == "down":
        clusters[0].down = True
    else:
        clusters[0].away.add(KEY)
    standing = _faulted(reason, None)
    before = standing.position(9, ledgered=False)
    with pytest.raises(ConnectionLost if failure == "down" else BrokerError):
        _resolve(standing, clusters=clusters)
    assert (standing.position(9, ledgered=False), standing.changed) == (before, False)


@pytest.mark.parametrize(("told", "first", "expected"), [(140, 60, 140), (140, 200, 200), (None, 200, 200)])
def test_a_gap_that_has_grown_since_is_taken_as_it_is_now(told: int | None, first: int, expected: int) -> None:
    clusters = _clusters()
    clusters[0].logs[KEY].first = first
    standing = _faulted(Reason.SOURCE_GAP, told)
    assert _resolve(standing, clusters=clusters)
    assert standing.next_offset == expected


@pytest.mark.parametrize(
    ("told", "end", "expected"),
    [
        (90, 500, 90),  # the log has grown again: what it holds from 90 on was never mirrored
        (90, 80, 80),
        (None, 80, 80),
        (None, 500, AT),
        (120, 500, AT),
    ],
)
def test_a_truncated_log_is_read_on_from_where_it_was_cut(told: int | None, end: int, expected: int) -> None:
    clusters = _clusters()
    clusters[0].logs[KEY] = Log(0, end)
    standing = _faulted(Reason.SOURCE_TRUNCATED, told)
    assert _resolve(standing, clusters=clusters)
    assert standing.next_offset == expected


def test_a_route_without_a_fault_is_not_resolved() -> None:
    with pytest.raises(RuntimeError, match="is not faulted"):
        _resolve(route())
