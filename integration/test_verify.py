"""`eomirror verify` says equal when both sides are, and names the offset of whatever is not."""

from __future__ import annotations

import dataclasses
import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from eomirror.checkpoint import InternalTopics
from eomirror.cli import app
from eomirror.cli.app import guarded
from eomirror.model import lane_of

from .cluster import Cluster
from .compaction import CLEANING, HELD, has_gaps, wait_compacted
from .process import Eomirror
from .promise import SMALL, Load, Loading, Place, assert_equal, catch_up, contents, settled, wait_until
from .tamper import Records, tamper

STEPS: list[dict[str, Any]] = [
    {"set": {"header": "place", "value": "{flow} {source_cluster}:{topic}[{partition}]@{offset} {timestamp} é"}},
    {"remove": {"header": "t*g"}},
    {"rename": {"header": "number", "to": "event"}},
    {"provenance": {}},
]

Verify = Callable[..., dict[str, Any]]


@pytest.fixture
def verify(name: str, capsys: pytest.CaptureFixture[str]) -> Verify:
    """Runs the verb in this process: the start of an interpreter each would take longer than the test."""

    def run(config: Path, *arguments: str, code: int = 0) -> dict[str, Any]:
        capsys.readouterr()
        ended = guarded(app, ["verify", name, "-o", "json", "-c", str(config), *arguments])
        told = capsys.readouterr()
        assert (ended, told.err) == (code, ""), told
        answer = json.loads(told.out)
        assert answer["kind"] == "Verify"
        (item,) = answer["items"]
        assert isinstance(item, dict)
        return item

    return run


def figures(item: dict[str, Any]) -> tuple[int, int, int]:
    return item["equal"], item["different"], item["not_comparable"]


def differences(item: dict[str, Any]) -> dict[Place, list[tuple[str, int | None, int | None]]]:
    """(topic, partition) -> (kind, source offset, target offset) of every difference."""
    return {
        (one["topic"], one["partition"]): [
            (d["kind"], d["source_offset"], d["target_offset"]) for d in one["differences"]
        ]
        for one in item["partitions"]
        if one["differences"]
    }


