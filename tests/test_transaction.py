"""The legal moves of a transaction: every other one is a bug, and raises before anything is sent."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eomirror import _fastpath
from eomirror.answers import Outgoing
from eomirror.identity import IDENTITIES, MAX_SEQUENCE
from eomirror.transaction import MOVES, Phase, Transactions, Write
from tests.fakes import identities
from tests.kafkamodel.records import read_header, with_crc

VERBS = ("take", "begin", "produce", "record", "commit")


class Unreachable:
    """Brokers that must not be asked."""

    name = "dublin"

    def close(self) -> None:
        """Losing closes whatever is open."""

    def __getattr__(self, name: str) -> object:
        raise AssertionError(f"asked for {name}")


def _in_phase(phase: Phase) -> Transactions:
    transactions = Transactions(Unreachable(), "eomirror.dr.0", transaction_timeout_ms=1, step=lambda _step: None)
    transactions.identities = identities().identities
    transactions.phase = phase
    if phase in (Phase.OPEN, Phase.RECORDED):
        transactions.number = 4
    return transactions


def test_the_moves_are_the_table() -> None:
    assert {(phase.value, verb, following.value) for (phase, verb), following in MOVES.items()} == {
        ("lost", "take", "ready"),
        ("ready", "take", "ready"),
        ("ready", "begin", "open"),
        ("open", "produce", "open"),
        ("open", "record", "recorded"),
        ("recorded", "commit", "ready"),
    }


ILLEGAL = [(phase, verb) for phase in Phase for verb in VERBS if (phase, verb) not in MOVES]


@pytest.mark.parametrize(("phase", "verb"), ILLEGAL)
def test_an_illegal_move_raises_and_sends_nothing(phase: Phase, verb: str) -> None:
    transactions = _in_phase(phase)
    outgoing = Outgoing("orders", bytes(16), 0, 1, None, b"batch")
    moves: dict[str, Callable[[], object]] = {
        "take": lambda: transactions.take(object()),
        "begin": lambda: transactions.begin(4),
        "produce": lambda: transactions.produce([[outgoing]], {}),
        "record": lambda: transactions.record([], 77),
        "commit": transactions.commit,
    }
    with pytest.raises(RuntimeError) as caught:
        moves[verb]()
    assert transactions.phase is phase
    assert str(caught.value) == f"no {verb} in phase {phase.value}"


@pytest.mark.parametrize(("phase", "verb"), MOVES)
def test_a_legal_move_leads_on(phase: Phase, verb: str) -> None:
    transactions = _in_phase(phase)
    assert transactions._legal(verb) is MOVES[phase, verb]


def test_checkpoint_and_ledger_are_written_only_when_all_data_is_acked() -> None:
    transactions = _in_phase(Phase.OPEN)
    transactions._acked = [object()]
    with pytest.raises(RuntimeError, match="data is not acked yet"):
        transactions.record([Write("t", 0, [])], 77)
    assert transactions.phase is Phase.OPEN


@pytest.mark.parametrize("phase", Phase)
def test_doubt_is_possible_everywhere_and_forgets_everything_but_the_epochs(phase: Phase) -> None:
    transactions = _in_phase(phase)
    transactions.expect_end("orders", 0, 5)
    transactions.lose()
    assert (transactions.phase, transactions.number) == (Phase.LOST, None)
    assert (transactions._ends.known("orders", 0), transactions._acked) == (0, [])
    assert [i.held for i in transactions.identities.values()] == [(70, 9), (71, 9)]
    transactions.forget_epochs()
    assert [i.held for i in transactions.identities.values()] == [None, None]


@pytest.mark.parametrize(("number", "name"), [(0, "a"), (1, "b"), (2, "a"), (3, "b"), (32_001, "b")])
def test_the_number_alone_decides_whose_turn_it_is(number: int, name: str) -> None:
    assert _in_phase(Phase.READY).turn(number).name == name
    assert _in_phase(Phase.READY).begin(number).name == name
    assert IDENTITIES == ("a", "b")


def test_sequences_belong_to_an_identity_and_its_epoch() -> None:
    transactions = _in_phase(Phase.READY)
    topic_id = bytes(16)
    identity = transactions.begin(4)
    identity.follow({(topic_id, 0): 9})
    assert (transactions.sequence(topic_id, 0), transactions.sequence(topic_id, 1)) == (9, 0)
    transactions.phase = Phase.READY
    transactions.begin(5)
    assert transactions.sequence(topic_id, 0) == 0
    transactions.phase = Phase.READY
    transactions.begin(6)  # version 1: EndTxn gave no new epoch
    assert transactions.sequence(topic_id, 0) == 9
    identity.hold(70, 10)
    assert transactions.sequence(topic_id, 0) == 0


@given(st.integers(0, MAX_SEQUENCE), st.lists(st.integers(1, 500), max_size=6))
def test_sequences_wrap_as_brokers_count_them(first: int, counts: list[int]) -> None:
    """`DefaultRecordBatch.incrementSequence`, here and in the kernel; a batch may reach across the end."""

    def increment(sequence: int, by: int) -> int:
        return by - (MAX_SEQUENCE - sequence) - 1 if sequence > MAX_SEQUENCE - by else sequence + by

    identity = identities().identities["a"]
    place = (bytes(16), 0)
    identity.follow({place: first})
    expected = first
    for count in counts:
        records = [(b"k", b"v")] * count
        built = _fastpath.build_batch(
            records,
            timestamp_ms=1,
            producer_id=identity.producer_id,
            producer_epoch=identity.epoch,
            base_sequence=identity.sequence(*place),
            codec="none",
        )
        header = read_header(built)
        assert (header.base_sequence, header.last_sequence) == (expected, increment(expected, count - 1))
        frame = bytearray(built)
        frame[22] &= ~0x10 & 0xFF  # as it lies in a source: outside a transaction
        frame = bytearray(with_crc(frame))
        packed = _fastpath.pack(
            frame,
            0,
            len(frame),
            0,
            [],
            producer_id=70,
            producer_epoch=9,
            base_sequence=expected,
            max_batch_bytes=1 << 20,
        )
        assert read_header(packed.batches[0].view).base_sequence == expected
        expected = increment(expected, count)
        assert packed.next_sequence == expected
        identity.follow({place: identity.sequence(*place) + count})
        assert identity.sequence(*place) == expected


def test_an_identity_that_was_not_taken_has_no_epoch() -> None:
    transactions = _in_phase(Phase.LOST)
    transactions.forget_epochs()
    with pytest.raises(RuntimeError, match="has not been taken"):
        _ = transactions.turn(0).epoch
