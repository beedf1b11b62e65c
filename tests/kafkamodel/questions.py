"""Requests that a broker answers at once: versions, metadata, coordinators, offsets, epochs, producers."""

from __future__ import annotations

import datetime
import uuid
from collections.abc import Callable
from typing import Any, Final

from kio.schema.errors import ErrorCode
from kio.static.primitive import i64

from .cluster import ModelCluster, Node, Topic
from .coordinator import State
from .log import PartitionLog
from .messages import (
    API_VERSIONS,
    DESCRIBE_PRODUCERS,
    DESCRIBE_TRANSACTIONS,
    FIND_COORDINATOR,
    LIST_OFFSETS,
    METADATA,
    OFFERED,
    OFFSET_FOR_LEADER_EPOCH,
    ZERO,
    ModelError,
    Request,
    make,
    responses,
)
from .schemas import DescribedTransaction, DescribedTransactions

LATEST: Final = -1
EARLIEST: Final = -2
NEWEST: Final = -3


def leading(cluster: ModelCluster, node: Node, topic: Topic | None, partition: int) -> tuple[ErrorCode, Any]:
    """The log of a partition if this node leads it."""
    if topic is None or not 0 <= partition < len(topic.logs):
        return ErrorCode.unknown_topic_or_partition, None
    if cluster.leader(topic.name, partition) != node.node_id:
        return ErrorCode.not_leader_or_follower, None
    return ErrorCode.none, topic.logs[partition]


def epoch_error(log: PartitionLog, claimed: int) -> ErrorCode:
    if claimed < 0 or claimed == log.leader_epoch:
        return ErrorCode.none
    return ErrorCode.fenced_leader_epoch if claimed < log.leader_epoch else ErrorCode.unknown_leader_epoch


# --- ApiVersions, Metadata, FindCoordinator


def _api_versions(cluster: ModelCluster, node: Node, request: Request) -> Any:
    module = responses(API_VERSIONS, request.version)
    keys = tuple(
        module.ApiVersion(api_key=key, min_version=low, max_version=high) for key, (low, high) in OFFERED.items()
    )
    fields: dict[str, Any] = {}
    if request.version >= 3:
        fields = {
            "supported_features": (
                module.SupportedFeatureKey(name="transaction.version", min_version=0, max_version=2),
            ),
            "finalized_features_epoch": 1,
            "finalized_features": (
                module.FinalizedFeatureKey(
                    name="transaction.version",
                    max_version_level=cluster.coordinator.version,
                    min_version_level=cluster.coordinator.version,
                ),
            ),
        }
    return make(module.ApiVersionsResponse, error_code=ErrorCode.none, api_keys=keys, throttle_time=ZERO, **fields)


