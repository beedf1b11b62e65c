"""Small stand-ins for the unit tests: a cluster that answers questions from a table, and batches without a kernel."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from types import SimpleNamespace
from typing import NamedTuple

from eomirror import _fastpath, records
from eomirror.brokers import (
    EARLIEST,
    LATEST,
    READ_COMMITTED,
    READ_UNCOMMITTED,
    Entry,
    Leader,
    Metadata,
    Producing,
    Topic,
)
from eomirror.errors import BrokerError, ConnectionLost
from eomirror.identity import Identity
from eomirror.model import RouteKey, RouteSpec
from eomirror.records import LaneRecord, Owner, PositionRecord
from eomirror.route import Route

OWNER = Owner("host", 41, "f00d", 1_000)
OLD, NEW = "0" * 31 + "1", "0" * 31 + "2"


class Clock:
    """Time that moves only when told, or slept away."""

    def __init__(self, now: float = 1000.0) -> None:
        self.now = now

    def sleep(self, seconds: float) -> None:
        self.now += seconds

    def __call__(self) -> float:
        return self.now


class Log:
    """One partition: where it begins, ends, is stable, and what lies at timestamps."""

    def __init__(self, first: int = 0, end: int = 0, stable: int | None = None, **by_time: int) -> None:
        self.first = first
        self.end = end
        self.stable = end if stable is None else stable
        self.by_time = {int(name.removeprefix("at_")): offset for name, offset in by_time.items()}
        self.entries: list[Entry] = []
        self.producers: list[Producing] = []

    def offset(self, which: int, isolation: int) -> int:
        if which == EARLIEST:
            return self.first
        if which == LATEST:
            return self.stable if isolation == READ_COMMITTED else self.end
        return self.by_time.get(which, -1)


class FakeBrokers:
    """The questions of `Brokers`, answered from tables. `away` are partitions whose leader refuses; `down` cuts all."""

    def __init__(self, name: str = "dublin") -> None:
        self.name = name
        self.logs: dict[RouteKey, Log] = {}
        self.ids: dict[str, str] = {}
        self.leaderless: set[RouteKey] = set()
        self.errors: dict[str, int] = {}
        self.away: set[RouteKey] = set()
        self.down = False
        self.clock = Clock()
        self.network = SimpleNamespace(now=self.clock, sleep=self.clock.sleep)

    def add(self, topic: str, *logs: Log, topic_id: str = OLD) -> None:
        self.ids[topic] = topic_id
        self.logs.update({(topic, p): log for p, log in enumerate(logs)})

    def append(self, topic: str, key: bytes, value: bytes | None, *, stable: bool = True) -> None:
        log = self.logs[topic, 0]
        log.entries.append(Entry(log.end, 1_000 + log.end, key, value))
        log.end += 1
        if stable:
            log.stable = log.end

    def deadline(self, seconds: float) -> float:
        return self.clock.now + seconds

    def metadata(self, topics: Iterable[str] | None = None) -> Metadata:
        self._reach()
        wanted = set(self.ids if topics is None else topics)
        found = {
            name: Topic(
                name,
                self.ids[name],
                {p: Leader(None if (t, p) in self.leaderless else 1, 7) for t, p in self.logs if t == name},
                3,
            )
            for name in wanted & self.ids.keys()
        }
        unknown = frozenset(wanted - self.ids.keys() - self.errors.keys())
        return Metadata("T", {}, found, unknown, {n: c for n, c in self.errors.items() if n in wanted})

    def list_offsets(
        self, metadata: Metadata, wanted: Mapping[RouteKey, int], isolation: int = READ_UNCOMMITTED
    ) -> dict[RouteKey, int | BrokerError]:
        self._reach()
        return {
            key: self._refusal(metadata, key) or self.logs[key].offset(which, isolation)
            for key, which in wanted.items()
        }

    def producers(
        self, metadata: Metadata, wanted: Iterable[RouteKey]
    ) -> dict[RouteKey, list[Producing] | BrokerError]:
        self._reach()
        return {key: self._refusal(metadata, key) or list(self.logs[key].producers) for key in wanted}

    def read_committed(self, topic: Topic, partition: int, start: int, bound: int, _max_wait: float) -> list[Entry]:
        self._reach()
        return [e for e in self.logs[topic.name, partition].entries if start <= e.offset < bound]

    def follow(self, topic: Topic, partition: int, start: int, bound: int, max_wait: float) -> Iterator[list[Entry]]:
        for entry in self.read_committed(topic, partition, start, bound, max_wait):
            yield [entry]

    def _reach(self) -> None:
        if self.down:
            raise ConnectionLost("127.0.0.1:1: refused")

    def _refusal(self, metadata: Metadata, key: RouteKey) -> BrokerError | None:
        topic = metadata.topics.get(key[0])
        if topic is None or key[1] not in topic.partitions:
            return BrokerError(f"cluster {self.name}: {key[0]}[{key[1]}]", 3)
        return BrokerError(f"cluster {self.name}: {key[0]}[{key[1]}]", 6) if key in self.away else None


class FakeBatch(NamedTuple):
    """What a Book needs to know of a packed batch."""

    runs: tuple[tuple[int, int], ...]
    payload: bytes
    max_timestamp: int

    @property
    def view(self) -> bytes:
        return bytes(61) + self.payload

    @property
    def count(self) -> int:  # a batch's length in records, as the kernel's Batch has it
        return sum(size for _, size in self.runs)

    @property
    def payload_crc(self) -> int:
        return _fastpath.crc32c(self.payload)

    @property
    def payload_bytes(self) -> int:
        return len(self.payload)


def batch(*runs: tuple[int, int], payload: bytes = b"payload", newest: int = 5) -> FakeBatch:
    return FakeBatch(runs, payload, newest)


def position(next_offset: int = 100, **fields: object) -> PositionRecord:
    base = {"source_topic_id": OLD, "target_topic_id": OLD, "transaction": 4}
    return PositionRecord(v=records.VERSION, next_offset=next_offset, **(base | fields))


def route(next_offset: int = 100, key: RouteKey = ("orders", 0), **fields: object) -> Route:
    return Route(key, position(next_offset, **fields))


def spec(
    key: RouteKey = ("orders", 0), start: int = EARLIEST, topic_id: str = OLD, limit: int = 1_000_000
) -> RouteSpec:
    return RouteSpec(*key, topic_id, start, limit)


def lane_record(n: int = 5, **fields: object) -> LaneRecord:
    base = {"generation": 3, "owner": OWNER, "announced": {"a": 70, "b": 71}}
    return LaneRecord(v=records.VERSION, n=n, **(base | fields))


def identities(a: tuple[int, int] = (70, 9), b: tuple[int, int] = (71, 9)) -> SimpleNamespace:
    """The part of `Transactions` that others look at: (producer id, epoch) of both identities."""
    pair = {"a": Identity("a", "eomirror.dr.0.a"), "b": Identity("b", "eomirror.dr.0.b")}
    pair["a"].held, pair["b"].held = a, b
    return SimpleNamespace(identities=pair)
