"""Kafka clusters (KRaft) on loopback, in processes or in containers (see home.py). One node is the rule:

    with Cluster.start("source", folder) as source:
        source.create_topic("orders", partitions=3)
        source.kill(); source.restart()

Node 1 is broker and controller in one JVM. More nodes are brokers only, so each of them can be taken away while the
controller stays; `node=2` names one where the verbs without it mean all:

    with Cluster.start("target", folder, nodes=2) as target:
        target.create_topic("orders", replicas=[[2, 1], [1, 2]])
        target.kill(node=2); target.restart(node=2)

What a cluster keeps about groups and transactions lies on node 1. Node 1 has `folder`, node n `folder/node-n`.
"""

from __future__ import annotations

import base64
import shutil
import time
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from confluent_kafka import KafkaException, Producer
from confluent_kafka.admin import NewTopic

from .home import home
from .jvm import java, kafka_jars, tethered
from .node import NEWEST, ROOT, SERVER, ClusterError, Node, free_ports
from .questions import Questions

__all__ = ["ROOT", "Cluster", "ClusterError", "free_ports", "java", "kafka_jars", "start_pair", "tethered"]

START_TIMEOUT = 90.0  # seconds; a busy machine with two cores takes about 5

# Everybody is User:ANONYMOUS without SASL, and may do all that no rule speaks of.
ACLS = {
    "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
    "allow.everyone.if.no.acl.found": "true",
}


