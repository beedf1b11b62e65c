"""The application object, its common options, and how an error ends the process."""

from __future__ import annotations

import contextlib
import enum
import sys
import traceback
from collections.abc import Iterator
from typing import Annotated, Any, Final

import typer

from eomirror import logs
from eomirror.clusters import Cluster
from eomirror.config import Config, FlowConfig, load
from eomirror.errors import BrokerError, ConnectionLost, EomirrorError, Exit, Preflight

PROGRAM: Final = "eomirror"

log = logs.get("cli")

app = typer.Typer(
    name=PROGRAM,
    help="Copies Kafka topics between clusters: every committed record exactly once, in order, byte for byte.\n\n"
    "Exit codes: 0 ok, 1 bug, 2 usage or configuration, 3 differs, 4 a cluster is away or unfit, 5 over the "
    "threshold, 6 fenced, 7 refused, 8 gap at the source.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


@app.callback()
def _verbs() -> None:
    """With a callback a single verb stays a verb."""


class Output(enum.StrEnum):
    """How a verb answers."""

    TABLE = "table"
    JSON = "json"


ConfigOption = Annotated[
    str | None, typer.Option("--config", "-c", help="Configuration file; else $EOMIRROR_CONFIG, else ./eomirror.yaml.")
]
OutputOption = Annotated[Output, typer.Option("--output", "-o", help="table for people, json for scripts.")]
FlowArgument = Annotated[str | None, typer.Argument(help="A flow of the configuration; without it, every flow.")]


def read_config(path: str | None) -> Config:
    """Load the configuration and set up logs by it."""
    config = load(path)
    logs.configure(config.telemetry.logs.level, config.telemetry.logs.format)
    return config


def flows_of(config: Config, name: str | None) -> list[FlowConfig]:
    """The named flow, or all. Raises ConfigError with the nearest name."""
    return [config.flow(name)] if name is not None else list(config.flows)


def cluster_of(config: Config, name: str) -> Cluster:
    """A cluster that the configuration has checked to be there."""
    return Cluster(name, config.clusters[name])


@contextlib.contextmanager
def asking(cluster: Cluster) -> Iterator[None]:
    """Questions to one cluster: where it does not answer, the verb ends as a preflight does, and says which address."""
    try:
        yield
    except (ConnectionLost, BrokerError) as error:
        raise Preflight(
            error.message,
            hint=error.hint
            or f"See that its brokers are up and that clusters.{cluster.name}.bootstrap "
            f"({cluster.config.bootstrap}) is right.",
        ) from error


def complain(error: EomirrorError) -> None:
    """One error on stderr: what is wrong, and what to do."""
    print(f"error: {error.message}", file=sys.stderr)
    if error.hint:
        print(f"hint: {error.hint}", file=sys.stderr)


def guarded(application: typer.Typer, arguments: list[str] | None = None) -> int:
    """Run the application and return the exit code; every way to end has its own."""
    command = typer.main.get_command(application)
    try:
        # Without standalone mode typer hands an exit code back, or None.
        ended = command.main(args=arguments, prog_name=PROGRAM, standalone_mode=False)
    except (ConnectionLost, BrokerError) as error:
        complain(Preflight(error.message, hint=error.hint or "See that the brokers are up and the addresses right."))
        return int(Exit.PREFLIGHT)
    except EomirrorError as error:
        complain(error)
        return int(error.exit_code)
    except typer.Abort:
        return int(Exit.REFUSED)
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(Exit.OK)
    except Exception as error:  # noqa: BLE001 - the last door: whatever comes here is reported, and has an exit code
        return _usage(error) if hasattr(error, "format_message") else _bug(error)
    return ended if isinstance(ended, int) else int(Exit.OK)


def _usage(error: Any) -> int:
    """A misuse of the command line, in the words and the shape of all other errors."""
    context = getattr(error, "ctx", None)
    message = str(error.format_message()).strip()
    if context is None or not message or message == context.get_help().strip():
        error.show()
        return int(Exit.USAGE)
    text = message[0].lower() + message[1:].removesuffix(".")
    print(f"error: {text}", file=sys.stderr)
    print(f'hint: {context.get_usage()[7:]}; see "{context.command_path} --help".', file=sys.stderr)
    return int(Exit.USAGE)


def _bug(error: Exception) -> int:
    """What nobody foresaw: everything that a report needs, and exit 1."""
    if logs.configured()[1] == "json":
        log.error("process.bug", error=error, where=logs.where(error))
    else:
        traceback.print_exception(error)
    print(f"error: a bug in eomirror: {type(error).__name__}: {error}", file=sys.stderr)
    print("hint: Nothing that you typed should end like this. Please report it with the lines above.", file=sys.stderr)
    return int(Exit.BUG)