def _metadata(cluster: ModelCluster, node: Node, request: Request) -> Any:
    module = responses(METADATA, request.version)
    body = request.body
    if getattr(body, "allow_auto_topic_creation", True):
        raise ModelError("Metadata request allows the creation of topics")
    answers = []
    if body.topics is None:
        wanted: list[tuple[Topic | None, str | None, Any, ErrorCode]] = [
            (t, t.name, t.topic_id, ErrorCode.none) for t in cluster.topics.values()
        ]
    else:
        wanted = []
        for asked in body.topics:
            identifier = getattr(asked, "topic_id", None)
            if identifier is not None:
                topic, missing = cluster.by_id(identifier), ErrorCode.unknown_topic_id
            else:
                topic, missing = cluster.topics.get(asked.name), ErrorCode.unknown_topic_or_partition
            name = topic.name if topic else asked.name
            wanted.append((topic, name, topic.topic_id if topic else identifier, ErrorCode.none if topic else missing))
    injected = cluster.injected_for(request.api, body)
    for topic, name, identifier, error in wanted:
        if injected:  # what may not be described shows nothing but its name
            topic, identifier, error = None, uuid.UUID(int=0), injected.error
        partitions = []
        for p, log in enumerate(topic.logs if topic else ()):
            leader = cluster.leader(topic.name, p) if topic else None
            partitions.append(
                make(
                    module.MetadataResponsePartition,
                    error_code=ErrorCode.none if leader is not None else ErrorCode.leader_not_available,
                    partition_index=p,
                    leader_id=-1 if leader is None else leader,
                    leader_epoch=log.leader_epoch,
                    replica_nodes=(1,),
                    isr_nodes=(1,),
                    offline_replicas=(),
                )
            )
        answers.append(
            make(
                module.MetadataResponseTopic,
                error_code=error,
                name=name,
                topic_id=identifier,
                is_internal=False,
                partitions=tuple(partitions),
            )
        )
    brokers = tuple(
        make(module.MetadataResponseBroker, node_id=n.node_id, host=n.host, port=n.port, rack=None)
        for n in cluster.nodes.values()
        if n.up
    )
    return make(
        module.MetadataResponse,
        throttle_time=ZERO,
        brokers=brokers,
        cluster_id=cluster.cluster_id,
        controller_id=min(cluster.nodes),
        topics=tuple(answers),
        error_code=ErrorCode.none,
    )


def _find_coordinator(cluster: ModelCluster, node: Node, request: Request) -> Any:
    module = responses(FIND_COORDINATOR, request.version)
    body = request.body
    if getattr(body, "key_type", 0) != 1:
        raise ModelError("FindCoordinator: the model has transaction coordinators only")
    error = ErrorCode.none
    if not cluster.has_transaction_log:
        cluster.has_transaction_log = True
        error = ErrorCode.coordinator_not_available if cluster.fresh else ErrorCode.none
    found = cluster.nodes.get(cluster.coordinator_node or 0)
    if found is None or not found.up:
        error = ErrorCode.coordinator_not_available
    injected = cluster.injected_for(request.api, body)
    error = injected.error if injected else error
    place = {"node_id": -1, "host": "", "port": -1}
    if not error and found is not None:
        place = {"node_id": found.node_id, "host": found.host, "port": found.port}
    if request.version >= 4:
        keys = tuple(
            module.Coordinator(key=k, error_code=error, error_message=None, **place) for k in body.coordinator_keys
        )
        return module.FindCoordinatorResponse(throttle_time=ZERO, coordinators=keys)
    return make(module.FindCoordinatorResponse, throttle_time=ZERO, error_code=error, error_message=None, **place)


# --- offsets, epochs, producers


def _list_offsets(cluster: ModelCluster, node: Node, request: Request) -> Any:
    module = responses(LIST_OFFSETS, request.version)
    body = request.body
    injected = cluster.injected_for(request.api, body)
    committed = getattr(body, "isolation_level", 0) == 1
    topics = []
    for asked in body.topics:
        parts = []
        for part in asked.partitions:
            error, log = leading(cluster, node, cluster.topics.get(asked.name), part.partition_index)
            error = error or epoch_error(log, getattr(part, "current_leader_epoch", -1))
            error = injected.error if injected else error
            offset = timestamp = epoch = -1
            if not error:
                end = log.last_stable_offset if committed else log.end
                epoch = log.leader_epoch
                if part.timestamp == LATEST:
                    offset = end
                elif part.timestamp == EARLIEST:
                    offset = log.log_start
                elif part.timestamp == NEWEST or part.timestamp >= 0:
                    record = log.newest(end) if part.timestamp == NEWEST else log.at_timestamp(part.timestamp, end)
                    if record is not None:
                        offset, timestamp = record.offset, record.timestamp
                else:
                    raise ModelError(f"ListOffsets: the model has no timestamp {part.timestamp}")
            parts.append(
                make(
                    module.ListOffsetsPartitionResponse,
                    partition_index=part.partition_index,
                    error_code=error,
                    timestamp=timestamp,
                    offset=offset,
                    leader_epoch=epoch,
                )
            )
        topics.append(module.ListOffsetsTopicResponse(name=asked.name, partitions=tuple(parts)))
    return make(module.ListOffsetsResponse, throttle_time=ZERO, topics=tuple(topics))


