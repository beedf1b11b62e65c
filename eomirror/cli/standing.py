"""`eomirror status` and `eomirror lag`: where the flows stand, with or without a worker."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Annotated, Any, Final

import typer
from rich.table import Table
from rich.text import Text

from eomirror import report
from eomirror.cli import render
from eomirror.cli.app import (
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
from eomirror.config import Config, FlowConfig
from eomirror.errors import ConfigError, Exit
from eomirror.records import Fault, Owner, State
from eomirror.report import FlowReport, LaneReport, RouteReport
from eomirror.units import Duration, parse_duration

# A flow with more partitions than that is shown by topic, so that it stays one screen.
ROWS: Final = 30
ATTENTION: Final = 10

NOT_MIRRORED: Final = "NOT_MIRRORED"

DetailOption = Annotated[
    bool | None,
    typer.Option(
        "--partitions/--topics", help=f"A row per partition or per topic; by default per topic above {ROWS} rows."
    ),
]


def look(config: Config, flow: FlowConfig) -> FlowReport:
    """Where one flow stands. Raises Preflight when its target cannot be asked; a source that is away is in the
    report."""
    target = cluster_of(config, flow.target)
    with asking(target):
        return report.look(flow, cluster_of(config, flow.source), target, stall_after=config.worker.stall_after.seconds)


@app.command()
def status(
    flow: FlowArgument = None,
    config: ConfigOption = None,
    output: OutputOption = Output.TABLE,
    partitions: DetailOption = None,
) -> None:
    """Where every partition stands: state, position, lag, faults. Works with no worker running."""
    loaded = read_config(config)
    found = [look(loaded, one) for one in flows_of(loaded, flow)]
    if output is Output.JSON:
        render.emit_json("Status", [status_item(one) for one in found])
        return
    render.emit_lines(line for one in found for line in (*status_lines(one, by_partition=partitions), ""))


@app.command()
def lag(
    flow: FlowArgument = None,
    config: ConfigOption = None,
    output: OutputOption = Output.TABLE,
    partitions: DetailOption = None,
    most: Annotated[
        str | None,
        typer.Option(
            "--max", metavar="DURATION", help="Exit 5 if a partition is further behind than this, or unknown."
        ),
    ] = None,
) -> None:
    """How far the target is behind.

    BEHIND is the age of the oldest committed record that is not mirrored yet. RECORDS is in offsets of the source: an
    upper bound, because control batches, aborted records and compacted ones count too. A paused partition, or one that
    the configuration no longer selects, is shown but never over the threshold.
    """
    limit = None if most is None else duration(most)
    loaded = read_config(config)
    found = [look(loaded, one) for one in flows_of(loaded, flow)]
    if output is Output.JSON:
        render.emit_json("Lag", [lag_item(one, route) for one in found for route in one.routes])
    else:
        render.emit_lines(lag_lines(found, by_partition=partitions))
    if limit is not None:
        over = [line for one in found for line in over_threshold(one, limit)]
        _complain(over)
        raise typer.Exit(Exit.THRESHOLD if over else Exit.OK)
    troubles = [trouble for one in found for trouble in one.trouble]
    _complain(troubles)
    raise typer.Exit(Exit.PREFLIGHT if troubles else Exit.OK)


def duration(text: str) -> Duration:
    """A span of time as the configuration writes it. Raises ConfigError."""
    try:
        return parse_duration(text)
    except ValueError:
        raise ConfigError(
            f"--max: {text!r} is not a duration", hint="Write it with its unit: 500ms, 30s, 5m."
        ) from None


def _complain(lines: Sequence[str]) -> None:
    for line in lines[:ATTENTION]:
        print(f"error: {line}", file=sys.stderr)
    if len(lines) > ATTENTION:
        print(f"error: and {len(lines) - ATTENTION} more", file=sys.stderr)


def over_threshold(found: FlowReport, limit: Duration) -> list[str]:
    """One sentence for each partition that is further behind than `limit`, or whose lag is unknown."""
    over = list(found.trouble)
    if found.record is None:
        return [*over, f"flow {found.flow} has never been started on {found.target}"]
    for route in found.routes:
        if not route.selected or route.state == State.PAUSED:
            continue
        if route.lag_seconds is None and route.note is None and found.trouble:
            continue  # said already, once for all of them
        if route.lag_seconds is None:
            over.append(
                f"{found.flow}: lag of {route.place} is unknown: {route.note or 'its log cannot be read there'}"
            )
        elif route.lag_seconds > limit.seconds:
            over.append(f"{found.flow}: {route.place} is {render.span(route.lag_seconds)} behind, over {limit}")
    return over


# --- as JSON


def status_item(found: FlowReport) -> dict[str, Any]:
    record = found.record
    return {
        "flow": found.flow,
        "source": found.source,
        "target": found.target,
        "started": record is not None,
        "source_cluster_id": record.source_cluster_id if record else None,
        "target_cluster_id": record.target_cluster_id if record else None,
        "created": render.moment(record.created_ms) if record else None,
        "at": render.moment(found.at_ms),
        "trouble": list(found.trouble),
        "lanes": [_lane_item(lane) for lane in found.lanes],
        "routes": [_route_item(route) for route in found.routes],
    }


def _lane_item(lane: LaneReport) -> dict[str, Any]:
    owner = lane.owner
    return {
        "lane": lane.lane,
        "owner": None
        if owner is None
        else {
            "host": owner.host,
            "pid": owner.pid,
            "instance": owner.instance,
            "started": render.moment(owner.started_ms),
        },
        "transactions": lane.transactions,
        "last_commit": render.moment(lane.committed_ms),
        "trouble": lane.trouble,
    }


def _route_item(route: RouteReport) -> dict[str, Any]:
    return {
        "topic": route.topic,
        "partition": route.partition,
        "lane": route.lane,
        "state": route.state,
        "position": route.position,
        "source_start": route.source_start,
        "source_end": route.source_end,
        "target_end": route.target_end,
        "lag_records": route.lag_records,
        "lag_seconds": route.lag_seconds,
        "selected": route.selected,
        "note": route.note,
        "fault": None if route.fault is None else fault_item(route.fault),
    }


def fault_item(fault: Fault) -> dict[str, Any]:
    return {"reason": fault.reason, "detail": fault.detail, "since": render.moment(fault.since_ms)}


def lag_item(found: FlowReport, route: RouteReport) -> dict[str, Any]:
    return {
        "flow": found.flow,
        "topic": route.topic,
        "partition": route.partition,
        "state": route.state,
        "position": route.position,
        "source_end": route.source_end,
        "lag_records": route.lag_records,
        "lag_seconds": route.lag_seconds,
        "selected": route.selected,
        "note": route.note,
    }


# --- as tables


def status_lines(found: FlowReport, *, by_partition: bool | None) -> Iterator[Text | Table | str]:
    """A flow on one screen: who, how far, and what needs a person."""
    head = f"flow {found.flow}: {found.source} -> {found.target}"
    if found.record is None:
        yield Text(f"{head}, never started", style="bold")
        yield f'"eomirror run {found.flow} --dry-run" says what it would do'
    else:
        yield Text(f"{head}, {_count(len(found.lanes), 'lane')}, {_count(len(found.routes), 'partition')}", "bold")
        yield from _owner_lines(found)
    for trouble in found.trouble:
        yield Text(f"unknown: {render.clean(trouble)}", style="yellow")
    if not found.routes:
        return
    if (len(found.routes) <= ROWS) if by_partition is None else by_partition:
        yield _partition_table(found)
    else:
        yield _topic_table(found.routes)
    yield from _attention(found)


def _owner_lines(found: FlowReport) -> Iterator[str]:
    """The last owner once if it is the same in all lanes, else by owner."""
    by_owner: dict[Owner | None, list[LaneReport]] = {}
    for lane in found.lanes:
        if lane.trouble is None:
            by_owner.setdefault(lane.owner, []).append(lane)
    for owner, lanes in by_owner.items():
        place = "" if len(by_owner) == 1 else f"lanes {', '.join(str(lane.lane) for lane in lanes)}: "
        if owner is None:
            yield f"{place}not taken by a worker yet"
            continue
        times = [lane.committed_ms for lane in lanes if lane.committed_ms is not None]
        newest = max(times, default=None)
        yield (
            f"{place}last commit {render.ago(newest, found.at_ms)}, last owner {render.clean(str(owner))} "
            f"(started {render.ago(owner.started_ms, found.at_ms)})"
        )


def _partition_table(found: FlowReport) -> Table:
    made = render.table(
        "TOPIC",
        "PARTITION",
        "LANE",
        "STATE",
        "POSITION",
        "SOURCE END",
        "LAG",
        "BEHIND",
        right=("PARTITION", "LANE", "POSITION", "SOURCE END", "LAG", "BEHIND"),
    )
    for route in found.routes:
        made.add_row(
            route.topic,
            str(route.partition),
            str(route.lane),
            render.state_text(shown_state(route)),
            "-" if route.position is None and found.record is None else render.known(route.position),
            render.known(route.source_end),
            render.known(route.lag_records),
            render.span(route.lag_seconds),
        )
    return made


def _topic_table(routes: Sequence[RouteReport]) -> Table:
    made = render.table("TOPIC", "PARTITIONS", "STATE", "LAG", "BEHIND", right=("PARTITIONS", "LAG", "BEHIND"))
    for topic, mine in by_topic(routes).items():
        states = Counter(shown_state(route) for route in mine)
        told = Text(", ").join(
            render.state_text(state if len(states) == 1 else f"{number} {state}") for state, number in states.items()
        )
        made.add_row(topic, str(len(mine)), told, render.known(sum_known(mine)), render.span(worst(mine)))
    return made


def lag_lines(found: Sequence[FlowReport], *, by_partition: bool | None) -> Iterator[Table | Text | str]:
    """One table for all flows, the furthest behind first: unknown before known."""
    routes = [(one, route) for one in found for route in one.routes]
    for one in found:
        if one.record is None:
            yield f"flow {one.flow}: {one.source} -> {one.target}, never started"
    if not routes:
        return
    if (len(routes) <= ROWS) if by_partition is None else by_partition:
        made = render.table(
            "FLOW", "TOPIC", "PARTITION", "STATE", "RECORDS", "BEHIND", right=("PARTITION", "RECORDS", "BEHIND")
        )
        for one, route in sorted(routes, key=lambda pair: _urgency(pair[1].lag_seconds, pair[1].lag_records)):
            made.add_row(
                one.flow,
                route.topic,
                str(route.partition),
                render.state_text(shown_state(route)),
                render.known(route.lag_records),
                render.span(route.lag_seconds),
            )
        yield made
        return
    made = render.table("FLOW", "TOPIC", "PARTITIONS", "RECORDS", "BEHIND", right=("PARTITIONS", "RECORDS", "BEHIND"))
    topics = [(one, topic, mine) for one in found for topic, mine in by_topic(one.routes).items()]
    for one, topic, mine in sorted(topics, key=lambda row: _urgency(worst(row[2]), sum_known(row[2]))):
        made.add_row(one.flow, topic, str(len(mine)), render.known(sum_known(mine)), render.span(worst(mine)))
    yield made


def _urgency(seconds: float | None, records: int | None) -> tuple[bool, float, bool, int]:
    return seconds is not None, -(seconds or 0.0), records is not None, -(records or 0)


def _attention(found: FlowReport) -> Iterator[Text | str]:
    """What needs a person, faults first; as many as fit. What is the same in several partitions is said once."""
    faulted: dict[tuple[str, str, str], list[RouteReport]] = {}
    noted: dict[tuple[str, str], list[RouteReport]] = {}
    for route in found.routes:
        # A fault says the same as the note in better words; that nothing is mirrored yet is told by the state.
        if route.fault is not None:
            faulted.setdefault((route.topic, route.fault.reason, route.fault.detail), []).append(route)
        elif route.note is not None and shown_state(route) != NOT_MIRRORED:
            noted.setdefault((route.topic, route.note), []).append(route)
    lines: list[Text] = []
    for (_, reason, detail), routes in faulted.items():
        since = min(route.fault.since_ms for route in routes if route.fault is not None)
        age = render.span(max(found.at_ms - since, 0) / 1000)
        lines.append(Text(f"{_places(routes)}: {reason} since {age}: {render.clean(detail)}", style="red"))
    for (_, note), routes in noted.items():
        lines.append(Text(f"{_places(routes)}: {render.clean(note)}", style="yellow"))
    if not lines:
        return
    yield ""
    yield from lines[:ATTENTION]
    if len(lines) > ATTENTION:
        yield f"and {len(lines) - ATTENTION} more"
    if faulted:
        yield f'"eomirror fault list {found.flow}" says what can be done'


def _places(routes: Sequence[RouteReport]) -> str:
    return render.some([route.place for route in routes])


def shown_state(route: RouteReport) -> str:
    """The state, or what stands for it where there is no position."""
    if route.state is not None:
        return route.state
    return NOT_MIRRORED if route.note == report.NOT_MIRRORED_YET else render.UNKNOWN


def by_topic(routes: Sequence[RouteReport]) -> dict[str, list[RouteReport]]:
    topics: dict[str, list[RouteReport]] = {}
    for route in routes:
        topics.setdefault(route.topic, []).append(route)
    return topics


def sum_known(routes: Sequence[RouteReport]) -> int | None:
    """All lags together; one that is unknown makes the sum unknown."""
    known = [route.lag_records for route in routes if route.lag_records is not None]
    return sum(known) if len(known) == len(routes) else None


def worst(routes: Sequence[RouteReport]) -> float | None:
    """The largest lag in seconds; unknown if one is."""
    known = [route.lag_seconds for route in routes if route.lag_seconds is not None]
    return max(known, default=0.0) if len(known) == len(routes) else None


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"
