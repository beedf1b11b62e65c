"""One hierarchy of errors; each class answers one question: what now?

| class      | what now                                                                    | exit |
|------------|-----------------------------------------------------------------------------|------|
| `Rewind`   | drop all in-memory state, take both identities again, read the checkpoint   | -    |
| `Faulted`  | this partition stops, by name and with a reason; the others go on           | -    |
| `Fenced`   | another owner has the lane: give it up, write nothing more                  | 6    |
| `Refused`  | a person must change something                                              | 7    |
| `Preflight`| a cluster is not fit for the job, nothing was written                       | 4    |
| `ConfigError` | the configuration or the command line is wrong                           | 2    |
| `ConnectionLost`, `BrokerError` | the asker decides; nobody did: a cluster is not fit    | 4    |

A message is `place: cause`, lower case, without a full stop; the hint is a sentence and, where there is one, the
command to type.
"""

from __future__ import annotations

import enum

from kio.schema.errors import ErrorCode


def error_name(code: int) -> str:
    """`NOT_LEADER_OR_FOLLOWER (6)`; a number that is not known stays a number."""
    try:
        return f"{ErrorCode(code).name.upper()} ({int(code)})"
    except ValueError:
        return f"error {int(code)}"


class Exit(enum.IntEnum):
    """What the process ended with; stable, part of the interface."""

    OK = 0
    BUG = 1
    USAGE = 2
    DIFFERS = 3
    PREFLIGHT = 4
    THRESHOLD = 5
    FENCED = 6
    REFUSED = 7
    GAP = 8


class Reason(enum.StrEnum):
    """Why a partition is FAULTED."""

    MARKER_LOST = "MARKER_LOST"
    SOURCE_GAP = "SOURCE_GAP"
    SOURCE_RECREATED = "SOURCE_RECREATED"
    TARGET_RECREATED = "TARGET_RECREATED"
    SOURCE_DELETED = "SOURCE_DELETED"
    SOURCE_TRUNCATED = "SOURCE_TRUNCATED"
    CORRUPT_BATCH = "CORRUPT_BATCH"
    UNKNOWN_CODEC = "UNKNOWN_CODEC"
    RECORD_TOO_LARGE = "RECORD_TOO_LARGE"
    TARGET_NOT_EMPTY = "TARGET_NOT_EMPTY"
    TARGET_REFUSED = "TARGET_REFUSED"
    TRANSFORM_FAILED = "TRANSFORM_FAILED"


class EomirrorError(Exception):
    """The root: a cause with its place, and a hint that says what to do."""

    exit_code: Exit = Exit.BUG

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class ConfigError(EomirrorError):
    """The configuration or the command line is wrong; nothing was started."""

    exit_code = Exit.USAGE


class Preflight(EomirrorError):
    """A cluster cannot be reached or lacks what the flow needs; nothing was written."""

    exit_code = Exit.PREFLIGHT


class Refused(EomirrorError):
    """Going on could lose or double records; a person must decide."""

    exit_code = Exit.REFUSED


class Fenced(EomirrorError):
    """Another owner has taken the lane; this one has written nothing since."""

    exit_code = Exit.FENCED


class ConnectionLost(EomirrorError):
    """A broker cannot be reached, or a connection broke. Reading retries; inside a transaction it is doubt."""

    exit_code = Exit.PREFLIGHT


class BrokerError(EomirrorError):
    """A broker answered with an error code, or (code None) not at all. The asker decides what it means."""

    exit_code = Exit.PREFLIGHT

    def __init__(self, place: str, code: int | None) -> None:
        super().__init__(f"{place}: {'no answer' if code is None else error_name(code)}")
        self.code = code


class Faulted(EomirrorError):
    """One partition cannot go on. `offset` is the source offset at which it stands, `next_offset` where it would go on
    if what is wrong were left out; None if unknown. `records`: how many the batch had that was refused; of several it
    is not known yet which of them is wrong. `of_record`: what is wrong is the content of this one record."""

    def __init__(
        self,
        topic: str,
        partition: int,
        reason: Reason,
        detail: str,
        *,
        offset: int | None = None,
        next_offset: int | None = None,
        records: int = 1,
        of_record: bool = False,
    ) -> None:
        super().__init__(f"{topic}[{partition}]: {reason}: {detail}")
        self.topic = topic
        self.partition = partition
        self.reason = reason
        self.detail = detail
        self.offset = offset
        self.next_offset = next_offset
        self.records = records
        self.of_record = of_record


class Rewind(EomirrorError):
    """Doubt about a transaction: back to the checkpoint through the start-up path.

    `cause` is a stable word for counting and logs. `faults` are partitions that would fail the same way again; they
    are FAULTED by the next transaction; `suspects` are those that will be if this keeps happening; `barred` are those
    whose right to write is missing.
    """

    def __init__(self, cause: str, message: str) -> None:
        super().__init__(message)
        self.cause = cause
        self.faults: tuple[Faulted, ...] = ()
        self.suspects: tuple[Faulted, ...] = ()
        self.barred: tuple[Faulted, ...] = ()
