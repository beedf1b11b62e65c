"""Offset translation is exact: whoever goes on at the translated offset loses no record and sees none twice."""

from __future__ import annotations

import signal
from bisect import bisect_left
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from eomirror import translation
from eomirror.checkpoint import InternalTopics
from eomirror.cli import app
from eomirror.cli.app import guarded
from eomirror.clusters import Cluster as Configured
from eomirror.errors import Reason, Refused
from eomirror.records import Gap
from eomirror.translation import Found, RouteMap, look, translate

from .cluster import Cluster
from .compaction import CLEANING, HELD, has_gaps, wait_compacted
from .process import Eomirror
from .promise import (
    SMALL,
    Load,
    Loading,
    Place,
    assert_equal,
    catch_up,
    configured,
    contents,
    positions,
    produce,
    settle_fault,
    settled,
)


class Asked:
    """The library's answers about one flow, with connections of its own."""

    def __init__(self, config: Path) -> None:
        whole = configured(config)
        self.flow = whole.flows[0].name
        self._brokers = Configured("target", whole.clusters["target"]).brokers("test")

    def look(self, place: Place, target_offset: int | None = None) -> RouteMap:
        return look(self.flow, place, self._brokers, target_offset=target_offset)

    def close(self) -> None:
        self._brokers.close()


@contextmanager
def asking(config: Path) -> Iterator[Asked]:
    asked = Asked(config)
    try:
        yield asked
    finally:
        asked.close()


def offsets(cluster: Cluster, topics: dict[str, int]) -> dict[Place, list[int]]:
    """(topic, partition) -> the offset of every committed record, by a plain consumer. Record k of one side is record k
    of the other: `assert_equal` says so."""
    return {place: [offset for offset, _ in records] for place, records in contents(cluster, topics).items()}


def expected(own: list[int], other: list[int], offset: int, end: int | None) -> tuple[int | None, Found]:
    """Where the record is that a reader of `own` would get next at this offset; behind the last one: at the end."""
    index = bisect_left(own, offset)
    if index == len(own):
        return end, Found.END
    return other[index], Found.EXACT if own[index] == offset else Found.GAP


def assert_exact(known: RouteMap, source: list[int], target: list[int], *, first: int = 0) -> None:
    """Every source offset from `first` to the position, and every target offset up to the end, both ways."""
    assert len(source) == len(target)
    for offset in range(first, known.position + 1):
        answer = translate(known, offset)
        assert (answer.translated, answer.found) == expected(source, target, offset, known.target_end)
    with pytest.raises(Refused, match=f"is not mirrored yet: the position is {known.position}"):
        translate(known, known.position + 1)
    start = target[bisect_left(source, first)] if first and bisect_left(source, first) < len(target) else 0
    for offset in range(start, known.target_reach + 1):
        answer = translate(known, offset, reverse=True)
        assert (answer.translated, answer.found) == expected(target, source, offset, known.position)
    with pytest.raises(Refused, match="is beyond the target's last stable offset"):
        translate(known, known.target_reach + 1, reverse=True)


def assert_all_exact(config: Path, source: Cluster, target: Cluster, topics: dict[str, int]) -> int:
    """The same for every partition of a flow that is at rest; the number of records."""
    ours, theirs = offsets(source, topics), offsets(target, topics)
    ends = settled(target, topics)
    with asking(config) as asked:
        for place, records in ours.items():
            known = asked.look(place, ends[place][1])
            assert (known.position, known.target_reach) == (positions(config)[place].next_offset, ends[place][1])
            assert_exact(known, records, theirs[place])
    return sum(len(records) for records in ours.values())


