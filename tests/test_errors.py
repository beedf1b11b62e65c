"""Every error class has its exit code and its message: place, cause, and what to do."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from eomirror import errors
from eomirror.document import InvalidConfig
from eomirror.errors import (
    BrokerError,
    ConfigError,
    ConnectionLost,
    EomirrorError,
    Exit,
    Faulted,
    Fenced,
    Preflight,
    Reason,
    Refused,
    Rewind,
    error_name,
)
from eomirror.security import Untrusted

# Faulted and Rewind never end a process: a lane takes them. One that escapes is a bug.
EXIT_CODES = {
    EomirrorError: Exit.BUG,
    ConfigError: Exit.USAGE,
    InvalidConfig: Exit.USAGE,
    Untrusted: Exit.USAGE,
    Preflight: Exit.PREFLIGHT,
    ConnectionLost: Exit.PREFLIGHT,
    BrokerError: Exit.PREFLIGHT,
    Fenced: Exit.FENCED,
    Refused: Exit.REFUSED,
    Faulted: Exit.BUG,
    Rewind: Exit.BUG,
}


def _classes(root: type[EomirrorError]) -> Iterator[type[EomirrorError]]:
    yield root
    for one in root.__subclasses__():
        yield from _classes(one)


def test_every_class_ends_the_process_with_its_code() -> None:
    ours = {kind: kind.exit_code for kind in _classes(EomirrorError) if kind.__module__.startswith("eomirror.")}
    assert ours == EXIT_CODES


def test_the_exit_codes_are_the_interface() -> None:
    assert {code.name: int(code) for code in Exit} == {
        "OK": 0,
        "BUG": 1,
        "USAGE": 2,
        "DIFFERS": 3,
        "PREFLIGHT": 4,
        "THRESHOLD": 5,
        "FENCED": 6,
        "REFUSED": 7,
        "GAP": 8,
    }


def test_the_reasons_are_the_interface() -> None:
    assert " ".join(Reason) == (
        "MARKER_LOST SOURCE_GAP SOURCE_RECREATED TARGET_RECREATED SOURCE_DELETED SOURCE_TRUNCATED CORRUPT_BATCH "
        "UNKNOWN_CODEC RECORD_TOO_LARGE TARGET_NOT_EMPTY TARGET_REFUSED TRANSFORM_FAILED"
    )


def test_the_table_of_the_module_names_every_class() -> None:
    table = [line for line in (errors.__doc__ or "").splitlines() if line.startswith("| `")]
    told = {}
    for line in table:
        names, _, code = (cell.strip() for cell in line.strip("|").split("|"))
        told.update({name.strip(" `"): code for name in names.split(",")})
    expected = {
        kind.__name__: "-" if code is Exit.BUG else str(int(code))
        for kind, code in EXIT_CODES.items()
        if kind not in (EomirrorError, InvalidConfig, Untrusted)
    }
    assert told == expected


@pytest.mark.parametrize(
    ("code", "name"),
    [
        (6, "NOT_LEADER_OR_FOLLOWER (6)"),
        (0, "NONE (0)"),
        (-1, "UNKNOWN_SERVER_ERROR (-1)"),
        (90, "PRODUCER_FENCED (90)"),
        (32_000, "error 32000"),
    ],
)
def test_error_codes_are_told_by_name_and_number(code: int, name: str) -> None:
    assert error_name(code) == name


def test_messages_have_their_place_first() -> None:
    fault = Faulted("orders", 3, Reason.SOURCE_GAP, "offsets 5 to 8 are gone", offset=5, next_offset=9)
    assert str(fault) == fault.message == "orders[3]: SOURCE_GAP: offsets 5 to 8 are gone"
    assert (fault.topic, fault.partition, fault.reason, fault.detail) == (
        "orders",
        3,
        Reason.SOURCE_GAP,
        "offsets 5 to 8 are gone",
    )
    assert (fault.offset, fault.next_offset) == (5, 9)
    assert str(BrokerError("cluster dublin: offsets", 6)) == "cluster dublin: offsets: NOT_LEADER_OR_FOLLOWER (6)"
    assert str(BrokerError("cluster dublin: offsets", None)) == "cluster dublin: offsets: no answer"


def test_what_is_not_known_is_none() -> None:
    fault = Faulted("orders", 3, Reason.SOURCE_DELETED, "gone")
    assert (fault.offset, fault.next_offset) == (None, None)
    assert BrokerError("here", None).code is None
    doubt = Rewind("epoch", "somebody else")
    assert (doubt.cause, doubt.message, doubt.faults, doubt.suspects, doubt.hint) == (
        "epoch",
        "somebody else",
        (),
        (),
        "",
    )


def test_a_hint_stands_beside_the_message() -> None:
    refused = Refused("dr: lanes is 8", hint="Set lanes: 4.")
    assert (str(refused), refused.hint) == ("dr: lanes is 8", "Set lanes: 4.")
