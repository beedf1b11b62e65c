"""One Kafka node: its JVM, its folder and its `server.properties`; and what starting one takes: jars, ports, a tether.

A node's folder holds `server.properties`, `kafka.log` and `data/`, whose segment files may be read by tests. Its JVM
dies with the process that started it, however that one dies (see tether.py).
"""

from __future__ import annotations

import atexit
import contextlib
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TETHER = Path(__file__).with_name("tether.py")

# Ports below the kernel's ephemeral range: an outgoing connection can never sit on the port of a broker that is down.
PORTS = range(20000, 32000)

# The folders of the releases that `make kafka` fetches: the newest, and the last that has transactions version 1 only.
NEWEST = "4.3"
RELEASES = {NEWEST: "kafka", "3.9": "kafka-3.9"}

SERVER: dict[str, object] = {
    "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
    "controller.listener.names": "CONTROLLER",
    "inter.broker.listener.name": "PLAINTEXT",
    "auto.create.topics.enable": "false",
    "default.replication.factor": 1,
    "min.insync.replicas": 1,
    "offsets.topic.replication.factor": 1,
    "offsets.topic.num.partitions": 4,
    "transaction.state.log.replication.factor": 1,
    "transaction.state.log.min.isr": 1,
    "transaction.state.log.num.partitions": 8,
    "transaction.abort.timed.out.transaction.cleanup.interval.ms": 1000,
    "share.coordinator.state.topic.replication.factor": 1,
    "share.coordinator.state.topic.min.isr": 1,
    "share.coordinator.state.topic.num.partitions": 4,
    "group.initial.rebalance.delay.ms": 0,
    # A broker that was SIGKILLed is let back in only when the session of its predecessor is over.
    "broker.session.timeout.ms": 4000,
    "broker.heartbeat.interval.ms": 500,
    # Tests move leaders themselves.
    "auto.leader.rebalance.enable": "false",
    # A cleaner that looks often and needs little of the small heap: compaction is over in a second or two.
    "log.cleaner.backoff.ms": 200,
    "log.cleaner.dedupe.buffer.size": 8 * 1024 * 1024,
    # Tests choose old timestamps; only a topic that asks for retention loses records by age.
    "log.retention.ms": -1,
    "log.initial.task.delay.ms": 500,
    "log.retention.check.interval.ms": 1000,
    "num.network.threads": 2,
    "num.io.threads": 4,
    "background.threads": 2,
    "num.recovery.threads.per.data.dir": 1,
}


class ClusterError(Exception):
    """A cluster did not start or did not answer; the message ends with the tail of its log."""


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


def free_ports(count: int) -> list[int]:
    """That many loopback ports on which nothing listens, outside the kernel's ephemeral range."""
    found: list[int] = []
    for port in random.SystemRandom().sample(PORTS, 400):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            found.append(port)
        if len(found) == count:
            return found
    raise ClusterError(f"no {count} free ports in {PORTS.start}-{PORTS.stop}")


def tethered(command: Iterable[str | os.PathLike[str]]) -> list[str]:
    """The command wrapped so that it dies with the calling thread."""
    return [sys.executable, "-I", "-S", str(TETHER), str(os.getpid()), *map(str, command)]


