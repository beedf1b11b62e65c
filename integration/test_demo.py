"""The demo's verdict and its workload: what is said is true, and what is written is hard, unique and repeatable."""

from __future__ import annotations

import itertools
import json

import pytest

from .demo import Failed, Kills, verdict
from .oracle import Found, Report
from .rawlog import CODECS
from .workload import BACKLOG_SHARE, STREAMS, TOPICS, Stream, events, goals

ENOUGH = Kills(counted=6, in_open_transaction=2)


def test_the_verdict_says_exactly_once_only_if_it_was() -> None:
    report = Report([Found("a", 0, 400), Found("a", 1, 600)])
    assert verdict(report, ENOUGH, 1000) == (
        "demo: 1000 records, 6 kills (2 in an open transaction), 0 lost, 0 duplicated, 0 reordered, exactly once"
    )


@pytest.mark.parametrize(
    ("found", "kills", "words"),
    [
        (
            Found("a", 0, 1000, lost=1),
            ENOUGH,
            "1 lost, 0 duplicated, 0 reordered, 0 changed, 0 foreign: NOT exactly once",
        ),
        (Found("a", 0, 1000, duplicated=2), ENOUGH, "0 lost, 2 duplicated, 0 reordered"),
        (Found("a", 0, 1000, reordered=3), ENOUGH, "3 reordered"),
        (Found("a", 0, 1000, changed=4), ENOUGH, "4 changed, 0 foreign: NOT exactly once"),
        (Found("a", 0, 1000, foreign=5), ENOUGH, "5 foreign: NOT exactly once"),
        (Found("a", 0, 999), ENOUGH, "but 1000 records were to be mirrored"),
        (Found("a", 0, 1000), Kills(4, 4), "but 5 kills"),
        (Found("a", 0, 1000), Kills(9, 1), "(2 in an open transaction) were to happen"),
    ],
)
def test_the_verdict_says_what_is_wrong(found: Found, kills: Kills, words: str) -> None:
    with pytest.raises(Failed) as raised:
        verdict(Report([found]), kills, 1000)
    assert words in str(raised.value)


def test_the_workload_is_what_the_demo_promises() -> None:
    assert len(TOPICS) >= 5
    assert {stream.kind for stream in STREAMS} == {"plain", "idempotent", "transactional"}
    assert {stream.codec for stream in STREAMS} == set(CODECS)
    assert abs(sum(stream.share for stream in STREAMS) - 1) < 1e-9
    assert sum(goals(1_000_000, "live").values()) > (1 - BACKLOG_SHARE) * 1_000_000


@pytest.mark.parametrize("stream", STREAMS, ids=lambda stream: stream.name)
def test_events_are_repeatable_unique_json(stream: Stream) -> None:
    first, again, other = (
        list(itertools.islice(events(stream, seed, "live", 1_700_000_000_000), 2000)) for seed in (7, 7, 8)
    )
    assert first == again
    assert first != other
    assert len({(event.key, event.value, repr(event.headers)) for event in first}) == len(first)
    sizes = []
    for event in first:
        if event.value:
            assert json.loads(event.value)["stream"] == stream.name
            sizes.append(len(event.value))
    assert min(sizes) >= 100
    assert max(sizes) <= 2000
    if stream.keys:
        assert all(event.key for event in first)
