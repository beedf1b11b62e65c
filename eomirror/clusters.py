"""Every client and connection is made here: one set of keys per cluster, one place that reads them."""

from __future__ import annotations

import logging
from typing import Any, Final

from confluent_kafka import Consumer, KafkaException, Producer
from confluent_kafka.admin import AdminClient

from eomirror import logs
from eomirror.brokers import CONNECT_SECONDS, REQUEST_SECONDS, Brokers
from eomirror.config import ClusterConfig
from eomirror.dialect import spoken_at
from eomirror.errors import ConnectionLost, Preflight
from eomirror.reading import Reader
from eomirror.security import Security
from eomirror.wire import API_NAMES, SPOKEN, Address, Network, TcpNetwork

# What is set whatever the configuration says, and why. The configuration refuses these keys; it never ignores them.
FORCED_ADMIN: Final[dict[str, tuple[Any, str]]] = {
    "allow.auto.create.topics": (False, "asking for a topic must never create it"),
}
FORCED_PRODUCER: Final[dict[str, tuple[Any, str]]] = {
    "allow.auto.create.topics": (False, "a control topic that is missing is an error, not a new topic"),
    "enable.idempotence": (True, "an order is written once"),
    "acks": ("all", "an order that was confirmed must survive a broker"),
    "message.timeout.ms": (15000, "a person waits for the answer"),
}
FORCED_CONSUMER: Final[dict[str, tuple[Any, str]]] = {
    "allow.auto.create.topics": (False, "asking for a topic must never create it"),
    "auto.offset.reset": ("error", "an offset that is gone is told, never replaced by another"),
    "check.crcs": (True, "what is compared must be what was written"),
    "enable.auto.commit": (False, "reading leaves no trace"),
    "enable.auto.offset.store": (False, "reading leaves no trace"),
    "enable.partition.eof": (True, "markers at the end are no records; only this tells that they are passed"),
    "fetch.error.backoff.ms": (100, "a person waits for the answer"),
    "fetch.wait.max.ms": (10, "a person waits for the answer"),
    "group.id": ("eomirror.verify", "the library wants one; no group is joined"),
    "isolation.level": ("read_committed", "aborted records are nobody's"),
    "queued.max.messages.kbytes": (16384, "bounds the memory of a reader"),
}

log = logs.get("librdkafka")


class Cluster:
    """One configured cluster: makes connections for threads and clients for tools."""

    def __init__(self, name: str, config: ClusterConfig, network: Network | None = None) -> None:
        self.name = name
        self.config = config
        self.network = network or TcpNetwork()
        self._security = Security.of(config.client)
        self._admin: AdminClient | None = None

    @property
    def rack(self) -> str:
        return self.config.client.get("client.rack", "")

    def brokers(self, role: str) -> Brokers:
        """Connections for one thread; `role` shows in the client id, and so in the brokers' logs and quotas."""
        keys = self.config.client
        return Brokers(
            self.name,
            [Address(*one) for one in self.config.addresses],
            f"{keys.get('client.id', 'eomirror')}-{role}",
            self.network,
            connect_seconds=int(keys.get("socket.connection.setup.timeout.ms", CONNECT_SECONDS * 1000)) / 1000,
            request_seconds=int(keys.get("socket.timeout.ms", REQUEST_SECONDS * 1000)) / 1000,
            security=self._security,
        )

    def admin(self) -> AdminClient:
        """For topics and their configs; one per cluster, which keeps it alive until its futures are done."""
        if self._admin is None:
            self._admin = AdminClient(self._client(FORCED_ADMIN))
        return self._admin

    def producer(self) -> Producer:
        """For the control topic only; mirrored records never pass through it."""
        return Producer(self._client(FORCED_PRODUCER))

    def reader(self) -> Reader:
        """For reading back what was mirrored; to be closed by the caller. Raises ConnectionLost."""
        consumer = Consumer(self._client(FORCED_CONSUMER))
        try:
            # One that is sent to a partition before it has a connection asks for its leader again only a second later.
            consumer.list_topics(timeout=CONNECT_SECONDS)
        except KafkaException as error:
            consumer.close()
            raise ConnectionLost(f"cluster {self.name}: {error.args[0].str()}") from error
        return Reader(self.name, consumer, self.network)

    def _client(self, forced: dict[str, tuple[Any, str]]) -> dict[str, Any]:
        options: dict[str, Any] = {"bootstrap.servers": self.config.bootstrap, **self.config.client}
        options.update({key: value for key, (value, _) in forced.items()})
        options["logger"] = log
        return options


def require_transactions(target: Brokers) -> None:
    """Raises Preflight unless the target's brokers offer what either version of the transaction protocol needs, and
    ConnectionLost for one that is still starting."""
    connection = target.any()
    missing = [api for api in SPOKEN if not connection.supports(api)]
    if missing:
        lacking = ", ".join(f"{API_NAMES[api]} v{SPOKEN[api][0]}" for api in missing)
        raise Preflight(
            f"cluster {target.name}: the brokers do not offer {lacking} or newer",
            hint="A target needs Kafka 3.1 or newer.",
        )
    spoken_at(connection)


logging.getLogger("confluent_kafka").addHandler(logging.NullHandler())
