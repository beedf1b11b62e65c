"""What a Produce answer says about each batch: appended, refused for good, refused for now, or in doubt."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from eomirror.answers import (
    CHANGES_TIMESTAMPS,
    PASSING,
    PRODUCE_FAULTS,
    Acked,
    Outgoing,
    Verdict,
    judge,
    judge_enlisting,
)
from eomirror.errors import Reason, error_name
from tests import fakes

TOPIC_ID = uuid.UUID(int=7)
INTERNAL_ID = uuid.UUID(int=8)
# Source offsets 10, 11, 12, then 20, 21.
BATCH = fakes.batch((10, 3), (20, 2))


def out(partition: int = 0) -> Outgoing:
    return Outgoing("orders", TOPIC_ID.bytes, partition, 1, BATCH, b"")


def internal(partition: int = 0) -> Outgoing:
    return Outgoing("__eomirror.dr.checkpoint", INTERNAL_ID.bytes, partition, 1, None, b"")


def answer(
    code: int = 0,
    base: int = -1,
    *,
    index: int = 0,
    message: str | None = None,
    records: Sequence[tuple[int, str | None]] = (),
    stamped: bool = False,
) -> SimpleNamespace:
    return SimpleNamespace(
        index=index,
        error_code=code,
        base_offset=base,
        error_message=message,
        log_append_time=5 if stamped else None,
        record_errors=[SimpleNamespace(batch_index=i, batch_index_error_message=m) for i, m in records],
    )


def response(*answers: Any, topic_id: uuid.UUID = TOPIC_ID) -> SimpleNamespace:
    return SimpleNamespace(responses=[SimpleNamespace(topic_id=topic_id, partition_responses=answers)])


def by_name(*answers: Any, name: str = "orders") -> SimpleNamespace:
    """As up to Produce v12."""
    return SimpleNamespace(responses=[SimpleNamespace(name=name, partition_responses=answers)])


def one(given: Any, end: int = 0) -> Verdict:
    return judge([out()], response(given), lambda _topic, _partition: end)


def test_a_batch_at_or_above_the_known_end_is_appended() -> None:
    acked = [Acked("orders", 0, BATCH, 30)]
    assert one(answer(base=30), end=30) == Verdict("Produce", acked, [], [], [], [], "produce_refused")


def test_a_batch_below_the_known_end_is_doubt_and_nobodys_fault() -> None:
    verdict = one(answer(base=29), end=30)
    assert verdict[1:5] == ([], ["orders[0]: base offset 29 is below the known end 30"], [], [])


def test_a_partition_without_an_answer_is_doubt() -> None:
    verdict = judge([out(), out(1)], response(answer(base=4)), lambda _topic, _partition: 0)
    assert [acked.partition for acked in verdict.acked] == [0]
    assert verdict.doubts == ["orders[1]: no answer in the response"]


@pytest.mark.parametrize(("index", "offset"), list(enumerate([10, 11, 12, 20, 21])))
def test_a_record_that_the_broker_names_is_found_in_the_source(index: int, offset: int) -> None:
    verdict = one(answer(87, message="2 record errors", records=[(4, "the last"), (index, "no key")]))
    (fault,) = verdict.faults
    assert (fault.reason, fault.offset, fault.next_offset, fault.records) == (
        Reason.TARGET_REFUSED,
        offset,
        offset + 1,
        1,
    )
    assert fault.detail == f"INVALID_RECORD (87): {'the last' if index == 4 else 'no key'}"
    assert verdict.doubts == [f"orders[0]: {fault.detail}"]


@pytest.mark.parametrize("records", [[], [(5, "there is no such record")], [(-1, "nor this one")]])
def test_a_batch_of_which_the_broker_names_no_record_is_refused_as_a_whole(records: list[tuple[int, str]]) -> None:
    (fault,) = one(answer(10, message="too large", records=records)).faults
    assert (fault.offset, fault.next_offset, fault.records) == (10, 22, 5)
    assert (fault.reason, fault.detail) == (Reason.RECORD_TOO_LARGE, "MESSAGE_TOO_LARGE (10): too large")


def test_a_named_record_without_words_of_its_own_has_those_of_the_batch() -> None:
    (fault,) = one(answer(32, message="out of range", records=[(1, None)])).faults
    assert (fault.offset, fault.detail) == (11, "INVALID_TIMESTAMP (32): out of range")


@pytest.mark.parametrize("code", sorted(PASSING))
def test_what_passes_blames_no_partition(code: int) -> None:
    verdict = one(answer(code))
    assert (verdict.faults, verdict.suspects) == ([], [])
    assert code not in PRODUCE_FAULTS
    assert verdict.doubts == [f"orders[0]: {error_name(code)}"]


def test_an_unknown_answer_is_suspicious_only() -> None:
    verdict = one(answer(42))
    assert [(f.reason, f.offset) for f in verdict.suspects] == [(Reason.TARGET_REFUSED, 10)]
    assert verdict.faults == []


def test_changed_timestamps_are_never_committed() -> None:
    verdict = one(answer(base=30, stamped=True))
    assert (verdict.acked, verdict.doubts) == ([], [f"orders[0]: {CHANGES_TIMESTAMPS}"])
    assert [(f.reason, f.offset) for f in verdict.faults] == [(Reason.TARGET_REFUSED, 10)]


@pytest.mark.parametrize(
    ("given", "code", "cause", "faults"),
    [
        (out(), 29, "produce_refused", 0),  # its partition waits alone
        (out(), 53, "not_authorized", 0),
        (out(), 31, "not_authorized", 0),
        (internal(), 29, "not_authorized", 0),
        (internal(), 53, "not_authorized", 0),
        (internal(), 19, "produce_refused", 0),
    ],
)
def test_a_missing_right_is_waited_for_except_on_a_mirrored_topic(
    given: Outgoing, code: int, cause: str, faults: int
) -> None:
    topic_id = uuid.UUID(bytes=given.topic_id)
    verdict = judge([given], response(answer(code), topic_id=topic_id), lambda _topic, _partition: 0)
    doubt = verdict.rewind()
    assert (doubt.cause, len(doubt.faults), doubt.suspects) == (cause, faults, ())
    barred = [(f.topic, f.partition, f.offset) for f in doubt.barred]
    assert barred == ([("orders", 0, 10)] if (code, given.batch is None) == (29, False) else [])
    assert doubt.message == f"Produce: {given.topic}[0]: {error_name(code)}"


def test_an_internal_batch_is_acked_silently() -> None:
    verdict = judge([internal()], response(answer(base=3), topic_id=INTERNAL_ID), lambda _topic, _partition: 0)
    assert verdict[1:5] == ([], [], [], [])


def test_an_answer_by_name_belongs_to_the_topic_that_was_sent_by_name() -> None:
    verdict = judge([out(), out(1)], by_name(answer(base=4), answer(base=9, index=1)), lambda _topic, _partition: 0)
    assert [(acked.partition, acked.base_offset) for acked in verdict.acked] == [(0, 4), (1, 9)]
    verdict = judge([out()], by_name(answer(base=4), name="other"), lambda _topic, _partition: 0)
    assert verdict.doubts == ["orders[0]: no answer in the response"]


def test_partitions_that_are_enlisted_are_no_doubt() -> None:
    codes = {("orders", 0): 0, ("__eomirror.dr.checkpoint", 0): 0}
    assert judge_enlisting([out(), internal()], codes)[1:5] == ([], [], [], [])


def test_a_partition_that_is_not_enlisted_blames_itself_alone() -> None:
    verdict = judge_enlisting([out(), out(1), internal()], {("orders", 0): 55, ("orders", 1): 29})
    assert [(fault.partition, fault.reason, fault.offset) for fault in verdict.barred] == [
        (1, Reason.TARGET_REFUSED, 10)
    ]
    doubt = verdict.rewind()
    assert doubt.cause == "enlist_refused"
    assert doubt.message == (
        "AddPartitionsToTxn: orders[0]: OPERATION_NOT_ATTEMPTED (55); "
        "orders[1]: TOPIC_AUTHORIZATION_FAILED (29); __eomirror.dr.checkpoint[0]: no answer in the response"
    )


@pytest.mark.parametrize(("code", "cause"), [(53, "not_authorized"), (51, "enlist_refused"), (90, "enlist_refused")])
def test_what_is_wrong_with_the_lane_is_no_partitions_fault(code: int, cause: str) -> None:
    verdict = judge_enlisting([out()], {("orders", 0): code})
    assert (verdict.cause, verdict.faults, verdict.suspects) == (cause, [], [])
    assert verdict.doubts == [f"orders[0]: {error_name(code)}"]
