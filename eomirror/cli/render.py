"""How answers look: tables for people, one JSON object for scripts. The only place that knows a terminal."""

from __future__ import annotations

import datetime
import io
import json
import os
import shutil
import sys
from collections.abc import Iterable, Sequence
from typing import Any, Final

import msgspec
import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from eomirror.config import API_VERSION
from eomirror.errors import ConfigError

UNKNOWN: Final = "unknown"
# What a process killed by SIGPIPE ends with: the reader has gone, nobody is to be told.
BROKEN_PIPE: Final = 141
# Without a terminal nothing is wrapped or cut: a script reads whole names.
UNBOUNDED: Final = 100_000

STYLES: Final = {
    "CAUGHT_UP": "green",
    "ACTIVE": "cyan",
    "RETRYING": "yellow",
    "BLOCKED": "yellow",
    "STALLED": "bold yellow",
    "FAULTED": "bold red",
    "PAUSED": "dim",
}


def emit(text: str) -> None:
    """Text to stdout, now. A reader that has gone ends the process quietly."""
    if not text:
        return
    try:
        sys.stdout.write(text if text.endswith("\n") else text + "\n")
        sys.stdout.flush()
    except OSError as error:
        # What is left in the buffer must not be flushed at exit, where nobody could catch the error.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if isinstance(error, BrokenPipeError):
            raise typer.Exit(BROKEN_PIPE) from None
        raise ConfigError(f"stdout cannot be written: {(error.strerror or str(error)).lower()}") from error


def emit_json(kind: str, items: Sequence[Any]) -> None:
    """The one object that a verb answers with; Structs in `items` become JSON's own types."""
    envelope = {"apiVersion": API_VERSION, "kind": kind, "items": msgspec.to_builtins(list(items))}
    emit(json.dumps(envelope, indent=2))


def emit_lines(lines: Iterable[Text | Table | str]) -> None:
    """Lines and tables to stdout: coloured and folded on a terminal, plain and whole elsewhere."""
    terminal = sys.stdout.isatty()
    page = io.StringIO()
    console = Console(
        file=page,
        force_terminal=terminal,
        width=shutil.get_terminal_size().columns if terminal else UNBOUNDED,
        highlight=False,
        markup=False,
        emoji=False,
    )
    for line in lines:
        console.print(Text(line) if isinstance(line, str) else line)
    emit("\n".join(line.rstrip() for line in page.getvalue().splitlines()))


def table(*columns: str, right: Iterable[str] = ()) -> Table:
    """An empty table without lines. Names in `right` are aligned there. A cell is folded, never cut."""
    made = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    numbers = set(right)
    for column in columns:
        made.add_column(column, justify="right" if column in numbers else "left", overflow="fold")
    return made


def state_text(state: str) -> Text:
    return Text(state, style=STYLES.get(state.split(" ")[-1], ""))


def clean(text: str) -> str:
    """Text from elsewhere, so that a terminal obeys none of it."""
    return "".join(char if char.isprintable() else f"\\x{ord(char):02x}" for char in text)


def known(value: object | None) -> str:
    """A value, or that it is unknown."""
    return UNKNOWN if value is None else str(value)


def span(seconds: float | None) -> str:
    """A span of time in at most two units: `0s`, `340ms`, `3m 12s`, `2d 4h`."""
    if seconds is None:
        return UNKNOWN
    if 0 < seconds < 1:
        return f"{max(round(seconds * 1000), 1)}ms" if seconds < 0.9995 else "1s"
    left = round(seconds)
    parts = []
    for unit, size in (("d", 86_400), ("h", 3_600), ("m", 60), ("s", 1)):
        number, left = divmod(left, size)
        parts.append((number, unit))
    first = next((index for index, (number, _) in enumerate(parts) if number), len(parts) - 1)
    return " ".join(f"{number}{unit}" for number, unit in parts[first : first + 2] if number or len(parts) - first == 1)


def ago(ms: int | None, now_ms: int) -> str:
    """How long ago a moment was, in words."""
    return UNKNOWN if ms is None else f"{span(max(now_ms - ms, 0) / 1000)} ago"


def moment(ms: int | None) -> str | None:
    """A moment for JSON: ISO 8601 in UTC, milliseconds; None stays None."""
    if ms is None:
        return None
    epoch = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
    at = epoch + datetime.timedelta(milliseconds=ms)
    return at.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def some(names: Sequence[str], most: int = 3) -> str:
    """`a, b, c and 7 more`."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
