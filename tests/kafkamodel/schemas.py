"""What kio cannot write as brokers do. kio reads the types of fields, so there are no annotations as text here."""

from dataclasses import dataclass, field

from kio.schema.describe_transactions.v0 import response
from kio.static.primitive import i64


@dataclass(frozen=True, slots=True, kw_only=True)
class DescribedTransaction(response.TransactionState):
    """-1 where no transaction has begun."""

    transaction_start_time: i64 = field(metadata={"kafka_type": "int64"})


@dataclass(frozen=True, slots=True, kw_only=True)
class DescribedTransactions(response.DescribeTransactionsResponse):
    transaction_states: tuple[DescribedTransaction, ...]
