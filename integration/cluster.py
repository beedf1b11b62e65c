"""Single-node Kafka clusters (KRaft, broker and controller in one JVM) on loopback, from the jars of `make kafka`.

    with Cluster.start("source", folder) as source:
        source.create_topic("orders", partitions=3)
        source.kill(); source.restart()

A cluster lives in one folder: `server.properties`, `kafka.log` and `data/`, whose segment files may be read by tests.
Its JVM dies with the process that started it, however that one dies (see tether.py).
"""

from __future__ import annotations

import atexit
import base64
import contextlib
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from confluent_kafka import IsolationLevel, KafkaError, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import (
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    NewPartitions,
    NewTopic,
    OffsetSpec,
)

ROOT = Path(__file__).resolve().parent.parent
TETHER = Path(__file__).with_name("tether.py")
START_TIMEOUT = 90.0  # seconds; a busy machine with two cores takes about 5

# Ports below the kernel's ephemeral range: an outgoing connection can never sit on the port of a broker that is down.
PORTS = range(20000, 32000)

SERVER: dict[str, object] = {
    "process.roles": "broker,controller",
    "node.id": 1,
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


def kafka_jars() -> Path:
    """The folder of Kafka's jars: $EOMIRROR_KAFKA_LIBS or .work/kafka/libs. Raises ClusterError if they are missing."""
    folder = Path(os.environ.get("EOMIRROR_KAFKA_LIBS") or ROOT / ".work" / "kafka" / "libs")
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


class Cluster:
    """One broker process and its folder. Made by `start`, or by `launch` (does not wait) followed by `wait_ready`."""

    def __init__(
        self,
        name: str,
        folder: Path,
        jars: Path,
        *,
        heap_mb: int,
        quick: bool,
        tether: bool,
        overrides: Mapping[str, object],
    ) -> None:
        self.name = name
        self.folder = folder
        self.log_dir = folder / "data"
        self.log_file = folder / "kafka.log"
        self.properties = folder / "server.properties"
        # A leading dash would be read as an option by the format command.
        self.cluster_id = "e" + base64.urlsafe_b64encode(uuid.uuid4().bytes).decode()[:21]
        self.port, self.controller_port = 0, 0
        self._jars = jars
        self._heap_mb = heap_mb
        self._quick = quick
        self._tether = tether
        self._overrides = dict(overrides)
        self._process: subprocess.Popen[bytes] | None = None
        self._admin: AdminClient | None = None
        self._paused = False

    # -- life -------------------------------------------------------------------------------------------------------

    @classmethod
    def start(cls, name: str, folder: Path | str, jars: Path | None = None, **options: Any) -> Cluster:
        """A formatted, running cluster that answers. For the options see `launch`. Raises ClusterError."""
        cluster = cls.launch(name, folder, jars, **options)
        cluster.wait_ready()
        return cluster

    @classmethod
    def launch(
        cls,
        name: str,
        folder: Path | str,
        jars: Path | None = None,
        *,
        heap_mb: int = 512,
        quick: bool = True,
        tether: bool = True,
        overrides: Mapping[str, object] | None = None,
        **server: object,
    ) -> Cluster:
        """Formats the storage and starts the JVM; `wait_ready` must follow. Two clusters are up sooner this way.

        heap_mb  the JVM's heap in MiB
        quick    JVM flags for a quick start (first-tier compiler, serial collector); False for benchmarks
        tether   False leaves the broker running when this process ends
        overrides, **server   server.properties beyond SERVER, dots in keys (`**{"log.roll.ms": 5}`); None removes a key
        """
        folder = Path(folder)
        (folder / "data").mkdir(parents=True, exist_ok=True)
        cluster = cls(
            name,
            folder,
            jars or kafka_jars(),
            heap_mb=heap_mb,
            quick=quick,
            tether=tether,
            overrides={**(overrides or {}), **server},
        )
        cluster.port, cluster.controller_port = free_ports(2)
        cluster._write_properties()
        cluster._format()
        cluster._spawn()
        return cluster

    def wait_ready(self, timeout: float = START_TIMEOUT) -> None:
        """Returns when the broker is registered and its transaction coordinator answers. Raises ClusterError."""
        deadline = time.monotonic() + timeout
        while not self._listens():
            self._check_alive()
            if time.monotonic() > deadline:
                raise ClusterError(self._report(f"no answer on {self.bootstrap} within {timeout:.0f} s"))
            time.sleep(0.05)
        cause: object = "no answer"
        while time.monotonic() < deadline:
            self._check_alive()
            try:
                nodes = self.admin.describe_cluster(request_timeout=5).result(10).nodes
                if nodes:
                    # The first InitProducerId creates the transaction state topic and loads the coordinator.
                    probe = Producer(
                        self.client({"transactional.id": "harness.ready", "transaction.timeout.ms": 10000})
                    )
                    probe.init_transactions(max(1.0, min(10.0, deadline - time.monotonic())))
                    return
            except KafkaException as error:
                cause = error
            time.sleep(0.1)
        raise ClusterError(self._report(f"not ready within {timeout:.0f} s: {cause}"))

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

    def restart(self, timeout: float = START_TIMEOUT) -> None:
        """The same ports, cluster id and data again; stops the broker first if it is up."""
        self.stop()
        self._spawn()
        self.wait_ready(timeout)

    def pause(self) -> None:
        """SIGSTOP: connections stay open and nothing answers."""
        self._signal(signal.SIGSTOP)
        self._paused = True

    def resume(self) -> None:
        """SIGCONT after `pause`; does nothing otherwise."""
        if self._paused:
            self._paused = False
            self._signal(signal.SIGCONT)

    def remove(self) -> None:
        """Stops the broker at once and deletes its folder."""
        self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)

    def __enter__(self) -> Cluster:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    # -- looking ----------------------------------------------------------------------------------------------------

    @property
    def bootstrap(self) -> str:
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
        """True while the JVM lives."""
        return self._process is not None and self._process.poll() is None

    def client(self, more: Mapping[str, object] | None = None) -> dict[str, object]:
        """A confluent-kafka configuration for this cluster that says nothing on stderr."""
        return {"bootstrap.servers": self.bootstrap, "log_level": 0, "error_cb": _silent, **(more or {})}

    def producer(self, more: Mapping[str, object] | None = None) -> Producer:
        """A producer for this cluster that is connected: one that asks for its producer id before it has a connection
        asks again only half a second later."""
        producer = Producer(self.client(more))
        producer.list_topics(timeout=30)
        return producer

    @property
    def admin(self) -> AdminClient:
        """One AdminClient per cluster; it outlives the futures that it hands out."""
        if self._admin is None:
            self._admin = AdminClient(self.client({"socket.timeout.ms": 10000, "reconnect.backoff.max.ms": 500}))
        return self._admin

    def create_topic(self, topic: str, partitions: int = 1, config: Mapping[str, object] | None = None) -> None:
        """Creates the topic and returns when its leaders answer. Raises KafkaException."""
        settings = {key: str(value) for key, value in (config or {}).items()}
        wanted = NewTopic(topic, num_partitions=partitions, replication_factor=1, config=settings)
        self.admin.create_topics([wanted])[topic].result(30)
        self._await_leaders(topic, partitions)

    def _await_leaders(self, topic: str, partitions: int) -> None:
        deadline = time.monotonic() + 30
        while True:
            try:
                self.end_offsets(topic, partitions=partitions)
                return
            except KafkaException:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.05)

    def delete_topic(self, topic: str) -> None:
        """Deletes the topic and returns when it is gone from the metadata. Raises KafkaException."""
        self.admin.delete_topics([topic])[topic].result(30)
        deadline = time.monotonic() + 30
        while topic in self.topics():
            if time.monotonic() > deadline:
                raise ClusterError(f"{self.name}: {topic} is still there 30 s after its deletion")
            time.sleep(0.05)

    def add_partitions(self, topic: str, total: int) -> None:
        """Raises the partition count to `total` and returns when the new leaders answer. Raises KafkaException."""
        self.admin.create_partitions([NewPartitions(topic, total)])[topic].result(30)
        self._await_leaders(topic, total)

    def set_config(self, topic: str, config: Mapping[str, object]) -> None:
        """Sets these topic settings and leaves the others alone."""
        entries = [
            ConfigEntry(key, str(value), incremental_operation=AlterConfigOpType.SET) for key, value in config.items()
        ]
        resource = ConfigResource(ConfigResource.Type.TOPIC, topic, incremental_configs=entries)
        self.admin.incremental_alter_configs([resource])[resource].result(30)

    def config(self, topic: str) -> dict[str, str]:
        """All settings of the topic as the broker reports them."""
        resource = ConfigResource(ConfigResource.Type.TOPIC, topic)
        entries = self.admin.describe_configs([resource])[resource].result(30)
        return {key: entry.value for key, entry in entries.items()}

    def topics(self) -> dict[str, int]:
        """Topic -> partition count, internal ones included."""
        metadata = self.admin.list_topics(timeout=30)
        return {name: len(topic.partitions) for name, topic in metadata.topics.items()}

    def partitions(self, topic: str) -> int:
        """The topic's partition count. Raises KeyError if there is no such topic."""
        return self.topics()[topic]

    def end_offsets(self, topic: str, *, committed: bool = False, partitions: int | None = None) -> dict[int, int]:
        """Partition -> end offset: the high watermark, or with committed=True the last stable offset."""
        return self._offsets(topic, OffsetSpec.latest(), committed, partitions)

    def start_offsets(self, topic: str, *, partitions: int | None = None) -> dict[int, int]:
        """Partition -> log start offset."""
        return self._offsets(topic, OffsetSpec.earliest(), False, partitions)

    def delete_records(self, topic: str, before: Mapping[int, int]) -> None:
        """Moves the log start of each partition up to the given offset, as retention does."""
        wanted = [TopicPartition(topic, partition, offset) for partition, offset in before.items()]
        for future in self.admin.delete_records(wanted).values():
            future.result(30)

    def segments(self, topic: str, partition: int) -> list[Path]:
        """The .log files of a partition as they lie on disk, oldest first."""
        return sorted((self.log_dir / f"{topic}-{partition}").glob("*.log"))

    def tool(self, main_class: str, *arguments: str, timeout: float = 60.0) -> str:
        """Runs one of Kafka's own tools and returns its stdout. Raises ClusterError with its stderr."""
        command = [
            java(),
            "-Xmx128m",
            "-XX:+UseSerialGC",
            "-XX:TieredStopAtLevel=1",
            "-cp",
            f"{self._jars}/*",
            main_class,
        ]
        done = subprocess.run([*command, *arguments], capture_output=True, text=True, timeout=timeout, check=False)
        if done.returncode != 0:
            raise ClusterError(f"{self.name}: {main_class} exited {done.returncode}\n{done.stdout}{done.stderr}")
        return done.stdout

    def log_tail(self, lines: int = 30) -> str:
        """The last lines of kafka.log."""
        if not self.log_file.exists():
            return ""
        return "\n".join(self.log_file.read_text(errors="replace").splitlines()[-lines:])

    # -- inside -----------------------------------------------------------------------------------------------------

    def _offsets(self, topic: str, spec: OffsetSpec, committed: bool, partitions: int | None) -> dict[int, int]:
        count = self.partitions(topic) if partitions is None else partitions
        isolation = IsolationLevel.READ_COMMITTED if committed else IsolationLevel.READ_UNCOMMITTED
        wanted = {TopicPartition(topic, partition): spec for partition in range(count)}
        futures = self.admin.list_offsets(wanted, isolation_level=isolation, request_timeout=10)
        try:
            return {tp.partition: future.result(15).offset for tp, future in futures.items()}
        except KafkaException as error:
            if error.args[0].code() in (KafkaError._NOENT, KafkaError._UNKNOWN_PARTITION):
                self._admin = None  # a client that asked too early goes on for half a minute saying so
            raise

    def _write_properties(self) -> None:
        settings: dict[str, object] = {
            **SERVER,
            "controller.quorum.voters": f"1@127.0.0.1:{self.controller_port}",
            "listeners": f"PLAINTEXT://127.0.0.1:{self.port},CONTROLLER://127.0.0.1:{self.controller_port}",
            "advertised.listeners": f"PLAINTEXT://127.0.0.1:{self.port}",
            "log.dirs": self.log_dir,
            **self._overrides,
        }
        lines = [f"{key}={value}" for key, value in settings.items() if value is not None]
        self.properties.write_text("\n".join(lines) + "\n")

    def _format(self) -> None:
        self.tool("kafka.tools.StorageTool", "format", "-t", self.cluster_id, "-c", str(self.properties))

    def _spawn(self) -> None:
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

    def _listens(self) -> bool:
        with socket.socket() as probe:
            probe.settimeout(1)
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def _check_alive(self) -> None:
        if self._process is None or self._process.poll() is not None:
            code = None if self._process is None else self._process.returncode
            self._gone()
            raise ClusterError(self._report(f"the broker ended with {code}"))

    def _report(self, cause: str) -> str:
        return f"{self.name}: {cause}\nhint: The end of {self.log_file}:\n{self.log_tail()}"

    def _signal(self, number: signal.Signals) -> None:
        if self._process is not None:
            self._process.send_signal(number)

    def _gone(self) -> None:
        self._process = None
        self._paused = False
        _LIVE.discard(self)


def start_pair(
    folder: Path | str, names: tuple[str, str] = ("source", "target"), **options: Any
) -> tuple[Cluster, Cluster]:
    """Two clusters that start side by side, in sub-folders of `folder`; for the options see `Cluster.launch`."""
    launched: list[Cluster] = []
    try:
        for name in names:
            launched.append(Cluster.launch(name, Path(folder) / name, **options))
        for cluster in launched:
            cluster.wait_ready()
    except BaseException:
        for cluster in launched:
            cluster.kill()
        raise
    return launched[0], launched[1]


def _silent(*_: object) -> None:
    """librdkafka's complaints while a broker is down are expected here."""


_LIVE: set[Cluster] = set()


@atexit.register
def _kill_all() -> None:
    for cluster in list(_LIVE):
        cluster.kill()