class Cluster(Questions):
    """The nodes of one cluster. Made by `start`, or by `launch` (does not wait) followed by `wait_ready`."""

    def __init__(self, name: str, folder: Path, release: str, features: Mapping[str, int], settings: Any) -> None:
        super().__init__()
        self.name = name
        self.folder = folder
        self.nodes: dict[int, Node] = {}
        # A leading dash would be read as an option by the format command.
        self.cluster_id = "e" + base64.urlsafe_b64encode(uuid.uuid4().bytes).decode()[:21]
        self._home = home()
        self._release = release
        self._features = features
        self._settings = settings
        self._controller_port = 0

    # -- life -------------------------------------------------------------------------------------------------------

    @classmethod
    def start(cls, name: str, folder: Path | str, **options: Any) -> Cluster:
        """A formatted, running cluster that answers. For the options see `launch`. Raises ClusterError."""
        cluster = cls.launch(name, folder, **options)
        cluster.wait_ready()
        return cluster

    @classmethod
    def launch(
        cls,
        name: str,
        folder: Path | str,
        *,
        nodes: int = 1,
        release: str = NEWEST,
        transaction_version: int | None = None,
        acls: bool = False,
        heap_mb: int = 512,
        quick: bool = True,
        tether: bool = True,
        listeners: Sequence[str] = (),
        format_options: Sequence[str] = (),
        overrides: Mapping[str, object] | None = None,
        **server: object,
    ) -> Cluster:
        """Formats the storage and starts the JVMs; `wait_ready` must follow. Two clusters are up sooner this way.
        Raises ClusterError, NoSuchRelease if that release is not to be had here.

        nodes    how many, numbered from 1
        release  one of RELEASES; 3.9 knows transactions version 1 only
        transaction_version   1 or 2, the feature level; None is the release's own
        acls     True for an authorizer, so that `deny` works
        heap_mb  each JVM's heap in MiB
        quick    JVM flags for a quick start (first-tier compiler, serial collector); False for benchmarks
        tether   False leaves the brokers running when this process ends
        listeners   of a single node, beside the plain one: `NAME://127.0.0.1:port`
        format_options   more of the format command
        overrides, **server   server.properties beyond SERVER, dots in keys (`**{"log.roll.ms": 5}`); None removes a key
        """
        features = {} if transaction_version is None else {"transaction.version": transaction_version}
        settings = {**(ACLS if acls else {}), **(overrides or {}), **server}
        cluster = cls(name, Path(folder), release, features, settings)
        ports = free_ports(nodes + 1)
        cluster._controller_port = ports[0]
        for number in range(1, nodes + 1):
            node = cluster._home(
                name if nodes == 1 else f"{name} node {number}",
                number,
                cluster.folder if number == 1 else cluster.folder / f"node-{number}",
                ports[number],
                release=release,
                heap_mb=heap_mb,
                quick=quick,
                tether=tether,
            )
            node.format(cluster.cluster_id, cluster._controller_port, settings, features, listeners, format_options)
            node.spawn()
            cluster.nodes[number] = node
        return cluster

    def wait_ready(self, timeout: float = START_TIMEOUT) -> None:
        """Returns when every running broker is registered and transaction coordinators answer. Raises ClusterError."""
        deadline = time.monotonic() + timeout
        for node in self._running():
            while not node.listens:
                node.check_alive()
                if time.monotonic() > deadline:
                    raise ClusterError(node.report(f"no answer on {node.address} within {timeout:.0f} s"))
                time.sleep(0.05)
        cause: object = "not all brokers are registered"
        while time.monotonic() < deadline:
            running = self._running()
            for node in running:
                node.check_alive()
            try:
                there = {node.id for node in self.admin.describe_cluster(request_timeout=5).result(10).nodes}
                if there >= {node.number for node in running}:
                    self._place_coordinators()
                    # The first InitProducerId creates the transaction state topic and loads the coordinator.
                    probe = Producer(
                        self.client({"transactional.id": "harness.ready", "transaction.timeout.ms": 10000})
                    )
                    probe.init_transactions(max(1.0, min(10.0, deadline - time.monotonic())))
                    return
            except KafkaException as error:
                cause = error
            time.sleep(0.1)
        raise ClusterError(self._first.report(f"not ready within {timeout:.0f} s: {cause}"))

    def stop(self, timeout: float = 30.0, *, node: int | None = None) -> None:
        """SIGTERM and wait; SIGKILL if a broker takes longer than that many seconds. Does nothing if it is down."""
        for each in reversed(self._chosen(node)):  # the controller last: brokers ask it whether they may go
            each.stop(timeout)

    def kill(self, *, node: int | None = None) -> None:
        """SIGKILL: the broker writes nothing more, not even its clean-shutdown file."""
        for each in self._chosen(node):
            each.kill()

    def restart(self, timeout: float = START_TIMEOUT, *, node: int | None = None) -> None:
        """The same ports, cluster id and data again; stops the broker first if it is up."""
        self.stop(node=node)
        for each in self._chosen(node):
            each.spawn()
        self.wait_ready(timeout)

    def pause(self, *, node: int | None = None) -> None:
        """SIGSTOP: connections stay open and nothing answers."""
        for each in self._chosen(node):
            each.pause()

    def resume(self, *, node: int | None = None) -> None:
        """SIGCONT after `pause`; does nothing otherwise."""
        for each in self._chosen(node):
            each.resume()

    def recover(self) -> None:
        """Resumes and restarts whatever a test has left paused or down."""
        self.resume()
        down = [node for node in self.nodes.values() if not node.running]
        for node in down:
            node.spawn()
        if down:
            self.wait_ready()

    def remove(self) -> None:
        """Stops the brokers at once and deletes their folders."""
        self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)

    def __enter__(self) -> Cluster:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    # -- looking ----------------------------------------------------------------------------------------------------

    @property
    def bootstrap(self) -> str:
        """host:port for clients, with commas between."""
        return ",".join(node.address for node in self.nodes.values())

    @property
    def port(self) -> int:
        """Node 1's port."""
        return self._first.port

    @property
    def pid(self) -> int:
        """Node 1's process id. Raises ClusterError if it is down."""
        return self._first.pid

    @property
    def log_dir(self) -> Path:
        """Where node 1 keeps its partitions."""
        return self._first.log_dir

    @property
    def log_file(self) -> Path:
        """Node 1's kafka.log."""
        return self._first.log_file

    @property
    def running(self) -> bool:
        """True while all JVMs live."""
        return all(node.running for node in self.nodes.values())

    def segments(self, topic: str, partition: int) -> list[Path]:
        """The .log files of a partition as node 1 has them on disk, oldest first."""
        return self._first.segments(topic, partition)

    def tool(self, main_class: str, *arguments: str, timeout: float = 60.0) -> str:
        """Runs one of Kafka's own tools and returns its stdout. Raises ClusterError with its stderr."""
        return self._home.run_tool(self._release, main_class, *arguments, folder=self.folder, timeout=timeout)

    def log_tail(self, lines: int = 30) -> str:
        """The last lines of node 1's kafka.log."""
        return self._first.log_tail(lines)

    # -- inside -----------------------------------------------------------------------------------------------------

    @property
    def _first(self) -> Node:
        return self.nodes[1]

    def _chosen(self, node: int | None) -> list[Node]:
        return list(self.nodes.values()) if node is None else [self.nodes[node]]

    def _running(self) -> list[Node]:
        return [node for node in self.nodes.values() if node.running]

    def _place_coordinators(self) -> None:
        """Puts the state of groups and transactions on node 1, where there is a choice."""
        if len(self.nodes) == 1:
            return
        known = self.topics()
        for topic, key in (("__transaction_state", "transaction.state.log"), ("__consumer_offsets", "offsets.topic")):
            if topic not in known:
                config = {"cleanup.policy": "compact", "compression.type": "uncompressed"}
                placed = [[1]] * int(str(SERVER[f"{key}.num.partitions"]))
                wanted = NewTopic(topic, num_partitions=len(placed), replica_assignment=placed, config=config)
                self.admin.create_topics([wanted])[topic].result(30)


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
