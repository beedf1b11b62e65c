"""Which librdkafka keys a cluster's `client:` section may hold, which it may not, and why.

A key that is not in `ACCEPTED` is refused with its reason, never ignored. Each accepted key counts for the lanes' own
connections and for the confluent-kafka clients alike.
"""

from __future__ import annotations

import difflib
import re
from typing import Any, NamedTuple

# Values of these may be shown by `config show`; all others are masked, so a new key is a secret until somebody says
# otherwise.
SHOWN = frozenset(
    {
        "client.id",
        "client.rack",
        "security.protocol",
        "socket.connection.setup.timeout.ms",
        "socket.timeout.ms",
    }
)


class Number(NamedTuple):
    """A whole number within the bounds that librdkafka itself accepts."""

    low: int
    high: int


class Word(NamedTuple):
    """One of a few words."""

    words: tuple[str, ...]


class Text(NamedTuple):
    """Text that matches a pattern."""

    pattern: str
    what: str


ACCEPTED: dict[str, Number | Word | Text] = {
    "client.id": Text(r"[A-Za-z0-9._-]{1,200}", "1 to 200 of letters, digits, dot, underscore and dash"),
    "client.rack": Text(r"[^\x00-\x1f\x7f]{1,200}", "1 to 200 printable characters"),
    "security.protocol": Word(("PLAINTEXT",)),
    "socket.connection.setup.timeout.ms": Number(1_000, 300_000),
    "socket.timeout.ms": Number(1_000, 300_000),
}


class Forced(NamedTuple):
    """Why a key is not the user's to set, and what to do instead."""

    reason: str
    hint: str = "remove the key"


_ADDRESS = Forced("the address is the cluster's own key", 'write it as "bootstrap", beside "client"')
_LANE_IDENTITY = Forced("every lane writes under identities of its own, and its safety rests on them")
_EXACTLY_ONCE = Forced("exactly once rests on transactions with acks from all in-sync replicas, in the order sent")
_POSITION = Forced(
    "a lane's position is read from its checkpoint and nowhere else; a missing offset is a gap, never a new start"
)
_GROUP = Forced("workers share the group eomirror.<flow>, its membership decides who runs a lane")
_PASS_THROUGH = Forced("record batches are copied as they are, a mirrored batch keeps its codec and its size")
_VERSIONS = Forced("both sides' versions are always asked for; the transaction protocol depends on them")
_FETCH_SIZE = Forced("the size of a fetch bounds a lane's memory", 'set "fetch.max_bytes" in the flow')
_DEADLINE = Forced("one deadline holds for a whole transaction", 'set "commit.transaction_timeout" in the flow')

FORCED: dict[str, Forced] = {
    "acks": _EXACTLY_ONCE,
    "allow.auto.create.topics": Forced("a missing topic is an error or is created on purpose, never by asking for it"),
    "api.version.request": _VERSIONS,
    "auto.commit.interval.ms": _POSITION,
    "auto.offset.reset": _POSITION,
    "batch.num.messages": _PASS_THROUGH,
    "batch.size": _PASS_THROUGH,
    "bootstrap.servers": _ADDRESS,
    "broker.version.fallback": _VERSIONS,
    "check.crcs": Forced("the checksum of every batch is always checked"),
    "compression.codec": _PASS_THROUGH,
    "compression.type": _PASS_THROUGH,
    "delivery.timeout.ms": _DEADLINE,
    "enable.auto.commit": _POSITION,
    "enable.auto.offset.store": _POSITION,
    "enable.idempotence": _EXACTLY_ONCE,
    "fetch.max.bytes": _FETCH_SIZE,
    "fetch.message.max.bytes": _FETCH_SIZE,
    "group.id": _GROUP,
    "group.instance.id": Forced("a worker has one name in every flow", 'set "worker.instance_id"'),
    "group.protocol": _GROUP,
    "isolation.level": Forced("only committed records are mirrored, read_uncommitted would copy aborted ones"),
    "linger.ms": Forced("when a transaction ends is the flow's own setting", 'set "commit.interval" in the flow'),
    "max.in.flight": _EXACTLY_ONCE,
    "max.in.flight.requests.per.connection": _EXACTLY_ONCE,
    "max.partition.fetch.bytes": _FETCH_SIZE,
    "max.poll.interval.ms": _GROUP,
    "message.send.max.retries": _EXACTLY_ONCE,
    "message.timeout.ms": _DEADLINE,
    "metadata.broker.list": _ADDRESS,
    "partition.assignment.strategy": _GROUP,
    "partitioner": Forced("a record keeps its partition"),
    "request.required.acks": _EXACTLY_ONCE,
    "retries": _EXACTLY_ONCE,
    "session.timeout.ms": Forced("a worker has one session time-out in every flow", 'set "worker.session_timeout"'),
    "transaction.timeout.ms": _DEADLINE,
    "transactional.id": _LANE_IDENTITY,
}

_SECURED = ("sasl.", "ssl.", "enable.ssl.", "https.")
_NOT_SECURED = "secured clusters are not in this version"


def check(key: str, value: str, quoted: str) -> tuple[str, str] | None:
    """What is wrong with one entry of a `client:` section, as (cause, hint); None if nothing is.

    `quoted` stands for the value in the message. A value of a key that may not be shown is never repeated.
    """
    if key in FORCED:
        forced = FORCED[key]
        return f"this key cannot be set: {forced.reason}", forced.hint
    if key == "security.protocol" and value.upper() != "PLAINTEXT":
        return _NOT_SECURED, "name a PLAINTEXT listener of the cluster"
    if key.startswith(_SECURED):
        return _NOT_SECURED, "remove the key and name a PLAINTEXT listener of the cluster"
    kind = ACCEPTED.get(key)
    if kind is None:
        return "unknown client key", nearest(key, [*ACCEPTED, *FORCED])
    return None if _fits(kind, value) else (f"{quoted} is not {_expected(kind)}", "")


def _fits(kind: Number | Word | Text, value: str) -> bool:
    match kind:
        case Number(low, high):
            return re.fullmatch(r"0|-?[1-9][0-9]{0,18}", value) is not None and low <= int(value) <= high
        case Word(words):
            return value in words
        case Text(pattern, _):
            return re.fullmatch(pattern, value) is not None


def _expected(kind: Number | Word | Text) -> str:
    match kind:
        case Number(low, high):
            return f"a whole number from {low} to {high}"
        case Word(words):
            return " or ".join(words)
        case Text(_, what):
            return what


def schema() -> dict[str, Any]:
    """The JSON Schema of a `client:` section: the accepted keys and what they take."""
    return {
        "type": "object",
        "properties": {key: _schema(kind) for key, kind in ACCEPTED.items()},
        "additionalProperties": False,
    }


def _schema(kind: Number | Word | Text) -> dict[str, Any]:
    substituted = {"type": "string", "pattern": r"\$\{(env|file):"}
    match kind:
        case Number(low, high):
            return {"anyOf": [{"type": "integer", "minimum": low, "maximum": high}, substituted]}
        case Word(words):
            return {"anyOf": [{"enum": list(words)}, substituted]}
        case Text(pattern, _):
            return {"anyOf": [{"type": "string", "pattern": f"^{pattern}$"}, substituted]}


def nearest(word: str, known: list[str]) -> str:
    """A hint that names the nearest known word, or all of them if none is near."""
    close = difflib.get_close_matches(word, known, n=1)
    if close:
        return f'did you mean "{close[0]}"?'
    return (
        f"known here: {', '.join(sorted(known))}"
        if len(known) <= 20
        else f"accepted keys: {', '.join(sorted(ACCEPTED))}"
    )