def test_what_a_flow_mirrored_is_equal_whatever_became_of_the_logs(
    source: Cluster,
    target: Cluster,
    eomirror: Eomirror,
    flow_config: Callable[..., Path],
    name: str,
    verify: Verify,
    capsys: pytest.CaptureFixture[str],
) -> None:
    compacted = f"{name}.compacted"
    topics = {f"{name}.lz4.tx": 2, f"{name}.zstd": 1, f"{name}.stamped": 1, compacted: 1}
    for topic, partitions in topics.items():
        settings = {"stamped": {"message.timestamp.type": "LogAppendTime"}, "compacted": CLEANING}
        source.create_topic(topic, partitions, settings.get(topic.rpartition(".")[2]))
    target.create_topic(compacted, 1, {"cleanup.policy": "compact", **HELD})
    load = Load(source, name)
    load(topics, 300)
    load({compacted: 1}, 100)
    config = flow_config(**SMALL)
    catch_up(eomirror, config)
    load(topics, 60)
    eomirror("run", config=config, env={"EOMIRROR_TEST_KILL_AT": "end_answered:6"}).expect(-signal.SIGKILL)
    catch_up(eomirror, config)
    wait_compacted(source, {compacted: 1}, has_gaps)

    # The source's cleaner took records that the target still has.
    ours, theirs = contents(source, topics), contents(target, topics)
    total = sum(len(records) for records in theirs.values())
    gone = len(theirs[compacted, 0]) - len(ours[compacted, 0])
    assert gone > 0
    item = verify(config)
    assert figures(item) == (total - gone, 0, gone)
    assert (item["verdict"], item["mirrored"]) == ("equal", total)
    assert item["not_comparable_by_reason"] == {"compaction": gone}
    assert item["ledger"]["translations"] > 0
    assert guarded(app, ["verify", name, "-c", str(config)]) == 0
    assert (
        f"records equal, 0 different, {gone} not comparable (compaction); " in capsys.readouterr().out.splitlines()[-1]
    )

    # Retention on one side each, and of the ledger: what is older than that is paired by order.
    plain, cut = (f"{name}.zstd", 0), (f"{name}.lz4.tx", 0)
    source.delete_records(plain[0], {0: ours[plain][25][0]})
    target.delete_records(cut[0], {0: theirs[cut][40][0]})
    wanted = {plain: 25, cut: 40, (compacted, 0): gone}
    for _ in range(2):
        item = verify(config, "--topic", plain[0], "--topic", cut[0])
        assert {(one["topic"], one["partition"]): one["not_comparable"] for one in item["partitions"]} == {
            plain: 25,
            cut: 40,
            (cut[0], 1): 0,
        }
        assert figures(item) == (sum(len(ours[place]) for place in (plain, cut, (cut[0], 1))) - 65, 0, 65)
        ledger = InternalTopics.of(name).ledger
        target.delete_records(ledger, {p: end * 2 // 3 for p, end in target.end_offsets(ledger).items()})
    item = verify(config)
    assert figures(item)[1] == 0
    assert {p["not_compared"] for p in item["partitions"]} == {None}
    assert sum(wanted.values()) <= item["not_comparable"]

    # A part by random, of what the ledger still knows.
    item = verify(config, "--sample", "3")
    assert item["different"] == 0
    assert 0 < item["equal"] <= item["mirrored"]

    # Nobody has the source's topic any more but the target.
    source.delete_topic(plain[0])
    item = verify(config, "--topic", plain[0], code=7)
    assert item["verdict"] == "incomplete"
    assert figures(item)[:2] == (0, 0)
    assert item["not_comparable"] == len(theirs[plain])


def test_it_is_right_while_the_flow_runs(
    source: Cluster, target: Cluster, eomirror: Eomirror, flow_config: Callable[..., Path], name: str, verify: Verify
) -> None:
    topics = {f"{name}.tx": 1, f"{name}.plain": 2}
    for topic, partitions in topics.items():
        source.create_topic(topic, partitions)
    config = flow_config(transform=STEPS, **SMALL)
    load = Load(source, name)
    load(topics, 200)
    run = eomirror.background("run", config=config)
    run.wait_for_text("lane.taken")
    writing = Loading(load, topics)
    run.wait_for(lambda: sum(target.end_offsets(f"{name}.plain").values()) > 100, 20, "something is mirrored")
    seen = []
    for _ in range(4):
        item = verify(config)
        assert figures(item) == (item["equal"], 0, 0)
        seen.append(item["equal"])
    writing.end()
    run.term()
    run.wait(30).expect(0)
    catch_up(eomirror, config)
    item = verify(config)
    assert figures(item) == (sum(map(len, contents(source, topics).values())), 0, 0)
    assert 0 < seen[0] < seen[-1] < item["equal"]

    # The same records under other steps are not what this flow would have made of them.
    other = flow_config(transform=STEPS[:3], file="other.yaml", **SMALL)
    assert verify(other, code=3)["different_by_kind"] == {"changed": item["equal"]}


def test_every_plant_is_found_with_its_offset(
    source: Cluster,
    target: Cluster,
    eomirror: Eomirror,
    flow_config: Callable[..., Path],
    name: str,
    verify: Verify,
    capsys: pytest.CaptureFixture[str],
) -> None:
    topics = {f"{name}.lz4": 8, f"{name}.tx": 1}
    for topic, partitions in topics.items():
        source.create_topic(topic, partitions)
    Load(source, name)(topics, 500)
    config = flow_config(**SMALL)
    catch_up(eomirror, config)
    total = assert_equal(source, target, topics, least=1000)
    assert figures(verify(config)) == (total, 0, 0)
    ours, theirs = contents(source, topics), contents(target, topics)
    pairs = {place: list(zip(ours[place], theirs[place], strict=True)) for place in ours}
    settled(target, topics)

    def at(partition: int, index: int) -> tuple[int, int]:
        (here, _), (there, _) = pairs[f"{name}.lz4", partition][index]
        return here, there

    def changed(**fields: Any) -> Callable[[Records], None]:
        def edit(known: Records) -> None:
            known[at(0, 7)[1]] = dataclasses.replace(known[at(0, 7)[1]], **fields)

        return edit

    def swapped(known: Records) -> None:
        a, b = at(1, 5)[1], at(1, 6)[1]
        known[a], known[b] = dataclasses.replace(known[b], offset=a), dataclasses.replace(known[a], offset=b)

    def dropped(known: Records) -> None:
        del known[at(2, 9)[1]]

    def doubled(known: Records) -> None:
        known[at(3, 4)[1]] = dataclasses.replace(known[at(3, 3)[1]], offset=at(3, 4)[1])

    def partition_of(index: int) -> Path:
        return target.log_dir / f"{name}.lz4-{index}"

    # Through the broker's own files, as a broken disk or a wrong tool would do it.
    target.stop()
    tamper(partition_of(0), changed(value=b"somebody was here"))
    tamper(partition_of(1), swapped)
    tamper(partition_of(2), dropped)
    tamper(partition_of(3), doubled)
    target.restart()
    # Through a producer, as a program with too many rights would do it.
    ends = target.end_offsets(f"{name}.lz4")
    producer = target.producer({"acks": "all"})
    (_, (key, value, headers, (_, ms))) = pairs[f"{name}.lz4", 5][-1][1]
    producer.produce(f"{name}.lz4", b"foreign", b"key", 4)
    producer.produce(f"{name}.lz4", value, key, 5, timestamp=ms, headers=headers)
    assert producer.flush(20) == 0
    wait_until(lambda: target.end_offsets(f"{name}.lz4", committed=True)[5] > ends[5])

    item = verify(config, code=3)
    assert item["verdict"] == "differs"
    assert differences(item) == {
        (f"{name}.lz4", 0): [("changed", *at(0, 7))],
        (f"{name}.lz4", 1): [("reordered", *at(1, 5)), ("reordered", *at(1, 6))],
        (f"{name}.lz4", 2): [("lost", *at(2, 9))],
        (f"{name}.lz4", 3): [("doubled", *at(3, 4))],
        (f"{name}.lz4", 4): [("foreign", None, ends[4])],
        (f"{name}.lz4", 5): [("doubled", None, ends[5])],
    }
    assert figures(item) == (total - 5, 7, 0)
    assert guarded(app, ["verify", name, "-c", str(config)]) == 3
    told = capsys.readouterr().out
    assert f"{name}.lz4[4]: foreign: target offset {ends[4]}" in told
    assert f"{name}.lz4[0]: changed: source offset {at(0, 7)[0]}, target offset {at(0, 7)[1]}: value differs" in told
    assert ", 7 different (" in told.splitlines()[-1]

    # Without the ledger, the same is found by order; its newest record is needed to say that it is older.
    ledger = InternalTopics.of(name).ledger
    target.delete_records(ledger, target.end_offsets(ledger))
    item = verify(config, code=3)
    kinds = {
        place[1]: [(kind, target_offset) for kind, _, target_offset in found]
        for place, found in differences(item).items()
    }
    assert kinds[0] == [("changed", at(0, 7)[1])]
    assert kinds[1] in ([("reordered", at(1, 5)[1])], [("reordered", at(1, 6)[1])])
    assert kinds[2] == [("lost", None)]
    assert kinds[4] == [("foreign", ends[4])]
    assert kinds[5] == [("doubled", ends[5])]
    assert differences(item)[f"{name}.lz4", 2] == [("lost", at(2, 9)[0], None)]

    # Somebody writes to the ledger: no partition of that lane is called equal on its word.
    producer.produce(ledger, b"{}", b"0", 0)
    assert producer.flush(20) == 0
    item = verify(config, code=3)
    assert len(item["ledger"]["problems"]) == 1
    assert f"{ledger}[0]@" in item["ledger"]["problems"][0]
    left_out = {(one["topic"], one["partition"]) for one in item["partitions"] if one["not_compared"] is not None}
    assert left_out == {place for place in ours if lane_of(*place, 2) == 0}
    assert item["equal"] > 0
