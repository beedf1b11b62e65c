"""Fetch sessions (KIP-227) as a broker keeps them: FetchSession.scala, CachedPartition and FetchSessionCache."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

from kio.schema.errors import ErrorCode

Key = tuple[Any, int]  # the topic's id (its name before version 13) and the partition

INITIAL_EPOCH: Final = 0
FINAL_EPOCH: Final = -1
MAX_EPOCH: Final = 2**31 - 1
SLOTS: Final = 1000  # max.incremental.fetch.session.cache.slots


@dataclass
class Cached:
    """One partition of a session: what is asked of it, and what its reader was told last."""

    asked: Any
    high_watermark: int = -1
    log_start: int = -1


@dataclass
class Session:
    number: int
    epoch: int = 1  # that the next request must carry
    partitions: dict[Key, Cached] = field(default_factory=dict)  # in the order in which they are served


@dataclass
class Sessions:
    """Those of one broker. Without a free slot a reader gets none; a real broker may evict an old one for it."""

    slots: int = SLOTS
    of: dict[int, Session] = field(default_factory=dict)
    made: int = 0

    def begin(self, body: Any, key: Callable[[Any], Any]) -> tuple[ErrorCode, Session | None, dict[Key, Any]]:
        """What a request is to be answered: an error, or the partitions that are to be read, in order. The session is
        None if the request does not go on with one."""
        named = {(key(topic), int(part.partition)): part for topic in body.topics for part in topic.partitions}
        if body.session_epoch in (INITIAL_EPOCH, FINAL_EPOCH):
            self.of.pop(int(body.session_id), None)
            return ErrorCode.none, None, named
        session = self.of.get(int(body.session_id))
        if session is None:
            return ErrorCode.fetch_session_id_not_found, None, {}
        if session.epoch != body.session_epoch:
            return ErrorCode.invalid_fetch_session_epoch, None, {}
        session.epoch = 1 if session.epoch == MAX_EPOCH else session.epoch + 1
        for place, part in named.items():
            session.partitions.setdefault(place, Cached(part)).asked = part
        for topic in body.forgotten_topics_data:
            for partition in topic.partitions:
                session.partitions.pop((key(topic), int(partition)), None)
        return ErrorCode.none, session, {place: cached.asked for place, cached in session.partitions.items()}

    def evict(self, number: int) -> None:
        """As a broker does for want of a slot."""
        self.of.pop(number, None)

    def end(
        self, body: Any, session: Session | None, asked: dict[Key, Any], found: dict[Key, Any]
    ) -> tuple[int, dict[Key, Any]]:
        """The session's id and what of `found` the answer is to hold; a whole request makes a new session."""
        if session is None:
            if body.session_epoch == FINAL_EPOCH or len(self.of) >= self.slots:
                return 0, found
            self.made += 1
            session = self.of[self.made] = Session(self.made)
            session.partitions = {place: Cached(part) for place, part in asked.items()}
            for place, data in found.items():
                _tell(session.partitions[place], data)
            return session.number, found
        told = {place: data for place, data in found.items() if _tell(session.partitions[place], data)}
        for place, data in told.items():
            if data.records:
                session.partitions[place] = session.partitions.pop(place)
        return session.number, told


def _tell(cached: Cached, data: Any) -> bool:
    """Has this partition news? Notes what is told."""
    diverging = data.diverging_epoch is not None and data.diverging_epoch.epoch >= 0
    news = bool(data.records) or diverging or data.error_code is not ErrorCode.none or data.preferred_read_replica >= 0
    news = news or (data.high_watermark, data.log_start_offset) != (cached.high_watermark, cached.log_start)
    cached.high_watermark, cached.log_start = int(data.high_watermark), int(data.log_start_offset)
    if diverging or data.error_code is not ErrorCode.none:
        cached.high_watermark = -1  # so that it is told when that is over
    return news
