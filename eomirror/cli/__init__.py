"""The command line: parse, call, render, exit. The only place that prints."""

from __future__ import annotations

import io
import sys

from eomirror.cli import faults as _faults
from eomirror.cli import run as _run
from eomirror.cli import settings as _settings
from eomirror.cli import standing as _standing
from eomirror.cli import translate as _translate
from eomirror.cli import verify as _verify
from eomirror.cli import version as _version
from eomirror.cli.app import app, guarded

__all__ = ["app", "main"]

# Importing a group of verbs adds them to the application.
VERBS = (_run, _standing, _translate, _verify, _faults, _settings, _version)


def main() -> None:
    """Entry point: every error of ours ends in one clear message and its exit code."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # A terminal that cannot show a character gets its escape, not an exception.
            stream.reconfigure(errors="backslashreplace")
    sys.exit(guarded(app))


if __name__ == "__main__":
    main()
