"""The event log: stderr, one line per event, a stable event name and fields.

    log = logs.get("lane")
    log.info("lane.committed", lane=3, records=100, seconds=0.2)

A line is built by a serializer from values, never by formatting them into text: whatever a topic is called, it stays
one line and reads back as it was. Written for a terminal as `time level event key=value ...`, otherwise as one JSON
object per line.

Events are per transaction, never per record.
"""

from __future__ import annotations

import datetime
import enum
import json
import math
import os
import sys
import threading
import traceback
from collections.abc import Mapping
from typing import Any, Literal, Protocol, TextIO

import msgspec

Format = Literal["auto", "human", "json"]

# Keys that every line has; a field of the same name is written with an underscore behind it.
_OWN = ("ts", "level", "logger", "event")


class Level(enum.IntEnum):
    """How much an event matters; a line is written if its level reaches the configured one."""

    DEBUG = 10
    INFO = 20
    WARNING = 30
    ERROR = 40


class Clock(Protocol):
    """What the time is, with a zone."""

    def __call__(self) -> datetime.datetime: ...


def _now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)


class _Sink:
    """Where the lines go; one for the process, replaced as a whole by `configure`."""

    def __init__(
        self, level: Level, style: Literal["human", "json"], colours: bool, stream: TextIO | None, now: Clock
    ) -> None:
        self.level = level
        self.style = style
        self.colours = colours
        self.stream = stream
        self.now = now

    def render(self, event: _Event) -> str:
        if self.style == "json":
            return _json_line(event)
        return _human_line(event, self.colours)


class _Event(msgspec.Struct, frozen=True):
    at: datetime.datetime
    level: Level
    logger: str
    name: str
    fields: dict[str, object]


_write_lock = threading.Lock()
_sink = _Sink(Level.INFO, "human", False, None, _now)


def configure(level: str = "info", format: Format = "auto", stream: TextIO | None = None, *, now: Clock = _now) -> None:
    """Sets the least level (debug, info, warning, error), the format and the stream (stderr if None) of every logger.

    `auto` is human if the stream is a terminal and JSON otherwise; colours only on a terminal and only if NO_COLOR is
    unset or empty. Raises KeyError for a level that does not exist.
    """
    global _sink
    terminal = _is_terminal(sys.stderr if stream is None else stream)
    style: Literal["human", "json"] = ("human" if terminal else "json") if format == "auto" else format
    colours = terminal and not os.environ.get("NO_COLOR")
    _sink = _Sink(Level[level.upper()], style, colours, stream, now)


def configured() -> tuple[str, str]:
    """(level, format) as they are now; the format is never `auto`."""
    return _sink.level.name.lower(), _sink.style


def get(name: str, **fields: object) -> Logger:
    """A logger of this name; `fields` go into each of its lines."""
    return Logger(name, fields)


class Logger:
    """Writes events. Cheap to make, safe to use from any thread; it holds nothing but its name and its bound fields."""

    __slots__ = ("_fields", "_name")

    def __init__(self, name: str, fields: Mapping[str, object]) -> None:
        self._name = name
        self._fields = dict(fields)

    def bind(self, **fields: object) -> Logger:
        """A logger with further fields in each line; a field of the same name replaces the earlier one."""
        return Logger(self._name, {**self._fields, **fields})

    def enabled(self, level: Level) -> bool:
        """Whether an event of this level would be written; for fields that are dear to compute."""
        return level >= _sink.level

    def debug(self, event: str, /, **fields: object) -> None:
        self.emit(Level.DEBUG, event, fields)

    def info(self, event: str, /, **fields: object) -> None:
        self.emit(Level.INFO, event, fields)

    def warning(self, event: str, /, **fields: object) -> None:
        self.emit(Level.WARNING, event, fields)

    def error(self, event: str, /, **fields: object) -> None:
        self.emit(Level.ERROR, event, fields)

    def log(self, level: int, message: str, *args: object, **_unused: object) -> None:
        """The door for librdkafka: its clients take any object with `log(level, format, *args)` as their `logger`.

        The levels are those of Python's logging, which Level shares. The event is named after the logger:
        `<name>.librdkafka`.
        """
        near = max((one for one in Level if one <= level), default=Level.DEBUG)
        try:
            fields: dict[str, object] = {"message": message % args if args else message}
        except (TypeError, ValueError):
            fields = {"message": message, "args": args}
        self.emit(near, f"{self._name}.librdkafka", fields)

    def emit(self, level: Level, event: str, fields: Mapping[str, object]) -> None:
        """One event, one line, in one write.

        A stream that is closed, or whose disk is full, loses the line. A pipe that nobody reads blocks, as it does any
        program: whoever takes stderr must read it.
        """
        sink = _sink
        if level < sink.level:
            return
        line = sink.render(_Event(sink.now(), level, self._name, event, {**self._fields, **fields})) + "\n"
        stream = sys.stderr if sink.stream is None else sink.stream
        # One lock and one write: two threads' lines never share a line.
        with _write_lock:
            try:
                stream.write(line)
                stream.flush()
            except (OSError, ValueError):
                return


