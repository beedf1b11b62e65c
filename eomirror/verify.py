"""Is what was mirrored the same on both sides? Read back record by record by plain consumers, with no worker needed.

Look (`scope` asks both clusters where the flow stands), compare partition by partition (`compare`), judge. A flow at
work may go on: all that counts is what was committed when the look was taken.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator

import msgspec

from eomirror import checkpoint, translation
from eomirror.brokers import EARLIEST
from eomirror.clusters import Cluster
from eomirror.compare import Difference, Expected, Findings, Kind, Only, Side, as_mirrored, by_ledger, by_order
from eomirror.config import FlowConfig
from eomirror.errors import Refused
from eomirror.ledger import LAST_OFFSET, Before
from eomirror.model import Seen
from eomirror.reading import Reader
from eomirror.scope import Job, Plan, Span, samples, without
from eomirror.transform import operations, rewritten

Progress = Callable[[int], None]


class Compared(msgspec.Struct, frozen=True):
    """The verdict on one partition.

    `mirrored` are the records that the ledger knows, `ledger` what is wrong with it, `translations` how many were
    checked. `cause` says why nothing could be compared, None if it was.
    """

    topic: str
    partition: int
    equal: int = 0
    different: dict[Kind, int] = {}
    not_comparable: dict[Only, int] = {}
    differences: tuple[Difference, ...] = ()
    ledger: tuple[str, ...] = ()
    mirrored: int = 0
    translations: int = 0
    cause: str | None = None
    note: str | None = None

    @property
    def place(self) -> str:
        return f"{self.topic}[{self.partition}]"

    @property
    def differs(self) -> bool:
        return bool(self.different or self.ledger)


class Verdict(msgspec.Struct, frozen=True):
    """The verdict on a flow. `ledger` is what is wrong with whole lanes; `sample` the windows compared per partition,
    None for all records."""

    flow: str
    source: str
    target: str
    partitions: tuple[Compared, ...]
    ledger: tuple[str, ...]
    sample: int | None
    at_ms: int
    seconds: float

    @property
    def differs(self) -> bool:
        return bool(self.ledger) or any(one.differs for one in self.partitions)

    @property
    def incomplete(self) -> bool:
        """A partition could not be compared, or of all there is not one record was."""
        nothing = not any(one.equal for one in self.partitions)
        lacking = not self.partitions or any(any(one.not_comparable.values()) for one in self.partitions)
        return any(one.cause is not None for one in self.partitions) or (nothing and lacking)


class Comparer:
    """Compares partition after partition with one reader for each side."""

    def __init__(
        self,
        flow: FlowConfig,
        source: Cluster,
        target: Cluster,
        *,
        sample: int | None = None,
        progress: Progress = lambda _: None,
        chance: random.Random | None = None,
    ) -> None:
        self._flow, self._sample, self._progress = flow, sample, progress
        self._chance = chance or random.Random()
        self._sides = [(cluster.brokers("verify"), cluster.reader()) for cluster in (source, target)]

    def close(self) -> None:
        """End what was opened."""
        for brokers, reader in self._sides:
            brokers.close()
            reader.close()

    def compare(self, job: Job) -> Compared:
        """The verdict on one partition. Raises ConnectionLost, BrokerError when a side does not answer any more."""
        found = Findings()
        problems: list[str] = []
        cause = None
        checked = 0
        try:
            if self._sample is None:
                self._whole(job, found)
            else:
                for ours, theirs in samples(job, self._sample, self._chance):
                    by_ledger(*self._pair(job, ours, theirs), job.trail, self._expected(job), found)
            found.close()
            problems += ledger_problems(job)
            checked = _check_translations(self._flow.name, job, found, problems)
        except Refused as error:
            found.close()
            cause = error.message
        return Compared(
            *job.key,
            found.equal,
            dict(found.different),
            dict(found.not_comparable),
            tuple(found.differences),
            tuple(problems),
            job.trail.covered,
            checked,
            cause,
            job.note,
        )

    def _whole(self, job: Job, found: Findings) -> None:
        """What is older than the ledger by order, the rest by the ledger."""
        source, target = job.source or (0, 0), job.target
        first = job.trail.offsets.ceiling(0)
        if job.trail.before is Before.UNKNOWN:
            split = (job.position.next_offset, job.position.target_end or 0) if first is None else first[:2]
            old = (source[0], min(split[0], source[1])), (target[0], min(split[1], target[1]))
            self._older(job, old[0], old[1], found)
            source, target = (max(source[0], split[0]), source[1]), (max(target[0], split[1]), target[1])
        by_ledger(*self._pair(job, source, target), job.trail, self._expected(job), found)

    def _older(self, job: Job, source: Span, target: Span, found: Findings) -> None:
        if job.source is None:
            for _ in self._count(job, 1, target):
                found.not_comparable[Only.GONE] += 1
            return
        while True:
            counts = sum(1 for _ in self._count(job, 0, source)), sum(1 for _ in self._count(job, 1, target))
            starts = self._cleaned(job, 0)(), self._cleaned(job, 1)()
            if starts[0] <= source[0] and starts[1] <= target[0]:
                break
            # Retention went on while we counted; numbers that do not belong together would shift everything.
            source, target = (max(source[0], starts[0]), source[1]), (max(target[0], starts[1]), target[1])
        by_order(
            *self._pair(job, source, target),
            self._expected(job),
            found,
            counts=counts,
            source_cut=source[0] > 0,
            target_cut=target[0] > 0 or self._flow.start != "earliest",
        )

    def _count(self, job: Job, side: int, span: Span) -> Iterator[Seen]:
        for window in self._windows(job, side, span, told=False):
            yield from window

    def _pair(self, job: Job, source: Span, target: Span) -> tuple[Side, Side]:
        gone = job.source is None
        ours = Side(
            iter(()) if gone else self._windows(job, 0, source),
            (lambda: LAST_OFFSET) if gone else self._cleaned(job, 0),
            compacted=job.compacted[0],
            lacking=Only.GONE if gone else Only.RETENTION,
        )
        theirs = Side(
            self._windows(job, 1, target), self._cleaned(job, 1), compacted=job.compacted[1], end=job.target[1]
        )
        return ours, theirs

    def _windows(self, job: Job, side: int, span: Span, *, told: bool = True) -> Iterator[list[Seen]]:
        """The records of a span; at the source, without what was left out: it may be unreadable."""
        reader: Reader = self._sides[side][1]
        gaps = sorted((gap.first, gap.next) for gap in job.trail.left_out) if side == 0 else []
        for start, end in without(span, gaps):
            for window in reader.windows(*job.key, start, end, self._cleaned(job, side)):
                if told and side == 0:
                    self._progress(len(window))
                yield window

    def _cleaned(self, job: Job, side: int) -> Callable[[], int]:
        brokers = self._sides[side][0]

        def ask() -> int:
            return checkpoint.offset_of(brokers, brokers.metadata([job.key[0]]), *job.key, EARLIEST)

        return ask

    def _expected(self, job: Job) -> Expected:
        """What the flow makes of a source record."""
        if not self._flow.transform:
            return as_mirrored
        topic, partition = job.key
        words = {"flow": self._flow.name, "source_cluster": self._flow.source}
        steps = operations(self._flow.transform, {**words, "topic": topic, "partition": str(partition)})

        def expected(source: Seen) -> Seen:
            plain = as_mirrored(source)
            headers = rewritten(steps, plain.headers, offset=plain.offset, timestamp=plain.timestamp[1])
            return plain._replace(headers=headers)

        return expected


def ledger_problems(job: Job) -> list[str]:
    """Whether the runs tile what the checkpoint says was mirrored."""
    trail, position = job.trail, job.position
    problems = []
    if trail.counted != trail.covered:
        problems.append(f"its tallies count {trail.counted} records, their runs hold {trail.covered}")
    last = trail.offsets.floor(LAST_OFFSET)
    if last is None:
        return problems
    source_end, target_end = last[0] + last[2], last[1] + last[2]
    if source_end > position.next_offset:
        problems.append(f"its runs end at source offset {source_end}, the position is {position.next_offset}")
    if target_end != position.target_end and not trail.orphans:
        problems.append(f"its runs end at target offset {target_end}, the checkpoint says {position.target_end}")
    return problems


def _check_translations(flow: str, job: Job, found: Findings, problems: list[str]) -> int:
    """`translate` must give each of these pairs both ways; the number of translations asked."""
    position = job.position
    known = translation.RouteMap(
        flow, job.key, job.trail, position.next_offset, position.target_end, position.target_end or 0
    )
    asked = 0
    for source, target in found.pairs:
        if job.trail.offsets.to_target(source) is None:
            continue  # older than the ledger
        for offset, reverse, right in ((source, False, target), (target, True, source)):
            asked += 1
            answer = translation.translate(known, offset, reverse=reverse).translated
            if answer != right:
                side, other = ("target", "source") if reverse else ("source", "target")
                problems.append(
                    f"{side} offset {offset} translates to {answer}, its record is at {other} offset {right}"
                )
    return asked


def verify(
    flow: FlowConfig, comparer: Comparer, plan: Plan, *, sample: int | None, at_ms: int, now: Callable[[], float]
) -> Verdict:
    """Compare everything that is planned. Raises ConnectionLost, BrokerError when a side does not answer any more."""
    began = now()
    compared = [comparer.compare(job) for job in plan.jobs]
    compared += [Compared(*key, cause=cause) for key, cause in plan.causes.items()]
    compared.sort(key=lambda one: (one.topic, one.partition))
    return Verdict(
        flow.name, flow.source, flow.target, tuple(compared), plan.ledger, sample, at_ms, round(now() - began, 3)
    )
