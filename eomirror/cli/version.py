"""`eomirror version`."""

from __future__ import annotations

import importlib.metadata
import platform

import confluent_kafka

from eomirror import __version__, _fastpath
from eomirror.cli import render
from eomirror.cli.app import Output, OutputOption, app


@app.command()
def version(output: OutputOption = Output.TABLE) -> None:
    """This program and what it stands on."""
    found = {
        "eomirror": __version__,
        "python": platform.python_version(),
        "kernel_crc32c": _fastpath.crc32c_implementation(),
        "librdkafka": confluent_kafka.libversion()[0],
        "confluent_kafka": importlib.metadata.version("confluent-kafka"),
        "kio": importlib.metadata.version("kio"),
    }
    if output is Output.JSON:
        render.emit_json("Version", [found])
        return
    made = render.table("", "")
    made.show_header = False
    for name, value in found.items():
        made.add_row(name.replace("_", " "), value)
    render.emit_lines([made])