def run_tool(jars: Path, main_class: str, *arguments: str, timeout: float = 60.0) -> str:
    """Runs one of Kafka's own tools and returns its stdout. Raises ClusterError with its stderr."""
    command = [java(), "-Xmx128m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-cp", f"{jars}/*", main_class]
    done = subprocess.run([*command, *arguments], capture_output=True, text=True, timeout=timeout, check=False)
    if done.returncode != 0:
        raise ClusterError(f"{main_class} exited {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout


class Node:
    """One broker process and its folder; node 1 of a cluster is its controller too. The cluster says when it is ready.

    heap_mb, quick, tether   as in `Cluster.launch`
    """

    def __init__(
        self, name: str, number: int, folder: Path, jars: Path, port: int, *, heap_mb: int, quick: bool, tether: bool
    ) -> None:
        self.name = name
        self.number = number
        self.port = port
        self.folder = folder
        self.log_dir = folder / "data"
        self.log_file = folder / "kafka.log"
        self.properties = folder / "server.properties"
        self._jars = jars
        self._heap_mb = heap_mb
        self._quick = quick
        self._tether = tether
        self._process: subprocess.Popen[bytes] | None = None
        self._paused = False

    def format(
        self,
        cluster_id: str,
        controller_port: int,
        settings: Mapping[str, object],
        features: Mapping[str, int],
        listeners: Sequence[str] = (),
        options: Sequence[str] = (),
    ) -> None:
        """Writes `server.properties` (SERVER, and `settings` over it; None removes a key) and formats the storage.

        listeners   beside the plain one; options   more of the format command
        """
        self.log_dir.mkdir(parents=True, exist_ok=True)
        broker = ",".join([f"PLAINTEXT://127.0.0.1:{self.port}", *listeners])
        is_controller = self.number == 1
        whole: dict[str, object] = {
            **SERVER,
            "process.roles": "broker,controller" if is_controller else "broker",
            "node.id": self.number,
            "controller.quorum.voters": f"1@127.0.0.1:{controller_port}",
            "listeners": f"{broker},CONTROLLER://127.0.0.1:{controller_port}" if is_controller else broker,
            "advertised.listeners": broker,
            "log.dirs": self.log_dir,
            **settings,
        }
        lines = [f"{key}={value}" for key, value in whole.items() if value is not None]
        self.properties.write_text("\n".join(lines) + "\n")
        levels = [part for name, level in features.items() for part in ("--feature", f"{name}={level}")]
        tool = "kafka.tools.StorageTool"
        run_tool(self._jars, tool, "format", "-t", cluster_id, "-c", str(self.properties), *levels, *options)

    def spawn(self) -> None:
        """Starts the JVM; it must be down."""
        flags = [f"-Xmx{self._heap_mb}m", f"-Xms{self._heap_mb // 2}m", "-XX:+ExitOnOutOfMemoryError"]
        flags += ["-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"] if self._quick else ["-XX:+UseG1GC"]
        flags += ["-Dorg.slf4j.simpleLogger.showDateTime=true", "-Dorg.slf4j.simpleLogger.dateTimeFormat=HH:mm:ss.SSS"]
        command: list[str] = [java(), *flags, "-cp", f"{self._jars}/*", "kafka.Kafka", str(self.properties)]
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
            _LIVE.add(self)

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
        """SIGKILL: the broker writes nothing more, not even its clean-shutdown file."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._gone()

    def pause(self) -> None:
        """SIGSTOP: connections stay open and nothing answers."""
        self._signal(signal.SIGSTOP)
        self._paused = True

    def resume(self) -> None:
        """SIGCONT after `pause`; does nothing otherwise."""
        if self._paused:
            self._paused = False
            self._signal(signal.SIGCONT)

    @property
    def address(self) -> str:
        """host:port for clients."""
        return f"127.0.0.1:{self.port}"

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

    @property
    def listens(self) -> bool:
        """True if its port takes connections."""
        with socket.socket() as probe:
            probe.settimeout(1)
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def check_alive(self) -> None:
        """Raises ClusterError if the JVM has ended by itself."""
        if not self.running:
            code = None if self._process is None else self._process.returncode
            self._gone()
            raise ClusterError(self.report(f"the broker ended with {code}"))

    def report(self, cause: str) -> str:
        """The cause with the node's name and the end of its log."""
        return f"{self.name}: {cause}\nhint: The end of {self.log_file}:\n{self.log_tail()}"

    def log_tail(self, lines: int = 30) -> str:
        """The last lines of kafka.log."""
        if not self.log_file.exists():
            return ""
        return "\n".join(self.log_file.read_text(errors="replace").splitlines()[-lines:])

    def partition_folder(self, topic: str, partition: int) -> Path:
        """Where this node keeps a partition."""
        return self.log_dir / f"{topic}-{partition}"

    def segments(self, topic: str, partition: int) -> list[Path]:
        """The .log files of a partition as they lie on disk, oldest first."""
        return sorted(self.partition_folder(topic, partition).glob("*.log"))

    def _signal(self, number: signal.Signals) -> None:
        if self._process is not None:
            self._process.send_signal(number)

    def _gone(self) -> None:
        self._process = None
        self._paused = False
        _LIVE.discard(self)


_LIVE: set[Node] = set()


@atexit.register
def _kill_all() -> None:
    for node in list(_LIVE):
        node.kill()
