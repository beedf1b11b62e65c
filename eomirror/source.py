"""The source side of a lane: one fetch after the other from each leader, one ahead of what is being written while there
is more.

A failure to read never ends a transaction: the partition waits, with its cause, and the others go on. What can not be
cured by waiting (a gap, a re-created or truncated topic) is told as Faulted, never read past.
"""

from __future__ import annotations

import datetime
import random
from collections.abc import Iterable
from typing import Any, Final

from eomirror import _fastpath
from eomirror.brokers import EARLIEST, LATEST, LEADERSHIP_CODES, READ_COMMITTED, Brokers, Metadata, topic_uuid
from eomirror.errors import BrokerError, ConnectionLost, Faulted, Reason, error_name
from eomirror.model import RouteKey
from eomirror.wire import FETCH, Connection

POLL_SECONDS: Final = 0.5
GATHER_SECONDS: Final = 0.1  # the longest that records of one broker wait for those of another
PARTITION_MAX_BYTES: Final = 4 * 1024 * 1024
BACKOFF_SECONDS: Final = (0.05, 5.0)
# A topic that a broker does not know may have been created a moment ago; after this long it is gone.
DELETED_SECONDS: Final = 15.0
METADATA_SECONDS: Final = 60.0

OFFSET_OUT_OF_RANGE: Final = 1
UNKNOWN_TOPIC_ID: Final = 100
INCONSISTENT_TOPIC_ID: Final = 103


class Reading:
    """Where the reading of one partition stands: ahead of the checkpoint by what is on its way."""

    __slots__ = (
        "epoch",
        "has_more",
        "high_watermark",
        "key",
        "offset",
        "stable",
        "topic_id",
        "trouble",
        "trouble_since",
    )

    def __init__(self, key: RouteKey, topic_id: str, offset: int, epoch: int | None) -> None:
        self.key = key
        self.topic_id = topic_id
        self.offset = offset  # next to fetch
        self.epoch = epoch  # leader epoch of the last batch before offset, None if unknown
        self.stable: int | None = None  # last stable offset of the newest answer
        self.high_watermark: int | None = None
        self.has_more = False  # the newest answer of its broker brought records, but left some of this partition
        self.trouble: str | None = None
        self.trouble_since: float | None = None


class Part:
    """One partition's share of a block: record batches from `start` to `end` of the block's frame."""

    __slots__ = ("aborted", "end", "key", "position", "stable", "start")

    def __init__(self, key: RouteKey, position: int, part: _fastpath.FetchedPartition) -> None:
        self.key = key
        self.position = position
        self.start = part.start
        self.end = part.end
        self.aborted = part.aborted
        self.stable = part.last_stable_offset


class Block:
    """One fetch response with something in it. The frame is ours; packing patches its batch headers in place."""

    __slots__ = ("frame", "parts")

    def __init__(self, frame: bytearray, parts: list[Part]) -> None:
        self.frame = frame
        self.parts = parts


class _Poll:
    """The fetch that is under way at one broker: partitions and the offsets that were asked for."""

    __slots__ = ("asked", "connection", "deadline", "rests", "waits")

    def __init__(
        self,
        connection: Connection,
        asked: dict[tuple[bytes, int], tuple[Reading, int]],
        deadline: float,
        *,
        waits: bool,
        rests: int,
    ) -> None:
        self.connection = connection
        self.asked = asked
        self.deadline = deadline
        self.waits = waits  # at the broker, for the first record; otherwise it is answered at once
        self.rests = rests  # of the source, when it was sent


