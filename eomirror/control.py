"""What people want (written by commands, read by lanes) and what they did (the operators' history)."""

from __future__ import annotations

import getpass
import os

from eomirror import records
from eomirror.brokers import EARLIEST, LATEST, READ_COMMITTED, Brokers, Entry
from eomirror.checkpoint import InternalTopics, internal_topic, offset_of
from eomirror.clusters import Cluster
from eomirror.errors import Refused
from eomirror.model import RouteKey
from eomirror.records import Desired, Event, Record


class Control:
    """Follows the control topic of a flow; each `read` costs only what is new. Used by one thread."""

    def __init__(self, target: Brokers, flow: str) -> None:
        self._target = target
        self._topics = InternalTopics.of(flow)
        self._position: int | None = None
        self._desired: dict[RouteKey, Desired] = {}
        self.events: list[Event] = []

    def read(self) -> dict[RouteKey, Desired]:
        """What is wanted now, by partition. Raises BrokerError, ConnectionLost, Refused."""
        metadata = self._target.metadata([self._topics.control])
        topic = internal_topic(self._target, metadata, self._topics.control)
        if self._position is None:
            self._position = offset_of(self._target, metadata, topic.name, 0, EARLIEST)
        stable = offset_of(self._target, metadata, topic.name, 0, LATEST, READ_COMMITTED)
        desired, events = dict(self._desired), list(self.events)
        for entry in self._target.read_committed(topic, 0, self._position, stable, 5.0):
            self._fold(entry, desired, events)
        # All or nothing: what could not be read to its end is read again.
        self._desired, self.events, self._position = desired, events, max(self._position, stable)
        return dict(desired)

    def _fold(self, entry: Entry, desired: dict[RouteKey, Desired], events: list[Event]) -> None:
        place = f"{self._topics.control}[0]@{entry.offset}"
        match records.decode_key(place, entry.key):
            case ["desired", ["fault", str(topic), int(partition)]]:
                if entry.value is None:
                    desired.pop((topic, partition), None)
                else:
                    desired[topic, partition] = records.decode(place, Desired, entry.value)
            case ["event", str(_)]:
                if entry.value is not None:
                    events.append(records.decode(place, Event, entry.value))
            case key:
                raise Refused(f"{place}: unknown key {key!r}", hint="It was written by a newer eomirror; run that one.")


def who() -> str:
    """The person at the keyboard, for the history."""
    try:
        return os.environ.get("SUDO_USER") or getpass.getuser()
    except (KeyError, OSError):  # no such user in this container
        return f"uid {os.getuid()}"


def order(target: Cluster, flow: str, key: RouteKey, desired: Desired) -> None:
    """Write what is wanted about a partition's fault, and the event beside it. Raises Refused if it was not stored."""
    scope = records.fault_scope(*key)
    event = Event(
        v=records.VERSION,
        verb=f"fault {desired.action}",
        scope=scope,
        by=desired.by,
        why=desired.why,
        at_ms=desired.at_ms,
    )
    topic = InternalTopics.of(flow).control
    entries: list[tuple[bytes, Record]] = [
        (records.desired_key(scope), desired),
        (records.event_key(_ulid(desired.at_ms)), event),
    ]
    failures: list[str] = []
    producer = target.producer()
    for record_key, value in entries:
        producer.produce(
            topic,
            key=record_key,
            value=records.encode(value),
            partition=0,
            on_delivery=lambda error, _: failures.append(str(error)) if error is not None else None,
        )
    left = producer.flush(20)
    if failures or left:
        raise Refused(
            f"cluster {target.name}: {topic}: the order was not stored: {failures[0] if failures else 'no answer'}",
            hint="Nothing has changed; try again.",
        )


def _ulid(at_ms: int) -> str:
    """A ULID: 48 bits of time, 80 of chance, in Crockford's base 32; sorts by time."""
    alphabet = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
    value = (at_ms << 80) | int.from_bytes(os.urandom(10), "big")
    return "".join(alphabet[(value >> shift) & 31] for shift in range(125, -1, -5))
