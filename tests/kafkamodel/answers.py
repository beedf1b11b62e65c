"""What a broker does with each request. Where the generator of a request yields, other work may come between."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Generator, Iterable
from typing import Any, Final

from kio.schema.errors import ErrorCode

from .cluster import ModelCluster, Node, Topic
from .coordinator import Wait
from .log import PartitionLog, Verification
from .messages import (
    ADD_PARTITIONS_TO_TXN,
    END_TXN,
    FETCH,
    INIT_PRODUCER_ID,
    PRODUCE,
    ZERO,
    ModelError,
    Request,
    make,
    response_type,
    responses,
)
from .questions import AT_ONCE, epoch_error, leading
from .records import HEADER_SIZE, read_header
from .sessions import Key

Work = Generator[Wait, None, Any]

# add.partitions.to.txn.retry.backoff.ms and .max.ms: how a broker itself repeats an answer of CONCURRENT_TRANSACTIONS.
RETRY_SECONDS: Final = 0.020
THROTTLE_SECONDS: Final = 0.2
RETRY_LIMIT_SECONDS: Final = 0.100


def answer(cluster: ModelCluster, node: Node, request: Request) -> Work:
    """Run one request; the value of the generator is the response entity."""
    at_once = AT_ONCE.get(request.api_key)
    if at_once is not None:
        return at_once(cluster, node, request)
    return (yield from _IN_STEPS[request.api_key](cluster, node, request))


def _new_leader(cluster: ModelCluster, module: Any, topic: Topic | None, partition: int) -> Any:
    """The leader hint that goes with NOT_LEADER_OR_FOLLOWER."""
    leader = cluster.leader(topic.name, partition) if topic is not None else None
    if topic is None or leader is None:
        return module.LeaderIdAndEpoch()
    return module.LeaderIdAndEpoch(leader_id=leader, leader_epoch=topic.logs[partition].leader_epoch)


# --- the transaction coordinator's own


def _not_coordinator(cluster: ModelCluster, node: Node) -> bool:
    return not cluster.has_transaction_log or cluster.coordinator_node != node.node_id


def _init_producer_id(cluster: ModelCluster, node: Node, request: Request) -> Work:
    body = request.body
    kind = response_type(INIT_PRODUCER_ID, request.version)
    injected = cluster.injected_for(request.api, body)
    if injected and not injected.after:
        error, producer_id, epoch = injected.error, -1, -1
    elif _not_coordinator(cluster, node):
        error, producer_id, epoch = ErrorCode.not_coordinator, -1, -1
    else:
        timeout_ms = int(body.transaction_timeout.total_seconds() * 1000)
        held = getattr(body, "producer_id", -1)
        expected = (held, body.producer_epoch) if held >= 0 else None
        error, producer_id, epoch = yield from cluster.coordinator.init(body.transactional_id, timeout_ms, expected)
        if injected:
            error, producer_id, epoch = injected.error, -1, -1
    return make(kind, throttle_time=ZERO, error_code=error, producer_id=producer_id, producer_epoch=epoch)


def _end_txn(cluster: ModelCluster, node: Node, request: Request) -> Work:
    body = request.body
    _same_version(cluster, request, 2 if request.version >= 5 else 1)
    kind = response_type(END_TXN, request.version)
    injected = cluster.injected_for(request.api, body)
    if injected and not injected.after:
        error, producer_id, epoch = injected.error, -1, -1
    elif _not_coordinator(cluster, node):
        error, producer_id, epoch = ErrorCode.not_coordinator, -1, -1
    else:
        error, producer_id, epoch = yield from cluster.coordinator.end(
            body.transactional_id, body.producer_id, body.producer_epoch, commit=body.committed
        )
        if injected:
            error, producer_id, epoch = injected.error, -1, -1
    return make(kind, throttle_time=ZERO, error_code=error, producer_id=producer_id, producer_epoch=epoch)


def _same_version(cluster: ModelCluster, request: Request, belongs_to: int) -> None:
    """Whoever mixes the two versions of the transaction protocol does not know what he is doing."""
    if belongs_to != cluster.coordinator.version:
        raise ModelError(
            f"{request.api} v{request.version} is of transactions version {belongs_to}, "
            f"the cluster has finalised {cluster.coordinator.version}"
        )


def _add_partitions_to_txn(cluster: ModelCluster, node: Node, request: Request) -> Work:
    body = request.body
    if request.version > 3:
        raise ModelError(f"AddPartitionsToTxn v{request.version} is for brokers only")
    _same_version(cluster, request, 1)
    module = responses(ADD_PARTITIONS_TO_TXN, request.version)
    injected = cluster.injected_for(request.api, body)
    wanted = [(topic.name, p) for topic in body.v3_and_below_topics for p in topic.partitions]
    unknown = {(name, p) for name, p in wanted if name not in cluster.topics or p >= len(cluster.topics[name].logs)}
    codes: dict[tuple[str, int], ErrorCode]
    if injected and not injected.after:
        codes = dict.fromkeys(wanted, injected.error)
    elif unknown:
        codes = {
            one: ErrorCode.unknown_topic_or_partition if one in unknown else ErrorCode.operation_not_attempted
            for one in wanted
        }
    elif _not_coordinator(cluster, node):
        codes = dict.fromkeys(wanted, ErrorCode.not_coordinator)
    else:
        error = yield from cluster.coordinator.add_partitions(
            body.v3_and_below_transactional_id,
            body.v3_and_below_producer_id,
            body.v3_and_below_producer_epoch,
            wanted,
        )
        codes = dict.fromkeys(wanted, injected.error if injected else error)
    return make(
        module.AddPartitionsToTxnResponse,
        throttle_time=ZERO,
        results_by_topic_v3_and_below=tuple(
            module.AddPartitionsToTxnTopicResult(
                name=topic.name,
                results_by_partition=tuple(
                    module.AddPartitionsToTxnPartitionResult(
                        partition_index=p, partition_error_code=codes[topic.name, p]
                    )
                    for p in topic.partitions
                ),
            )
            for topic in body.v3_and_below_topics
        ),
    )


# --- Produce


def _produce(cluster: ModelCluster, node: Node, request: Request) -> Work:
    body = request.body
    by_id = request.version >= 13
    injected = cluster.injected_for(request.api, body)
    outcome: dict[tuple[Any, int], tuple[ErrorCode, int]] = {}
    guards: dict[tuple[str, int], Verification] = {}
    appends: list[tuple[Any, int, PartitionLog, bytes]] = []
    for asked in body.topic_data:
        key = asked.topic_id if by_id else asked.name
        topic = cluster.by_id(key) if by_id else cluster.topics.get(key)
        for part in asked.partition_data:
            if injected and not injected.after:
                outcome[key, part.index] = injected.error, -1
                continue
            error, log = leading(cluster, node, topic, part.index)
            if by_id and topic is None:
                error = ErrorCode.unknown_topic_id
            if error:
                outcome[key, part.index] = error, -1
                continue
            data = bytes(part.records or b"")
            header = read_header(data) if len(data) >= HEADER_SIZE else None
            if body.transactional_id is not None and header is not None and header.transactional:
                _same_version(cluster, request, 2 if request.version >= 12 else 1)
                claimed = header.producer_id, header.producer_epoch
                if log.outdated(*claimed):
                    outcome[key, part.index] = ErrorCode.invalid_producer_epoch, -1
                    continue
                if cluster.verifies and not log.has_ongoing(*claimed):
                    guards[log.topic, log.partition] = log.verify(*claimed, header.base_sequence)
            appends.append((key, part.index, log, data))
    refused: dict[tuple[str, int], ErrorCode] = {}
    if guards and cluster.coordinator.version == 2:
        refused = dict.fromkeys(guards, (yield from _add_partitions(cluster, body.transactional_id, *claimed, guards)))
    elif guards:
        refused = {place: _verified(cluster, body.transactional_id, *claimed, place) for place in guards}
    if guards:
        yield Wait("produce is checked, not yet appended")
    for key, index, log, data in appends:
        place = log.topic, log.partition
        guard = guards.get(place)
        if guard is not None and refused[place]:
            outcome[key, index] = refused[place], -1
        else:
            outcome[key, index] = log.append(data, guard, cluster.clock.ms())
    if injected:
        outcome = dict.fromkeys(outcome, (injected.error, -1))
    batches = {(key, index): (log, data) for key, index, log, data in appends}
    return _produce_response(cluster, request, outcome, batches)


def _add_partitions(
    cluster: ModelCluster, transactional_id: str, producer_id: int, epoch: int, partitions: Iterable[tuple[str, int]]
) -> Generator[Wait, None, ErrorCode]:
    """The broker asks the coordinator, and while the identity's last transaction is completing asks again."""
    limit = cluster.clock.now + RETRY_LIMIT_SECONDS
    while True:
        error = yield from cluster.coordinator.add_partitions(transactional_id, producer_id, epoch, partitions)
        if error is not ErrorCode.concurrent_transactions or cluster.clock.now >= limit:
            # Old clients take PRODUCER_FENCED for the end, so a produce says INVALID_PRODUCER_EPOCH instead.
            return ErrorCode.invalid_producer_epoch if error is ErrorCode.producer_fenced else error
        yield Wait("produce meets a completing transaction", until=cluster.clock.now + RETRY_SECONDS)


