"""A whole partition is compared, whatever of it is in the ledger, and the ledger is held against it."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from eomirror.compare import SAMPLED_EVERY, Kind, Only
from eomirror.config import FlowConfig, TopicsConfig
from eomirror.errors import ConnectionLost, Reason, Refused
from eomirror.ledger import Before, Trail
from eomirror.model import Seen
from eomirror.records import Gap, Tally
from eomirror.scope import Job, Plan, Span
from eomirror.transform import Provenance, SetHeader
from eomirror.verify import Compared, Comparer, ledger_problems, verify
from tests.fakes import FakeBrokers, Log, position

KEY = ("orders", 3)
FLOW = FlowConfig(name="dr", source="paris", target="dublin", topics=TopicsConfig(include=("orders",)))


def record(number: int, offset: int, **fields: Any) -> Seen:
    return Seen(offset, b"k", b"%d" % number, (("n", b"1"),), (1, 50 + number))._replace(**fields)


class FakeReader:
    """Hands out the records of a span; `trouble` is raised when an offset is asked for."""

    def __init__(self, records: Sequence[Seen], trouble: dict[int, Exception]) -> None:
        self._records, self._trouble = records, trouble
        self.asked: list[Span] = []

    def windows(
        self, topic: str, partition: int, start: int, end: int, cleaned: Callable[[], int]
    ) -> Iterator[list[Seen]]:
        assert (topic, partition) == KEY
        self.asked.append((start, end))
        start = max(start, cleaned())
        for one in self._records:
            if start <= one.offset < end:
                yield [one]
        for offset, error in self._trouble.items():
            if start <= offset < end:
                raise error

    def close(self) -> None:
        self.asked.append((-1, -1))


class Sides:
    """20 records at 0..9 and 15..24 of the source, 0..9 and 12..21 of the target; the ledger has them all."""

    def __init__(self, flow: FlowConfig = FLOW) -> None:
        self.flow = flow
        self.source = [record(n, n if n < 10 else n + 5) for n in range(20)]
        self.target = [record(n, n if n < 10 else n + 2) for n in range(20)]
        self.trouble: tuple[dict[int, Exception], dict[int, Exception]] = ({}, {})
        self.readers: list[FakeReader] = []
        self.progress = 0
        trail = Trail(Before.NOTHING)
        trail.add("a test", Tally((0, 0, 10, 5, 2, 10), records=20))
        self.job = Job(KEY, position(25, target_end=22), trail, (0, 25), (0, 23), (False, False))

    def change(self, **fields: Any) -> None:
        self.job = msgspec.structs.replace(self.job, **fields)

    def older(self, kept: int) -> None:
        """The ledger's beginning is gone; so many runs are left of two."""
        trail = Trail(Before.UNKNOWN)
        if kept:
            trail.add("a test", Tally((15, 12, 10), records=10))
        self.change(trail=trail)

    def clusters(self) -> list[Any]:
        made = []
        for name, records, trouble in zip(("paris", "dublin"), (self.source, self.target), self.trouble, strict=True):
            brokers = FakeBrokers(name)
            brokers.add("orders", *(Log() for _ in range(4)))
            brokers.close = lambda: None  # type: ignore[attr-defined]
            reader = FakeReader(records, trouble)
            self.readers.append(reader)
            made.append(SimpleNamespace(brokers=lambda _role, b=brokers: b, reader=lambda r=reader: r, name=name))
        return made

    def compare(self, sample: int | None = None) -> Compared:
        def told(records: int) -> None:
            self.progress += records

        comparer = Comparer(self.flow, *self.clusters(), sample=sample, progress=told, chance=random.Random(7))
        try:
            return comparer.compare(self.job)
        finally:
            comparer.close()


def told(found: Compared) -> list[tuple[Kind, int | None, int | None]]:
    return [(one.kind, one.source, one.target) for one in found.differences]


def test_everything_is_compared_and_the_ledger_with_it() -> None:
    sides = Sides()
    found = sides.compare()
    assert (found.equal, found.different, found.not_comparable, found.ledger) == (20, {}, {}, ())
    assert (found.mirrored, found.translations, found.cause, found.differs) == (20, 2, None, False)
    assert sides.progress == 20
    assert [reader.asked for reader in sides.readers] == [[(0, 25), (-1, -1)], [(0, 23), (-1, -1)]]


@pytest.mark.parametrize("kept", [0, 1])
def test_what_is_older_than_the_ledger_is_compared_by_order(kept: int) -> None:
    sides = Sides()
    sides.older(kept)
    found = sides.compare()
    assert (found.equal, found.differs, found.not_comparable) == (20, False, {})
    assert sides.progress == 20  # the counting beforehand is not told
    sides.target.append(record(99, 22))
    assert told(sides.compare()) == [(Kind.FOREIGN, None, 22)]
    sides.target[2] = sides.target[2]._replace(value=b"flip")
    assert told(sides.compare()) == [(Kind.CHANGED, 2, 2), (Kind.FOREIGN, None, 22)]
    del sides.target[2]
    assert told(sides.compare()) == [(Kind.LOST, 2, None), (Kind.FOREIGN, None, 22)]


def test_a_beginning_that_only_one_side_has_left_is_not_comparable() -> None:
    sides = Sides()
    sides.older(1)
    sides.change(source=(4, 25))
    found = sides.compare()
    assert (found.equal, found.differs, found.not_comparable) == (16, False, {Only.RETENTION: 4})
    sides.change(source=(0, 25), target=(7, 23))
    found = sides.compare()
    assert (found.equal, found.differs, found.not_comparable) == (13, False, {Only.RETENTION: 7})
    # A log that begins at 0 has lost nothing to retention.
    sides.change(source=(0, 25), target=(0, 23))
    del sides.target[:7]
    assert [kind for kind, _, _ in told(sides.compare())] == [Kind.LOST] * 7


