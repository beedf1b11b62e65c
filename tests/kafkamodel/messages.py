"""Requests and responses as bytes, through kio, which is generated from Kafka's own schemas."""

from __future__ import annotations

import dataclasses
import datetime
import functools
import io
import struct
from collections.abc import Mapping
from types import ModuleType
from typing import Any, Final, NamedTuple

from kio.index import load_payload_module, load_request_schema, load_response_schema
from kio.serial import entity_reader, entity_writer
from kio.static.constants import EntityType

PRODUCE: Final = 0
FETCH: Final = 1
LIST_OFFSETS: Final = 2
METADATA: Final = 3
FIND_COORDINATOR: Final = 10
API_VERSIONS: Final = 18
INIT_PRODUCER_ID: Final = 22
OFFSET_FOR_LEADER_EPOCH: Final = 23
ADD_PARTITIONS_TO_TXN: Final = 24
END_TXN: Final = 26
DESCRIBE_PRODUCERS: Final = 61
DESCRIBE_TRANSACTIONS: Final = 65

NAMES: Final[Mapping[int, str]] = {
    PRODUCE: "Produce",
    FETCH: "Fetch",
    LIST_OFFSETS: "ListOffsets",
    METADATA: "Metadata",
    FIND_COORDINATOR: "FindCoordinator",
    API_VERSIONS: "ApiVersions",
    INIT_PRODUCER_ID: "InitProducerId",
    OFFSET_FOR_LEADER_EPOCH: "OffsetForLeaderEpoch",
    ADD_PARTITIONS_TO_TXN: "AddPartitionsToTxn",
    END_TXN: "EndTxn",
    DESCRIBE_PRODUCERS: "DescribeProducers",
    DESCRIBE_TRANSACTIONS: "DescribeTransactions",
}

# What a broker of 4.3 offers of the APIs that the model has, whichever transaction.version the cluster has finalised.
# The versions of EndTxn and of transactional Produce that belong to the other one are refused loudly.
OFFERED: Final[Mapping[int, tuple[int, int]]] = {
    PRODUCE: (3, 13),
    FETCH: (4, 17),
    LIST_OFFSETS: (1, 10),
    METADATA: (0, 13),
    FIND_COORDINATOR: (0, 6),
    API_VERSIONS: (0, 4),
    INIT_PRODUCER_ID: (0, 5),
    OFFSET_FOR_LEADER_EPOCH: (2, 4),
    ADD_PARTITIONS_TO_TXN: (0, 5),
    END_TXN: (0, 5),
    DESCRIBE_PRODUCERS: (0, 0),
    DESCRIBE_TRANSACTIONS: (0, 0),
}

ZERO: Final = datetime.timedelta(0)


class ModelError(AssertionError):
    """The code under test did what it never may, or what the model cannot answer faithfully."""


class Request(NamedTuple):
    api_key: int
    version: int
    correlation_id: int
    client_id: str | None
    body: Any

    @property
    def api(self) -> str:
        return NAMES[self.api_key]


def parse_request(frame: bytes) -> Request:
    """A request without its size."""
    api_key, version = struct.unpack_from(">hh", frame)
    offered = OFFERED.get(api_key)
    if offered is None:
        raise ModelError(f"request with API key {api_key} v{version}: the model has no such API")
    if not offered[0] <= version <= offered[1]:
        raise ModelError(f"{NAMES[api_key]} v{version}: the broker offers v{offered[0]} to v{offered[1]}")
    read_header, read_body = _readers(api_key, version)
    header, at = read_header(frame, 0)
    body, size = read_body(frame, at)
    if at + size != len(frame):
        raise ModelError(f"{NAMES[api_key]} v{version}: {len(frame) - at - size} bytes after the request")
    return Request(api_key, version, header.correlation_id, header.client_id, body)


@functools.cache
def _readers(api_key: int, version: int) -> tuple[Any, Any]:
    schema = load_request_schema(api_key, version)
    return entity_reader(schema.__header_schema__), entity_reader(schema)


@functools.cache
def _writers(schema: Any) -> tuple[Any, Any]:
    return entity_writer(schema.__header_schema__), entity_writer(schema)


def write_response(request: Request, body: Any) -> bytes:
    """A response with its size."""
    schema = type(body)
    out = io.BytesIO()
    out.write(b"\0\0\0\0")
    write_header, write_body = _writers(schema)
    write_header(out, schema.__header_schema__(correlation_id=request.correlation_id))
    write_body(out, body)
    frame = out.getbuffer()
    struct.pack_into(">i", frame, 0, len(frame) - 4)
    return bytes(frame)


@functools.cache
def responses(api_key: int, version: int) -> ModuleType:
    """The module with the classes of a response."""
    return load_payload_module(api_key, version, EntityType.response)


@functools.cache
def response_type(api_key: int, version: int) -> type:
    return load_response_schema(api_key, version)


@functools.cache
def _names(kind: type) -> frozenset[str]:
    return frozenset(f.name for f in dataclasses.fields(kind))


def make(kind: type, **fields: Any) -> Any:
    """An entity with those of the fields that its version has."""
    return kind(**{k: v for k, v in fields.items() if k in _names(kind)})
