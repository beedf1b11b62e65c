"""`eomirror run`: the lanes of one flow, or of every flow of the file."""

from __future__ import annotations

import os
import signal
import sys
import time
from types import FrameType
from typing import Annotated

import typer

from eomirror import logs, steps
from eomirror.checkpoint import InternalTopics
from eomirror.cli import plans, render
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
from eomirror.errors import BrokerError, ConfigError, ConnectionLost, EomirrorError, Exit, Fenced, Preflight
from eomirror.topology import Plan
from eomirror.worker import PROGRESS_SECONDS, Progress, Worker, progress, this_process

log = logs.get("run")
TICK_SECONDS = 0.1


@app.command()
def run(
    flow: FlowArgument = None,
    config: ConfigOption = None,
    output: OutputOption = Output.TABLE,
    until_caught_up: Annotated[
        bool, typer.Option("--until-caught-up", help="End when everything committed at the source is mirrored.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and change nothing.")] = False,
) -> None:
    """Mirror until stopped. SIGTERM finishes the open transactions and exits 0; a second one stops at once."""
    if output is Output.JSON and not dry_run:
        raise ConfigError("run answers with its log", hint='Add --dry-run, or set "telemetry.logs.format" to json.')
    loaded = read_config(config)
    flows = flows_of(loaded, flow)
    if dry_run:
        _preview(loaded, flows, output)
        return
    try:
        workers = [_worker(loaded, one) for one in flows]
        stop = _StopSignal(workers)
        planned = [(worker, _survey(loaded, worker)) for worker in workers]
        _refuse_overlap(planned)
        for worker, plan in planned:
            if not stop.received:
                worker.start(plan)
    except EomirrorError as error:
        if logs.configured()[1] != "json":
            raise
        # Whoever reads the log as JSON finds the reason there, not in a line of another shape.
        log.error("run.refused", error=error, exit=int(error.exit_code))
        raise typer.Exit(error.exit_code) from error
    raise typer.Exit(_supervise(workers, stop, until_caught_up=until_caught_up))


def _refuse_overlap(planned: list[tuple[Worker, Plan]]) -> None:
    """Two flows that write the same topic of the same target would each write every record."""
    writers: dict[tuple[str, str], str] = {}
    for worker, plan in planned:
        for topic in sorted(plan.seen):
            other = writers.setdefault((worker.flow.target, topic), worker.flow.name)
            if other != worker.flow.name:
                raise ConfigError(
                    f"flows {other} and {worker.flow.name} would both write {topic} on {worker.flow.target}",
                    hint="Exclude the topic from one of them.",
                )


def _worker(config: Config, flow: FlowConfig) -> Worker:
    return Worker(
        flow,
        cluster_of(config, flow.source),
        cluster_of(config, flow.target),
        this_process(),
        steps.from_environment(),
    )


def _survey(config: Config, worker: Worker) -> Plan:
    """The worker's plan; a cluster that does not answer ends the start as any other preflight does."""
    try:
        return worker.survey()
    except (ConnectionLost, BrokerError) as error:
        flow = worker.flow
        addresses = " and ".join(f"{name} ({config.clusters[name].bootstrap})" for name in (flow.source, flow.target))
        raise Preflight(error.message, hint=error.hint or f"See that {addresses} are up and rightly named.") from error


def _preview(config: Config, flows: list[FlowConfig], output: Output) -> None:
    found = []
    for flow in flows:
        worker = _worker(config, flow)
        try:
            plan = _survey(config, worker)
        finally:
            worker.close()
        target = cluster_of(config, flow.target)
        brokers = target.brokers("cli")
        with asking(target):
            try:
                internal = brokers.metadata(InternalTopics.of(flow.name).names())
            finally:
                brokers.close()
        found.append(plans.preview(flow, plan, internal))
    if output is Output.JSON:
        render.emit_json("Plan", [plans.item(one) for one in found])
    else:
        render.emit_lines(line for one in found for line in (*plans.lines(one), ""))


class _StopSignal:
    """SIGTERM and SIGINT: the first drains, the second ends the process where it stands."""

    def __init__(self, workers: list[Worker]) -> None:
        self._workers = workers
        self.received = False
        self.name = ""
        signal.signal(signal.SIGTERM, self._on_signal)
        signal.signal(signal.SIGINT, self._on_signal)

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        if self.received:
            # Whatever is open is aborted by the next owner, so this is as safe as a crash.
            os._exit(Exit.OK)
        self.received = True
        self.name = signal.Signals(number).name
        # No log from here: the signal may have come in the middle of a log line.
        for worker in self._workers:
            worker.stop()


def _supervise(workers: list[Worker], stop: _StopSignal, *, until_caught_up: bool) -> Exit:
    """Watch the lanes until they have ended; tell how it goes."""
    before = {id(w): (time.monotonic(), progress(w.views())) for w in workers}
    due = time.monotonic() + PROGRESS_SECONDS
    while any(worker.alive for worker in workers):
        time.sleep(TICK_SECONDS)
        if stop.name:
            log.info("run.stopping", signal=stop.name)
            stop.name = ""
        # A flow that another process took is no reason to stop the others; whatever else ends one ends the process.
        if any(worker.failure is not None and not isinstance(worker.failure, Fenced) for worker in workers):
            for worker in workers:
                worker.stop()
        if (
            until_caught_up
            and not stop.received
            and all(worker.failure is not None or worker.caught_up() for worker in workers)
        ):
            for worker in workers:
                worker.stop()
        if time.monotonic() >= due:
            for worker in workers:
                before[id(worker)] = _tell(worker, *before[id(worker)])
            due += PROGRESS_SECONDS
    for worker in workers:
        _tell(worker, *before[id(worker)])
        if isinstance(worker.failure, EomirrorError):
            log.error("flow.ended", flow=worker.flow.name, error=worker.failure)
        elif worker.failure is not None:
            raise worker.failure
    sys.stderr.flush()
    if stop.received and all(worker.failure is None for worker in workers):
        return Exit.OK  # it did what it was asked to; what stands FAULTED is told by status
    return max((worker.outcome() for worker in workers), default=Exit.OK)


def _tell(worker: Worker, since: float, last: Progress) -> tuple[float, Progress]:
    now, current = time.monotonic(), progress(worker.views())
    seconds = max(now - since, 1e-3)
    log.info(
        "flow.progress",
        flow=worker.flow.name,
        records=current.records,
        records_per_second=round((current.records - last.records) / seconds),
        mib_per_second=round((current.bytes - last.bytes) / seconds / 2**20, 1),
        transactions_per_second=round((current.transactions - last.transactions) / seconds, 1),
        lag_records=current.lag,
        rewinds=current.rewinds,
        faulted=current.faulted,
        **({"waiting": current.waiting} if current.waiting else {}),
    )
    return now, current