def test_retention_that_goes_on_while_records_are_counted_shifts_nothing() -> None:
    sides = Sides()
    sides.older(0)
    clusters = sides.clusters()
    comparer = Comparer(FLOW, *clusters)
    brokers, asked = clusters[0].brokers("test"), []
    plain = brokers.list_offsets

    def list_offsets(*arguments: Any) -> Any:
        asked.append(arguments)
        brokers.logs[KEY].first = 0 if len(asked) == 1 else 6  # the first is asked by the reader that counts
        return plain(*arguments)

    brokers.list_offsets = list_offsets
    found = comparer.compare(sides.job)
    assert (found.equal, found.differs, found.not_comparable) == (14, False, {Only.RETENTION: 6})


def test_a_source_that_is_gone_leaves_nothing_to_be_compared_and_foreign_records_to_be_found() -> None:
    sides = Sides()
    sides.change(source=None)
    sides.target.append(record(99, 22))
    found = sides.compare()
    assert (found.equal, found.not_comparable, told(found)) == (0, {Only.GONE: 20}, [(Kind.FOREIGN, None, 22)])
    sides.older(0)
    found = sides.compare()
    assert (found.equal, found.not_comparable) == (0, {Only.GONE: 20})


def test_what_a_person_left_out_is_not_even_read() -> None:
    sides = Sides()
    sides.job.trail.left_out.append(Gap(10, 14, Reason.CORRUPT_BATCH))
    sides.trouble = ({12: AssertionError("read")}, {})
    assert sides.compare().equal == 20
    assert sides.readers[0].asked[:2] == [(0, 10), (14, 25)]


def test_what_cannot_be_read_is_a_cause_and_what_was_found_until_then_stays() -> None:
    sides = Sides()
    sides.target[1] = sides.target[1]._replace(key=None)
    sides.trouble = ({24: Refused("cannot be read at offset 24")}, {})
    found = sides.compare()
    assert (found.cause, told(found), found.ledger) == ("cannot be read at offset 24", [(Kind.CHANGED, 1, 1)], ())
    sides.trouble = ({}, {24: ConnectionLost("away"), 3: ConnectionLost("away")})
    with pytest.raises(ConnectionLost):
        sides.compare()


def test_a_transform_is_held_against_what_its_steps_say() -> None:
    flow = msgspec.structs.replace(
        FLOW, transform=(SetHeader(header="n", value="{flow} {topic} {partition} {timestamp}"), Provenance())
    )
    sides = Sides(flow)
    assert sides.compare().different == {Kind.CHANGED: 20}
    sides.target = [
        there._replace(
            headers=(
                ("n", b"dr orders 3 %d" % here.timestamp[1]),
                ("eomirror.origin", b"paris/orders/3/%d" % here.offset),
            )
        )
        for here, there in zip(sides.source, sides.target, strict=True)
    ]
    assert (sides.compare().equal, sides.compare().differs) == (20, False)


def test_a_sample_reads_a_part_and_always_the_end() -> None:
    sides = Sides()
    sides.target.append(record(99, 22))
    found = sides.compare(sample=1)
    assert told(found) == [(Kind.FOREIGN, None, 22)]
    assert 0 < found.equal <= 20


# --- the ledger


def test_runs_must_tile_what_the_checkpoint_says() -> None:
    job = Sides().job
    assert ledger_problems(job) == []
    assert ledger_problems(msgspec.structs.replace(job, position=position(24, target_end=22))) == [
        "its runs end at source offset 25, the position is 24"
    ]
    assert ledger_problems(msgspec.structs.replace(job, position=position(30, target_end=30))) == [
        "its runs end at target offset 22, the checkpoint says 30"
    ]
    job.trail.add("a test", Tally((25, 23, 3), records=4))
    assert ledger_problems(msgspec.structs.replace(job, position=position(28, target_end=26))) == [
        "its tallies count 24 records, their runs hold 23"
    ]
    empty = msgspec.structs.replace(job, trail=Trail(Before.NOTHING))
    assert ledger_problems(empty) == []


def test_a_translation_that_misses_its_record_is_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(_known: object, offset: int, *, reverse: bool) -> Any:
        return SimpleNamespace(translated=offset if reverse else offset + 1)

    monkeypatch.setattr("eomirror.verify.translation.translate", wrong)
    found = Sides().compare()
    assert found.ledger == ("source offset 0 translates to 1, its record is at target offset 0",)
    assert (found.different, found.differs) == ({}, True)
    assert SAMPLED_EVERY > 20  # one pair of these was looked at


# --- the verdict


def test_the_verdict_holds_every_partition_in_order() -> None:
    sides = Sides()
    comparer = Comparer(FLOW, *sides.clusters())
    plan = Plan((sides.job,), {("orders", 1): "the topic is gone"}, ("the chain is broken",))
    clock = iter((5.0, 7.25))
    verdict = verify(FLOW, comparer, plan, sample=None, at_ms=9, now=lambda: next(clock))
    comparer.close()
    assert [(one.place, one.equal, one.cause) for one in verdict.partitions] == [
        ("orders[1]", 0, "the topic is gone"),
        ("orders[3]", 20, None),
    ]
    assert (verdict.seconds, verdict.at_ms, verdict.ledger) == (2.25, 9, ("the chain is broken",))
    assert (verdict.differs, verdict.incomplete) == (True, True)
    fine = msgspec.structs.replace(verdict, ledger=())
    assert (fine.differs, fine.incomplete) == (False, True)
