"""`eomirror fault list|accept|retry`: why partitions stand still, and what a person decides."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from typing import Annotated, Any, Literal

import msgspec
import typer
from rich.text import Text

from eomirror import report
from eomirror.cli import render
from eomirror.cli.app import (
    PROGRAM,
    ConfigOption,
    FlowArgument,
    Output,
    OutputOption,
    app,
    asking,
    cluster_of,
    flows_of,
    read_config,
)
from eomirror.clusters import Cluster
from eomirror.config import Config, FlowConfig
from eomirror.control import Control, order, who
from eomirror.errors import ConfigError, Exit, Refused
from eomirror.faults import ACCEPTING, SKIPPING
from eomirror.model import RouteKey
from eomirror.records import VERSION, Desired, Fault, PositionRecord
from eomirror.report import Standing
from eomirror.units import wall_ms

RETRYING = "tries the same offset again; nothing is left out"

Action = Literal["accept", "retry"]

verbs = typer.Typer(no_args_is_help=True, help="Why partitions stand still, and what to do about it.")
app.add_typer(verbs, name="fault")

OneFlow = Annotated[str, typer.Argument(help="The flow.")]
Topic = Annotated[str, typer.Argument(help="The topic, without its partition.")]
Partition = Annotated[int, typer.Argument(help="The partition's number.", min=0)]
Why = Annotated[str, typer.Option("--why", help="Kept in the history of the flow, beside your name.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and change nothing.")]


class Found(msgspec.Struct, frozen=True):
    """A partition that stands still, and the order about it that no lane has carried out yet."""

    flow: str
    key: RouteKey
    position: PositionRecord
    fault: Fault
    ordered: Desired | None

    @property
    def place(self) -> str:
        return f"{self.key[0]}[{self.key[1]}]"

    @property
    def acceptable(self) -> bool:
        """Whether accepting would change anything: a batch can be left out only if its end is known."""
        return self.fault.reason not in SKIPPING or self.fault.next_offset is not None

    def command(self, action: Action) -> str:
        return f"{PROGRAM} fault {action} {self.flow} {self.key[0]} {self.key[1]}"

    def effect(self, action: Action) -> str:
        """What the action does, in one sentence."""
        if action == "retry":
            return RETRYING
        effect = ACCEPTING[self.fault.reason]
        if self.fault.reason in SKIPPING and self.fault.next_offset is not None:
            first, last = self.position.next_offset, self.fault.next_offset - 1
            return f"{effect} (source offsets {first} to {last})"
        return effect


@verbs.command("list")
def fault_list(flow: FlowArgument = None, config: ConfigOption = None, output: OutputOption = Output.TABLE) -> None:
    """Every partition that stands still, since when and why, and the command that lets it go on."""
    loaded = read_config(config)
    now = wall_ms()
    stands = [(one, *_read(loaded, one)) for one in flows_of(loaded, flow)]
    found = [fault for _, _, faults in stands for fault in faults]
    troubles = [f"{one.name}: lane {n}: {cause}" for one, stand, _ in stands for n, cause in stand.troubles.items()]
    if output is Output.JSON:
        render.emit_json("Faults", [fault_item(one) for one in found])
    else:
        never = [one.name for one, stand, _ in stands if stand.record is None]
        render.emit_lines(list_lines(found, never, now, complete=not troubles))
    for trouble in troubles:
        print(f"error: {trouble}", file=sys.stderr)
    raise typer.Exit(Exit.PREFLIGHT if troubles else Exit.OK)


@verbs.command("accept")
def fault_accept(
    flow: OneFlow,
    topic: Topic,
    partition: Partition,
    config: ConfigOption = None,
    output: OutputOption = Output.TABLE,
    why: Why = "",
    yes: Yes = False,
    dry_run: DryRun = False,
) -> None:
    """Let a partition go on without what is wrong. "fault list" says what that means for each fault."""
    _decide("accept", flow, (topic, partition), config, output, why, yes=yes, dry_run=dry_run)


@verbs.command("retry")
def fault_retry(
    flow: OneFlow,
    topic: Topic,
    partition: Partition,
    config: ConfigOption = None,
    output: OutputOption = Output.TABLE,
    why: Why = "",
    yes: Yes = False,
    dry_run: DryRun = False,
) -> None:
    """Let a partition try the same offset again. Nothing is left out; the fault comes back if its cause is still
    there."""
    _decide("retry", flow, (topic, partition), config, output, why, yes=yes, dry_run=dry_run)


def _decide(
    action: Action,
    flow: str,
    key: RouteKey,
    config: str | None,
    output: Output,
    why: str,
    *,
    yes: bool,
    dry_run: bool,
) -> None:
    loaded = read_config(config)
    chosen = loaded.flow(flow)
    stand, faults = _read(loaded, chosen)
    one = choose(chosen.name, key, action, stand, faults)
    if output is Output.TABLE:
        render.emit_lines([*_what_lines(one), f"{action}: {one.effect(action)}"])
    if not dry_run:
        if not yes:
            _confirm(action, one)
        desired = Desired(v=VERSION, action=action, since_ms=one.fault.since_ms, by=who(), why=why, at_ms=wall_ms())
        target = cluster_of(loaded, chosen.target)
        order(target, chosen.name, key, desired)
    if output is Output.JSON:
        item = {**fault_item(one), "action": action, "effect": one.effect(action), "dry_run": dry_run}
        render.emit_json("FaultOrder", [item])
    elif dry_run:
        render.emit("dry run: nothing was changed")
    else:
        render.emit(
            f"ordered: a running worker does it within seconds, otherwise the next start; "
            f'"{PROGRAM} status {chosen.name}" shows it'
        )


def choose(flow: str, key: RouteKey, action: Action, stand: Standing, faults: Sequence[Found]) -> Found:
    """The fault that is meant. Raises Refused when there is none, or when the action cannot do anything."""
    place = f"{key[0]}[{key[1]}]"
    one = next((fault for fault in faults if fault.key == key), None)
    if one is None:
        listing = f'"{PROGRAM} fault list {flow}" shows the partitions that stand still.'
        position = stand.positions().get(key)
        if position is not None:
            raise Refused(f"flow {flow}: {place} is not faulted, it is {position.state}", hint=listing)
        if stand.troubles:
            cause = next(iter(stand.troubles.values()))
            raise Refused(f"flow {flow}: {place} cannot be found, a lane cannot be read: {cause}", hint="Try again.")
        raise Refused(f"flow {flow}: {place} is not mirrored by this flow", hint=listing)
    if action == "accept" and not one.acceptable:
        raise Refused(
            f"flow {flow}: {place}: {one.fault.reason} cannot be accepted: where the next batch begins is not known",
            hint=f'Mend the cause, then run "{one.command("retry")}".',
        )
    return one


def _confirm(action: Action, one: Found) -> None:
    """A person's yes. Raises ConfigError where nobody can be asked, Refused for a no."""
    if not _at_terminal():
        raise ConfigError(
            f"flow {one.flow}: {one.place}: nobody can be asked whether to {action} this fault",
            hint=f'Without a terminal, say it on the command line: "{one.command(action)} --yes".',
        )
    if not typer.confirm(f"{action} this fault?", default=False, err=True):
        raise Refused("nothing was changed")