def _verified(
    cluster: ModelCluster, transactional_id: str, producer_id: int, epoch: int, place: tuple[str, int]
) -> ErrorCode:
    """The coordinator's word on a produce of version 1, as the broker passes it on."""
    error = cluster.coordinator.verify(transactional_id, producer_id, epoch, place)
    return {
        ErrorCode.producer_fenced: ErrorCode.invalid_producer_epoch,
        ErrorCode.concurrent_transactions: ErrorCode.not_enough_replicas,
    }.get(error, error)


def _append_time(cluster: ModelCluster, topic: Any, index: int, error: ErrorCode) -> datetime.datetime | None:
    """The time that the broker gave the records; only where the topic has LogAppendTime."""
    if topic is None or error or not topic.logs[index].log_append_time:
        return None
    return datetime.datetime.fromtimestamp(cluster.clock.ms() / 1000, datetime.UTC)


def _record_errors(cluster: ModelCluster, module: Any, error: ErrorCode, log: PartitionLog, data: bytes) -> Any:
    """Which records of a batch were refused (KIP-467), where the broker looks at them one by one."""
    if error is not ErrorCode.invalid_record or not cluster.names_records:
        return ()
    return tuple(
        module.BatchIndexAndErrorMessage(batch_index=index, batch_index_error_message=message)
        for index, message in log.refused_records(data)
    )