def _is_terminal(stream: TextIO) -> bool:
    try:
        return stream.isatty()
    except ValueError:
        return False


def plain(value: object, depth: int = 8) -> Any:
    """A field's value as JSON's own types.

    Raises nothing: what has no plain form, or lies deeper than `depth`, is its text.

    An exception becomes {type, message, hint}, an enum its name or text, bytes their hex digits, a time ISO 8601 in its
    own zone, a number beyond 64 bits or not finite its text.
    """
    match value:
        case None | bool():
            return value
        case BaseException():
            return _exception(value)
        case enum.Enum():
            return value.value if isinstance(value, str) else value.name
        case str():
            return _whole(value)
        case int():
            return int(value) if -(1 << 63) <= value < 1 << 64 else hex(value)
        case float():
            return float(value) if math.isfinite(value) else repr(float(value))
        case bytes() | bytearray() | memoryview():
            return value.hex()
        case datetime.datetime() | datetime.date():
            return value.isoformat()
        case msgspec.Struct() if depth:
            return {field: plain(getattr(value, field, None), depth - 1) for field in value.__struct_fields__}
        case Mapping() if depth:
            return {_key(key): plain(one, depth - 1) for key, one in value.items()}
        case tuple() | list() if depth:
            return [plain(one, depth - 1) for one in value]
        case set() | frozenset() if depth:
            return sorted((plain(one, depth - 1) for one in value), key=repr)
    return _text(value)


def _key(key: object) -> str:
    return _whole(key) if isinstance(key, str) else _text(key)


def _text(value: object) -> str:
    # A repr that raises must not take a lane down with it.
    try:
        return _whole(str(value))
    except Exception as error:  # noqa: BLE001
        return f"<{type(value).__name__} without text: {type(error).__name__}>"


def _exception(error: BaseException) -> dict[str, object]:
    told: dict[str, object] = {"type": type(error).__name__, "message": _text(error)}
    if hint := getattr(error, "hint", ""):
        told["hint"] = _text(hint)
    if error.__cause__ is not None:
        told["cause"] = f"{type(error.__cause__).__name__}: {_text(error.__cause__)}"
    return told


def where(error: BaseException, limit: int = 8) -> list[str]:
    """The innermost `limit` frames of an exception as `file:line function`, outermost first; for a bug's own event."""
    frames = traceback.extract_tb(error.__traceback__)[-limit:]
    return [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in frames]


def _whole(text: str) -> str:
    """Text that can be encoded: half a surrogate pair (a file name that is not UTF-8) is written as its escape."""
    return text.encode("utf-8", "backslashreplace").decode() if not text.isascii() else text


def _fields(event: _Event) -> dict[str, object]:
    return {(f"{key}_" if key in _OWN else _whole(key)): plain(value) for key, value in event.fields.items()}


def _json_line(event: _Event) -> str:
    at = event.at.astimezone(datetime.UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    line = {"ts": at, "level": event.level.name.lower(), "logger": _whole(event.logger), "event": _whole(event.name)}
    return _escape(msgspec.json.encode({**line, **_fields(event)}).decode())


_COLOURS = {Level.DEBUG: "2", Level.INFO: "36", Level.WARNING: "33", Level.ERROR: "31"}


def _human_line(event: _Event, colours: bool) -> str:
    at = event.at.astimezone().strftime("%H:%M:%S.%f")[:-3]
    level = f"{event.level.name.lower():<7}"
    if colours:
        level = f"\x1b[{_COLOURS[event.level]}m{level}\x1b[0m"
    fields = (f"{_word(key)}={_value(value)}" for key, value in _fields(event).items())
    return " ".join([at, level, _word(_whole(event.name)), *fields])


def _value(value: object) -> str:
    if isinstance(value, str):
        return _word(value)
    if isinstance(value, float):
        return f"{value:.6g}"
    return _escape(msgspec.json.encode(value).decode())


def _word(text: str) -> str:
    """Bare if it can be read as one word, else a JSON string."""
    bare = text and text.isprintable() and not any(char in " \"=\\'{}[]" for char in text) and text != "null"
    return text if bare else _escape(json.dumps(text, ensure_ascii=False))


def _escape(text: str) -> str:
    """JSON text in which whatever does not print is an escape.

    JSON lets C1 controls, direction marks and U+2028 stand as they are; a terminal obeys the first, some readers end a
    line at the last. All of them can only stand inside a string, where an escape reads back as the same character.
    """
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else json.dumps(char)[1:-1] for char in text)
