"""One Kafka node: its folder and its `server.properties`, whatever runs it; and what all nodes share: settings, ports.

A node's folder holds `server.properties`, `kafka.log` and `data/`, whose segment files may be read by tests, and be
rewritten while the broker is down. What runs the broker is the node's home: a process (jvm.py) or a container
(container.py). Either dies with the process that started it, however that one dies.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import random
import socket
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

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


class NoSuchRelease(ClusterError):
    """A release other than the newest is not to be had here; tests that want it are left out."""


def free_ports(count: int) -> list[int]:
    """That many loopback ports on which nothing listens, outside the kernel's ephemeral range.

    Test processes side by side have shares of their own: the port of a broker that is down looks free.
    """
    worker, workers = os.environ.get("PYTEST_XDIST_WORKER", "gw0"), os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1")
    share = PORTS[int(worker.removeprefix("gw")) :: int(workers)]
    found: list[int] = []
    for port in random.SystemRandom().sample(share, 400):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            found.append(port)
        if len(found) == count:
            return found
    raise ClusterError(f"no {count} free ports in {PORTS.start}-{PORTS.stop}")


def tool_command(java: str, jars: str | Path, main_class: str, *arguments: str) -> list[str]:
    """What runs one of Kafka's own tools, with that java and the jars of that folder."""
    return [java, "-Xmx128m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-cp", f"{jars}/*", main_class, *arguments]


class Node(ABC):
    """One broker and its folder; node 1 of a cluster is its controller too. The cluster says when it is ready.

    release, heap_mb, quick, tether   as in `Cluster.launch`
    """

    def __init__(
        self, name: str, number: int, folder: Path, port: int, *, release: str, heap_mb: int, quick: bool, tether: bool
    ) -> None:
        self.name = name
        self.number = number
        self.port = port
        self.folder = folder
        self.log_dir = folder / "data"
        self.log_file = folder / "kafka.log"
        self.properties = folder / "server.properties"
        self._release = release
        self._heap_mb = heap_mb
        self._quick = quick
        self._tether = tether

    @classmethod
    @abstractmethod
    def run_tool(cls, release: str, main_class: str, *arguments: str, folder: Path, timeout: float = 60.0) -> str:
        """Runs one of Kafka's own tools, which may read and write `folder`, and returns its stdout.

        Raises ClusterError with its stderr.
        """

    @abstractmethod
    def spawn(self) -> None:
        """Starts the JVM; it must be down."""

    @abstractmethod
    def stop(self, timeout: float = 30.0) -> None:
        """SIGTERM and wait; SIGKILL if the broker takes longer than that many seconds. Does nothing if it is down."""

    @abstractmethod
    def kill(self) -> None:
        """SIGKILL: the broker writes nothing more, not even its clean-shutdown file. Does nothing if it is down."""

    @abstractmethod
    def pause(self) -> None:
        """Stops its time: connections stay open and nothing answers."""

    @abstractmethod
    def resume(self) -> None:
        """Goes on after `pause`; does nothing otherwise."""

    @property
    @abstractmethod
    def pid(self) -> int:
        """The broker's process id on this machine. Raises ClusterError if it is down."""

    @property
    @abstractmethod
    def running(self) -> bool:
        """True while the JVM lives, paused or not."""

    @abstractmethod
    def _ended(self) -> object:
        """Forgets a JVM that has ended by itself; returns what it ended with."""

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
        arguments = ["format", "-t", cluster_id, "-c", str(self.properties), *levels, *options]
        self.run_tool(self._release, "kafka.tools.StorageTool", *arguments, folder=self.folder)

    @property
    def address(self) -> str:
        """host:port for clients."""
        return f"127.0.0.1:{self.port}"

    @property
    def listens(self) -> bool:
        """True if its port takes connections."""
        with socket.socket() as probe:
            probe.settimeout(1)
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def check_alive(self) -> None:
        """Raises ClusterError if the JVM has ended by itself."""
        if not self.running:
            raise ClusterError(self.report(f"the broker ended with {self._ended()}"))

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

    def _command(self, java: str, jars: str | Path) -> list[str]:
        """What starts the broker, with that java and the jars of that folder."""
        flags = [f"-Xmx{self._heap_mb}m", f"-Xms{self._heap_mb // 2}m", "-XX:+ExitOnOutOfMemoryError"]
        flags += ["-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"] if self._quick else ["-XX:+UseG1GC"]
        flags += ["-Dorg.slf4j.simpleLogger.showDateTime=true", "-Dorg.slf4j.simpleLogger.dateTimeFormat=HH:mm:ss.SSS"]
        return [java, *flags, "-cp", f"{jars}/*", "kafka.Kafka", str(self.properties)]


LIVE: set[Node] = set()  # those that die with this process


@atexit.register
def _kill_all() -> None:
    for node in list(LIVE):
        node.kill()