def _produce_response(
    cluster: ModelCluster,
    request: Request,
    outcome: dict[tuple[Any, int], tuple[ErrorCode, int]],
    batches: dict[tuple[Any, int], tuple[PartitionLog, bytes]],
) -> Any:
    module = responses(PRODUCE, request.version)
    topics: dict[Any, list[Any]] = {}
    for (key, index), (error, offset) in outcome.items():
        topic = cluster.topics.get(key) if isinstance(key, str) else cluster.by_id(key)
        hint = {}
        if error is ErrorCode.not_leader_or_follower and request.version >= 10:
            hint = {"current_leader": _new_leader(cluster, module, topic, index)}
        topics.setdefault(key, []).append(
            make(
                module.PartitionProduceResponse,
                index=index,
                error_code=error,
                base_offset=offset,
                log_append_time=_append_time(cluster, topic, index, error),
                log_start_offset=topic.logs[index].log_start if topic and not error else -1,
                record_errors=_record_errors(cluster, module, error, *batches[key, index])
                if (key, index) in batches
                else (),
                **hint,
            )
        )
    answers = tuple(
        make(module.TopicProduceResponse, name=k, topic_id=k, partition_responses=tuple(p)) for k, p in topics.items()
    )
    return make(module.ProduceResponse, responses=answers, throttle_time=ZERO)


# --- Fetch