class Source:
    """Reads the partitions of one lane. Used by one thread."""

    def __init__(self, brokers: Brokers, *, max_bytes: int, rack: str = "") -> None:
        self._brokers = brokers
        self._max_bytes = max_bytes
        self._rack = rack
        self._network = brokers.network
        self.readings: dict[RouteKey, Reading] = {}
        self.faults: list[Faulted] = []
        self._leaders: dict[RouteKey, int] = {}
        self._preferred: dict[RouteKey, int] = {}
        self._links: dict[int, Connection] = {}
        self._polls: dict[int, _Poll] = {}
        self._resume_at: dict[int, float] = {}  # by node: not before, after a failure
        self._failures: dict[int, int] = {}
        self._metadata_due = 0.0
        self._metadata_failures = 0
        self._unknown_since: dict[RouteKey, float] = {}
        self._learnt = False  # where a partition ends, which was not known before
        self._rests = 0
        self._quiet: dict[int, int] = {}  # by node: the last rest after which it had nothing

    # --- what to read

    def assign(self, readings: Iterable[Reading]) -> None:
        """Read exactly these from now on; answers under way for what was read before are dropped."""
        self.readings = {r.key: r for r in readings}
        self.faults.clear()
        self._leaders.clear()
        self._preferred.clear()
        self._unknown_since.clear()
        self._drop_polls()
        self._metadata_due = 0.0

    def stop(self, key: RouteKey) -> None:
        """Stop reading one partition; an answer under way for it is dropped."""
        self.readings.pop(key, None)
        self._leaders.pop(key, None)

    def reread(self, reading: Reading) -> None:
        """Read a partition from here on; an answer under way for it is dropped."""
        self.readings[reading.key] = reading

    def caught_up(self, key: RouteKey) -> bool:
        """Everything committed that the newest answer told of has been handed out."""
        reading = self.readings.get(key)
        return reading is not None and reading.stable is not None and reading.offset >= reading.stable

    @property
    def behind(self) -> bool:
        """The newest answers left records at the source."""
        return any(reading.has_more for reading in self.readings.values())

    @property
    def may_rest(self) -> bool:
        """Every partition has answered, and none has more; those in trouble do not count."""
        return not any(
            reading.has_more or (reading.stable is None and reading.trouble is None)
            for reading in self.readings.values()
        )

    def rested(self) -> None:
        """Nothing was read for a while: answers that have come meanwhile hold the beginning of what is there."""
        self._rests += 1

    def close(self) -> None:
        """Close all connections; answers under way are dropped."""
        self._drop_polls()
        for link in self._links.values():
            link.close()
        self._links.clear()
        self._brokers.close()

    # --- reading

    def poll(self, timeout: float) -> Block | None:
        """The next block, waiting at most `timeout` seconds; None if none came, at once when a partition has answered
        for the first time and has nothing: whoever waits for the end of a short catching up waits for that.

        A broker that has more is asked for it before this returns, so that it comes while the block is written. New
        entries in `faults` are for the caller to take.
        """
        deadline = self._network.now() + timeout
        while True:
            self._look_for_leaders()
            self._send_polls()
            now = self._network.now()
            if self._polls and not self.faults:
                block = self._first(self._pause(deadline))
                if block is not None:
                    self._learnt = False
                    return block
            elif not self.faults:
                self._network.sleep(self._pause(deadline))
            for node, poll in list(self._polls.items()):
                if self._network.now() >= poll.deadline:
                    self._lost(node, ConnectionLost(f"{poll.connection.address}: no answer to a fetch"))
            if self._learnt or self.faults or self._network.now() >= deadline or now >= deadline:
                self._learnt = False
                return None

    def gather(self, *, ask: bool) -> Block | None:
        """A block that belongs with those before: it has come already, or its broker answers at once. Who had nothing
        more is asked again if `ask`. None says that this is all, or that it takes too long."""
        if ask:
            self._send_polls(at_once=True)
        deadline = self._network.now() + GATHER_SECONDS
        while self._polls:
            is_coming = not all(poll.waits for poll in self._polls.values())
            left = deadline - self._network.now() if is_coming else 0.0
            block = self._first(max(left, 0.0))
            if block is not None or left <= 0.0:
                return block
        return None

    def _first(self, timeout: float) -> Block | None:
        """The first block among the answers that are there, waiting for one at most `timeout` seconds."""
        nodes = {id(p.connection.socket): node for node, p in self._polls.items()}
        for ready in self._network.wait([p.connection.socket for p in self._polls.values()], timeout):
            block = self._receive(nodes[id(ready)])
            if block is not None:
                return block
        return None

    def _pause(self, deadline: float) -> float:
        """How long to wait for an answer: until the deadline, or until something else is due."""
        due = [deadline, self._metadata_due, *self._resume_at.values(), *(p.deadline for p in self._polls.values())]
        return max(min(due) - self._network.now(), 0.0)

    def _receive(self, node: int) -> Block | None:
        poll = self._polls.pop(node)
        try:
            version, frame = poll.connection.receive_frame(self._brokers.deadline())
            answer = _fastpath.fetch_response(frame, version)
        except ConnectionLost as error:
            self._lost(node, error)
            return None
        except _fastpath.FrameError as error:
            self._lost(node, ConnectionLost(f"{poll.connection.address}: Fetch response cannot be read: {error}"))
            return None
        if answer.error_code != 0:
            self._lost(node, ConnectionLost(f"{poll.connection.address}: Fetch: {error_name(answer.error_code)}"))
            return None
        self._failures.pop(node, None)
        parts = []
        for part in answer.partitions:
            known = poll.asked.get((part.topic_id or b"", part.partition))
            if known is None:
                self._lost(node, ConnectionLost(f"{poll.connection.address}: Fetch answered what was not asked"))
                return None
            reading, asked = known
            if self.readings.get(reading.key) is not reading or reading.offset != asked:
                continue  # stopped or moved since the fetch was sent
            if self._accept(node, reading, part) and part.end > part.start:
                # Offset and epoch together: an older epoch beside a newer offset would look like a truncated log.
                # A part that does not advance is handed out too: packing tells a cut batch from a corrupt one.
                following, epoch = _fastpath.next_offset(frame, part.start, part.end, reading.offset)
                parts.append(Part(reading.key, reading.offset, part))
                if following > reading.offset:
                    reading.offset, reading.epoch = following, epoch
        if answer.throttle_ms > 0:
            # The broker has muted this connection for that long; asking again only fills its queue.
            self._resume_at[node] = self._network.now() + answer.throttle_ms / 1000
        self._rotate([r.key for r, _ in poll.asked.values()])
        if parts or answer.throttle_ms == 0:
            for reading, _ in poll.asked.values():
                # An answer without any record had nothing to give, wherever the log ends.
                is_left = reading.stable is not None and reading.offset < reading.stable
                reading.has_more = bool(parts) and is_left and reading.trouble is None
        if not parts and poll.rests == self._rests:
            self._quiet[node] = self._rests
        if self.behind:
            self._send_polls()
        elif parts and poll.rests != self._rests:
            self._send_polls(node, at_once=True)
        return Block(frame, parts) if parts else None

    def _accept(self, node: int, reading: Reading, part: _fastpath.FetchedPartition) -> bool:
        """Judge one partition of an answer; True if its records may be used."""
        code = part.error_code
        if code == 0 and part.diverging is not None:
            epoch, end = part.diverging
            self._fault(
                reading,
                Reason.SOURCE_TRUNCATED,
                f"the source's log of epoch {reading.epoch} ends before offset {reading.offset} "
                f"(epoch {epoch} ends at {end}): it was truncated after an unclean leader election",
                next_offset=end,
            )
            return False
        if code == 0:
            self._learnt = self._learnt or reading.stable is None
            reading.stable = part.last_stable_offset
            reading.high_watermark = part.high_watermark
            reading.trouble = reading.trouble_since = None
            if part.preferred_read_replica >= 0:
                self._preferred[reading.key] = part.preferred_read_replica
                return False
            return True
        if code == OFFSET_OUT_OF_RANGE:
            if self._preferred.pop(reading.key, None) == node and self._leaders.get(reading.key) != node:
                return False  # a follower may lag behind; only the leader's word counts
            self._out_of_range(reading)
            return False
        self._trouble(reading, error_name(code))
        self._preferred.pop(reading.key, None)
        if code in LEADERSHIP_CODES or code in (UNKNOWN_TOPIC_ID, INCONSISTENT_TOPIC_ID):
            self._leaders.pop(reading.key, None)
            self._metadata_soon()
        else:
            self._resume_at[node] = self._network.now() + self._backoff(self._failures.get(node, 0))
            self._failures[node] = self._failures.get(node, 0) + 1
        return False

    def _out_of_range(self, reading: Reading) -> None:
        """The leader does not have our offset: ask it what it has, and name the gap."""
        topic = reading.key[0]
        try:
            metadata = self._brokers.metadata([topic])
            first = self._brokers.list_offsets(metadata, {reading.key: EARLIEST})[reading.key]
            last = self._brokers.list_offsets(metadata, {reading.key: LATEST})[reading.key]
        except ConnectionLost as error:
            self._trouble(reading, error.message)
            return
        if isinstance(first, BrokerError) or isinstance(last, BrokerError):
            self._trouble(reading, "OFFSET_OUT_OF_RANGE (1), and its leader does not say what it has")
        elif reading.offset < first:
            self._fault(
                reading,
                Reason.SOURCE_GAP,
                f"source starts at {first} but the checkpoint is {reading.offset}: "
                f"offsets {reading.offset} to {first - 1} are gone from the source",
                next_offset=first,
            )
        elif reading.offset > last:
            self._fault(
                reading,
                Reason.SOURCE_TRUNCATED,
                f"source ends at {last} but the checkpoint is {reading.offset}",
                next_offset=last,
            )
        else:
            # It has our offset now: whoever answered was not up to date. Not asked again at once, though.
            self._trouble(reading, error_name(OFFSET_OUT_OF_RANGE))
            self._leaders.pop(reading.key, None)
            self._metadata_soon()

    def _fault(self, reading: Reading, reason: Reason, detail: str, next_offset: int | None = None) -> None:
        self.stop(reading.key)
        topic, partition = reading.key
        fault = Faulted(topic, partition, reason, detail, offset=reading.offset, next_offset=next_offset)
        self.faults.append(fault)

    def _trouble(self, reading: Reading, cause: str) -> None:
        reading.trouble = cause
        reading.has_more = False
        if reading.trouble_since is None:
            reading.trouble_since = self._network.now()

    # --- asking

    def _rotate(self, served: list[RouteKey]) -> None:
        """What was just asked for goes to the end: a broker fills its answer in the order of the request, and only the
        first partition is sure to get a whole batch."""
        for key in served[: max(1, len(served) // 2)]:
            reading = self.readings.pop(key, None)
            if reading is not None:
                self.readings[key] = reading

    def _send_polls(self, only: int | None = None, *, at_once: bool = False) -> None:
        """Ask every broker that is not asked yet, or only one; `at_once`, for what it has now."""
        now = self._network.now()
        self._resume_at = {n: at for n, at in self._resume_at.items() if at > now}
        by_node: dict[int, list[Reading]] = {}
        nodes = set()
        for reading in self.readings.values():
            leader = self._leaders.get(reading.key)
            node = self._preferred.get(reading.key, leader) if leader is not None else None
            if node is None:
                continue
            nodes.add(node)
            if only in (None, node) and node not in self._polls and node not in self._resume_at:
                by_node.setdefault(node, []).append(reading)
        for node, readings in by_node.items():
            try:
                link = self._links.get(node)
                if link is None:
                    link = self._links[node] = self._brokers.dial(self._brokers.address(node))
                # Asked for what it has now: who has not said yet where it ends, unless it was in trouble, and one of
                # several brokers until it had nothing, for what the others have waits for it.
                is_known = all(r.stable is not None or r.trouble is not None for r in readings)
                is_awaited = at_once or (len(nodes) > 1 and self._quiet.get(node) != self._rests)
                waits = is_known and not is_awaited
                link.send(self._request(link, readings, POLL_SECONDS if waits else 0.0))
            except ConnectionLost as error:
                self._lost(node, error)
                continue
            asked = {(bytes.fromhex(r.topic_id), r.key[1]): (r, r.offset) for r in readings}
            deadline = self._brokers.deadline(POLL_SECONDS + 15.0)
            self._polls[node] = _Poll(link, asked, deadline, waits=waits, rests=self._rests)

    def _request(self, link: Connection, readings: list[Reading], wait: float) -> Any:
        module = link.module(FETCH)
        topics: dict[str, list[Any]] = {}
        for r in readings:
            topics.setdefault(r.topic_id, []).append(
                module.FetchPartition(
                    partition=r.key[1],
                    fetch_offset=r.offset,
                    # With the epoch of the last batch read, a log that was truncated below us is told, not read past.
                    last_fetched_epoch=-1 if r.epoch is None else r.epoch,
                    partition_max_bytes=min(PARTITION_MAX_BYTES, self._max_bytes),
                )
            )
        return module.FetchRequest(
            max_wait=datetime.timedelta(seconds=wait),
            min_bytes=1,
            max_bytes=self._max_bytes,
            isolation_level=READ_COMMITTED,
            topics=tuple(module.FetchTopic(topic_id=topic_uuid(t), partitions=tuple(p)) for t, p in topics.items()),
            forgotten_topics_data=(),
            rack_id=self._rack,
        )

    def _lost(self, node: int, error: ConnectionLost) -> None:
        """A connection broke: what was asked there is asked again, after a pause, of whoever leads then."""
        link = self._links.pop(node, None)
        if link is not None:
            link.close()
        self._polls.pop(node, None)
        failures = self._failures[node] = self._failures.get(node, 0) + 1
        self._resume_at[node] = self._network.now() + self._backoff(failures)
        self._quiet.pop(node, None)
        for reading in self.readings.values():
            if self._preferred.get(reading.key) == node:
                reading.has_more = False
            if self._leaders.get(reading.key) == node:
                self._trouble(reading, error.message)
        self._preferred = {k: n for k, n in self._preferred.items() if n != node}
        self._metadata_soon()

    def _drop_polls(self) -> None:
        """Answers come in order, so a connection with an answer under way that nobody wants is closed."""
        for node in list(self._polls):
            self._polls.pop(node)
            self._links.pop(node).close()

    # --- leaders

    def _metadata_soon(self) -> None:
        self._metadata_due = min(self._metadata_due, self._network.now() + self._backoff(self._metadata_failures))
        self._metadata_failures += 1

    def _look_for_leaders(self) -> None:
        now = self._network.now()
        if now < self._metadata_due or not self.readings:
            if not self.readings:
                self._metadata_due = now + METADATA_SECONDS
            return
        try:
            metadata = self._brokers.metadata({topic for topic, _ in self.readings})
        except (ConnectionLost, BrokerError) as error:
            for reading in self.readings.values():
                if reading.key not in self._leaders:
                    self._trouble(reading, error.message)
            self._metadata_failures += 1
            self._metadata_due = now + self._backoff(self._metadata_failures)
            return
        self._metadata_due = now + METADATA_SECONDS
        for reading in list(self.readings.values()):
            self._settle_leader(reading, metadata)
        if all(key in self._leaders for key in self.readings):
            self._metadata_failures = 0
        else:
            self._metadata_soon()

    def _settle_leader(self, reading: Reading, metadata: Metadata) -> None:
        topic, partition = reading.key
        described = metadata.topics.get(topic)
        now = self._network.now()
        if described is not None and described.topic_id != reading.topic_id:
            self._fault(
                reading,
                Reason.SOURCE_RECREATED,
                f"the source's topic has id {described.topic_id}, the checkpoint is of {reading.topic_id}: "
                "it was deleted and created again",
                next_offset=0,
            )
            return
        if topic in metadata.unknown or (described is not None and partition not in described.partitions):
            since = self._unknown_since.setdefault(reading.key, now)
            self._leaders.pop(reading.key, None)
            reading.has_more = False
            if now - since >= DELETED_SECONDS:
                self._fault(reading, Reason.SOURCE_DELETED, f"the source has had no such topic for {now - since:.0f} s")
            return
        self._unknown_since.pop(reading.key, None)
        leader = described.partitions[partition].node if described is not None else None
        if leader is None:
            code = metadata.errors.get(topic)
            self._trouble(reading, "no leader" if code is None else error_name(code))
            self._leaders.pop(reading.key, None)
        else:
            self._leaders[reading.key] = leader

    def _backoff(self, failures: int) -> float:
        least, most = BACKOFF_SECONDS
        return min(least * float(2 ** min(failures, 10)), most) * random.uniform(0.5, 1.0)
