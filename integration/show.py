"""What the demo looks like while it works: bars in a terminal, one line per event otherwise."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Column

PLAIN_EVERY = 5.0  # seconds between the lines of a phase without a terminal


class Phase:
    """One step of the demo; `total` None means that nobody knows how far it is."""

    def __init__(self, title: str, total: int | None, progress: Progress | None) -> None:
        self.detail = ""
        self._title = title
        self._total = total
        self._progress = progress
        self._told = time.monotonic()
        self._task: TaskID | None = progress.add_task(title, total=total, detail="") if progress else None

    def update(self, done: int | None = None, detail: str | None = None, total: int | None = None) -> None:
        """How far it is, and a few words."""
        self.detail = self.detail if detail is None else detail
        self._total = self._total if total is None else total
        if self._progress is not None and self._task is not None:
            self._progress.update(self._task, completed=done, total=self._total, detail=self.detail)
        elif done is not None and time.monotonic() - self._told >= PLAIN_EVERY:
            self._told = time.monotonic()
            share = f" of {self._total:,}" if self._total else ""
            print(f"  {self._title}: {done:,}{share}{', ' if self.detail else ''}{self.detail}", flush=True)


class Show:
    """Tells the phases of the demo on stdout."""

    def __init__(self) -> None:
        self.console = Console(highlight=False, soft_wrap=True)

    @contextmanager
    def phase(self, title: str, total: int | None = None) -> Iterator[Phase]:
        """One step: a bar while it lasts, one line when it is over; the line says so when it failed."""
        began = time.monotonic()
        if not self.console.is_terminal:
            print(f"{title} ...", flush=True)
            phase = Phase(title, total, None)
            yield phase
            print(f"{title}: {phase.detail} ({time.monotonic() - began:.0f} s)", flush=True)
            return
        progress = Progress(
            SpinnerColumn(style="cyan"),
            TextColumn("{task.description:<12}", table_column=Column(min_width=12, no_wrap=True)),
            BarColumn(bar_width=None, table_column=Column(min_width=16, max_width=32, ratio=1)),
            TextColumn("{task.percentage:>3.0f}%" if total else "    ", table_column=Column(min_width=4, no_wrap=True)),
            TimeElapsedColumn(table_column=Column(min_width=7, no_wrap=True)),
            TextColumn("[dim]{task.fields[detail]}", table_column=Column(ratio=2, no_wrap=True, overflow="ellipsis")),
            expand=True,
            console=self.console,
            transient=True,
        )
        with progress:
            phase = Phase(title, total, progress)
            yield phase
        seconds = f"[dim]{time.monotonic() - began:5.0f} s[/]"
        self.console.print(f"[green]✓[/] {title:<12} {seconds}  {phase.detail}")

    def line(self, text: str) -> None:
        """A line of plain text between or below the phases."""
        self.console.print(text, markup=False)