def _fetch(cluster: ModelCluster, node: Node, request: Request) -> Work:
    body = request.body
    if request.version < 12:
        raise ModelError(f"Fetch v{request.version}: the model begins at v12")
    injected = cluster.injected_for(request.api, body)
    committed = body.isolation_level == 1
    by_id = request.version >= 13
    refused, session, asked = node.sessions.begin(body, lambda topic: topic.topic_id if by_id else topic.topic)
    module = responses(FETCH, request.version)
    if refused:
        return make(module.FetchResponse, throttle_time=ZERO, error_code=refused, responses=())

    def topic_of(place: Key) -> Topic | None:
        return cluster.by_id(place[0]) if by_id else cluster.topics.get(place[0])

    def looked_at(topic: Topic | None, part: Any) -> tuple[ErrorCode, Any]:
        if topic is None and by_id:
            return ErrorCode.unknown_topic_id, None
        error, log = _serving(cluster, node, topic, part.partition)
        error = error or epoch_error(log, part.current_leader_epoch)
        if not error and not _diverging(log, part) and not log.log_start <= part.fetch_offset <= log.end:
            error = ErrorCode.offset_out_of_range
        return error, log

    def bound(log: PartitionLog) -> int:
        return log.last_stable_offset if committed else log.end

    if cluster.throttled > 0:
        cluster.throttled -= 1
        throttle = datetime.timedelta(seconds=THROTTLE_SECONDS)
        number = session.number if session is not None else 0
        return make(
            module.FetchResponse, throttle_time=throttle, error_code=ErrorCode.none, session_id=number, responses=()
        )

    def enough() -> bool:
        size = 0
        for place, part in asked.items():
            error, log = looked_at(topic_of(place), part)
            if error or _diverging(log, part) or _elsewhere(cluster, node, topic_of(place), part.partition):
                return True
            size += log.available(part.fetch_offset, bound(log))
        return size >= body.min_bytes

    max_wait = body.max_wait.total_seconds()
    if asked and injected is None and max_wait > 0 and not enough():
        yield Wait("fetch waits for data", until=cluster.clock.now + max_wait, ready=enough)
    found: dict[Key, Any] = {}
    left = body.max_bytes
    for place, part in asked.items():
        topic = topic_of(place)
        error, log = looked_at(topic, part)
        error = injected.error if injected else error
        fields: dict[str, Any] = {"high_watermark": -1, "aborted_transactions": None, "records": b""}
        if not error:
            fields |= {
                "high_watermark": log.end,
                "last_stable_offset": log.last_stable_offset,
                "log_start_offset": log.log_start,
                "aborted_transactions": () if committed else None,
            }
            diverging = _diverging(log, part)
            elsewhere = _elsewhere(cluster, node, topic, part.partition)
            if elsewhere is not None:
                fields["preferred_read_replica"] = elsewhere
            elif diverging:
                fields["diverging_epoch"] = module.EpochEndOffset(epoch=diverging[0], end_offset=diverging[1])
            else:
                read = log.read(
                    part.fetch_offset,
                    bound(log),
                    min(part.partition_max_bytes, left),
                    at_least_one=left == body.max_bytes,
                    committed=committed,
                )
                left = max(0, left - len(read.records))
                fields["records"] = read.records
                if committed:
                    fields["aborted_transactions"] = tuple(
                        module.AbortedTransaction(producer_id=a.producer_id, first_offset=a.first_offset)
                        for a in read.aborted
                    )
        elif error in (ErrorCode.not_leader_or_follower, ErrorCode.fenced_leader_epoch):
            fields["current_leader"] = _new_leader(cluster, module, topic, part.partition)
        found[place] = make(module.PartitionData, partition_index=part.partition, error_code=error, **fields)
    number, told = node.sessions.end(body, session, asked, found)
    topics: dict[Any, list[Any]] = {}
    for (key, _), data in told.items():
        topics.setdefault(key, []).append(data)
    return make(
        module.FetchResponse,
        throttle_time=ZERO,
        error_code=ErrorCode.none,
        session_id=number,
        responses=tuple(
            make(module.FetchableTopicResponse, topic=k, topic_id=k, partitions=tuple(p)) for k, p in topics.items()
        ),
    )


def _serving(cluster: ModelCluster, node: Node, topic: Topic | None, partition: int) -> tuple[ErrorCode, Any]:
    """The log of a partition if this node leads it, or is the replica that readers are sent to."""
    error, log = leading(cluster, node, topic, partition)
    is_replica = topic is not None and cluster.preferred.get((topic.name, partition)) == node.node_id
    if topic is not None and is_replica and error is ErrorCode.not_leader_or_follower:
        return ErrorCode.none, topic.logs[partition]
    return error, log


def _elsewhere(cluster: ModelCluster, node: Node, topic: Topic | None, partition: int) -> int | None:
    """The replica that this leader sends a reader to, which then gets nothing here."""
    if topic is None or cluster.leader(topic.name, partition) != node.node_id:
        return None
    replica = cluster.preferred.get((topic.name, partition))
    return replica if replica is not None and replica != node.node_id and cluster.nodes[replica].up else None


def _diverging(log: PartitionLog, part: Any) -> tuple[int, int] | None:
    """(epoch, end offset) when the log was truncated below what this reader has (KIP-595)."""
    if part.last_fetched_epoch < 0:
        return None
    epoch, end = log.end_of_epoch(part.last_fetched_epoch)
    return (epoch, end) if epoch < part.last_fetched_epoch or end < part.fetch_offset else None


_IN_STEPS: Final[dict[int, Callable[[ModelCluster, Node, Request], Work]]] = {
    PRODUCE: _produce,
    FETCH: _fetch,
    INIT_PRODUCER_ID: _init_producer_id,
    ADD_PARTITIONS_TO_TXN: _add_partitions_to_txn,
    END_TXN: _end_txn,
}
