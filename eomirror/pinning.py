"""The first position of a route: decided once, committed before the first byte of data."""

from __future__ import annotations

import msgspec

from eomirror.brokers import EARLIEST, LATEST, READ_COMMITTED, Brokers, Metadata
from eomirror.errors import BrokerError, ConnectionLost, Reason
from eomirror.model import RouteKey, RouteSpec
from eomirror.records import Fault, PositionRecord, State
from eomirror.route import pinned


def pin(
    source: Brokers,
    target: Brokers,
    metadata: Metadata,
    specs: dict[RouteKey, RouteSpec],
    known: dict[RouteKey, PositionRecord],
    *,
    late: bool,
    now_ms: int,
) -> dict[RouteKey, PositionRecord]:
    """Positions for the routes that have none; not for those that must wait because a leader cannot be asked.

    A target partition that already holds something gets a position that is FAULTED with TARGET_NOT_EMPTY: nothing is
    mixed into records of unknown origin unasked. `late` says that the lane has pinned its first routes before: a topic
    that turns up after that is mirrored from its beginning, also with `start: latest`.
    """
    new = {key: spec for key, spec in specs.items() if key not in known}
    if not new:
        return {}
    ready = {key: spec for key, spec in new.items() if _present(metadata, key)}
    target_first = target.list_offsets(metadata, dict.fromkeys(ready, EARLIEST))
    target_end = target.list_offsets(metadata, dict.fromkeys(ready, LATEST))
    starts = _starts(source, ready, late=late)
    pins: dict[RouteKey, PositionRecord] = {}
    for key, spec in ready.items():
        first, end = target_first[key], target_end[key]
        if isinstance(first, BrokerError) or isinstance(end, BrokerError) or key not in starts:
            continue
        source_first, start = starts[key]
        position = pinned(spec.source_topic_id, metadata.topics[key[0]].topic_id, source_first, start)
        if end > first:
            detail = f"the target already holds offsets {first} to {end - 1} that this flow did not write"
            fault = Fault(Reason.TARGET_NOT_EMPTY, detail, now_ms, start)
            position = msgspec.structs.replace(position, state=State.FAULTED, fault=fault)
        pins[key] = position
    return pins


def _present(metadata: Metadata, key: RouteKey) -> bool:
    topic = metadata.topics.get(key[0])
    return topic is not None and key[1] in topic.partitions


def _starts(source: Brokers, specs: dict[RouteKey, RouteSpec], *, late: bool) -> dict[RouteKey, tuple[int, int]]:
    """The lowest source offset of each route and the one at which it begins; a route whose leader cannot say is not in
    it."""
    wanted = {key: EARLIEST if late and spec.start == LATEST else spec.start for key, spec in specs.items()}
    try:
        metadata = source.metadata({topic for topic, _ in specs})
        wanted = {
            k: start
            for k, start in wanted.items()
            if k[0] in metadata.topics and metadata.topics[k[0]].topic_id == specs[k].source_topic_id
        }
        # "Latest" is the last stable offset: a transaction that is open now is mirrored whole or not at all.
        answers = source.list_offsets(metadata, wanted, READ_COMMITTED)
        after_the_last = [k for k, offset in answers.items() if offset == -1]
        answers |= source.list_offsets(metadata, dict.fromkeys(after_the_last, LATEST), READ_COMMITTED)
        lowest = source.list_offsets(metadata, dict.fromkeys(answers, EARLIEST))
    except (ConnectionLost, BrokerError):
        return {}
    return {
        key: (first, start)
        for key, start in answers.items()
        if not isinstance(start, BrokerError) and not isinstance(first := lowest[key], BrokerError)
    }
