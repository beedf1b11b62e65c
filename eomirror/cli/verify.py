"""`eomirror verify`: is what was mirrored the same on both sides?"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator
from typing import Annotated, Any, Final

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from eomirror import scope
from eomirror import verify as core
from eomirror.cli import render
from eomirror.cli.app import ConfigOption, Output, OutputOption, app, cluster_of, read_config
from eomirror.compare import Kind, Only
from eomirror.config import Config, FlowConfig
from eomirror.errors import BrokerError, ConnectionLost, Exit, Preflight
from eomirror.units import wall_ms
from eomirror.verify import Compared, Verdict

ROWS: Final = 20
# How many differences are shown in words of each partition, and how many are in the JSON.
SHOWN: Final = 5
LISTED: Final = 100


def judge(config: Config, flow: FlowConfig, topics: list[str], sample: int | None) -> Verdict:
    """Look and compare, with a progress bar where a person watches. Raises Preflight when a cluster is away."""
    source, target = cluster_of(config, flow.source), cluster_of(config, flow.target)
    watched = sys.stderr.isatty()
    bar = Progress(
        TextColumn("comparing"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("records"),
        TimeRemainingColumn(),
        console=Console(file=sys.stderr),
        disable=not watched,
        transient=True,
    )
    at_ms = wall_ms()
    try:
        plan = scope.look(flow, source, target, topics)
        with bar:
            task = bar.add_task("", total=plan.records if sample is None else None)
            comparer = core.Comparer(
                flow, source, target, sample=sample, progress=lambda records: bar.advance(task, records)
            )
            try:
                return core.verify(flow, comparer, plan, sample=sample, at_ms=at_ms, now=source.network.now)
            finally:
                comparer.close()
    except (ConnectionLost, BrokerError) as error:
        addresses = " and ".join(f"{one.name} ({one.config.bootstrap})" for one in (source, target))
        raise Preflight(error.message, hint=error.hint or f"See that {addresses} are up and rightly named.") from error


@app.command()
def verify(
    flow: Annotated[str, typer.Argument(help="The flow.")],
    config: ConfigOption = None,
    output: OutputOption = Output.TABLE,
    topic: Annotated[
        list[str] | None, typer.Option("--topic", help="Only this topic; may be given several times.")
    ] = None,
    sample: Annotated[
        int | None,
        typer.Option("--sample", min=1, help="Compare this many random stretches per partition instead of all."),
    ] = None,
) -> None:
    """Compare both sides record by record, and the ledger with both. Exit 3 if anything differs.

    Reads both clusters up to what is mirrored at its start, with or without a running worker, and writes nothing.
    """
    loaded = read_config(config)
    verdict = judge(loaded, loaded.flow(flow), topic or [], sample)
    if output is Output.JSON:
        render.emit_json("Verify", [verdict_item(verdict)])
    else:
        render.emit_lines(verdict_lines(verdict))
    raise typer.Exit(outcome(verdict))


def outcome(verdict: Verdict) -> Exit:
    """3 if anything differs, 7 if something could not be compared."""
    if verdict.differs:
        return Exit.DIFFERS
    return Exit.REFUSED if verdict.incomplete else Exit.OK


class Sums:
    """The figures of all partitions together."""

    def __init__(self, partitions: tuple[Compared, ...]) -> None:
        self.equal = sum(one.equal for one in partitions)
        self.mirrored = sum(one.mirrored for one in partitions)
        self.translations = sum(one.translations for one in partitions)
        self.different: Counter[Kind] = Counter()
        self.not_comparable: Counter[Only] = Counter()
        for one in partitions:
            self.different.update(one.different)
            self.not_comparable.update(one.not_comparable)


# --- as JSON


def verdict_item(verdict: Verdict) -> dict[str, Any]:
    sums = Sums(verdict.partitions)
    return {
        "flow": verdict.flow,
        "source": verdict.source,
        "target": verdict.target,
        "at": render.moment(verdict.at_ms),
        "seconds": verdict.seconds,
        "verdict": word(verdict),
        "sample": verdict.sample,
        "mirrored": sums.mirrored,
        **_figures(sums.equal, sums.different, sums.not_comparable),
        "ledger": {"problems": list(verdict.ledger), "translations": sums.translations},
        "partitions": [_partition_item(one) for one in verdict.partitions],
    }


def _partition_item(one: Compared) -> dict[str, Any]:
    return {
        "topic": one.topic,
        "partition": one.partition,
        "mirrored": one.mirrored,
        **_figures(one.equal, one.different, one.not_comparable),
        "differences": [
            {"kind": d.kind, "source_offset": d.source, "target_offset": d.target, "detail": d.detail}
            for d in one.differences[:LISTED]
        ],
        "ledger": {"problems": list(one.ledger), "translations": one.translations},
        "not_compared": one.cause,
        "note": one.note,
    }


def _figures(equal: int, different: dict[Kind, int], not_comparable: dict[Only, int]) -> dict[str, Any]:
    return {
        "equal": equal,
        "different": sum(different.values()),
        "different_by_kind": {str(kind): count for kind, count in sorted(different.items())},
        "not_comparable": sum(not_comparable.values()),
        "not_comparable_by_reason": {str(reason): count for reason, count in sorted(not_comparable.items())},
    }


def word(verdict: Verdict) -> str:
    """The verdict in one word."""
    if verdict.differs:
        return "differs"
    return "incomplete" if verdict.incomplete else "equal"


# --- as text


def verdict_lines(verdict: Verdict) -> Iterator[Text | Table | str]:
    """The partitions, what is different, and the verdict as the last line."""
    shown = verdict.partitions
    if len(shown) > ROWS:
        shown = tuple(one for one in shown if one.differs or one.cause is not None or one.note is not None)
    if shown:
        yield _table(shown)
    for one in shown:
        yield from _told(one)
    for problem in verdict.ledger:
        yield Text(f"ledger: {render.clean(problem)}", style="red")
    yield ""
    yield _verdict_line(verdict)


def _table(shown: tuple[Compared, ...]) -> Table:
    numbers = ("PARTITION", "EQUAL", "DIFFERENT", "NOT COMPARABLE")
    made = render.table("TOPIC", *numbers, right=numbers)
    for one in shown:
        different = sum(one.different.values())
        if one.cause is not None:
            cells: tuple[str | Text, ...] = (Text("not compared", style="yellow"), "-", "-")
        else:
            cells = (
                number(one.equal),
                Text(number(different), style="bold red" if different else ""),
                number(sum(one.not_comparable.values())),
            )
        made.add_row(one.topic, str(one.partition), *cells)
    return made


def _told(one: Compared) -> Iterator[Text | str]:
    for difference in one.differences[:SHOWN]:
        yield Text(f"{one.place}: {difference}", style="red")
    more = sum(one.different.values()) - SHOWN
    if more > 0:
        yield Text(f"{one.place}: and {number(more)} more", style="red")
    for problem in one.ledger:
        yield Text(f"{one.place}: ledger: {render.clean(problem)}", style="red")
    if one.cause is not None:
        yield Text(f"{one.place}: not compared: {render.clean(one.cause)}", style="yellow")
    if one.note is not None:
        yield Text(f"{one.place}: {render.clean(one.note)}", style="yellow")


def _verdict_line(verdict: Verdict) -> Text:
    sums = Sums(verdict.partitions)
    different = sum(sums.different.values())
    missing = sum(sums.not_comparable.values())
    line = Text("verify: ", style="bold")
    style = {"equal": "bold green", "incomplete": "bold yellow", "differs": "bold red"}[word(verdict)]
    if verdict.sample is not None:
        line.append(f"{number(sums.equal + different)} of {number(sums.mirrored)} records compared: ")
    line.append(f"{number(sums.equal)} {'record' if sums.equal == 1 else 'records'} equal, ", style=style)
    line.append(f"{number(different)} different", style=style)
    if sums.different:
        line.append(f" ({_counted(sums.different)})", style=style)
    line.append(f", {number(missing)} not comparable")
    if sums.not_comparable:
        line.append(f" ({_counted(sums.not_comparable)})")
    problems = len(verdict.ledger) + sum(len(one.ledger) for one in verdict.partitions)
    if problems:
        line.append(f", {number(problems)} {'problem' if problems == 1 else 'problems'} in the ledger", style=style)
    unread = sum(1 for one in verdict.partitions if one.cause is not None)
    if unread:
        line.append(f", {number(unread)} {'partition' if unread == 1 else 'partitions'} not compared", style=style)
    line.append(f"; {render.span(verdict.seconds)}")
    return line


def _counted(counts: Counter[Any]) -> str:
    """`retention`, or with their numbers if there are several."""
    if len(counts) == 1:
        return str(next(iter(counts)))
    return ", ".join(f"{number(count)} {name}" for name, count in sorted(counts.items()))


def number(value: int) -> str:
    """Digits in groups of three."""
    return f"{value:,}".replace(",", " ")