def _at_terminal() -> bool:
    return sys.stdin is not None and sys.stdin.isatty()


def _read(config: Config, flow: FlowConfig) -> tuple[Standing, list[Found]]:
    """The flow's lanes, and its faults with the orders about them. Raises Preflight when the target cannot be asked."""
    target: Cluster = cluster_of(config, flow.target)
    brokers = target.brokers("cli")
    with asking(target):
        try:
            stand = report.standing(flow.name, brokers)
            desired = Control(brokers, flow.name).read() if stand.record is not None else {}
        finally:
            brokers.close()
    return stand, [
        Found(flow.name, key, position, position.fault, _pending(position.fault, desired.get(key)))
        for key, position in sorted(stand.positions().items())
        if position.fault is not None
    ]


def _pending(fault: Fault, desired: Desired | None) -> Desired | None:
    """An order counts for the very fault that it was given about."""
    return desired if desired is not None and desired.since_ms == fault.since_ms else None


# --- rendering


def fault_item(one: Found) -> dict[str, Any]:
    return {
        "flow": one.flow,
        "topic": one.key[0],
        "partition": one.key[1],
        "state": one.position.state,
        "position": one.position.next_offset,
        "reason": one.fault.reason,
        "detail": one.fault.detail,
        "since": render.moment(one.fault.since_ms),
        "accept": {"effect": one.effect("accept"), "command": one.command("accept")} if one.acceptable else None,
        "retry": {"effect": RETRYING, "command": one.command("retry")},
        "ordered": None
        if one.ordered is None
        else {
            "action": one.ordered.action,
            "by": one.ordered.by,
            "why": one.ordered.why,
            "at": render.moment(one.ordered.at_ms),
        },
    }


def list_lines(found: Sequence[Found], never: Sequence[str], now: int, *, complete: bool) -> Iterator[Text | str]:
    """A paragraph per fault. "no faults" is said only if every lane could be read."""
    for flow in never:
        yield f"flow {flow} has never been started"
    if not found and complete and not never:
        yield "no faults"
    for one in found:
        yield from _what_lines(one, now)
        if one.acceptable:
            yield f"  accept: {one.effect('accept')}"
            yield f"          {one.command('accept')}"
        else:
            yield "  accept: cannot be accepted, where the next batch begins is not known"
        yield f"  retry:  {RETRYING}"
        yield f"          {one.command('retry')}"
        if one.ordered is not None:
            since = render.ago(one.ordered.at_ms, now)
            yield f"  ordered: {one.ordered.action} by {render.clean(one.ordered.by)} {since}, not carried out yet"
        yield ""


def _what_lines(one: Found, now: int | None = None) -> Iterator[Text | str]:
    since = f" since {render.moment(one.fault.since_ms)}"
    age = "" if now is None else f" ({render.ago(one.fault.since_ms, now)})"
    yield Text(f"flow {one.flow}: {one.place}: {one.fault.reason}{since}{age}", style="bold red")
    yield f"  at source offset {one.position.next_offset}: {render.clean(one.fault.detail)}"
