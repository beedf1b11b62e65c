"""The CLI as a real subprocess: to the end, or in the background, always with a hard time-out and never left behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .cluster import ROOT, tethered

ENTRY = [sys.executable, "-m", "eomirror.cli"]
# What the tests need and a user's installation lacks cannot be imported in the processes under test.
INSTALLED = {"PYTHONPATH": str(ROOT / "integration" / "absent")}


@dataclass(frozen=True)
class Finished:
    """How a command ended: exit code (negative: the signal), its whole stdout and stderr, seconds it took."""

    args: tuple[str, ...]
    code: int
    stdout: str
    stderr: str
    seconds: float

    def json(self) -> Any:
        """stdout as JSON."""
        return json.loads(self.stdout)

    def expect(self, code: int = 0) -> Finished:
        """Itself if the exit code is the expected one. Raises AssertionError with everything that was printed."""
        assert self.code == code, (
            f"eomirror {' '.join(self.args)}: exit {self.code}, expected {code}\n"
            f"stdout:\n{self.stdout}\nstderr:\n{self.stderr}"
        )
        return self


class Background:
    """A running command. Its stdout and stderr are files in `folder`, so nothing ever blocks on a full pipe."""

    def __init__(self, args: tuple[str, ...], folder: Path, label: str, env: Mapping[str, str], limit: float) -> None:
        self.args = args
        self.started = time.monotonic()
        self.stdout_file = folder / f"{label}.stdout"
        self.stderr_file = folder / f"{label}.stderr"
        self._limit = limit
        with self.stdout_file.open("wb") as out, self.stderr_file.open("wb") as err:
            self.process = subprocess.Popen(
                tethered([*ENTRY, *args]),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                cwd=ROOT,
                env={**os.environ, **INSTALLED, **env},
                start_new_session=True,
            )
        # The hard limit holds even if the test never asks again.
        self._watchdog = threading.Timer(limit, self.process.kill)
        self._watchdog.daemon = True
        self._watchdog.start()

    @property
    def pid(self) -> int:
        """Process id."""
        return self.process.pid

    @property
    def running(self) -> bool:
        """True while the process lives."""
        return self.process.poll() is None

    def kill(self) -> Finished:
        """SIGKILL and the result."""
        self.process.kill()
        return self.wait(10)

    def term(self) -> None:
        """SIGTERM: asks `run` to drain. Follow it with `wait`."""
        self.process.send_signal(signal.SIGTERM)

    def pause(self) -> None:
        """SIGSTOP: a zombie in the making."""
        self.process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """SIGCONT."""
        self.process.send_signal(signal.SIGCONT)

    def wait(self, timeout: float | None = None) -> Finished:
        """The result once the process ended. When it takes longer: SIGKILL, AssertionError with its stderr."""
        try:
            self.process.wait(self._limit if timeout is None else timeout)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise AssertionError(
                f"eomirror {' '.join(self.args)}: still running after {timeout} s\nstderr:\n{self.stderr[-8000:]}"
            ) from None
        finally:
            if not self.running:
                self._watchdog.cancel()
        seconds = time.monotonic() - self.started
        return Finished(self.args, self.process.returncode, self.stdout, self.stderr, seconds)

    @property
    def stdout(self) -> str:
        """What it wrote to stdout so far."""
        return self.stdout_file.read_text(errors="replace")

    @property
    def stderr(self) -> str:
        """What it wrote to stderr so far."""
        return self.stderr_file.read_text(errors="replace")

    def events(self) -> list[dict[str, Any]]:
        """The log lines written so far, as objects; a line that is no JSON (unfinished, a traceback) is left out."""
        found = []
        for line in self.stderr.splitlines():
            try:
                event = json.loads(line)
            except ValueError:
                continue
            if isinstance(event, dict):
                found.append(event)
        return found

    def wait_for(self, condition: Callable[[], bool], timeout: float = 30.0, what: str = "the condition") -> None:
        """Returns when the condition holds. AssertionError with stderr if the process ends first or time runs out."""
        deadline = time.monotonic() + timeout
        while not condition():
            why = f"exited {self.process.returncode}" if not self.running else None
            if why is None and time.monotonic() > deadline:
                why = f"waited {timeout} s"
            if why is not None:
                raise AssertionError(f"{what}: {why}\nstderr:\n{self.stderr[-8000:]}")
            time.sleep(0.02)

    def wait_for_text(self, text: str, timeout: float = 30.0) -> None:
        """Returns when stderr contains the text."""
        self.wait_for(lambda: text in self.stderr, timeout, f"waiting for {text!r} on stderr")


class Eomirror:
    """Runs the CLI.

    eomirror("status", "dr", "-o", "json", config=path).expect(0).json()
    running = eomirror.background("run", "dr", config=path); ...; running.term(); running.wait(30).expect(0)
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._started: list[Background] = []

    def __call__(
        self, *args: str, config: Path | None = None, env: Mapping[str, str] | None = None, timeout: float = 60.0
    ) -> Finished:
        """The result of the command. Raises AssertionError when it takes longer than `timeout` seconds."""
        return self.background(*args, config=config, env=env, limit=timeout + 5).wait(timeout)

    def background(
        self, *args: str, config: Path | None = None, env: Mapping[str, str] | None = None, limit: float = 240.0
    ) -> Background:
        """Starts the command; it is killed after `limit` seconds, and at the end of the test in any case."""
        environment = {"NO_COLOR": "1", **({"EOMIRROR_CONFIG": str(config)} if config else {}), **(env or {})}
        label = f"{len(self._started):03d}-{args[0] if args else 'eomirror'}"
        started = Background(args, self.folder, label, environment, limit)
        self._started.append(started)
        return started

    def close(self) -> None:
        """Ends everything that still runs."""
        for process in self._started:
            if process.running:
                process.process.kill()
            process.wait(10)


def write_config(
    path: Path,
    *,
    clusters: Mapping[str, Any],
    flow: str,
    topics: Mapping[str, Any],
    telemetry: Mapping[str, Any] | None = None,
    **settings: Any,
) -> Path:
    """A config file (JSON) with one flow; a cluster is its bootstrap address or a whole mapping. Returns the path."""
    document = {
        "apiVersion": "eomirror/v1",
        "clusters": {k: {"bootstrap": v} if isinstance(v, str) else v for k, v in clusters.items()},
        "flows": [{"name": flow, "source": "source", "target": "target", "topics": topics, **settings}],
        "telemetry": telemetry or {"logs": {"level": "info", "format": "json"}},
    }
    path.write_text(json.dumps(document, indent=2) + "\n")
    return path
