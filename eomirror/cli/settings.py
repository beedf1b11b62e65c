"""`eomirror config validate|show|schema`: what the configuration says."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from eomirror import config as configuration
from eomirror import shown
from eomirror.cli import render
from eomirror.cli.app import ConfigOption, Output, OutputOption, app, read_config

verbs = typer.Typer(no_args_is_help=True, help="The configuration: check it, show it, describe it.")
app.add_typer(verbs, name="config")


@verbs.command()
def validate(config: ConfigOption = None, output: OutputOption = Output.TABLE) -> None:
    """Check the configuration as a whole; no cluster is asked. Every problem is told with file, line and column."""
    loaded = read_config(config)
    clusters, flows = len(loaded.clusters), len(loaded.flows)
    if output is Output.JSON:
        item = {"file": loaded.file, "valid": True, "clusters": clusters, "flows": flows}
        render.emit_json("ConfigCheck", [item])
        return
    render.emit(
        f"{loaded.file}: ok, {clusters} cluster{'' if clusters == 1 else 's'}, {flows} flow{'' if flows == 1 else 's'}"
    )


@verbs.command()
def show(
    config: ConfigOption = None,
    output: OutputOption = Output.TABLE,
    resolved: Annotated[
        bool, typer.Option("--resolved", help="Also what the transform of each flow is compiled to.")
    ] = False,
) -> None:
    """The configuration as it is understood, defaults included. Secrets are `***`."""
    loaded = read_config(config)
    if output is Output.JSON:
        render.emit_json("Config", [shown.tree(loaded, resolved=resolved)])
    else:
        render.emit(shown.text(loaded, resolved=resolved))


@verbs.command()
def schema() -> None:
    """The JSON Schema of the configuration, for editors."""
    render.emit(json.dumps(configuration.schema(), indent=2))
