"""What a flow does to the headers of its records: the steps of `transform:`, and what the kernel is given for them.

All of it is pure. Steps come from the configuration, operations go to the kernel, one for each step, in their order.
What is the same for all records of a partition is filled in once; {offset} and {timestamp} are left to the kernel.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple

import msgspec

from eomirror._fastpath import Recipe
from eomirror.client_keys import nearest

ORIGIN: Final = "eomirror.origin"
PLACEHOLDERS: Final = ("flow", "offset", "partition", "source_cluster", "timestamp", "topic")
LONGEST: Final = 16 << 10  # bytes of a name or a value; with every placeholder filled in it is below the kernel's limit
HOP: Final = "{source_cluster}/{topic}/{partition}/{offset}"

_TOKEN = re.compile(r"\{\{|\}\}|\{([^{}]*)\}|[{}]")

# A constant, or the name of a placeholder.
Part = bytes | str
# As `_fastpath.Recipe` takes them, but that a value may still hold other placeholders.
Operation = tuple[Any, ...]
Header = tuple[str, bytes | None]


class SetHeader(msgspec.Struct, frozen=True, kw_only=True, tag="set"):
    """Give every record exactly one header of a name; those it had of that name are removed.

    `header`: its name
    `value`: UTF-8 text; {source_cluster} {topic} {partition} {offset} {timestamp} of the source record and {flow} are
    filled in, {{ and }} stand for braces
    """

    header: str
    value: str


class RemoveHeaders(msgspec.Struct, frozen=True, kw_only=True, tag="remove"):
    """Remove every header of a name.

    `header`: a name, or a pattern in which each * stands for any text, also for none
    """

    header: str


class RenameHeaders(msgspec.Struct, frozen=True, kw_only=True, tag="rename"):
    """Rename every header of a name; it keeps its place and its value.

    `header`: the name it has
    `to`: the name it gets
    """

    header: str
    to: str


class Provenance(msgspec.Struct, frozen=True, kw_only=True, tag="provenance"):
    """Add where the record comes from, <source_cluster>/<topic>/<partition>/<offset>: one header more at each hop.

    `header`: name of the header
    """

    header: str = ORIGIN


Step = SetHeader | RemoveHeaders | RenameHeaders | Provenance


# -- what is wrong with a step -----------------------------------------------------------------------------------------


class Flaw(NamedTuple):
    """What is wrong with one field of a step. `cause` follows the field's value; `culprit` is a part of the value, so
    it may be a secret; it is empty where there is none."""

    field: str
    cause: str
    culprit: str
    hint: str


def flaws(step: Step) -> Iterator[Flaw]:
    """What is wrong with a step by itself."""
    match step:
        case SetHeader():
            yield from _name_flaws("header", step.header, may_be_empty=False)
            yield from _value_flaws(step.value)
        case RemoveHeaders():
            yield from _name_flaws("header", step.header, may_be_pattern=True)
        case RenameHeaders():
            yield from _name_flaws("header", step.header)
            yield from _name_flaws("to", step.to, may_be_empty=False)
            if step.to and step.header == step.to:
                yield Flaw("to", "is the name that it has already", "", "give another name, or leave the step out")
        case Provenance():
            yield from _name_flaws("header", step.header, may_be_empty=False)


def _name_flaws(field: str, name: str, *, may_be_empty: bool = True, may_be_pattern: bool = False) -> Iterator[Flaw]:
    yield from _length_flaws(field, name)
    # Other programs may write headers without a name, so such a header can be removed or renamed; we write none.
    if not name and not may_be_empty:
        yield Flaw(field, "is not a header's name", "", "write at least one character")
    if "*" in name and not may_be_pattern:
        yield Flaw(field, "holds a *, which is a pattern, and only remove takes one", "", "write the whole name")
    if any(match[1] in PLACEHOLDERS for match in _TOKEN.finditer(name)):
        yield Flaw(field, "holds a placeholder, and only a value takes them", "", "write the name itself")


def _length_flaws(field: str, text: str) -> Iterator[Flaw]:
    if len(text.encode()) > LONGEST:
        yield Flaw(field, f"is longer than {LONGEST >> 10} KiB", "", "every record would carry it; shorten it")


def _value_flaws(text: str) -> Iterator[Flaw]:
    yield from _length_flaws("value", text)
    for match in _TOKEN.finditer(text):
        if match[1] is not None and match[1] not in PLACEHOLDERS:
            known = [f"{{{name}}}" for name in PLACEHOLDERS]
            yield Flaw("value", "holds an unknown placeholder", match[0], nearest(match[0], known))
        elif match[0] in ("{", "}"):
            hint = "write {{ and }} for braces, or a placeholder such as {topic}"
            yield Flaw("value", "holds a single brace", "", hint)


def idle_steps(steps: Sequence[Step]) -> Iterator[tuple[int, int]]:
    """(step, other step): the first has no effect because of the other. Only where that is certain, a pair once."""
    told = set()
    for index in range(len(steps)):
        for other in (_gone_before(steps, index), _undone_after(steps, index)):
            if other is not None and (other, index) not in told:
                told.add((index, other))
                yield index, other
                break


def _gone_before(steps: Sequence[Step], index: int) -> int | None:
    """The earlier step that leaves nothing for this one to remove or rename."""
    step = steps[index]
    if not isinstance(step, RemoveHeaders | RenameHeaders) or "*" in step.header:
        return None
    for before in reversed(range(index)):
        if _written(steps[before]) == step.header:
            return None
        if _takes_away(steps[before], step.header):
            return before
    return None


def _undone_after(steps: Sequence[Step], index: int) -> int | None:
    """The later step that removes what this one wrote, or removes the same once more, with nothing in between that
    looks at it."""
    step = steps[index]
    name = step.header
    if isinstance(step, RenameHeaders) or (isinstance(step, RemoveHeaders) and "*" in name):
        return None
    for after in range(index + 1, len(steps)):
        other = steps[after]
        if isinstance(other, RenameHeaders) and other.header == name:
            return None
        if _takes_away(other, name) or (isinstance(other, SetHeader) and other.header == name):
            return after
    return None


def _written(step: Step) -> str | None:
    """The name of the headers that a step brings in."""
    match step:
        case SetHeader() | Provenance():
            return step.header
        case RenameHeaders():
            return step.to
    return None


def _takes_away(step: Step, name: str) -> bool:
    """Is no header of this name left after the step?"""
    if isinstance(step, RemoveHeaders):
        return matches(step.header, name)
    return isinstance(step, RenameHeaders) and step.header == name


def matches(pattern: str, name: str) -> bool:
    """Whether a pattern of `remove` matches a whole name; each * stands for any text, also for none."""
    first, *rest = pattern.split("*")
    if not rest:
        return name == pattern
    *inner, last = rest
    if not name.startswith(first):
        return False
    at = len(first)
    for piece in inner:
        at = name.find(piece, at)
        if at < 0:
            return False
        at += len(piece)
    return len(name) - at >= len(last) and name.endswith(last)


# -- from steps to operations ------------------------------------------------------------------------------------------


def compile_recipe(
    steps: Sequence[Step], *, flow: str, source_cluster: str, topic: str, partition: int
) -> Recipe | None:
    """What the kernel applies to every record of a source partition; None if there are no steps. They have no flaws."""
    if not steps:
        return None
    known = {"flow": flow, "source_cluster": source_cluster, "topic": topic, "partition": str(partition)}
    return Recipe(operations(steps, known))


def operations(steps: Sequence[Step], known: Mapping[str, str]) -> list[Operation]:
    """The kernel's operations, one per step; `known` are the placeholders that can be filled in, the others stay.

    The steps have no flaws.
    """
    return [_operation(step, known) for step in steps]


def _operation(step: Step, known: Mapping[str, str]) -> Operation:
    name = step.header.encode()
    match step:
        case SetHeader():
            return "set", name, _filled(step.value, known)
        case RemoveHeaders():
            return "remove_matching" if "*" in step.header else "remove", name
        case RenameHeaders():
            return "rename", name, step.to.encode()
        case Provenance():
            return "add", name, _filled(HOP, known)


def rewritten(
    operations: Sequence[Operation], headers: Sequence[Header], *, offset: int, timestamp: int
) -> tuple[Header, ...]:
    """The headers of a record after the operations, as plainly as possible: what the kernel's work is held against.

    `offset` and `timestamp` are the source record's; the operations have no other placeholders left.
    """
    kept = list(headers)
    for operation in operations:
        verb, name = operation[0], operation[1].decode()
        if verb in ("remove", "set"):
            kept = [one for one in kept if one[0] != name]
        elif verb == "remove_matching":
            kept = [one for one in kept if not matches(name, one[0])]
        elif verb == "rename":
            kept = [(operation[2].decode() if one[0] == name else one[0], one[1]) for one in kept]
        if verb in ("set", "add"):
            known = {"offset": b"%d" % offset, "timestamp": b"%d" % timestamp}
            value = b"".join(known[part] if isinstance(part, str) else part for part in operation[2])
            kept.append((name, value))
    return tuple(kept)


def _filled(text: str, known: Mapping[str, str]) -> tuple[Part, ...]:
    """A value in parts: constants, joined where they meet, and the names of placeholders that are not known."""
    parts: list[Part] = []
    constant = ""
    at = 0
    for match in _TOKEN.finditer(text):
        constant += text[at : match.start()]
        at = match.end()
        if match[1] is None:
            constant += match[0][0]
        elif match[1] in known:
            constant += known[match[1]]
        else:
            parts += [constant.encode(), match[1]] if constant else [match[1]]
            constant = ""
    constant += text[at:]
    return (*parts, constant.encode()) if constant else tuple(parts)


def described(operation: Operation, *, masked: bool = False) -> str:
    """An operation for people: `set "region" = "paris-{topic}"`. The value of a `masked` one is not shown."""
    match operation:
        case (("remove" | "remove_matching"), bytes(name)):
            return f"remove {_quoted(name.decode())}"
        case "rename", bytes(name), bytes(to):
            return f"rename {_quoted(name.decode())} to {_quoted(to.decode())}"
        case ("set" | "add") as verb, bytes(name), tuple(parts):
            text = "".join(_braced(one.decode()) if isinstance(one, bytes) else f"{{{one}}}" for one in parts)
            return f"{verb} {_quoted(name.decode())} = {'***' if masked else _quoted(text)}"
    raise ValueError(f"not an operation: {operation!r}")


def _braced(text: str) -> str:
    return text.replace("{", "{{").replace("}", "}}")


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)
