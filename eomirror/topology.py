"""Topics on both sides: look (asks the clusters), plan (pure), apply (changes the target)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

import msgspec
from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import (  # type: ignore[attr-defined]
    ConfigResource,
    ConfigSource,
    NewPartitions,
    NewTopic,
    ResourceType,
)

from eomirror.answers import CHANGES_TIMESTAMPS
from eomirror.brokers import EARLIEST, LATEST, Brokers, Metadata
from eomirror.checkpoint import InternalTopics
from eomirror.clusters import Cluster
from eomirror.config import FlowConfig, Instant
from eomirror.errors import BrokerError, Preflight, Refused, error_name
from eomirror.model import RouteKey, RouteSpec

ADMIN_SECONDS: Final = 30.0
BROKER_DEFAULT: Final = -1

# Never copied to the target: what belongs to one cluster's brokers, or would break the promise.
NOT_COPIED: Final = frozenset(
    {
        "message.timestamp.type",  # always CreateTime: records keep their timestamps
        "message.timestamp.before.max.ms",  # a record that the source still has is never too old to be copied
        "message.timestamp.difference.max.ms",  # the same, on brokers before 4.0; newer ones do not know it
        "message.format.version",  # newer brokers do not know it
        "leader.replication.throttled.replicas",
        "follower.replication.throttled.replicas",
    }
)
NOT_COPIED_PREFIX: Final = "remote."

_CHECKPOINT_CONFIG: Final = {
    "cleanup.policy": "compact",
    "segment.bytes": str(8 * 1024 * 1024),
    "min.cleanable.dirty.ratio": "0.1",
    "max.compaction.lag.ms": "3600000",
}
# A bad record is kept until a person deletes it; it may be as large as the brokers' requests.
_QUARANTINE_CONFIG: Final = {
    "cleanup.policy": "delete",
    "retention.ms": "-1",
    "retention.bytes": "-1",
    "max.message.bytes": str(96 * 1024 * 1024),
}
_INTERNAL_COMMON: Final = {"message.timestamp.type": "LogAppendTime", "max.message.bytes": str(16 * 1024 * 1024)}


class TopicConfig(msgspec.Struct, frozen=True):
    """`overrides` were set on the topic itself; `effective` is what counts, defaults included."""

    overrides: dict[str, str]
    effective: dict[str, str]


class Look(msgspec.Struct, frozen=True):
    """Both clusters at one moment, as far as this flow is concerned."""

    source: Metadata
    target: Metadata
    source_configs: dict[str, TopicConfig]
    target_configs: dict[str, TopicConfig]


class Create(msgspec.Struct, frozen=True):
    """A topic to create on the target; BROKER_DEFAULT leaves the replication factor to the brokers."""

    topic: str
    partitions: int
    replication_factor: int
    configs: dict[str, str]


class Grow(msgspec.Struct, frozen=True):
    """A target topic that has fewer partitions than its source; `partitions` is the number it should have."""

    topic: str
    partitions: int


class Plan(msgspec.Struct, frozen=True):
    """What is to be done on the target, what will be mirrored, what a person should know.

    `routes` holds only partitions whose target exists already; after `apply`, a second look completes them. `seen` are
    the flow's topics that the source has.
    """

    creates: tuple[Create, ...] = ()
    grows: tuple[Grow, ...] = ()
    routes: dict[RouteKey, RouteSpec] = {}
    problems: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    seen: frozenset[str] = frozenset()


def look(flow: FlowConfig, source: Cluster, target: Cluster, source_brokers: Brokers, target_brokers: Brokers) -> Look:
    """Ask both clusters. Raises ConnectionLost, BrokerError, Preflight."""
    everything = source_brokers.metadata(None)
    matching = {name for name in everything.topics if flow.topics.matches(name)}
    denied = {name: code for name, code in everything.errors.items() if flow.topics.matches(name)}
    if denied:
        name, code = next(iter(denied.items()))
        raise BrokerError(f"cluster {source.name}: describing {name}", code)
    source_metadata = msgspec.structs.replace(
        everything, topics={name: topic for name, topic in everything.topics.items() if name in matching}
    )
    target_metadata = target_brokers.metadata([*matching, *InternalTopics.of(flow.name).names()])
    present = matching & target_metadata.topics.keys()
    return Look(
        source_metadata,
        target_metadata,
        topic_configs(source, matching),
        topic_configs(target, present),
    )


def plan(flow: FlowConfig, seen: Look) -> Plan:
    """Decide, without asking anybody."""
    creates, grows, routes = [], [], {}
    problems: list[str] = []
    warnings: list[str] = []
    for name, topic in sorted(seen.source.topics.items()):
        there = seen.target.topics.get(name)
        if there is None:
            if name in seen.target.errors:
                problems.append(f"{name}: the target does not describe it ({error_name(seen.target.errors[name])})")
            else:
                creates.append(_create(flow, name, len(topic.partitions), seen))
            continue
        configs = seen.target_configs[name].effective
        obstacle = None
        if configs.get("message.timestamp.type") == "LogAppendTime":
            obstacle = CHANGES_TIMESTAMPS
        elif len(there.partitions) < len(topic.partitions):
            grows.append(Grow(name, len(topic.partitions)))
        if obstacle is not None:
            problems.append(f"{name}: {obstacle}")
        warnings += _warnings(name, seen)
        limit = int(configs.get("max.message.bytes", "1048588"))
        for partition in topic.partitions:
            if partition in there.partitions:
                spec = RouteSpec(name, partition, topic.topic_id, _start(flow), limit, there.topic_id, obstacle)
                routes[spec.key] = spec
    if not seen.source.topics:
        warnings.append("no topic of the source matches topics.include")
    warnings += _fragile(seen)
    return Plan(tuple(creates), tuple(grows), routes, tuple(problems), tuple(warnings), frozenset(seen.source.topics))


def apply(planned: Plan, target: Cluster, brokers: Brokers) -> list[str]:
    """Create and grow target topics; one that exists by now is fine. What the target refuses, topic by topic."""
    problems = create_topics(target, brokers, planned.creates)
    grown = {}
    if planned.grows:
        admin = target.admin()
        futures = admin.create_partitions([NewPartitions(g.topic, g.partitions) for g in planned.grows])
        for grow in planned.grows:
            try:
                # Another process may have grown it since we looked; that it is large enough now is seen below.
                _result(target, f"growing topic {grow.topic}", futures[grow.topic], (KafkaError.INVALID_PARTITIONS,))
                grown[grow.topic] = grow.partitions
            except Preflight as refused:
                problems.append(refused.message)
        _await_partitions(brokers, grown)
    return problems


def create_topics(target: Cluster, brokers: Brokers, creates: Iterable[Create]) -> list[str]:
    """Create topics and wait until the brokers know them: a created topic is news to each broker a moment later.

    What the target refuses is returned, topic by topic: one that cannot be created holds up no other.
    """
    creates = list(creates)
    new = [
        NewTopic(c.topic, num_partitions=c.partitions, replication_factor=c.replication_factor, config=c.configs)
        for c in creates
    ]
    if not new:
        return []
    admin = target.admin()
    futures = admin.create_topics(new, operation_timeout=ADMIN_SECONDS, request_timeout=ADMIN_SECONDS)
    created = {}
    problems = []
    for create in creates:
        try:
            _result(target, f"creating topic {create.topic}", futures[create.topic], (KafkaError.TOPIC_ALREADY_EXISTS,))
            created[create.topic] = create.partitions
        except Preflight as refused:
            problems.append(refused.message)
    _await_partitions(brokers, created)
    return problems


def _await_partitions(brokers: Brokers, wanted: Mapping[str, int]) -> None:
    deadline = brokers.deadline(ADMIN_SECONDS)
    while True:
        topics = brokers.metadata(wanted).topics
        late = [
            name
            for name, count in wanted.items()
            if name not in topics or sum(1 for p in topics[name].partitions.values() if p.node is not None) < count
        ]
        if not late:
            return
        if brokers.network.now() >= deadline:
            raise Preflight(
                f"cluster {brokers.name}: {late[0]} was created but has no leaders after {ADMIN_SECONDS:g} s"
            )
        brokers.network.sleep(0.05)


def internal_creates(flow: FlowConfig) -> tuple[Create, ...]:
    """The internal topics of a flow, as they are created by its first start."""
    factor = flow.topics.replication_factor
    replication = factor if isinstance(factor, int) else BROKER_DEFAULT
    names = InternalTopics.of(flow.name)
    per_topic: tuple[tuple[str, int, dict[str, str]], ...] = (
        (names.checkpoint, flow.lanes, _CHECKPOINT_CONFIG),
        (names.producers, flow.lanes, {"cleanup.policy": "compact"}),
        (names.ledger, flow.lanes, {"cleanup.policy": "delete", "retention.ms": str(30 * 86_400_000)}),
        (names.control, 1, {"cleanup.policy": "compact"}),
    )
    if flow.on_bad_record == "quarantine":
        per_topic += ((names.quarantine, flow.lanes, _QUARANTINE_CONFIG),)
    return tuple(
        Create(name, partitions, replication, {**_INTERNAL_COMMON, **configs})
        for name, partitions, configs in per_topic
    )


def check_internal(flow: FlowConfig, metadata: Metadata, target: str) -> None:
    """Raises Refused unless the internal topics are there with enough partitions. The quarantine holds nothing that is
    needed to go on, so a start may create it anew."""
    for create in internal_creates(flow):
        topic = metadata.topics.get(create.topic)
        if topic is None and create.topic == InternalTopics.of(flow.name).quarantine:
            continue
        if topic is None:
            raise Refused(
                f"cluster {target}: internal topic {create.topic} is missing, others of flow {flow.name} exist",
                hint="Where this flow stands would be unknown. Bring the topic back before you start the flow.",
            )
        if len(topic.partitions) < create.partitions:
            raise Refused(
                f"cluster {target}: {create.topic} has {len(topic.partitions)} partitions, "
                f"flow {flow.name} needs {create.partitions}",
                hint=f"Set lanes: {len(topic.partitions)} for this flow; the lane count is fixed at its first start.",
            )


def not_empty(target: Brokers, metadata: Metadata, topics: Iterable[str]) -> list[str]:
    """The target partitions among these topics that hold something, as `orders[3]`. Raises BrokerError if one cannot
    be asked: not knowing is not the same as empty."""
    keys = [(t, p) for t in topics if t in metadata.topics for p in metadata.topics[t].partitions]
    first = target.list_offsets(metadata, dict.fromkeys(keys, EARLIEST))
    last = target.list_offsets(metadata, dict.fromkeys(keys, LATEST))
    found = []
    for key in keys:
        low, high = first[key], last[key]
        if isinstance(low, BrokerError):
            raise low
        if isinstance(high, BrokerError):
            raise high
        if high > low:
            found.append(f"{key[0]}[{key[1]}]")
    return found


def _create(flow: FlowConfig, name: str, partitions: int, seen: Look) -> Create:
    overrides = seen.source_configs[name].overrides
    configs = {k: v for k, v in overrides.items() if k not in NOT_COPIED and not k.startswith(NOT_COPIED_PREFIX)}
    factor = flow.topics.replication_factor
    if factor == "source":
        replication = seen.source.topics[name].replication
    else:
        replication = factor if isinstance(factor, int) else BROKER_DEFAULT
    needed = configs.get("min.insync.replicas")
    if needed is not None and (replication == BROKER_DEFAULT or int(needed) > replication):
        # With fewer replicas than that no produce would ever be accepted; with the broker's default we cannot know.
        del configs["min.insync.replicas"]
    configs["message.timestamp.type"] = "CreateTime"
    return Create(name, partitions, replication, configs)


def _start(flow: FlowConfig) -> int:
    if isinstance(flow.start, Instant):
        return flow.start.ms
    return EARLIEST if flow.start == "earliest" else LATEST


def _warnings(name: str, seen: Look) -> list[str]:
    here, there = seen.source_configs[name].effective, seen.target_configs[name].effective
    found = []
    theirs, ours = there.get("max.message.bytes"), here.get("max.message.bytes")
    if theirs is not None and ours is not None and int(theirs) < int(ours):
        found.append(
            f"{name}: max.message.bytes is {theirs} on the target and {ours} on the source; a larger batch will be "
            "split, a larger record will fault its partition"
        )
    if "compact" in there.get("cleanup.policy", "") and "compact" not in here.get("cleanup.policy", ""):
        found.append(f"{name}: the target is compacted and the source is not; a record without a key will be refused")
    return found


def _fragile(seen: Look) -> list[str]:
    """Target topics whose committed records one broken machine can take away, a line per kind."""
    present = sorted(seen.source.topics.keys() & seen.target_configs.keys())
    configs = {name: seen.target_configs[name].effective for name in present}
    kinds = {
        "replication factor below 3": [n for n in present if seen.target.topics[n].replication < 3],
        "min.insync.replicas below 2": [n for n in present if int(configs[n].get("min.insync.replicas", "2")) < 2],
        "unclean.leader.election.enable=true": [
            n for n in present if configs[n].get("unclean.leader.election.enable") == "true"
        ],
    }
    return [
        f"on the target, {kind}: {', '.join(names[:3])}{f' and {len(names) - 3} more' if len(names) > 3 else ''}; "
        "a broker that is lost can take committed records with it"
        for kind, names in kinds.items()
        if names
    ]


def topic_configs(cluster: Cluster, topics: Iterable[str]) -> dict[str, TopicConfig]:
    """Topic configurations through the admin client, in slices that brokers answer quickly."""
    names = sorted(topics)
    described: dict[str, TopicConfig] = {}
    if not names:
        return described
    admin = cluster.admin()
    for first in range(0, len(names), 500):
        resources = [ConfigResource(ResourceType.TOPIC, name) for name in names[first : first + 500]]
        futures: Mapping[Any, Any] = admin.describe_configs(resources, request_timeout=ADMIN_SECONDS)
        for resource, future in futures.items():
            entries = _result(cluster, f"describing configs of {resource.name}", future, ())
            effective = {e.name: e.value for e in entries.values() if e.value is not None}
            overrides = {
                e.name: e.value
                for e in entries.values()
                if e.value is not None and e.source == ConfigSource.DYNAMIC_TOPIC_CONFIG.value
            }
            described[resource.name] = TopicConfig(overrides, effective)
    return described


def _result(cluster: Cluster, doing: str, future: Any, fine: tuple[int, ...]) -> Any:
    try:
        return future.result(ADMIN_SECONDS + 5)
    except TimeoutError as error:
        raise Preflight(f"cluster {cluster.name}: {doing}: no answer after {ADMIN_SECONDS + 5:g} s") from error
    except KafkaException as error:
        cause = error.args[0]
        if cause.code() in fine:
            return None
        raise Preflight(f"cluster {cluster.name}: {doing}: {cause.str()} ({cause.name()})") from error
