"""A tiny Kafka client: one connection, kio messages, no cleverness. It runs on any Network, the real one too."""

from __future__ import annotations

import datetime
import functools
import io
import struct
from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import Any, NamedTuple

from kio.index import load_payload_module, load_response_schema
from kio.serial import entity_reader, entity_writer
from kio.static.constants import EntityType

from .messages import (
    ADD_PARTITIONS_TO_TXN,
    API_VERSIONS,
    DESCRIBE_PRODUCERS,
    DESCRIBE_TRANSACTIONS,
    END_TXN,
    FETCH,
    FIND_COORDINATOR,
    INIT_PRODUCER_ID,
    LIST_OFFSETS,
    METADATA,
    PRODUCE,
)
from .records import TRANSACTIONAL, Record, build_batch, read_header, read_records

TopicPartition = tuple[str, int]


@functools.cache
def requests(api_key: int, version: int) -> ModuleType:
    return load_payload_module(api_key, version, EntityType.request)


@functools.cache
def response_schema(api_key: int, version: int) -> Any:
    return load_response_schema(api_key, version)


def milliseconds(count: int) -> datetime.timedelta:
    return datetime.timedelta(milliseconds=count)


class Produced(NamedTuple):
    error: int
    offset: int


class Fetched(NamedTuple):
    error: int
    end: int
    stable: int
    batches: list[bytes]
    aborted: list[tuple[int, int]]
    raw: Any

    @property
    def records(self) -> list[Record]:
        """All records, control and aborted ones too."""
        return [r for b in self.batches for r in read_records(b)]