def test_every_offset_translates_to_the_same_record(
    source: Cluster, target: Cluster, eomirror: Eomirror, flow_config: Callable[..., Path], name: str
) -> None:
    topics = {f"{name}.lz4.tx": 2, f"{name}.plain": 1, f"{name}.compacted": 1}
    for topic, partitions in topics.items():
        source.create_topic(topic, partitions, CLEANING if "compacted" in topic else None)
    target.create_topic(f"{name}.compacted", 1, {"cleanup.policy": "compact", **HELD})
    load = Load(source, name)
    load(topics, 300)
    load({f"{name}.compacted": 1}, 300)
    wait_compacted(source, {f"{name}.compacted": 1}, has_gaps)
    load(topics, 40)
    config = flow_config(**SMALL)
    catch_up(eomirror, config)
    count = assert_equal(source, target, topics, least=700)
    assert assert_all_exact(config, source, target, topics) == count

    # Killed: the newest runs ride in the checkpoint, and nobody runs.
    load(topics, 200)
    eomirror("run", config=config, env={"EOMIRROR_TEST_KILL_AT": "end_answered:8"}).expect(-signal.SIGKILL)
    pending = {place: position for place, position in positions(config).items() if position.pending.runs}
    assert pending
    with asking(config) as asked:
        killed = {place: asked.look(place) for place in pending}
    catch_up(eomirror, config)
    assert_equal(source, target, topics)
    ours, theirs = offsets(source, topics), offsets(target, topics)
    for place, known in killed.items():
        assert known.position == pending[place].next_offset
        cut = bisect_left(ours[place], known.position)
        assert_exact(known, ours[place][:cut], theirs[place][:cut])
    assert_all_exact(config, source, target, topics)

    # Retention takes the ledger's beginning: what is older than the rest is said to be so, by its first offset.
    ledger = InternalTopics.of(name).ledger
    target.delete_records(ledger, {p: end // 2 for p, end in target.end_offsets(ledger).items() if end > 2})
    cut_short = 0
    with asking(config) as asked:
        for place, records in ours.items():
            known = asked.look(place)
            first = known.trail.offsets.ceiling(0)
            begins = known.position if first is None else first[0]
            if known.trail.before is translation.Before.UNKNOWN and begins > records[0]:
                cut_short += 1
                for old in range(begins):
                    with pytest.raises(
                        Refused, match=f"older than the ledger, which begins at source offset {begins}$"
                    ):
                        translate(known, old)
                with pytest.raises(Refused, match="target offset 0 is older than the ledger"):
                    translate(known, 0, reverse=True)
            assert_exact(known, records, theirs[place], first=begins)
    assert cut_short


def test_it_is_exact_while_the_flow_runs(
    source: Cluster, target: Cluster, eomirror: Eomirror, flow_config: Callable[..., Path], name: str
) -> None:
    topics = {f"{name}.tx": 1, f"{name}.plain": 1}
    for topic in topics:
        source.create_topic(topic, 1)
    config = flow_config(**{**SMALL, "lanes": 1})
    load = Load(source, name)
    load(topics, 100)
    run = eomirror.background("run", config=config)
    run.wait_for_text("lane.taken")
    run.wait_for(
        lambda: [place.target_end is not None for place in positions(config).values()] == [True, True],
        20,
        "both topics are begun",
    )
    writing = Loading(load, topics)
    seen: list[tuple[Place, bool, int, int]] = []
    with asking(config) as asked:
        while len(seen) < 120:
            for place in ((topic, 0) for topic in topics):
                known = asked.look(place)
                seen += [
                    (place, False, s, translate(known, s).translated) for s in (known.position, known.position - 3)
                ]
                end = target.end_offsets(place[0], committed=True)[0]
                known = asked.look(place, end)
                seen += [(place, True, t, translate(known, t, reverse=True).translated) for t in (end, end - 3)]
    writing.end()
    run.term()
    run.wait(30).expect(0)
    catch_up(eomirror, config)
    assert_equal(source, target, topics)
    ours, theirs = offsets(source, topics), offsets(target, topics)
    for place, reverse, asked_for, translated in seen:
        here, there = (theirs, ours) if reverse else (ours, theirs)
        assert bisect_left(here[place], asked_for) == bisect_left(there[place], translated)
    assert len({asked_for for *_, asked_for, _ in seen}) > 20


def test_what_a_dead_owner_left_open_is_not_guessed(
    source: Cluster,
    target: Cluster,
    eomirror: Eomirror,
    flow_config: Callable[..., Path],
    name: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    topics = {name: 1}
    source.create_topic(name, 1)
    load = Load(source, name)
    load(topics, 30)
    config = flow_config(**{**SMALL, "lanes": 1})
    catch_up(eomirror, config)
    load(topics, 30)
    eomirror("run", config=config, env={"EOMIRROR_TEST_KILL_AT": "ledger:2"}).expect(-signal.SIGKILL)
    monkeypatch.setattr(translation, "DECISION_SECONDS", 0.2)
    with asking(config) as asked:
        known = asked.look((name, 0))
        assert translate(known, known.position).found is Found.END
        assert translate(known, known.target_end or 0, reverse=True).translated == known.position
        stable = target.end_offsets(name, committed=True)[0]
        assert stable > known.target_reach
        with pytest.raises(Refused, match="a transaction of this lane is open"):
            asked.look((name, 0), stable)
    catch_up(eomirror, config)
    assert_all_exact(config, source, target, topics)


def test_a_topic_that_was_created_again_begins_anew(
    source: Cluster, target: Cluster, eomirror: Eomirror, flow_config: Callable[..., Path], name: str
) -> None:
    topics = {name: 1}
    source.create_topic(name, 1)
    Load(source, name)(topics, 60)
    config = flow_config(**{**SMALL, "lanes": 1})
    catch_up(eomirror, config)
    before = offsets(target, topics)[name, 0]
    source.delete_topic(name)
    source.create_topic(name, 1)
    Load(source, f"{name}-again")(topics, 20)
    catch_up(eomirror, config, 8)
    settle_fault(config, (name, 0))
    catch_up(eomirror, config)
    ours, theirs = offsets(source, topics)[name, 0], offsets(target, topics)[name, 0]
    fresh = theirs[len(before) :]
    assert len(ours) == len(fresh) == 20
    with asking(config) as asked:
        known = asked.look((name, 0))
        assert [translate(known, offset).translated for offset in ours] == fresh
        assert [translate(known, offset, reverse=True).translated for offset in fresh] == ours
        # A reader who still has old records before it goes on at the new topic's beginning.
        assert {translate(known, offset, reverse=True).translated for offset in before} == {ours[0]}


def test_what_was_left_out_is_named_by_who_translates_across_it(
    source: Cluster, target: Cluster, eomirror: Eomirror, flow_config: Callable[..., Path], name: str
) -> None:
    source.create_topic(name, 1)
    target.create_topic(name, 1, {"cleanup.policy": "compact", **HELD})
    produce(source, name, (b"a", b"1"), (b"b", b"2"))
    config = flow_config(**SMALL, start="latest")
    catch_up(eomirror, config)
    produce(source, name, (b"c", b"3"), (None, b"no key"), (b"d", b"4"))
    catch_up(eomirror, config, 7)
    settle_fault(config, (name, 0))
    catch_up(eomirror, config)
    first, last = (offset for offset, _ in contents(target, {name: 1})[name, 0])
    below, refused = Gap(0, 2), Gap(3, 4, Reason.TARGET_REFUSED, "test")
    with asking(config) as asked:
        known = asked.look((name, 0))
        told = [translate(known, offset) for offset in range(6)]
        assert [answer.translated for answer in told] == [first, first, first, last, last, last + 1]
        assert [answer.left_out for answer in told] == [(below,), (below,), (), (refused,), (), ()]
        back = [translate(known, offset, reverse=True) for offset in range(first, last + 2)]
        assert [answer.translated for answer in back] == [2, *[4] * (last - first), 5]
        assert [answer.left_out for answer in back] == [(below,), *[(refused,)] * (last - first), ()]
    line = f"{name}[0]: source offset 3 -> target offset {last}, the start of the next run"
    why = "  source offset 3 was left out: TARGET_REFUSED, accepted by test"
    told_lines = eomirror("translate", name, name, "0", "3", config=config).expect(0).stdout.splitlines()
    assert (told_lines[0], told_lines[2:]) == (line, [why])


def test_the_command_answers_and_refuses(
    source: Cluster,
    target: Cluster,
    eomirror: Eomirror,
    flow_config: Callable[..., Path],
    name: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    topic = f"{name}.tx"
    source.create_topic(topic, 1)
    config = flow_config(**SMALL)

    def ask(code: int, *arguments: str) -> str:
        """What the verb prints, in this process: the start of an interpreter each would take longer than the test."""
        capsys.readouterr()
        assert guarded(app, ["translate", name, topic, *arguments, "-c", str(config)]) == code
        told = capsys.readouterr()
        assert (told.out == "") == (code != 0)
        return told.err if code else told.out

    assert "has never been started" in ask(7, "0", "0")
    Load(source, name)({topic: 1}, 50)
    catch_up(eomirror, config)
    ours, theirs = offsets(source, {topic: 1})[topic, 0], offsets(target, {topic: 1})[topic, 0]
    whole = eomirror("translate", name, topic, "0", str(ours[7]), "-o", "json", config=config).expect(0).json()
    item = whole["items"][0]
    assert (whole["kind"], item["source_offset"], item["target_offset"]) == ("Translation", ours[7], theirs[7])
    assert ask(0, "0", str(theirs[7]), "--reverse").startswith(
        f"{topic}[0]: target offset {theirs[7]} -> source offset {ours[7]}, exact\n"
    )
    position = positions(config)[topic, 0].next_offset
    assert ask(0, "0", str(position)).startswith(
        f"{topic}[0]: source offset {position} -> target offset {theirs[-1] + 1}, the end\n"
    )
    assert f"source offset {position + 1} is not mirrored yet: the position is {position}" in ask(
        7, "0", f"{position + 1}"
    )
    assert "is not mirrored by this flow" in ask(7, "5", "0")
    target.delete_topic(topic)
    assert "the topic is gone" in ask(7, "0", "0")
    target.create_topic(topic, 1)
    assert "the topic was deleted and created again" in ask(7, "0", "0")
