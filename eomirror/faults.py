"""What `fault accept` and `fault retry` do, reason by reason."""

from __future__ import annotations

from eomirror import logs
from eomirror.brokers import EARLIEST, LATEST, Brokers
from eomirror.errors import BrokerError, ConnectionLost, Reason
from eomirror.records import Desired, Gap, State
from eomirror.route import Route

log = logs.get("lane")

# One sentence per reason: what accepting it does. The CLI shows it before it asks; the docs print the table.
ACCEPTING = {
    Reason.MARKER_LOST: "the partition is checked again; it goes on if its open transaction is gone",
    Reason.SOURCE_GAP: "goes on at the first offset that the source still has; the gap is put in the ledger",
    Reason.SOURCE_RECREATED: "the new topic is mirrored from its beginning, behind the records of the old one",
    Reason.TARGET_RECREATED: "goes on in the new target topic; what the old one held is not copied again",
    Reason.SOURCE_DELETED: "the partition is paused; what was mirrored stays on the target",
    Reason.SOURCE_TRUNCATED: "goes on where the source's log now ends; what it lost stays on the target",
    Reason.CORRUPT_BATCH: "the batch is left out; the gap is put in the ledger",
    Reason.UNKNOWN_CODEC: "the batch is left out; the gap is put in the ledger",
    Reason.RECORD_TOO_LARGE: "the record (or a batch that unpacks to too much) is out; the gap is put in the ledger",
    Reason.TARGET_NOT_EMPTY: "records are appended behind what the target already holds",
    Reason.TARGET_REFUSED: "the record is left out; the gap is put in the ledger",
    Reason.TRANSFORM_FAILED: "the batch is left out; the gap is put in the ledger",
}
SKIPPING = frozenset(
    {
        Reason.CORRUPT_BATCH,
        Reason.UNKNOWN_CODEC,
        Reason.RECORD_TOO_LARGE,
        Reason.TARGET_REFUSED,
        Reason.TRANSFORM_FAILED,
    }
)


def tell(flow: str, route: Route) -> None:
    """Say that a route stands still, why, and what to type."""
    if route.fault is not None:
        topic, partition = route.key
        log.error(
            "partition.faulted",
            flow=flow,
            topic=topic,
            partition=partition,
            reason=route.fault.reason,
            detail=route.fault.detail,
            hint=f"eomirror fault accept {flow} {topic} {partition}",
        )


def carry_out(
    flow: str, undone: list[tuple[Route, Desired]], target: Brokers, source: Brokers
) -> tuple[list[Route], bool]:
    """Do what a person wants of these routes. Returns those that are resolved, and whether a cluster that must be asked
    of one did not say; the others do not wait for it."""
    resolved, silent = [], False
    for route, desired in undone:
        topic, partition = route.key
        place = {"flow": flow, "topic": topic, "partition": partition, "action": desired.action}
        try:
            if resolve(route, desired, target, source):
                resolved.append(route)
                log.info("fault.resolved", **place)
        except (ConnectionLost, BrokerError) as error:
            silent = True
            log.warning("fault.postponed", **place, detail=error.message)
    return resolved, silent


def resolve(route: Route, desired: Desired, target: Brokers, source: Brokers) -> bool:
    """Do what a person wants of a FAULTED route. `retry` tries the same offset again; nothing is left out.

    False, and nothing changed, when it cannot be done yet: where to go on is unknown, or the topic is not there. Raises
    BrokerError or ConnectionLost when a cluster must be asked and does not answer; nothing is changed then.
    """
    fault = route.fault
    if fault is None:
        raise RuntimeError(f"{route.key} is not faulted")
    if desired.action == "retry":
        route.released()
        return True
    topic, _ = route.key
    if fault.reason is Reason.SOURCE_GAP:
        _skip(route, max(fault.next_offset or 0, _source_offset(source, route, EARLIEST)), fault.reason, desired.by)
    elif fault.reason is Reason.SOURCE_TRUNCATED:
        # Where it was cut, known since the fault. The log may have grown beyond our position again, with other records.
        cut = route.next_offset if fault.next_offset is None else min(fault.next_offset, route.next_offset)
        _skip(route, min(cut, _source_offset(source, route, LATEST)), fault.reason, desired.by)
    elif fault.reason is Reason.SOURCE_RECREATED:
        described = source.metadata([topic]).topics.get(topic)
        if described is None:
            return False
        first = _source_offset(source, route, EARLIEST)
        route.source_topic_id = described.topic_id
        _skip(route, first, fault.reason, desired.by)
    elif fault.reason is Reason.SOURCE_DELETED:
        route.released()
        route.state = State.PAUSED
    elif fault.reason is Reason.TARGET_RECREATED:
        described = target.metadata([topic]).topics.get(topic)
        if described is None:
            return False
        route.target_topic_id = described.topic_id
        route.target_end = None
        # Nothing is left out, but the ledger has to say from where on its target offsets count.
        route.book.accept(Gap(route.next_offset, route.next_offset, fault.reason, desired.by))
        route.released()
    elif fault.reason in SKIPPING and fault.next_offset is not None:
        _skip(route, fault.next_offset, fault.reason, desired.by)
    elif fault.reason in (Reason.MARKER_LOST, Reason.TARGET_NOT_EMPTY):
        route.released()
    else:
        return False
    return True


def _skip(route: Route, offset: int, reason: Reason, by: str) -> None:
    route.skip_to(offset, Gap(route.next_offset, offset, reason, by))


def _source_offset(source: Brokers, route: Route, which: int) -> int:
    metadata = source.metadata([route.key[0]])
    answer = source.list_offsets(metadata, {route.key: which})[route.key]
    if isinstance(answer, BrokerError):
        raise answer
    return answer
