"""`eomirror translate`: which offset of one side stands for one of the other, with no worker running."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Final

import typer
from rich.text import Text

from eomirror import translation
from eomirror.cli import render
from eomirror.cli.app import ConfigOption, Output, OutputOption, app, asking, cluster_of, read_config
from eomirror.config import Config, FlowConfig
from eomirror.model import RouteKey
from eomirror.translation import Found, RouteMap, Translation

START: Final = "START"  # stands where a gap has no reason: it lies below the flow's `start`
LAST_OFFSET: Final = (1 << 63) - 1
STYLES: Final = {Found.EXACT: "green", Found.GAP: "cyan", Found.END: "cyan"}


def look(config: Config, flow: FlowConfig, key: RouteKey, target_offset: int | None) -> RouteMap:
    """What is known of a route's offsets. Raises Preflight when the flow's target cannot be asked."""
    target = cluster_of(config, flow.target)
    brokers = target.brokers("cli")
    with asking(target):
        try:
            return translation.look(flow.name, key, brokers, target_offset=target_offset)
        finally:
            brokers.close()


@app.command()
def translate(
    flow: Annotated[str, typer.Argument(help="The flow.")],
    topic: Annotated[str, typer.Argument(help="The topic, without its partition.")],
    partition: Annotated[int, typer.Argument(help="The partition's number.", min=0)],
    offset: Annotated[int, typer.Argument(help="The next offset to be consumed.", min=0, max=LAST_OFFSET)],
    config: ConfigOption = None,
    output: OutputOption = Output.TABLE,
    reverse: Annotated[bool, typer.Option("--reverse", help="From a target offset to a source offset.")] = False,
) -> None:
    """The target offset at which a consumer goes on that had consumed the source up to OFFSET.

    It loses no mirrored record and sees none twice. What was left out there (an accepted fault, or below the flow's
    start) is on the target for nobody; the answer names it. Where the ledger cannot say all that, the answer is an
    error and exit 7. Works with no worker running, and without the source.
    """
    loaded = read_config(config)
    known = look(loaded, loaded.flow(flow), (topic, partition), offset if reverse else None)
    answer = translation.translate(known, offset, reverse=reverse)
    if output is Output.JSON:
        render.emit_json("Translation", [translation_item(known, answer, reverse=reverse)])
    else:
        render.emit_lines(translation_lines(known, answer, reverse=reverse))


def translation_item(known: RouteMap, answer: Translation, *, reverse: bool) -> dict[str, Any]:
    run = answer.run
    source, target = (answer.translated, answer.offset) if reverse else (answer.offset, answer.translated)
    return {
        "flow": known.flow,
        "topic": known.key[0],
        "partition": known.key[1],
        "reverse": reverse,
        "source_offset": source,
        "target_offset": target,
        "found": answer.found,
        "run": None
        if run is None
        else {"source_first": run.source_first, "target_first": run.target_first, "records": run.size},
        "position": known.position,
        "target_end": known.target_end,
        "left_out": [
            {"first": gap.first, "next": gap.next, "reason": gap.reason or START, "by": gap.by or None}
            for gap in answer.left_out
        ],
        "note": known.note,
    }


def translation_lines(known: RouteMap, answer: Translation, *, reverse: bool) -> Iterator[Text | str]:
    """What was found, and why it is right."""
    here, there = ("target", "source") if reverse else ("source", "target")
    said = {Found.EXACT: "exact", Found.GAP: "the start of the next run", Found.END: "the end"}[answer.found]
    yield (
        Text(f"{known.place}: {here} offset {answer.offset} -> {there} offset ")
        .append(str(answer.translated), style="bold")
        .append(f", {said}", style=STYLES[answer.found])
    )
    run = answer.run
    if run is None:
        whole = "everything else below it" if answer.left_out else "everything below it"
        yield f"  {whole} is mirrored; the next record will be there or behind it"
    elif answer.found is Found.EXACT:
        yield f"  in the run {_span(run.source_first, run.size)} -> {_span(run.target_first, run.size)}"
    else:
        what = "a commit marker, or not ours" if reverse else "a marker, aborted, compacted or left out"
        following = f"{_span(run.source_first, run.size)} -> {_span(run.target_first, run.size)}"
        yield f"  in a gap ({what}); next comes the run {following}"
    for gap in answer.left_out:
        by = gap.by if gap.by.startswith("on_bad_record") else f"accepted by {gap.by or 'unknown'}"
        why = "below the flow's start" if gap.reason is None else f"{gap.reason}, {by}"
        size = gap.next - gap.first
        many = "offset {} was" if size == 1 else "offsets {} were"
        yield Text(f"  source {many.format(_span(gap.first, size))} left out: {why}", style="yellow")
    if known.note is not None:
        yield Text(f"  {known.note}", style="yellow")


def _span(first: int, size: int) -> str:
    return str(first) if size == 1 else f"{first}..{first + size - 1}"