def _offset_for_leader_epoch(cluster: ModelCluster, node: Node, request: Request) -> Any:
    module = responses(OFFSET_FOR_LEADER_EPOCH, request.version)
    topics = []
    for asked in request.body.topics:
        parts = []
        for part in asked.partitions:
            error, log = leading(cluster, node, cluster.topics.get(asked.topic), part.partition)
            error = error or epoch_error(log, part.current_leader_epoch)
            epoch, end = (-1, -1) if error else log.end_of_epoch(part.leader_epoch)
            parts.append(
                module.EpochEndOffset(error_code=error, partition=part.partition, leader_epoch=epoch, end_offset=end)
            )
        topics.append(module.OffsetForLeaderTopicResult(topic=asked.topic, partitions=tuple(parts)))
    return make(module.OffsetForLeaderEpochResponse, throttle_time=ZERO, topics=tuple(topics))


def _describe_producers(cluster: ModelCluster, node: Node, request: Request) -> Any:
    module = responses(DESCRIBE_PRODUCERS, request.version)
    topics = []
    for asked in request.body.topics:
        parts = []
        for index in asked.partition_indexes:
            error, log = leading(cluster, node, cluster.topics.get(asked.name), index)
            states = (
                ()
                if error
                else tuple(
                    module.ProducerState(
                        producer_id=producer_id,
                        producer_epoch=state.epoch,
                        last_sequence=state.batches[-1].last_sequence if state.batches else -1,
                        last_timestamp=state.last_timestamp,
                        coordinator_epoch=state.coordinator_epoch,
                        current_txn_start_offset=-1 if state.first_offset is None else state.first_offset,
                    )
                    for producer_id, state in sorted(log.producers.items())
                )
            )
            parts.append(
                module.PartitionResponse(
                    partition_index=index, error_code=error, error_message=None, active_producers=states
                )
            )
        topics.append(module.TopicResponse(name=asked.name, partitions=tuple(parts)))
    return module.DescribeProducersResponse(throttle_time=ZERO, topics=tuple(topics))


def _describe_transactions(cluster: ModelCluster, node: Node, request: Request) -> Any:
    injected = cluster.injected_for(request.api, request.body)
    states = []
    for transactional_id in request.body.transactional_ids:
        txn = cluster.coordinator.transactions.get(transactional_id)
        error = ErrorCode.none if txn is not None else ErrorCode.transactional_id_not_found
        if not cluster.has_transaction_log or cluster.coordinator_node != node.node_id:
            error = ErrorCode.not_coordinator
        error = injected.error if injected else error
        known = txn if not error else None
        states.append(
            DescribedTransaction(
                error_code=error,
                transactional_id=transactional_id,
                transaction_state=known.state.value if known else "",
                transaction_timeout=datetime.timedelta(milliseconds=known.timeout_ms if known else 0),
                transaction_start_time=i64(-1 if known and known.state is State.EMPTY else 0),
                producer_id=known.producer_id if known else -1,
                producer_epoch=known.epoch if known else -1,
                topics=(),
            )
        )
    return DescribedTransactions(throttle_time=ZERO, transaction_states=tuple(states))


AT_ONCE: Final[dict[int, Callable[[ModelCluster, Node, Request], Any]]] = {
    LIST_OFFSETS: _list_offsets,
    METADATA: _metadata,
    FIND_COORDINATOR: _find_coordinator,
    API_VERSIONS: _api_versions,
    OFFSET_FOR_LEADER_EPOCH: _offset_for_leader_epoch,
    DESCRIBE_PRODUCERS: _describe_producers,
    DESCRIBE_TRANSACTIONS: _describe_transactions,
}
