"""The independent check can fail: every kind of difference, put in on purpose, is found and named."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from .cluster import Cluster
from .oracle import CheckError, compare, differences, make_reader, read

START = 1_700_000_000_000  # ms


@dataclass(frozen=True)
class Event:
    """A record of these tests."""

    value: bytes | None
    key: bytes | None = None
    headers: tuple[tuple[str, bytes | None], ...] = ()
    timestamp: int = START


EVENTS = [
    Event(
        None if n % 10 == 0 else b"value-%d" % n,
        None if n % 4 == 0 else b"key-%d" % n,
        (("a", b"1"), ("a", None)) if n % 3 else (),
        START + n,
    )
    for n in range(1, 121)
]


def write(cluster: Cluster, topic: str, events: list[Event], transaction: bool = False) -> None:
    """Produces the events to partition 0; with transaction=True in one transaction, after an aborted copy of them."""
    settings = {"transactional.id": f"writer.{topic}"} if transaction else {"acks": "all"}
    producer = cluster.producer(settings)
    if transaction:
        producer.init_transactions(30)
    for aborts in (True, False) if transaction else (False,):
        if transaction:
            producer.begin_transaction()
        for event in events:
            producer.produce(
                topic, event.value, event.key, 0, timestamp=event.timestamp, headers=list(event.headers) or None
            )
        assert producer.flush(30) == 0
        if transaction:
            producer.abort_transaction(30) if aborts else producer.commit_transaction(30)


def changed(index: int, **fields: object) -> list[Event]:
    """EVENTS with other fields in one record."""
    return [replace(event, **fields) if n == index else event for n, event in enumerate(EVENTS)]


CASES = {
    "lost in the middle": (EVENTS[:50] + EVENTS[51:], {"lost": 1}, "source offset 50"),
    "lost at the end": (EVENTS[:-3], {"lost": 3}, "source offset 117"),
    "all lost": ([], {"lost": 120}, "source offset 0"),
    "doubled at once": (EVENTS[:50] + EVENTS[49:], {"duplicated": 1}, "target offset 50"),
    "doubled at the end": (EVENTS + EVENTS[-5:], {"duplicated": 5}, "target offset 120"),
    "replayed from the start": (EVENTS + EVENTS, {"duplicated": 120}, "target offset 120"),
    "swapped": ([*EVENTS[:50], EVENTS[51], EVENTS[50], *EVENTS[52:]], {"reordered": 1}, "source offset 5"),
    "changed header": (changed(60, headers=(("a", b"2"), ("a", None))), {"changed": 1}, "headers"),
    "header order": (changed(60, headers=(("a", None), ("a", b"1"))), {"changed": 1}, "headers"),
    "null became empty": (changed(9, value=b""), {"changed": 1}, "value None became b''"),
    "changed key": (changed(60, key=b"other"), {"changed": 1}, "key b'key-61' became b'other'"),
    "changed timestamp": (
        changed(60, timestamp=START + 1),
        {"changed": 1},
        f"CreateTime {START + 61} became CreateTime {START + 1}",
    ),
    "foreign": ([*EVENTS[:60], Event(b"from elsewhere"), *EVENTS[60:]], {"foreign": 1}, "from elsewhere"),
}


@pytest.mark.parametrize("case", CASES)
def test_an_injected_difference_is_found_and_named(source: Cluster, target: Cluster, name: str, case: str) -> None:
    copied, counts, words = CASES[case]
    for cluster in (source, target):
        cluster.create_topic(name)
    write(source, name, EVENTS)
    write(target, name, copied)
    report = compare(source.bootstrap, target.bootstrap, [name])
    figures = ("lost", "duplicated", "reordered", "changed", "foreign")
    assert {figure: report.total(figure) for figure in figures if report.total(figure)} == counts
    assert (report.ok, report.total("records")) == (False, 120)
    assert words in report.text()


def test_equal_partitions_are_equal_whatever_offsets_and_aborted_records_they_have(
    source: Cluster, target: Cluster, name: str
) -> None:
    for cluster in (source, target):
        cluster.create_topic(name, 3)
    write(source, name, EVENTS, transaction=True)
    write(target, name, EVENTS)
    report = compare(source.bootstrap, target.bootstrap, [name], processes=2)
    assert report.ok, report.text()
    assert (report.total("records"), len(report.partitions)) == (120, 3)


def test_a_difference_of_the_timestamp_type_is_found(source: Cluster, target: Cluster, name: str) -> None:
    source.create_topic(name)
    target.create_topic(name, config={"message.timestamp.type": "LogAppendTime"})
    write(source, name, EVENTS[:1])
    write(target, name, EVENTS[:1])
    report = compare(source.bootstrap, target.bootstrap, [name])
    assert report.total("changed") == 1
    assert "became LogAppendTime" in report.text()


def test_times_that_the_source_broker_set_are_the_copies_own(source: Cluster, target: Cluster, name: str) -> None:
    source.create_topic(name, config={"message.timestamp.type": "LogAppendTime"})
    target.create_topic(name)
    write(source, name, EVENTS)
    reader = make_reader(source.bootstrap)
    times = [message.timestamp() for part in read(reader, name, 0, 0, len(EVENTS)) for message in part]
    reader.close()
    assert {kind for kind, _ in times} == {2}
    copies = [replace(event, timestamp=ms) for event, (_, ms) in zip(EVENTS, times, strict=True)]
    copies[77] = replace(copies[77], timestamp=times[77][1] - 1)
    write(target, name, copies)
    report = compare(source.bootstrap, target.bootstrap, [name])
    assert [found.changed for found in report.partitions] == [1]
    assert f"LogAppendTime {times[77][1]} became CreateTime {times[77][1] - 1}" in report.text()


def test_a_missing_topic_or_partition_is_no_equality(source: Cluster, target: Cluster, name: str) -> None:
    source.create_topic(name, 2)
    with pytest.raises(CheckError, match="no such topic"):
        compare(source.bootstrap, target.bootstrap, [name])
    target.create_topic(name, 1)
    with pytest.raises(CheckError, match="on one side only"):
        compare(source.bootstrap, target.bootstrap, [name])


def test_records_of_a_transaction_that_is_still_open_are_lost(source: Cluster, target: Cluster, name: str) -> None:
    for cluster in (source, target):
        cluster.create_topic(name)
    write(source, name, EVENTS)
    producer = target.producer({"transactional.id": name, "transaction.timeout.ms": 60000})
    producer.init_transactions(30)
    producer.begin_transaction()
    for event in EVENTS:
        producer.produce(
            name, event.value, event.key, 0, timestamp=event.timestamp, headers=list(event.headers) or None
        )
    assert producer.flush(30) == 0
    assert compare(source.bootstrap, target.bootstrap, [name]).total("lost") == 120
    producer.commit_transaction(30)
    report = compare(source.bootstrap, target.bootstrap, [name])
    assert report.ok, report.text()


@given(st.lists(st.integers(0, 5)), st.lists(st.integers(0, 5)))
def test_the_named_differences_account_for_every_record(ours: list[int], theirs: list[int]) -> None:
    source, target = [b"%d" % n for n in ours], [b"%d" % n for n in theirs]
    found = differences(source, target)
    kinds = Counter(one.kind for one in found)
    assert (found == []) == (source == target)
    # Every record is matched, or named on exactly one side, or changed and named on both.
    matched = (Counter(source) & Counter(target)).total()
    assert kinds["lost"] + kinds["changed"] == len(source) - matched
    assert kinds["duplicated"] + kinds["changed"] + kinds["foreign"] == len(target) - matched
    # Without the records it names the two sides are the same list.
    kept = [digest for index, digest in enumerate(source) if index not in {one.source for one in found}]
    assert kept == [digest for index, digest in enumerate(target) if index not in {one.target for one in found}]
