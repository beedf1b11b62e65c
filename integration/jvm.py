"""A node as a process of this machine: the java command, Kafka's jars, and a tether to whoever started it."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from .node import LIVE, NEWEST, RELEASES, ROOT, ClusterError, Node, tool_command

TETHER = Path(__file__).with_name("tether.py")


def java() -> str:
    """The java command: $JAVA_HOME/bin/java, else the one on PATH. Raises ClusterError if there is none."""
    home = os.environ.get("JAVA_HOME")
    found = shutil.which("java", path=f"{home}/bin") if home else shutil.which("java")
    if not found:
        raise ClusterError(
            'no java command\nhint: A JDK 17 or newer is needed. Run "make prereqs" to see what is missing.'
        )
    return found


def kafka_jars(release: str = NEWEST) -> Path:
    """The folder of a release's jars; $EOMIRROR_KAFKA_LIBS stands for that of the newest. Raises ClusterError if they
    are missing."""
    chosen = os.environ.get("EOMIRROR_KAFKA_LIBS") if release == NEWEST else None
    folder = Path(chosen or ROOT / ".work" / RELEASES[release] / "libs")
    if not any(folder.glob("kafka_2.13-*.jar")):
        raise ClusterError(f'{folder}: no Kafka jars\nhint: Run "make kafka" to fetch them.')
    return folder


def tethered(command: Iterable[str | os.PathLike[str]]) -> list[str]:
    """The command wrapped so that it dies with the calling thread."""
    return [sys.executable, "-I", "-S", str(TETHER), str(os.getpid()), *map(str, command)]


class ProcessNode(Node):
    """A broker as a process."""

    def __init__(self, *place: Any, **options: Any) -> None:
        super().__init__(*place, **options)
        self._jars = kafka_jars(self._release)
        self._process: subprocess.Popen[bytes] | None = None
        self._paused = False

    @classmethod
    def run_tool(cls, release: str, main_class: str, *arguments: str, folder: Path, timeout: float = 60.0) -> str:
        """As `Node.run_tool` says; a process may read every folder."""
        command = tool_command(java(), kafka_jars(release), main_class, *arguments)
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=timeout, check=False)
        if done.returncode != 0:
            raise ClusterError(f"{main_class} exited {done.returncode}\n{done.stdout}{done.stderr}")
        return done.stdout

    def spawn(self) -> None:
        """Starts the JVM; it must be down."""
        command = self._command(java(), self._jars)
        with self.log_file.open("ab") as log:
            self._process = subprocess.Popen(
                tethered(command) if self._tether else command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.folder,
                start_new_session=True,
            )
        if self._tether:
            LIVE.add(self)

    def stop(self, timeout: float = 30.0) -> None:
        """SIGTERM and wait; SIGKILL if the broker takes longer than that many seconds. Does nothing if it is down."""
        process = self._process
        if process is None:
            return
        self.resume()
        process.terminate()
        try:
            process.wait(timeout)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        self._gone()

    def kill(self) -> None:
        """SIGKILL. Does nothing if the broker is down."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._gone()

    def pause(self) -> None:
        """SIGSTOP."""
        self._signal(signal.SIGSTOP)
        self._paused = True

    def resume(self) -> None:
        """SIGCONT after `pause`."""
        if self._paused:
            self._paused = False
            self._signal(signal.SIGCONT)

    @property
    def pid(self) -> int:
        """The broker's process id. Raises ClusterError if it is down."""
        if self._process is None:
            raise ClusterError(f"{self.name}: the broker is down")
        return self._process.pid

    @property
    def running(self) -> bool:
        """True while the JVM lives, paused or not."""
        return self._process is not None and self._process.poll() is None

    def _signal(self, number: signal.Signals) -> None:
        if self._process is not None:
            self._process.send_signal(number)

    def _ended(self) -> object:
        code = None if self._process is None else self._process.returncode
        self._gone()
        return code

    def _gone(self) -> None:
        self._process = None
        self._paused = False
        LIVE.discard(self)
