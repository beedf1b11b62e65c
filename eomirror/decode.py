"""From a composed document to frozen Structs, and from the same Structs to a JSON Schema.

The types are the only description of the file: what `Decoder` accepts and what `schema_of` says are read from the
same annotations. `msgspec.Meta.extra` carries what a type alone cannot say: `what` (the value in words, for
messages), `unit: bytes`, `low` and `high` (bounds of a Duration or a size), `none` (the word that stands for None,
`null` unless given). A union of tagged Structs is a mapping with one key, the tag, whose value is the Struct.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import msgspec
import yaml
from msgspec import inspect

from eomirror.client_keys import nearest
from eomirror.document import Reader, Scalar, join, kind_of, quote
from eomirror.units import (
    DURATION_PATTERN,
    SIZE_PATTERN,
    Duration,
    Instant,
    parse_duration,
    parse_instant,
    parse_size,
    size_text,
)

T = TypeVar("T")
Check = Callable[["Decoder", str, Any], None]

_INTEGER = re.compile(r"0|-?[1-9][0-9]{0,18}")
_DECIMAL = re.compile(r"-?[0-9]{1,15}(\.[0-9]{1,15})?")
_SUBSTITUTION_PATTERN = r"\$\{(env|file):"
_INVALID = object()

# Fields of a Struct that the file does not hold: the loader sets them.
LOADER_FIELDS = frozenset({"file", "substituted"})


class Decoder(Reader):
    """Binds nodes to types. `checks` holds, per Struct class, what is looked at once a whole Struct is read."""

    def __init__(self, env: Mapping[str, str], checks: Mapping[type, Check]) -> None:
        super().__init__(env)
        self.checks = checks
        self._quoted: dict[str, str] = {}

    def quoted(self, path: str) -> str:
        """The value read at `path`, fit for a message: quoted, or named by its expression if it was substituted."""
        return self._quoted[path]

    def decode(self, node: yaml.Node, into: type[T]) -> T | None:
        """The document as `into`; None if it cannot be built, `problems` then says why.

        With problems it is not to be used.
        """
        value = self._value(node, inspect.type_info(into), "", {})
        return value if isinstance(value, into) else None

    def _value(self, node: yaml.Node, kind: inspect.Type, path: str, extra: dict[str, Any]) -> object:
        if isinstance(kind, inspect.Metadata):
            return self._value(node, kind.type, path, {**extra, **(kind.extra or {})})
        if isinstance(kind, inspect.StructType):
            return self._struct(node, kind, path)
        if isinstance(kind, inspect.DictType):
            return self._dict(node, kind, path)
        if isinstance(kind, inspect.VarTupleType):
            return self._tuple(node, kind, path)
        if choices := _choices(kind):
            return self._choice(node, choices, path)
        expected = describe(kind, extra)
        scalar = self.scalar(node, path, expected)
        if scalar is None:
            return _INVALID
        value = read(scalar, kind, extra)
        if value is _INVALID:
            found = "nothing" if scalar.is_null and not scalar.text else scalar.quoted()
            self.problem(node, path, f"{found} is not {expected}", _hint(scalar, kind, extra))
        self._quoted[path] = scalar.quoted()
        return value

    def _struct(self, node: yaml.Node, kind: inspect.StructType, path: str) -> object:
        fields = {field.encode_name: field for field in kind.fields if field.name not in LOADER_FIELDS}
        values: dict[str, object] = {}
        before = len(self.problems)
        seen = set()
        for key, key_node, value_node in self.items(node, path):
            if key not in fields:
                here = join(path, key)
                self.problem(key_node, here, "unknown key", _elsewhere(key, _inner(kind)) or nearest(key, list(fields)))
                continue
            seen.add(key)
            values[fields[key].name] = self._value(value_node, fields[key].type, join(path, key), {})
        if isinstance(node, yaml.MappingNode):
            for name, field in fields.items():
                if field.required and name not in seen:
                    value = field.type.values[0] if isinstance(field.type, inspect.LiteralType) else "..."
                    self.problem(node, path, f'"{name}" is missing', f'add "{name}: {value}"')
        if len(self.problems) > before:
            return _INVALID
        built = kind.cls(**values)
        if check := self.checks.get(kind.cls):
            check(self, path, built)
        return built

    def _choice(self, node: yaml.Node, choices: dict[str, inspect.StructType], path: str) -> object:
        """A mapping with exactly one key, which says what its value is."""
        found = {key: (key_node, value_node) for key, key_node, value_node in self.items(node, path)}
        if not isinstance(node, yaml.MappingNode):
            return _INVALID
        chosen = [key for key in found if key in choices]
        for key in found.keys() - choices.keys():
            hint = _elsewhere(key, {one: choices[one] for one in chosen}) or nearest(key, list(choices))
            self.problem(found[key][0], join(path, key), "unknown key", hint)
        if len(chosen) > 1:
            here = found[chosen[1]][0]
            self.problem(
                here, path, f"{quote(chosen[1])} stands beside {quote(chosen[0])}", "give each an entry of its own"
            )
        elif not found:
            self.problem(node, path, "is empty", f"known here: {', '.join(sorted(choices))}")
        if len(chosen) != 1 or len(found) != 1:
            return _INVALID
        (key,) = chosen
        kind = choices[key]
        if isinstance(found[key][1], yaml.ScalarNode) and not any(field.required for field in kind.fields):
            cause = f"expected a mapping, found {kind_of(found[key][1])}"
            self.problem(found[key][1], join(path, key), cause, f'write "{key}: {{}}"')
            return _INVALID
        return self._struct(found[key][1], kind, join(path, key))

    def _dict(self, node: yaml.Node, kind: inspect.DictType, path: str) -> object:
        values: dict[str, object] = {}
        for key, key_node, value_node in self.items(node, path):
            here = join(path, key)
            if read(Scalar(key, False, ""), kind.key_type, {}) is _INVALID:
                self.problem(key_node, path, f"{quote(key)} is not {describe(kind.key_type, {})}")
                continue
            self.keys[here] = (key_node.start_mark.line + 1, key_node.start_mark.column + 1)
            values[key] = self._value(value_node, kind.value_type, here, {})
        if not values and (kind.min_length or 0) > 0 and isinstance(node, yaml.MappingNode):
            self.problem(node, path, "is empty", "add at least one entry")
        return values

    def _tuple(self, node: yaml.Node, kind: inspect.VarTupleType, path: str) -> object:
        nodes = self.elements(node, path)
        if nodes is None:
            return _INVALID
        if len(nodes) < (kind.min_length or 0):
            self.problem(node, path, "is empty", "add at least one entry")
        return tuple(self._value(item, kind.item_type, f"{path}[{index}]", {}) for index, item in enumerate(nodes))


def _inner(kind: inspect.StructType) -> dict[str, inspect.StructType]:
    """The fields of a Struct that are Structs themselves."""
    return {field.encode_name: field.type for field in kind.fields if isinstance(field.type, inspect.StructType)}


def _choices(kind: inspect.Type) -> dict[str, inspect.StructType]:
    """A union of tagged Structs by tag; empty for any other type."""
    kinds = kind.types if isinstance(kind, inspect.UnionType) else ()
    return {str(one.tag): one for one in kinds if isinstance(one, inspect.StructType)}


def _elsewhere(key: str, levels: Mapping[str, inspect.StructType]) -> str:
    """A known key at the wrong level: where it belongs."""
    for name, kind in levels.items():
        if key in (inner.encode_name for inner in kind.fields):
            return f'"{key}" belongs inside "{name}"'
    return ""


def read(scalar: Scalar, kind: inspect.Type, extra: dict[str, Any]) -> object:
    """A scalar's text as the field's type, or _INVALID.

    The type decides, not YAML's guess: `off` is a word, `1` may be text.
    """
    text = scalar.text
    match kind:
        case inspect.Metadata():
            return read(scalar, kind.type, {**extra, **(kind.extra or {})})
        case inspect.UnionType():
            return next((v for one in kind.types if (v := read(scalar, one, extra)) is not _INVALID), _INVALID)
        case inspect.NoneType():
            none = extra.get("none")
            return None if (scalar.is_null if none is None else text == none) else _INVALID
        case inspect.LiteralType():
            return text if text in kind.values else _INVALID
        case inspect.StrType():
            fits = not scalar.is_null and (kind.pattern is None or re.fullmatch(kind.pattern, text))
            return text if fits else _INVALID
        case inspect.IntType():
            return _number(text, kind, extra)
        case inspect.FloatType():
            value = float(text) if _DECIMAL.fullmatch(text) else None
            return value if value is not None and _within(value, kind.ge, kind.le) else _INVALID
        case inspect.DataclassType() if kind.cls is Duration:
            span = _try(parse_duration, text)
            return span if span is not None and _within(span, extra.get("low"), extra.get("high")) else _INVALID
        case inspect.DataclassType() if kind.cls is Instant:
            instant = _try(parse_instant, text)
            return _INVALID if instant is None else instant
    raise TypeError(f"no reading for {kind}")


def _number(text: str, kind: inspect.IntType, extra: dict[str, Any]) -> object:
    if extra.get("unit") == "bytes":
        size = _try(parse_size, text)
        return size if size is not None and _within(size, extra.get("low"), extra.get("high")) else _INVALID
    if _INTEGER.fullmatch(text) is None or not _within(int(text), kind.ge, kind.le):
        return _INVALID
    return int(text)


def _try(parse: Callable[[str], T], text: str) -> T | None:
    try:
        return parse(text)
    except ValueError:
        return None


def _within(value: Any, low: Any, high: Any) -> bool:
    return (low is None or value >= low) and (high is None or value <= high)


def describe(kind: inspect.Type, extra: dict[str, Any]) -> str:
    """A type in words, for messages: `a duration from 1ms to 15m`."""
    if isinstance(kind, inspect.Metadata):
        return describe(kind.type, {**extra, **(kind.extra or {})})
    if "what" in extra:
        return str(extra["what"])
    match kind:
        case inspect.UnionType():
            parts = [describe(one, extra) for one in kind.types if not isinstance(one, inspect.NoneType)]
            if any(isinstance(one, inspect.NoneType) for one in kind.types):
                parts.insert(0, str(extra.get("none", "null")))
            return " or ".join(parts)
        case inspect.LiteralType():
            *first, last = map(str, kind.values)
            return f"{', '.join(first)} or {last}" if first else last
        case inspect.IntType() if extra.get("unit") == "bytes":
            return "a size" + _range(extra.get("low"), extra.get("high"), size_text)
        case inspect.IntType():
            return "a whole number" + _range(kind.ge, kind.le, str)
        case inspect.FloatType():
            return "a number" + _range(kind.ge, kind.le, str)
        case inspect.DataclassType() if kind.cls is Duration:
            return "a duration" + _range(extra.get("low"), extra.get("high"), str)
        case inspect.DataclassType() if kind.cls is Instant:
            return "a timestamp with a zone"
        case _:
            return "text"


def _range(low: Any, high: Any, spell: Callable[[Any], str]) -> str:
    parts = [f" from {spell(low)}" if low is not None else "", f" to {spell(high)}" if high is not None else ""]
    return "".join(parts)


def _kinds(kind: inspect.Type) -> list[inspect.Type]:
    if isinstance(kind, inspect.Metadata):
        return _kinds(kind.type)
    return [k for one in kind.types for k in _kinds(one)] if isinstance(kind, inspect.UnionType) else [kind]


def _hint(scalar: Scalar, kind: inspect.Type, extra: dict[str, Any]) -> str:
    kinds = _kinds(kind)
    if "example" in extra:
        return f"for example {extra['example']}"
    if any(isinstance(one, inspect.DataclassType) and one.cls is Duration for one in kinds):
        return "write a whole number and a unit, one of ms s m h d, for example 20ms"
    if any(isinstance(one, inspect.DataclassType) and one.cls is Instant for one in kinds):
        return "for example 2026-03-01T06:00:00Z"
    if any(isinstance(one, inspect.IntType) for one in kinds) and extra.get("unit") == "bytes":
        return "write a whole number and a unit, one of B KiB MiB GiB TiB, for example 8MiB"
    words = [str(word) for one in kinds if isinstance(one, inspect.LiteralType) for word in one.values]
    return nearest(scalar.text, words) if words and not scalar.expression else ""


def schema_of(root: type, identifier: str, title: str) -> dict[str, Any]:
    """The JSON Schema (2020-12) of a file that holds `root`. Durations and sizes are strings with a pattern."""
    definitions: dict[str, Any] = {}
    body = _schema(inspect.type_info(root), {}, definitions)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": identifier,
        "title": title,
        **body,
        "$defs": {name: definitions[name] for name in sorted(definitions)},
    }


def _schema(kind: inspect.Type, extra: dict[str, Any], definitions: dict[str, Any]) -> dict[str, Any]:
    if isinstance(kind, inspect.Metadata):
        if kind.extra_json_schema:
            return kind.extra_json_schema
        return _schema(kind.type, {**extra, **(kind.extra or {})}, definitions)
    match kind:
        case inspect.StructType():
            if kind.cls.__name__ not in definitions:
                definitions[kind.cls.__name__] = {}
                definitions[kind.cls.__name__] = _object(kind, definitions)
            return {"$ref": f"#/$defs/{kind.cls.__name__}"}
        case inspect.DictType():
            keys = {"propertyNames": {"pattern": pattern}} if (pattern := _pattern(kind.key_type)) else {}
            least = {"minProperties": kind.min_length} if kind.min_length else {}
            return {
                "type": "object",
                "additionalProperties": _schema(kind.value_type, {}, definitions),
                **keys,
                **least,
            }
        case inspect.VarTupleType():
            least = {"minItems": kind.min_length} if kind.min_length else {}
            return {"type": "array", "items": _schema(kind.item_type, {}, definitions), **least}
    if tagged := _choices(kind):
        return {"anyOf": [_tagged(tag, _schema(one, {}, definitions)) for tag, one in tagged.items()]}
    choices = [choice for one in _kinds(kind) for choice in _scalar_schema(one, extra)]
    # Any single value may come from the environment or a file.
    substituted = {"type": "string", "pattern": _SUBSTITUTION_PATTERN}
    return {"anyOf": choices if {"type": "string"} in choices else [*choices, substituted]}


def _tagged(tag: str, inner: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "properties": {tag: inner}, "required": [tag], "additionalProperties": False}


def _pattern(kind: inspect.Type) -> str | None:
    inner = kind.type if isinstance(kind, inspect.Metadata) else kind
    return inner.pattern if isinstance(inner, inspect.StrType) else None


def _scalar_schema(kind: inspect.Type, extra: dict[str, Any]) -> list[dict[str, Any]]:
    match kind:
        case inspect.NoneType():
            return [{"const": extra["none"]} if "none" in extra else {"type": "null"}]
        case inspect.LiteralType():
            return [{"enum": list(kind.values)}]
        case inspect.StrType():
            return [{"type": "string", **({"pattern": kind.pattern} if kind.pattern else {})}]
        case inspect.IntType() if extra.get("unit") == "bytes":
            return [{"type": "string", "pattern": SIZE_PATTERN}]
        case inspect.IntType() | inspect.FloatType():
            bounds = {"minimum": kind.ge, "maximum": kind.le}
            given = {name: bound for name, bound in bounds.items() if bound is not None}
            return [{"type": "integer" if isinstance(kind, inspect.IntType) else "number", **given}]
        case inspect.DataclassType() if kind.cls is Duration:
            return [{"type": "string", "pattern": DURATION_PATTERN}]
        case _:
            return [{"type": "string", "format": "date-time"}]


def _object(kind: inspect.StructType, definitions: dict[str, Any]) -> dict[str, Any]:
    described = _field_docs(kind.cls)
    properties = {}
    required = []
    for field in kind.fields:
        if field.name in LOADER_FIELDS:
            continue
        property_schema = _schema(field.type, {}, definitions)
        if field.name in described:
            property_schema = {"description": described[field.name], **property_schema}
        properties[field.encode_name] = property_schema
        if field.required:
            required.append(field.encode_name)
    summary = (kind.cls.__doc__ or "").split("\n\n")[0].strip()
    return {
        "description": " ".join(summary.split()),
        "type": "object",
        "properties": properties,
        **({"required": required} if required else {}),
        "additionalProperties": False,
    }


def _field_docs(cls: type[msgspec.Struct]) -> dict[str, str]:
    """The `name: text` lines of a Struct's docstring, so that the schema says what the code says."""
    docs: dict[str, str] = {}
    name = ""
    for line in (cls.__doc__ or "").splitlines():
        text = line.strip()
        if match := re.fullmatch(r"`(\w+)`: (.+)", text):
            name = match[1]
            docs[name] = match[2]
        elif not text:
            name = ""
        elif name:
            docs[name] += f" {text}"
    return docs
