"""The frozen values that cross modules."""

from __future__ import annotations

import zlib
from typing import Literal, NamedTuple

import msgspec

from eomirror._fastpath import Recipe
from eomirror.errors import Reason
from eomirror.records import Desired, Owner, State
from eomirror.transform import Step, compile_recipe

RouteKey = tuple[str, int]


def lane_of(topic: str, partition: int, lanes: int) -> int:
    """The lane that owns a partition. Fixed for the life of a flow: a position is only ever looked for there."""
    return (zlib.crc32(topic.encode()) + partition) % lanes


class Seen(NamedTuple):
    """A record as a read_committed consumer sees it; `timestamp` is (type, ms), types are Kafka's clients'."""

    offset: int
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes | None], ...]
    timestamp: tuple[int, int]


class RouteSpec(msgspec.Struct, frozen=True):
    """A source partition that is to be mirrored, as discovery sees it.

    `start` is a timestamp in ms, EARLIEST or LATEST; it counts only until the first checkpoint pins a position.
    `max_batch_bytes` is the target topic's max.message.bytes. `target_topic_id` is the target topic's now, so that a
    target that was created again is news. `obstacle` says why nothing may be written there, None if nothing speaks
    against it. `gone` says that the source has no such topic any more.
    """

    topic: str
    partition: int
    source_topic_id: str
    start: int
    max_batch_bytes: int
    target_topic_id: str = ""
    obstacle: str | None = None
    gone: bool = False

    @property
    def key(self) -> RouteKey:
        return self.topic, self.partition


class Orders(msgspec.Struct, frozen=True):
    """What a lane is told from outside; replaced as a whole, compared by identity."""

    routes: dict[RouteKey, RouteSpec] = {}
    desired: dict[RouteKey, Desired] = {}


class RouteView(msgspec.Struct, frozen=True):
    """A route as the running lane sees it, for progress lines. `stable` is the source's last stable offset."""

    key: RouteKey
    state: State
    next_offset: int
    stable: int | None
    trouble: str | None
    reason: Reason | None


class LaneView(msgspec.Struct, frozen=True):
    """A lane at one moment, after a commit or an idle cycle."""

    lane: int
    n: int
    records: int
    bytes: int
    transactions: int
    rewinds: int
    routes: tuple[RouteView, ...]
    caught_up: bool
    waiting: str | None


class Lease(msgspec.Struct, frozen=True):
    """Who runs a lane, of which flow, and what the flow does to records on their way, or to those that the target does
    not take.

    `checkpoint_id` is the checkpoint topic's id when the flow was claimed, `source` the configuration's name for the
    source cluster.
    """

    flow: str
    lane: int
    source_cluster_id: str
    owner: Owner
    checkpoint_id: str
    source: str = ""
    transform: tuple[Step, ...] = ()
    on_bad_record: Literal["fault", "quarantine", "drop"] = "fault"

    def recipe(self, key: RouteKey) -> Recipe | None:
        """What is done to the headers of a route's records; None if nothing is."""
        topic, partition = key
        return compile_recipe(
            self.transform, flow=self.flow, source_cluster=self.source, topic=topic, partition=partition
        )


class Receipt(msgspec.Struct, frozen=True):
    """What one commit proved."""

    n: int
    identity: str
    records: int
    bytes: int
    routes: int
    seconds: float
    ledgered: bool

    def __str__(self) -> str:
        ledger = ", ledger written" if self.ledgered else ""
        return (
            f"transaction {self.n} ({self.identity}): {self.records} records of {self.routes} routes, "
            f"{self.bytes} bytes in {self.seconds * 1000:.1f} ms{ledger}"
        )