class Client:
    """Requests in order, one answer each. Errors are returned as numbers."""

    def __init__(self, network: Any, host: str, port: int, *, timeout: float = 30.0) -> None:
        self.network = network
        self.timeout = timeout
        self.socket = network.dial(host, port, timeout)
        self.sent: list[tuple[int, int]] = []
        self.topic_ids: dict[str, Any] = {}
        self._correlation = 0

    def send(self, api_key: int, version: int, body: Any) -> None:
        header = type(body).__header_schema__
        out = io.BytesIO()
        entity_writer(header)(
            out,
            header(
                request_api_key=api_key,
                request_api_version=version,
                correlation_id=self._correlation,
                client_id="client",
            ),
        )
        entity_writer(type(body))(out, body)
        self._correlation += 1
        self.sent.append((api_key, version))
        self.socket.sendall(struct.pack(">i", len(out.getvalue())) + out.getvalue())

    def receive(self) -> Any:
        """The answer to the oldest request; TimeoutError, ConnectionError or EOFError if none comes."""
        size = struct.unpack(">i", self._read(4))[0]
        frame = self._read(size)
        schema = response_schema(*self.sent.pop(0))
        _, at = entity_reader(schema.__header_schema__)(frame, 0)
        return entity_reader(schema)(frame, at)[0]

    def _read(self, size: int) -> bytes:
        out = bytearray()
        while len(out) < size:
            self.socket.settimeout(self.timeout)
            part = bytearray(size - len(out))
            count = self.socket.recv_into(part)
            if count == 0:
                raise EOFError("closed by the broker")
            out += part[:count]
        return bytes(out)

    def call(self, api_key: int, version: int, body: Any) -> Any:
        self.send(api_key, version, body)
        return self.receive()

    def close(self) -> None:
        self.socket.close()

    # --- by name

    def api_versions(self) -> Any:
        body = requests(API_VERSIONS, 3).ApiVersionsRequest(client_software_name="c", client_software_version="1")
        return self.call(API_VERSIONS, 3, body)

    def metadata(self, *topics: str) -> Any:
        module = requests(METADATA, 12)
        asked = tuple(module.MetadataRequestTopic(topic_id=None, name=t) for t in topics)
        answer = self.call(
            METADATA,
            12,
            module.MetadataRequest(
                topics=asked, allow_auto_topic_creation=False, include_topic_authorized_operations=False
            ),
        )
        self.topic_ids |= {t.name: t.topic_id for t in answer.topics}
        return answer

    def find_coordinator(self, transactional_id: str) -> Any:
        module = requests(FIND_COORDINATOR, 4)
        body = module.FindCoordinatorRequest(key_type=1, coordinator_keys=(transactional_id,))
        return self.call(FIND_COORDINATOR, 4, body).coordinators[0]

    def init(
        self, transactional_id: str, held: tuple[int, int] = (-1, -1), timeout_ms: int = 60_000
    ) -> tuple[int, int, int]:
        """One InitProducerId: (error, producer id, epoch)."""
        answer = self.call(INIT_PRODUCER_ID, 4, self.init_body(transactional_id, held, timeout_ms))
        return int(answer.error_code), answer.producer_id, answer.producer_epoch

    def init_body(self, transactional_id: str, held: tuple[int, int], timeout_ms: int) -> Any:
        return requests(INIT_PRODUCER_ID, 4).InitProducerIdRequest(
            transactional_id=transactional_id,
            transaction_timeout=milliseconds(timeout_ms),
            producer_id=held[0],
            producer_epoch=held[1],
        )

    def take(self, transactional_id: str, timeout_ms: int = 60_000) -> tuple[int, int]:
        """InitProducerId until it is granted: (producer id, epoch)."""
        while True:
            error, producer_id, epoch = self.init(transactional_id, timeout_ms=timeout_ms)
            if error == 0:
                return producer_id, epoch
            if error != 51:
                raise AssertionError(f"InitProducerId answers {error}")
            self.network.sleep(0.005)

    def end_body(self, transactional_id: str, held: tuple[int, int], commit: bool, version: int = 5) -> Any:
        return requests(END_TXN, version).EndTxnRequest(
            transactional_id=transactional_id, producer_id=held[0], producer_epoch=held[1], committed=commit
        )

    def end(self, transactional_id: str, held: tuple[int, int], *, commit: bool) -> tuple[int, int, int]:
        """EndTxn: (error, next producer id, next epoch)."""
        answer = self.call(END_TXN, 5, self.end_body(transactional_id, held, commit))
        return int(answer.error_code), answer.producer_id, answer.producer_epoch

    def add_partitions(self, transactional_id: str, held: tuple[int, int], *partitions: TopicPartition) -> list[int]:
        """AddPartitionsToTxn of transactions version 1: an error for each partition of one topic after the other."""
        module = requests(ADD_PARTITIONS_TO_TXN, 3)
        body = module.AddPartitionsToTxnRequest(
            v3_and_below_transactional_id=transactional_id,
            v3_and_below_producer_id=held[0],
            v3_and_below_producer_epoch=held[1],
            v3_and_below_topics=tuple(
                module.AddPartitionsToTxnTopic(name=topic, partitions=(partition,)) for topic, partition in partitions
            ),
        )
        answer = self.call(ADD_PARTITIONS_TO_TXN, 3, body)
        return [
            int(one.partition_error_code)
            for topic in answer.results_by_topic_v3_and_below
            for one in topic.results_by_partition
        ]

    def end_v1(self, transactional_id: str, held: tuple[int, int], *, commit: bool) -> int:
        """EndTxn of transactions version 1: the error."""
        return int(self.call(END_TXN, 4, self.end_body(transactional_id, held, commit, 4)).error_code)

    def describe_transaction(self, transactional_id: str) -> tuple[str, int, int]:
        """(state, producer id, epoch)."""
        body = requests(DESCRIBE_TRANSACTIONS, 0).DescribeTransactionsRequest(transactional_ids=(transactional_id,))
        state = self.call(DESCRIBE_TRANSACTIONS, 0, body).transaction_states[0]
        return state.transaction_state, state.producer_id, state.producer_epoch

    def produce_body(self, version: int, transactional_id: str | None, batches: Mapping[TopicPartition, bytes]) -> Any:
        module = requests(PRODUCE, version)
        topics = []
        for (topic, partition), data in batches.items():
            part = module.PartitionProduceData(index=partition, records=data)
            fields = {"name": topic} if version < 13 else {"topic_id": self.topic_ids[topic]}
            topics.append(module.TopicProduceData(partition_data=(part,), **fields))
        return module.ProduceRequest(
            transactional_id=transactional_id, acks=-1, timeout=milliseconds(30_000), topic_data=tuple(topics)
        )

    def produce(
        self,
        transactional_id: str | None,
        held: tuple[int, int],
        sequence: int,
        topic: str,
        partition: int,
        values: Sequence[bytes],
        *,
        version: int = 12,
        attributes: int = TRANSACTIONAL,
    ) -> Produced:
        """One batch to one partition."""
        data = batch(values, held, sequence, attributes=attributes)
        return self.produce_raw(transactional_id, {(topic, partition): data}, version=version)[0]

    def produce_raw(
        self, transactional_id: str | None, batches: Mapping[TopicPartition, bytes], *, version: int = 12
    ) -> list[Produced]:
        answer = self.call(PRODUCE, version, self.produce_body(version, transactional_id, batches))
        return [Produced(int(p.error_code), p.base_offset) for t in answer.responses for p in t.partition_responses]

    def fetch_body(self, version: int, topic: str, partition: int, offset: int, **options: Any) -> Any:
        module = requests(FETCH, version)
        part = module.FetchPartition(
            partition=partition,
            fetch_offset=offset,
            partition_max_bytes=options.get("max_bytes", 1 << 20),
            current_leader_epoch=options.get("leader_epoch", -1),
            last_fetched_epoch=options.get("last_epoch", -1),
        )
        fields = {"topic": topic} if version < 13 else {"topic_id": self.topic_ids[topic]}
        return module.FetchRequest(
            max_wait=milliseconds(options.get("max_wait_ms", 0)),
            min_bytes=options.get("min_bytes", 1),
            max_bytes=options.get("max_bytes", 1 << 20),
            isolation_level=1 if options.get("committed", True) else 0,
            topics=(module.FetchTopic(partitions=(part,), **fields),),
            forgotten_topics_data=(),
        )

    def fetch(self, topic: str, partition: int, offset: int, *, version: int = 12, **options: Any) -> Fetched:
        """Options: committed, max_bytes, min_bytes, max_wait_ms, leader_epoch, last_epoch."""
        answer = self.call(FETCH, version, self.fetch_body(version, topic, partition, offset, **options))
        part = answer.responses[0].partitions[0]
        aborted = [(a.producer_id, a.first_offset) for a in part.aborted_transactions or ()]
        batches = split(bytes(part.records or b""))
        return Fetched(int(part.error_code), part.high_watermark, part.last_stable_offset, batches, aborted, part)

    def read_committed(self, topic: str, partition: int) -> list[Record] | None:
        """All committed records up to the end of this moment; None if an open transaction is in the way."""
        error, end = self.list_offset(topic, partition, -1)
        if error:
            return None
        records: list[Record] = []
        position = 0
        while position < end:
            found = self.fetch(topic, partition, position)
            if found.error or not found.batches:
                return None
            waiting, dropped = sorted(found.aborted, key=lambda a: a[1]), set()
            for data in found.batches:
                header = read_header(data)
                while waiting and waiting[0][1] <= header.last_offset:
                    dropped.add(waiting.pop(0)[0])
                if header.control:
                    dropped.discard(header.producer_id)
                elif not header.transactional or header.producer_id not in dropped:
                    records += [r for r in read_records(data) if r.offset >= position]
                position = header.last_offset + 1
        return records

    def list_offset(self, topic: str, partition: int, timestamp: int, *, committed: bool = False) -> tuple[int, int]:
        """(error, offset)."""
        module = requests(LIST_OFFSETS, 7)
        asked = module.ListOffsetsPartition(partition_index=partition, timestamp=timestamp)
        body = module.ListOffsetsRequest(
            replica_id=-1,
            isolation_level=int(committed),
            topics=(module.ListOffsetsTopic(name=topic, partitions=(asked,)),),
        )
        part = self.call(LIST_OFFSETS, 7, body).topics[0].partitions[0]
        return int(part.error_code), part.offset

    def open_producers(self, topic: str, partition: int) -> dict[int, int]:
        """Producer id -> first offset of its open transaction (DescribeProducers)."""
        module = requests(DESCRIBE_PRODUCERS, 0)
        body = module.DescribeProducersRequest(
            topics=(module.TopicRequest(name=topic, partition_indexes=(partition,)),)
        )
        part = self.call(DESCRIBE_PRODUCERS, 0, body).topics[0].partitions[0]
        return {
            p.producer_id: p.current_txn_start_offset for p in part.active_producers if p.current_txn_start_offset >= 0
        }


def batch(
    values: Sequence[bytes], held: tuple[int, int], sequence: int, *, attributes: int = TRANSACTIONAL, start: int = 0
) -> bytes:
    """One batch of records without keys, timestamps rising from 1."""
    records = [Record(i, start + i + 1, None, v) for i, v in enumerate(values)]
    return build_batch(
        records, producer_id=held[0], producer_epoch=held[1], base_sequence=sequence, attributes=attributes
    )


def split(data: bytes) -> list[bytes]:
    """Whole batches of a fetch; a cut one at the end is left out."""
    out = []
    at = 0
    while len(data) - at >= 61:
        end = at + 12 + read_header(data, at).length
        if end > len(data):
            break
        out.append(data[at:end])
        at = end
    return out
