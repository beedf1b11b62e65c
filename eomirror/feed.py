"""What one broker of the source gives a lane: its connection, its fetch session, the fetch that is under way.

The broker keeps in a session (KIP-227) what is read. So a request names only the partitions that have moved since the
one before, and an answer only those with news: with few records neither grows with the number of partitions. Other
partitions to read, or any failure, begin a new session, with a request that names them all.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterable, Sequence
from typing import Any, Final

from eomirror import _fastpath
from eomirror.brokers import READ_COMMITTED, topic_uuid
from eomirror.model import RouteKey
from eomirror.wire import FETCH, Connection

PARTITION_MAX_BYTES: Final = 4 * 1024 * 1024
MAX_EPOCH: Final = 2**31 - 1

FETCH_SESSION_ID_NOT_FOUND: Final = 70
INVALID_FETCH_SESSION_EPOCH: Final = 71
FETCH_SESSION_TOPIC_ID_ERROR: Final = 106
# The broker has dropped the session, for it keeps so many only, or has restarted.
SESSION_CODES: Final = frozenset(
    {FETCH_SESSION_ID_NOT_FOUND, INVALID_FETCH_SESSION_EPOCH, FETCH_SESSION_TOPIC_ID_ERROR}
)

Place = tuple[bytes, int]  # topic id and partition, as in a fetch


class Reading:
    """Where the reading of one partition stands: ahead of the checkpoint by what is on its way."""

    __slots__ = ("epoch", "feed", "high_watermark", "key", "offset", "place", "stable", "trouble", "trouble_since")

    def __init__(self, key: RouteKey, topic_id: str, offset: int, epoch: int | None) -> None:
        self.key = key
        self.place: Place = (bytes.fromhex(topic_id), key[1])
        self.offset = offset  # next to fetch
        self.epoch = epoch  # leader epoch of the last batch before offset, None if unknown
        self.stable: int | None = None  # last stable offset of the newest answer
        self.high_watermark: int | None = None
        self.trouble: str | None = None
        self.trouble_since: float | None = None
        self.feed: Feed | None = None  # whose partition it is, if that is known

    @property
    def topic_id(self) -> str:
        """As Kafka's tools write it, in hex."""
        return self.place[0].hex()

    @property
    def is_unheard(self) -> bool:
        """Its broker has said nothing of it yet."""
        return self.stable is None and self.trouble is None

    @property
    def is_left(self) -> bool:
        """The newest answer did not bring everything that is committed."""
        return self.stable is not None and self.offset < self.stable and self.trouble is None


class Poll:
    """The fetch that is under way at one broker: partitions and the offsets that were asked for."""

    __slots__ = ("asked", "connection", "deadline", "rests", "waits")

    def __init__(
        self,
        connection: Connection,
        asked: dict[Place, tuple[Reading, int]],
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


class Feed:
    """One broker and the partitions that are read from it."""

    def __init__(self, node: int) -> None:
        self.node = node
        self.link: Connection | None = None
        self.poll: Poll | None = None
        self.resume_at = 0.0  # not before, after a failure; 0: at once
        self.failures = 0
        self.quiet: int | None = None  # the last rest after which it had nothing
        self.readings: dict[Place, Reading] = {}
        self.unheard: set[Reading] = set()
        self._left: set[Reading] = set()
        self._gave = False  # the newest answer brought records
        self._asked: dict[Place, tuple[Reading, int]] = {}
        self._moved: set[Reading] = set()
        self._session = 0
        self._epoch = 0  # of the next request; 0 begins a new session

    @property
    def behind(self) -> bool:
        """The newest answer left records at the broker. One without any had nothing to give, wherever the logs end."""
        return self._gave and bool(self._left)

    # --- what is read

    def hand(self, readings: Iterable[Reading]) -> None:
        """Read exactly these from now on."""
        wanted = {reading.place: reading for reading in readings}
        if wanted == self.readings:
            return
        # Who had its turn stays behind those who had not.
        self.readings = {place: wanted[place] for place in self.readings if place in wanted} | wanted
        self.unheard = {reading for reading in wanted.values() if reading.is_unheard}
        self._left = {reading for reading in wanted.values() if reading.is_left}
        self.begin_anew()

    def note(self, reading: Reading) -> None:
        """Something has become known of a partition, or it has moved."""
        self.unheard.discard(reading)
        (self._left.add if reading.is_left else self._left.discard)(reading)
        if self._asked.get(reading.place, (None, -1)) != (reading, reading.offset):
            self._moved.add(reading)

    def drop(self, reading: Reading) -> None:
        """Nothing more is awaited of a partition."""
        self.unheard.discard(reading)
        self._left.discard(reading)

    # --- the fetch

    def ask(self, link: Connection, poll_seconds: float, max_bytes: int, rack: str) -> dict[Place, tuple[Reading, int]]:
        """Send a fetch that the broker answers after so many seconds, if it has nothing before. Returns what it asks
        for. Raises ConnectionLost."""
        if self._epoch == 0:
            self._asked = {}
            named = list(self.readings.values())
        else:
            named = list(self._moved)
        link.send(self._request(link, named, poll_seconds, max_bytes, rack))
        self._asked.update((r.place, (r, r.offset)) for r in named)
        self._moved.clear()
        return self._asked

    def answered(self, poll: Poll, answer: _fastpath.FetchFrame, given: Sequence[Place]) -> None:
        """An answer without an error, in which these partitions had records. The session goes on, if other partitions
        have not begun a new one meanwhile."""
        if given or answer.throttle_ms == 0:
            self._gave = bool(given)
        self._session = answer.session_id
        self._rotate(given)
        if poll.asked is not self._asked:
            return
        if answer.session_id == 0:
            self._epoch = 0
        else:
            self._epoch = 1 if self._epoch == MAX_EPOCH else self._epoch + 1

    def close(self) -> None:
        """Close the connection; an answer under way is dropped. The session ends with the next request, or in time."""
        self.poll = None
        if self.link is not None:
            self.link.close()
            self.link = None
        self.begin_anew()

    def begin_anew(self) -> None:
        """The next request names every partition, and is answered for each."""
        self._epoch = 0
        self._asked = {}
        self._moved.clear()

    def _rotate(self, given: Sequence[Place]) -> None:
        """What had records goes to the end. A broker fills its answer in the order of the request, and only the first
        partition is sure to get a whole batch. In a session the broker does that itself: this is for the next one."""
        for place in given:
            if place in self.readings:
                self.readings[place] = self.readings.pop(place)

    def _request(
        self, link: Connection, named: Iterable[Reading], poll_seconds: float, max_bytes: int, rack: str
    ) -> Any:
        module = link.module(FETCH)
        topics: dict[bytes, list[Any]] = {}
        for r in named:
            topics.setdefault(r.place[0], []).append(
                module.FetchPartition(
                    partition=r.place[1],
                    fetch_offset=r.offset,
                    # With the epoch of the last batch read, a log that was truncated below us is told, not read past.
                    last_fetched_epoch=-1 if r.epoch is None else r.epoch,
                    partition_max_bytes=min(PARTITION_MAX_BYTES, max_bytes),
                )
            )
        return module.FetchRequest(
            max_wait=datetime.timedelta(seconds=poll_seconds),
            min_bytes=1,
            max_bytes=max_bytes,
            isolation_level=READ_COMMITTED,
            session_id=self._session,
            session_epoch=self._epoch,
            topics=tuple(
                module.FetchTopic(topic_id=topic_uuid(t.hex()), partitions=tuple(p)) for t, p in topics.items()
            ),
            forgotten_topics_data=(),
            rack_id=rack,
        )
