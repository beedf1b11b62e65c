"""What the answers to Produce and AddPartitionsToTxn mean: which batches are appended, and what is wrong with the
others. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple

from eomirror import _fastpath
from eomirror.brokers import LEADERSHIP_CODES
from eomirror.errors import Faulted, Reason, Rewind, error_name
from eomirror.identity import FENCED, NOT_AUTHORIZED, RIGHT_IS_MISSING

TOPIC_AUTHORIZATION_FAILED: Final = 29
OPERATION_NOT_ATTEMPTED: Final = 55  # another partition of the same request is the reason

# Answers that say something about leaders, replicas, epochs or the writer, and nothing about the batch.
PASSING: Final = LEADERSHIP_CODES | FENCED | {19, 20, 31, 45, 46, 48, 51, 53, 55, 59, 100, 103, 120}

# What the answer to one partition's batch means. All others are doubt: rewind, and a fault if they keep coming.
PRODUCE_FAULTS: Final[Mapping[int, Reason]] = {
    10: Reason.RECORD_TOO_LARGE,  # MESSAGE_TOO_LARGE
    17: Reason.TARGET_REFUSED,  # INVALID_TOPIC_EXCEPTION
    18: Reason.RECORD_TOO_LARGE,  # RECORD_LIST_TOO_LARGE
    32: Reason.TARGET_REFUSED,  # INVALID_TIMESTAMP
    43: Reason.TARGET_REFUSED,  # UNSUPPORTED_FOR_MESSAGE_FORMAT
    44: Reason.TARGET_REFUSED,  # POLICY_VIOLATION
    76: Reason.TARGET_REFUSED,  # UNSUPPORTED_COMPRESSION_TYPE
    87: Reason.TARGET_REFUSED,  # INVALID_RECORD
}

# Those that speak of what is in a record: too large, with a time or a key that the topic does not take.
OF_RECORD: Final = frozenset({10, 18, 32, 87})

# Why nothing may be written to a topic with LogAppendTime, seen beforehand or in the answer to a produce.
CHANGES_TIMESTAMPS: Final = "the target topic has message.timestamp.type=LogAppendTime and would change every timestamp"


class Outgoing(NamedTuple):
    """One batch on its way: `topic_id` is 16 bytes, `batch` None in internal topics."""

    topic: str
    topic_id: bytes
    partition: int
    leader: int
    batch: _fastpath.Batch | None
    view: memoryview | bytes


class Acked(NamedTuple):
    """A batch that the target has appended with its first record at `base_offset`."""

    topic: str
    partition: int
    batch: _fastpath.Batch
    base_offset: int


class Verdict(NamedTuple):
    """What became of one `request`. `doubts` has a line for each batch that is not known to be appended as it should
    be; a partition that would fail the same way again is in `faults`, one that may is in `suspects`, one that may not
    be written to for now is in `barred`."""

    request: str
    acked: list[Acked]
    doubts: list[str]
    faults: list[Faulted]
    suspects: list[Faulted]
    barred: list[Faulted]
    cause: str

    def rewind(self) -> Rewind:
        """The doubt, when there is one."""
        doubt = Rewind(self.cause, f"{self.request}: {'; '.join(self.doubts)}")
        doubt.faults, doubt.suspects, doubt.barred = tuple(self.faults), tuple(self.suspects), tuple(self.barred)
        return doubt


def judge(request: Sequence[Outgoing], response: Any, known_end: Callable[[str, int], int]) -> Verdict:
    """Hold the batches of a request against its response (a kio ProduceResponse). `known_end` is the offset that a
    partition is known to reach: a base offset below it is doubt."""
    ids = {out.topic: out.topic_id for out in request}  # up to Produce v12, topics go by name
    answers: dict[tuple[bytes | None, int], Any] = {
        (t.topic_id.bytes if hasattr(t, "topic_id") else ids.get(t.name), int(p.index)): p
        for t in response.responses
        for p in t.partition_responses
    }
    answered = [(out, answers.get((out.topic_id, out.partition))) for out in request]
    cause = _cause((out, int(answer.error_code)) for out, answer in answered if answer is not None)
    verdict = Verdict("Produce", [], [], [], [], [], cause or "produce_refused")
    for out, answer in answered:
        if answer is None:
            verdict.doubts.append(f"{out.topic}[{out.partition}]: no answer in the response")
        elif int(answer.error_code) != 0:
            record, detail = _named(out, answer)
            _refused(out, int(answer.error_code), record, detail, verdict)
        else:
            _appended(out, answer, known_end(out.topic, out.partition), verdict)
    return verdict


def judge_enlisting(request: Sequence[Outgoing], codes: Mapping[tuple[str, int], int]) -> Verdict:
    """The same for AddPartitionsToTxn, which comes before the first batch to a partition."""
    answered = [(out, codes.get((out.topic, out.partition))) for out in request]
    cause = _cause((out, code) for out, code in answered if code is not None)
    verdict = Verdict("AddPartitionsToTxn", [], [], [], [], [], cause or "enlist_refused")
    for out, code in answered:
        if code is None:
            verdict.doubts.append(f"{out.topic}[{out.partition}]: no answer in the response")
        elif code != 0:
            _refused(out, code, None, error_name(code), verdict)
    return verdict


def _cause(codes: Iterable[tuple[Outgoing, int]]) -> str | None:
    """The word for the log where a right is missing. On a mirrored topic its partition waits; everywhere else the lane
    does."""
    waits = any(
        code in NOT_AUTHORIZED and (out.batch is None or code != TOPIC_AUTHORIZATION_FAILED) for out, code in codes
    )
    return RIGHT_IS_MISSING if waits else None


def _appended(out: Outgoing, answer: Any, known_end: int, verdict: Verdict) -> None:
    place, base = f"{out.topic}[{out.partition}]", int(answer.base_offset)
    if out.batch is not None and answer.log_append_time is not None:
        # Not committed yet, and it must not be: the topic has become LogAppendTime since we looked.
        verdict.doubts.append(f"{place}: {CHANGES_TIMESTAMPS}")
        verdict.faults.append(
            Faulted(out.topic, out.partition, Reason.TARGET_REFUSED, CHANGES_TIMESTAMPS, offset=out.batch.runs[0][0])
        )
    elif base < known_end:
        verdict.doubts.append(f"{place}: base offset {base} is below the known end {known_end}")
    elif out.batch is not None:
        verdict.acked.append(Acked(out.topic, out.partition, out.batch, base))


def _refused(out: Outgoing, code: int, record: int | None, detail: str, verdict: Verdict) -> None:
    """A batch that was not appended, for all of its records or for the one at source offset `record`."""
    verdict.doubts.append(f"{out.topic}[{out.partition}]: {detail}")
    if code in PASSING or out.batch is None:
        return
    if code == TOPIC_AUTHORIZATION_FAILED:
        offset = out.batch.runs[0][0]
        verdict.barred.append(Faulted(out.topic, out.partition, Reason.TARGET_REFUSED, detail, offset=offset))
        return
    reason = PRODUCE_FAULTS.get(code)
    if record is None:
        last_first, last_count = out.batch.runs[-1]
        first, following, count = out.batch.runs[0][0], last_first + last_count, out.batch.count
    else:
        first, following, count = record, record + 1, 1
    fault = Faulted(
        out.topic,
        out.partition,
        reason or Reason.TARGET_REFUSED,
        detail,
        offset=first,
        next_offset=following,
        records=count,
        of_record=count == 1 and code in OF_RECORD,
    )
    (verdict.suspects if reason is None else verdict.faults).append(fault)


def _named(out: Outgoing, answer: Any) -> tuple[int | None, str]:
    """(source offset of the first record that the broker names, or None; what it says of it, or of the batch).

    A broker that checks records one by one (null keys, timestamps) names those that it refuses by their index in the
    batch (KIP-467), from Produce v8 on.
    """
    what = error_name(int(answer.error_code))
    named = [(int(e.batch_index), e.batch_index_error_message) for e in answer.record_errors]
    index, words = min(named, key=lambda one: one[0], default=(-1, None))
    offset = None if out.batch is None else _source_offset(out.batch, index)
    words = (words if offset is not None else None) or answer.error_message
    return offset, f"{what}: {words}" if words else what


def _source_offset(batch: _fastpath.Batch, index: int) -> int | None:
    before = 0
    for first, count in batch.runs:
        if before <= index < before + count:
            return first + index - before
        before += count
    return None
