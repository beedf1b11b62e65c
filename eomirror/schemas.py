"""The schemas of messages: kio's, but for one that it reads more narrowly than brokers write it.

kio wants the types of fields, so there are no annotations as text here.
"""

import functools
from dataclasses import dataclass, field
from typing import Any, Final

from kio.index import load_payload_module, load_response_schema
from kio.schema.describe_transactions.v0 import response as kio_schema
from kio.static.constants import EntityType
from kio.static.primitive import i64


@dataclass(frozen=True, slots=True, kw_only=True)
class TransactionState(kio_schema.TransactionState):
    """Where kio wants a point in time, brokers write -1 for an id that was taken and has begun no transaction yet."""

    transaction_start_time: i64 = field(metadata={"kafka_type": "int64"})  # type: ignore[assignment]
    """When the transaction began, in ms; -1 if none did."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DescribeTransactionsResponse(kio_schema.DescribeTransactionsResponse):
    """DescribeTransactions v0, as Kafka's DescribeTransactionsResponse.json has it."""

    transaction_states: tuple[TransactionState, ...]


_OURS: Final[dict[tuple[int, int], Any]] = {
    (int(own.__api_key__), int(own.__version__)): own for own in (DescribeTransactionsResponse,)
}


# kio imports by name at every call, which took a twentieth of a busy lane's time.
@functools.cache
def request_module(api_key: int, version: int) -> Any:
    """The kio module with the classes of a request."""
    return load_payload_module(api_key, version, EntityType.request)


@functools.cache
def response_schema(api_key: int, version: int) -> Any:
    """The class of a response, for kio's `entity_reader`."""
    return _OURS.get((api_key, version)) or load_response_schema(api_key, version)
