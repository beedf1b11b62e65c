"""What tests ask of a cluster and change in it through ordinary clients: topics, offsets, settings, leaders, rights."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence

from confluent_kafka import ElectionType, IsolationLevel, KafkaError, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import (
    AclBinding,
    AclBindingFilter,
    AclOperation,
    AclPermissionType,
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    NewPartitions,
    NewTopic,
    OffsetSpec,
    PartitionMetadata,
    ResourcePatternType,
    ResourceType,
)

from .node import ClusterError

SECONDS = 30.0  # within which a healthy cluster has done what it was asked for


class Questions(ABC):
    """The clients' side of a cluster."""

    name: str

    def __init__(self) -> None:
        self._admin: AdminClient | None = None

    @property
    @abstractmethod
    def bootstrap(self) -> str:
        """host:port for clients, with commas between."""

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

    # -- topics -----------------------------------------------------------------------------------------------------

    def create_topic(
        self,
        topic: str,
        partitions: int = 1,
        config: Mapping[str, object] | None = None,
        *,
        replicas: Sequence[Sequence[int]] | None = None,
    ) -> None:
        """Creates the topic and returns when its leaders answer. Raises KafkaException.

        replicas   for each partition its nodes, the preferred leader first; in place of `partitions`
        """
        settings = {key: str(value) for key, value in (config or {}).items()}
        if replicas is None:
            wanted = NewTopic(topic, num_partitions=partitions, replication_factor=1, config=settings)
        else:
            partitions = len(replicas)
            placed = [list(nodes) for nodes in replicas]
            wanted = NewTopic(topic, num_partitions=partitions, replica_assignment=placed, config=settings)
        self.admin.create_topics([wanted])[topic].result(30)
        self._await_leaders(topic, partitions)

    def _await_leaders(self, topic: str, partitions: int) -> None:
        deadline = time.monotonic() + SECONDS
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
        deadline = time.monotonic() + SECONDS
        while topic in self.topics():
            if time.monotonic() > deadline:
                raise ClusterError(f"{self.name}: {topic} is still there {SECONDS:g} s after its deletion")
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

    # -- offsets ----------------------------------------------------------------------------------------------------

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

    def _offsets(self, topic: str, spec: OffsetSpec, committed: bool, partitions: int | None) -> dict[int, int]:
        count = self.partitions(topic) if partitions is None else partitions
        isolation = IsolationLevel.READ_COMMITTED if committed else IsolationLevel.READ_UNCOMMITTED
        wanted = {TopicPartition(topic, partition): spec for partition in range(count)}
        deadline = time.monotonic() + SECONDS
        while True:
            futures = self.admin.list_offsets(wanted, isolation_level=isolation, request_timeout=10)
            try:
                return {tp.partition: future.result(15).offset for tp, future in futures.items()}
            except KafkaException as error:
                code = error.args[0].code()
                if code in (KafkaError._NOENT, KafkaError._UNKNOWN_PARTITION, KafkaError.UNKNOWN_LEADER_EPOCH):
                    # A client that asked too early, or knew a topic of that name that is gone, says so for long.
                    self._admin = None
                epochs = (KafkaError.FENCED_LEADER_EPOCH, KafkaError.UNKNOWN_LEADER_EPOCH)
                if code not in epochs or time.monotonic() > deadline:
                    raise
                time.sleep(0.05)  # the client or the broker is behind, and asks for the new leader now

    # -- leaders ----------------------------------------------------------------------------------------------------

    def described(self, topic: str) -> dict[int, PartitionMetadata]:
        """Partition -> what the cluster says of it: `leader` (-1: none), `replicas`, `isrs`."""
        return dict(self.admin.list_topics(topic, timeout=30).topics[topic].partitions)

    def leaders(self, topic: str) -> dict[int, int]:
        """Partition -> the node that leads it, -1 if none does."""
        return {partition: found.leader for partition, found in self.described(topic).items()}

    def await_leader(self, topic: str, partition: int, node: int) -> None:
        """Returns when the node leads the partition and answers for it. Raises ClusterError."""
        deadline = time.monotonic() + SECONDS
        while self.leaders(topic)[partition] != node:
            if time.monotonic() > deadline:
                raise ClusterError(f"{self.name}: {topic}[{partition}]: node {node} does not lead it")
            time.sleep(0.05)
        self._await_leaders(topic, self.partitions(topic))

    def await_in_sync(self, topic: str, partition: int, nodes: set[int]) -> None:
        """Returns when exactly these replicas of the partition are in sync. Raises ClusterError."""
        deadline = time.monotonic() + SECONDS
        while set(self.described(topic)[partition].isrs) != nodes:
            if time.monotonic() > deadline:
                raise ClusterError(f"{self.name}: {topic}[{partition}]: not {nodes} are in sync")
            time.sleep(0.05)

    def elect(self, topic: str, partition: int, *, unclean: bool = False) -> None:
        """Makes the preferred replica the leader; unclean: any that lives, where there is no leader."""
        kind = ElectionType.UNCLEAN if unclean else ElectionType.PREFERRED
        place = TopicPartition(topic, partition)
        done = self.admin.elect_leaders(kind, [place]).result(SECONDS)
        error = done[place]
        if error is not None and error.code() != KafkaError.ELECTION_NOT_NEEDED:
            raise ClusterError(f"{self.name}: {topic}[{partition}]: {error}")

    # -- rights, in a cluster that was launched with acls=True --------------------------------------------------------

    def deny(self, topic: str, *operations: AclOperation) -> None:
        """Nobody may do that with the topic any more; everything else stays allowed to everybody. `permit` ends it."""
        # A topic that has any rule is closed to all that no rule allows.
        rules = [_rule(topic, AclOperation.ALL, AclPermissionType.ALLOW)]
        rules += [_rule(topic, operation, AclPermissionType.DENY) for operation in operations]
        for future in self.admin.create_acls(rules, request_timeout=SECONDS).values():
            future.result(SECONDS)

    def permit(self, topic: str) -> None:
        """Takes back all that `deny` has forbidden on the topic."""
        every = AclBindingFilter(
            ResourceType.TOPIC,
            topic,
            ResourcePatternType.LITERAL,
            None,
            None,
            AclOperation.ANY,
            AclPermissionType.ANY,
        )
        for future in self.admin.delete_acls([every], request_timeout=SECONDS).values():
            future.result(SECONDS)


def _rule(topic: str, operation: AclOperation, permission: AclPermissionType) -> AclBinding:
    return AclBinding(ResourceType.TOPIC, topic, ResourcePatternType.LITERAL, "User:*", "*", operation, permission)


def _silent(*_: object) -> None:
    """librdkafka's complaints while a broker is down are expected here."""
