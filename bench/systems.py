"""A replicator under test as a process, and eomirror as its users start it; MirrorMaker 2 is in peer.py."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from integration.cluster import ROOT, Cluster, tethered
from integration.process import ENTRY, INSTALLED


@dataclass(frozen=True)
class Task:
    """What a replicator is to do in one round."""

    source: Cluster
    target: Cluster
    topic: str
    folder: Path  # for its configuration and its log
    codec: str = "none"
    flow: Mapping[str, Any] = field(default_factory=dict)  # eomirror's settings beyond the defaults
    overlays: tuple[str, ...] = ()  # MirrorMaker 2's property files beyond common and its mode's
    header: tuple[str, str] | None = None  # name and value of the header that is to be added


def relative(text: str) -> str:
    """The text without the place of the checkout, which is nobody's business in a result."""
    return text.replace(str(ROOT), ".")


class Running:
    """A started replicator."""

    def __init__(self, command: Sequence[str], log: Path, env: Mapping[str, str]) -> None:
        self._command, self._log, self._env = list(command), log, dict(env)
        self._start()

    def _start(self) -> None:
        with self._log.open("ab") as out:
            self.process = subprocess.Popen(
                tethered(self._command),
                cwd=ROOT,
                env={**os.environ, **self._env},
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        """Root of its process tree."""
        return self.process.pid

    @property
    def alive(self) -> bool:
        """True while it runs."""
        return self.process.poll() is None

    def stop(self, timeout: float = 20.0) -> None:
        """SIGTERM, and SIGKILL if it takes longer than that many seconds."""
        self.process.terminate()
        try:
            self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            self.kill()

    def kill(self) -> None:
        """SIGKILL to the whole tree."""
        if self.alive:
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def kill_and_restart(self) -> None:
        """SIGKILL, and the same command again at once."""
        self.kill()
        self._start()

    def tail(self, lines: int = 30) -> str:
        """The end of its log, paths relative to the checkout."""
        return relative("\n".join(self._log.read_text(errors="replace").splitlines()[-lines:]))


class System(Protocol):
    """One of the replicators."""

    @property
    def name(self) -> str:
        """In options and results."""

    @property
    def title(self) -> str:
        """For people."""

    def start(self, task: Task) -> Running:
        """Starts it on a task."""

    def settings(self, task: Task) -> str:
        """The settings and the command, for the result."""

    def is_internal(self, topic: str) -> bool:
        """Is this one of the topics in which it keeps its state?"""


@dataclass(frozen=True)
class Eomirror:
    """eomirror as shipped, or as a module starts it, with settings of its own."""

    name: str = "eomirror"
    title: str = "eomirror"
    module: str = "eomirror.cli"
    flow: Mapping[str, Any] = field(default_factory=dict)

    def document(self, task: Task) -> dict[str, Any]:
        """Its configuration."""
        flow: dict[str, Any] = {
            "name": "bench",
            "source": "source",
            "target": "target",
            "topics": {"include": [task.topic]},
            **task.flow,
            **self.flow,
        }
        if task.header is not None:
            flow["transform"] = [{"set": dict(zip(("header", "value"), task.header, strict=True))}]
        clusters = {one.name: {"bootstrap": one.bootstrap} for one in (task.source, task.target)}
        return {"apiVersion": "eomirror/v1", "clusters": clusters, "flows": [flow]}

    def start(self, task: Task) -> Running:
        path = self._written(task)
        command = [sys.executable, "-m", self.module, "run", "bench"]
        return Running(command, task.folder / "eomirror.log", {**INSTALLED, "EOMIRROR_CONFIG": str(path)})

    def _written(self, task: Task) -> Path:
        path = task.folder / "eomirror.yaml"
        path.write_text(json.dumps(self.document(task), indent=2) + "\n")
        return path

    def settings(self, task: Task) -> str:
        path = self._written(task)
        command = [*ENTRY, "config", "show", "--resolved"]
        env = {**os.environ, "EOMIRROR_CONFIG": str(path)}
        shown = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=True).stdout
        absent = Path(INSTALLED["PYTHONPATH"]).relative_to(ROOT)
        return (
            f"# PYTHONPATH={absent} .venv/bin/python -m {self.module} run bench\n"
            f"# ({absent} hides the packages that only tests need; a user's installation has none of them.)\n{shown}"
        )

    def is_internal(self, topic: str) -> bool:
        return topic.startswith("__eomirror.")
