"""The source side of a lane: one fetch after the other from each leader, one ahead of what is being written while there
is more.

A failure to read never ends a transaction: the partition waits, with its cause, and the others go on. What can not be
cured by waiting (a gap, a re-created or truncated topic) is told as Faulted, never read past.
"""

from __future__ import annotations

import random
from collections.abc import Iterable
from typing import Final

from eomirror import _fastpath
from eomirror.brokers import EARLIEST, LATEST, LEADERSHIP_CODES, Brokers, Metadata
from eomirror.errors import BrokerError, ConnectionLost, Faulted, Reason, error_name
from eomirror.feed import SESSION_CODES, Feed, Place, Poll, Reading
from eomirror.model import RouteKey

POLL_SECONDS: Final = 0.5
GATHER_SECONDS: Final = 0.1  # the longest that records of one broker wait for those of another
BACKOFF_SECONDS: Final = (0.05, 5.0)
# A topic that a broker does not know may have been created a moment ago; after this long it is gone.
DELETED_SECONDS: Final = 15.0
METADATA_SECONDS: Final = 60.0

OFFSET_OUT_OF_RANGE: Final = 1
UNKNOWN_TOPIC_ID: Final = 100
INCONSISTENT_TOPIC_ID: Final = 103


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
        self._feeds: dict[int, Feed] = {}  # by node
        self._homeless: list[Reading] = []  # without a leader
        self._is_moved = True  # partitions are to be handed out to feeds anew
        self._metadata_due = 0.0
        self._metadata_failures = 0
        self._unknown_since: dict[RouteKey, float] = {}
        self._learnt = False  # where a partition ends, which was not known before
        self._rests = 0

    # --- what to read

    def assign(self, readings: Iterable[Reading]) -> None:
        """Read exactly these from now on; answers under way for what was read before are dropped."""
        self.readings = {r.key: r for r in readings}
        self.faults.clear()
        self._leaders.clear()
        self._preferred.clear()
        self._unknown_since.clear()
        self._drop_polls()
        self._is_moved = True
        self._metadata_due = 0.0

    def stop(self, key: RouteKey) -> None:
        """Stop reading one partition; an answer under way for it is dropped."""
        self.readings.pop(key, None)
        self._leaders.pop(key, None)
        self._is_moved = True

    def reread(self, reading: Reading) -> None:
        """Read a partition from here on; an answer under way for it is dropped."""
        self.readings[reading.key] = reading
        self._is_moved = True
        if reading.key not in self._leaders:
            self._metadata_due = 0.0

    def caught_up(self, key: RouteKey) -> bool:
        """Everything committed that the newest answer told of has been handed out."""
        reading = self.readings.get(key)
        return reading is not None and reading.stable is not None and reading.offset >= reading.stable

    @property
    def behind(self) -> bool:
        """The newest answers left records at the source."""
        self._hand_out()
        return any(feed.behind for feed in self._feeds.values())

    @property
    def may_rest(self) -> bool:
        """Every partition has answered, and none has more; those in trouble do not count."""
        self._hand_out()
        return not (
            any(feed.behind or feed.unheard for feed in self._feeds.values())
            or any(reading.is_unheard for reading in self._homeless)
        )

    def rested(self) -> None:
        """Nothing was read for a while: answers that have come meanwhile hold the beginning of what is there."""
        self._rests += 1

    def close(self) -> None:
        """Close all connections; answers under way are dropped."""
        for feed in self._feeds.values():
            feed.close()
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
            if self._asked() and not self.faults:
                block = self._first(self._pause(deadline))
                if block is not None:
                    self._learnt = False
                    return block
            elif not self.faults:
                self._network.sleep(self._pause(deadline))
            for feed, poll in self._asked():
                if self._network.now() >= poll.deadline:
                    self._lost(feed, ConnectionLost(f"{poll.connection.address}: no answer to a fetch"))
            if self._learnt or self.faults or self._network.now() >= deadline or now >= deadline:
                self._learnt = False
                return None

    def gather(self, *, ask: bool) -> Block | None:
        """A block that belongs with those before: it has come already, or its broker answers at once. Who had nothing
        more is asked again if `ask`. None says that this is all, or that it takes too long."""
        if ask:
            self._send_polls(at_once=True)
        deadline = self._network.now() + GATHER_SECONDS
        while asked := self._asked():
            is_coming = not all(poll.waits for _, poll in asked)
            left = deadline - self._network.now() if is_coming else 0.0
            block = self._first(max(left, 0.0))
            if block is not None or left <= 0.0:
                return block
        return None

    def _first(self, timeout: float) -> Block | None:
        """The first block among the answers that are there, waiting for one at most `timeout` seconds."""
        asked = {id(poll.connection.socket): (feed, poll) for feed, poll in self._asked()}
        for ready in self._network.wait([poll.connection.socket for _, poll in asked.values()], timeout):
            feed, poll = asked[id(ready)]
            block = self._receive(feed, poll) if feed.poll is poll else None
            if block is not None:
                return block
        return None

    def _pause(self, deadline: float) -> float:
        """How long to wait for an answer: until the deadline, or until something else is due."""
        due = [deadline, self._metadata_due]
        due += [feed.resume_at for feed in self._feeds.values() if feed.readings and feed.resume_at > 0.0]
        due += [poll.deadline for _, poll in self._asked()]
        return max(min(due) - self._network.now(), 0.0)

    def _receive(self, feed: Feed, poll: Poll) -> Block | None:
        feed.poll = None
        address = poll.connection.address
        try:
            version, frame = poll.connection.receive_frame(self._brokers.deadline())
            answer = _fastpath.fetch_response(frame, version)
        except ConnectionLost as error:
            self._lost(feed, error)
            return None
        except _fastpath.FrameError as error:
            self._lost(feed, ConnectionLost(f"{address}: Fetch response cannot be read: {error}"))
            return None
        if answer.error_code in SESSION_CODES:
            feed.begin_anew()
            self._hold_back(feed)
            return None
        if answer.error_code != 0:
            self._lost(feed, ConnectionLost(f"{address}: Fetch: {error_name(answer.error_code)}"))
            return None
        if not all((part.topic_id, part.partition) in poll.asked for part in answer.partitions):
            self._lost(feed, ConnectionLost(f"{address}: Fetch answered what was not asked"))
            return None
        feed.failures = 0
        parts: list[Part] = []
        given: list[Place] = []
        for part in answer.partitions:
            reading, asked = poll.asked[part.topic_id or b"", part.partition]
            if self.readings.get(reading.key) is not reading or reading.feed is not feed or reading.offset != asked:
                continue  # stopped, read anew or another's since the fetch was sent, so the session begins anew too
            if self._accept(feed, reading, part) and part.end > part.start:
                # Offset and epoch together: an older epoch beside a newer offset would look like a truncated log.
                # A part that does not advance is handed out too: packing tells a cut batch from a corrupt one.
                following, epoch = _fastpath.next_offset(frame, part.start, part.end, reading.offset)
                parts.append(Part(reading.key, reading.offset, part))
                given.append(reading.place)
                if following > reading.offset:
                    reading.offset, reading.epoch = following, epoch
            feed.note(reading)
        feed.answered(poll, answer, given)
        if answer.throttle_ms > 0:
            # The broker has muted this connection for that long; asking again only fills its queue.
            feed.resume_at = self._network.now() + answer.throttle_ms / 1000
        if not parts and poll.rests == self._rests:
            feed.quiet = self._rests
        if self.behind:
            self._send_polls()
        elif poll.rests != self._rests:
            self._send_polls(feed, at_once=True)
        return Block(frame, parts) if parts else None

    def _accept(self, feed: Feed, reading: Reading, part: _fastpath.FetchedPartition) -> bool:
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
                self._prefer(reading.key, part.preferred_read_replica)
                return False
            return True
        if code == OFFSET_OUT_OF_RANGE:
            if self._prefer(reading.key, None) == feed.node and self._leaders.get(reading.key) != feed.node:
                self._hold_back(feed)
                return False  # a follower may lag behind; only the leader's word counts
            self._out_of_range(reading)
            return False
        self._prefer(reading.key, None)
        if code in LEADERSHIP_CODES or code in (UNKNOWN_TOPIC_ID, INCONSISTENT_TOPIC_ID):
            self._leaderless(reading, error_name(code))
        else:
            self._trouble(reading, error_name(code))
            self._hold_back(feed)
        return False

    def _out_of_range(self, reading: Reading) -> None:
        """The leader does not have our offset: ask it what it has, and name the gap."""
        topic = reading.key[0]
        try:
            metadata = self._brokers.metadata([topic])
            first = self._brokers.list_offsets(metadata, {reading.key: EARLIEST})[reading.key]
            last = self._brokers.list_offsets(metadata, {reading.key: LATEST})[reading.key]
        except ConnectionLost as error:
            self._leaderless(reading, error.message)
            return
        if isinstance(first, BrokerError) or isinstance(last, BrokerError):
            self._leaderless(reading, "OFFSET_OUT_OF_RANGE (1), and its leader does not say what it has")
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
            self._leaderless(reading, error_name(OFFSET_OUT_OF_RANGE))

    def _leaderless(self, reading: Reading, cause: str) -> None:
        """Not read until the metadata name a leader, which may be the one that it had."""
        self._trouble(reading, cause)
        self._lead(reading.key, None)
        self._metadata_soon()

    def _fault(self, reading: Reading, reason: Reason, detail: str, next_offset: int | None = None) -> None:
        self.stop(reading.key)
        topic, partition = reading.key
        fault = Faulted(topic, partition, reason, detail, offset=reading.offset, next_offset=next_offset)
        self.faults.append(fault)

    def _trouble(self, reading: Reading, cause: str) -> None:
        reading.trouble = cause
        if reading.feed is not None:
            reading.feed.drop(reading)
        if reading.trouble_since is None:
            reading.trouble_since = self._network.now()

    # --- asking

    def _asked(self) -> list[tuple[Feed, Poll]]:
        """Where a fetch is under way."""
        return [(feed, feed.poll) for feed in self._feeds.values() if feed.poll is not None]

    def _hand_out(self) -> None:
        """Every partition to the feed of its leader, or of the replica that its leader prefers us to read."""
        if not self._is_moved:
            return
        self._is_moved = False
        self._homeless = []
        shares: dict[int, list[Reading]] = {node: [] for node in self._feeds}
        for reading in self.readings.values():
            leader = self._leaders.get(reading.key)
            if leader is None:
                reading.feed = None
                self._homeless.append(reading)
                continue
            node = self._preferred.get(reading.key, leader)
            reading.feed = self._feeds.setdefault(node, Feed(node))
            shares.setdefault(node, []).append(reading)
        for node, share in shares.items():
            self._feeds[node].hand(share)

    def _send_polls(self, only: Feed | None = None, *, at_once: bool = False) -> None:
        """Ask every broker that is not asked yet, or only one; `at_once`, for what it has now."""
        self._hand_out()
        now = self._network.now()
        sharing = sum(bool(feed.readings) for feed in self._feeds.values())
        for feed in self._feeds.values():
            if not feed.readings or feed.poll is not None or feed.resume_at > now or only not in (None, feed):
                continue
            feed.resume_at = 0.0
            # Asked for what it has now: who has not said yet where it ends, unless it was in trouble, and one of
            # several brokers until it had nothing, for what the others have waits for it.
            is_awaited = at_once or (sharing > 1 and feed.quiet != self._rests)
            waits = not feed.unheard and not is_awaited
            try:
                link = feed.link = feed.link or self._brokers.dial(self._brokers.address(feed.node))
                asked = feed.ask(link, POLL_SECONDS if waits else 0.0, self._max_bytes, self._rack)
            except ConnectionLost as error:
                self._lost(feed, error)
                continue
            deadline = self._brokers.deadline(POLL_SECONDS + 15.0)
            feed.poll = Poll(link, asked, deadline, waits=waits, rests=self._rests)

    def _hold_back(self, feed: Feed) -> None:
        """Not asked again at once. Once for an answer, however many of its partitions are in trouble."""
        if feed.resume_at == 0.0:
            feed.resume_at = self._network.now() + self._backoff(feed.failures)
            feed.failures += 1

    def _lost(self, feed: Feed, error: ConnectionLost) -> None:
        """A connection broke: what was asked there is asked again, after a pause, of whoever leads then."""
        feed.close()
        feed.failures += 1
        feed.resume_at = self._network.now() + self._backoff(feed.failures)
        for reading in self.readings.values():
            if reading.feed is feed:
                self._trouble(reading, error.message)
            if self._preferred.get(reading.key) == feed.node:
                self._prefer(reading.key, None)
        self._metadata_soon()

    def _drop_polls(self) -> None:
        """Answers come in order, so a connection with an answer under way that nobody wants is closed."""
        for feed, _ in self._asked():
            feed.close()

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
            self._lead(reading.key, None)
            if now - since >= DELETED_SECONDS:
                self._fault(reading, Reason.SOURCE_DELETED, f"the source has had no such topic for {now - since:.0f} s")
            return
        self._unknown_since.pop(reading.key, None)
        leader = described.partitions[partition].node if described is not None else None
        if leader is None:
            code = metadata.errors.get(topic)
            self._trouble(reading, "no leader" if code is None else error_name(code))
        self._lead(reading.key, leader)

    def _lead(self, key: RouteKey, node: int | None) -> None:
        if self._leaders.get(key) != node:
            self._is_moved = True
            self._leaders.pop(key, None)
            if node is not None:
                self._leaders[key] = node

    def _prefer(self, key: RouteKey, node: int | None) -> int | None:
        """Read it from there, or from its leader again. Returns what was preferred before."""
        before = self._preferred.pop(key, None)
        if node is not None:
            self._preferred[key] = node
        self._is_moved = self._is_moved or before != node
        return before

    def _backoff(self, failures: int) -> float:
        least, most = BACKOFF_SECONDS
        return min(least * float(2 ** min(failures, 10)), most) * random.uniform(0.5, 1.0)
