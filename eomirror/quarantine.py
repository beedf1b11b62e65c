"""Records that the target does not take, and what the flow's `on_bad_record` does with them. None is left out unseen.

    fault        the partition stands still until a person decides
    quarantine   the record goes to `__eomirror.<flow>.quarantine`, with cause and origin in headers, in the very
                 transaction that moves the position past it
    drop         the position moves past it

Both leave a gap in the ledger, with the policy in place of a person's name, and are counted there. They hold for
single records whose content the target refuses, never for what cannot be read at the source, for a partition that may
not be written at all, or for a refusal whose cause is not known: those stand still whatever the policy says.
"""

from __future__ import annotations

from typing import Final

from eomirror import logs
from eomirror.brokers import Brokers
from eomirror.checkpoint import InternalTopics
from eomirror.errors import BrokerError, ConnectionLost, Faulted, Rewind
from eomirror.model import Lease
from eomirror.records import Gap
from eomirror.route import Route
from eomirror.transaction import Write

log = logs.get("quarantine")

# A record of the topic may have this many bytes, see `topology`; a larger one faults its partition.
MAX_RECORD_BYTES: Final = 64 << 20
# One transaction writes no more than this there: a lane holds it in memory.
MAX_PENDING_BYTES: Final = 32 << 20

ORIGIN: Final = b"eomirror.origin"
REASON: Final = b"eomirror.reason"
DETAIL: Final = b"eomirror.detail"
TIMESTAMP: Final = b"eomirror.timestamp"

Headers = tuple[tuple[bytes, bytes | None], ...]
Quarantined = tuple[bytes | None, bytes | None, Headers]


class Quarantine:
    """The bad records of one lane's open transaction. Used by one thread."""

    def __init__(self, lease: Lease, source: Brokers) -> None:
        self._lease = lease
        self._source = source
        self._topic = InternalTopics.of(lease.flow).quarantine
        self._pending: list[Quarantined] = []
        self._bytes = 0

    def clear(self) -> None:
        """The transaction is decided, or dropped."""
        self._pending.clear()
        self._bytes = 0

    @property
    def full(self) -> bool:
        """No more goes into this transaction."""
        return self._bytes >= MAX_PENDING_BYTES

    def writes(self) -> list[Write]:
        """What the open transaction has to write."""
        return [Write(self._topic, self._lease.lane, list(self._pending))] if self._pending else []

    def leave_out(self, route: Route, fault: Faulted) -> bool:
        """Take the route past a bad record; False if it has to stand still. Raises Rewind when the source, which is
        asked for the record, does not answer."""
        policy = self._lease.on_bad_record
        if policy == "fault" or not fault.of_record or fault.offset is None or fault.next_offset is None:
            return False
        if policy == "quarantine" and not self._keep(route, fault, fault.offset):
            return False
        gap = Gap(fault.offset, fault.next_offset, fault.reason, f"on_bad_record: {policy}")
        route.leave_out(gap, quarantined=policy == "quarantine")
        log.warning(
            "record.quarantined" if policy == "quarantine" else "record.dropped",
            flow=self._lease.flow,
            topic=fault.topic,
            partition=fault.partition,
            offset=fault.offset,
            reason=fault.reason,
            detail=fault.detail,
        )
        return True

    def _keep(self, route: Route, fault: Faulted, offset: int) -> bool:
        try:
            found = self._source.record_at(*route.key, offset)
        except (ConnectionLost, BrokerError) as error:
            raise Rewind("source_away", f"a record for the quarantine: {error.message}") from error
        if found is None:
            return False
        timestamp_ms, key, value, headers = found
        size = len(key or b"") + len(value or b"") + sum(len(n) + len(v or b"") for n, v in headers)
        if size > MAX_RECORD_BYTES:
            return False
        origin = f"{self._lease.source}/{fault.topic}/{fault.partition}/{offset}"
        added: Headers = (
            (ORIGIN, origin.encode()),
            (REASON, fault.reason.encode()),
            (DETAIL, fault.detail.encode()),
            (TIMESTAMP, str(timestamp_ms).encode()),
        )
        self._pending.append((key, value, (*headers, *added)))
        self._bytes += size
        return True


def needed(topics: InternalTopics, on_bad_record: str) -> tuple[str, ...]:
    """The internal topics without which a flow of this policy does not run."""
    return (*topics.names(), topics.quarantine) if on_bad_record == "quarantine" else topics.names()
