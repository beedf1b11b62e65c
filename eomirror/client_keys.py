"""Which librdkafka keys a cluster's `client:` section may hold, which it may not, and why.

A key that is not in `ACCEPTED` is refused with its reason, never ignored. Each accepted key counts for the lanes' own
connections and for the confluent-kafka clients alike.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

# Values of these may be shown by `config show`; all others are masked, so a new key is a secret until somebody says
# otherwise.
SHOWN = frozenset(
    {
        "client.id",
        "client.rack",
        "sasl.mechanism",
        "sasl.mechanisms",
        "sasl.username",
        "security.protocol",
        "socket.connection.setup.timeout.ms",
        "socket.timeout.ms",
        "ssl.ca.location",
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
    "sasl.mechanism": Word(("SCRAM-SHA-512",)),
    "sasl.mechanisms": Word(("SCRAM-SHA-512",)),
    # ASCII: there every library prepares names and passwords for SCRAM in the same way.
    "sasl.password": Text(r"[\x20-\x7e]{1,1000}", "1 to 1000 printable ASCII characters"),
    "sasl.username": Text(r"[\x21-\x2b\x2d-\x3c\x3e-\x7e]{1,200}", "1 to 200 of ASCII without blank, comma and ="),
    "security.protocol": Word(("PLAINTEXT", "SASL_SSL")),
    "socket.connection.setup.timeout.ms": Number(1_000, 300_000),
    "socket.timeout.ms": Number(1_000, 300_000),
    "ssl.ca.location": Text(r"[^\x00-\x1f\x7f]{1,4096}", "the path of a PEM file"),
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
_ALWAYS_CHECKED = Forced("certificates and host names of brokers are always checked")
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
    "enable.ssl.certificate.verification": _ALWAYS_CHECKED,
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
    "ssl.endpoint.identification.algorithm": _ALWAYS_CHECKED,
    "transaction.timeout.ms": _DEADLINE,
    "transactional.id": _LANE_IDENTITY,
}

# What these keys are for has not been tried on a real cluster; the first that fits counts.
_UNTRIED = {
    "ssl.key": "mutual TLS",
    "ssl.certificate": "mutual TLS",
    "sasl.oauthbearer.": "OAUTHBEARER",
    "sasl.kerberos.": "GSSAPI",
    "enable.sasl.oauthbearer.": "OAUTHBEARER",
    "sasl.": "this key",
    "ssl.": "this key",
    "enable.ssl.": "this key",
    "https.": "this key",
}
_NOT_TRIED = "has not been tried, so it is refused"
_TRIED = "what works: security.protocol PLAINTEXT, or SASL_SSL with sasl.mechanism SCRAM-SHA-512"


def check(key: str, value: str, quoted: str) -> tuple[str, str] | None:
    """What is wrong with one entry of a `client:` section, as (cause, hint); None if nothing is.

    `quoted` stands for the value in the message. A value of a key that may not be shown is never repeated.
    """
    if key in FORCED:
        forced = FORCED[key]
        return f"this key cannot be set: {forced.reason}", forced.hint
    kind = ACCEPTED.get(key)
    if kind is None:
        for prefix, what in _UNTRIED.items():
            if key.startswith(prefix):
                return f"{what} {_NOT_TRIED}", _TRIED
        return "unknown client key", nearest(key, [*ACCEPTED, *FORCED])
    if _fits(kind, value):
        return None
    if key in ("security.protocol", *_MECHANISM):
        return f"{quoted} {_NOT_TRIED}", _TRIED
    return f"{quoted if key in SHOWN else 'the value'} is not {_expected(kind)}", ""


_MECHANISM = ("sasl.mechanism", "sasl.mechanisms")


def check_together(client: Mapping[str, str]) -> Iterator[tuple[str, str, str]]:
    """(key, cause, hint) of each key of a `client:` section that does not go with the others."""
    secured = client.get("security.protocol") == "SASL_SSL"
    if secured:
        needed = {
            "ssl.ca.location": 'add "ssl.ca.location", a PEM file with the CA of the brokers\' certificates',
            "sasl.mechanism": 'add "sasl.mechanism: SCRAM-SHA-512"',
            "sasl.username": 'add "sasl.username"',
            "sasl.password": 'add "sasl.password", for example from ${env:...} or ${file:...}',
        }
        for key, hint in needed.items():
            if key not in client and not (key in _MECHANISM and _MECHANISM[1] in client):
                yield "security.protocol", f"SASL_SSL needs {key}", hint
    if all(key in client for key in _MECHANISM):
        yield _MECHANISM[1], "means the same as sasl.mechanism, which is set too", "remove one of the two"
    if not secured and client.get("security.protocol", "PLAINTEXT") == "PLAINTEXT":
        for key in client:
            if key in ACCEPTED and key.startswith(("sasl.", "ssl.")):
                hint = 'set "security.protocol" to SASL_SSL, or remove the key'
                yield key, "has no effect with security.protocol PLAINTEXT, which is the default", hint


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
