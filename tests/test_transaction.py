"""The legal moves of a transaction: every other one is a bug, and raises before anything is sent."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from eomirror.answers import Outgoing
from eomirror.identity import IDENTITIES
from eomirror.transaction import MOVES, Phase, Transactions, Write
from tests.fakes import identities

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
    assert (transactions._ends.known("orders", 0), transactions._sequences, transactions._acked) == (0, {}, [])
    assert [i.held for i in transactions.identities.values()] == [(70, 9), (71, 9)]
    transactions.forget_epochs()
    assert [i.held for i in transactions.identities.values()] == [None, None]


@pytest.mark.parametrize(("number", "name"), [(0, "a"), (1, "b"), (2, "a"), (3, "b"), (32_001, "b")])
def test_the_number_alone_decides_whose_turn_it_is(number: int, name: str) -> None:
    assert _in_phase(Phase.READY).turn(number).name == name
    assert _in_phase(Phase.READY).begin(number).name == name
    assert IDENTITIES == ("a", "b")


def test_every_transaction_begins_with_sequence_0() -> None:
    transactions = _in_phase(Phase.READY)
    transactions._sequences = {(bytes(16), 0): 9}
    transactions.begin(4)
    assert transactions.sequence(bytes(16), 0) == 0


def test_an_identity_that_was_not_taken_has_no_epoch() -> None:
    transactions = _in_phase(Phase.LOST)
    transactions.forget_epochs()
    with pytest.raises(RuntimeError, match="has not been taken"):
        _ = transactions.turn(0).epoch
