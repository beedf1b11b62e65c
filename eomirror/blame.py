"""Who is to blame when the target refuses a batch: what a lane knows about that across its rewinds.

Everything else is dropped in a rewind. This must survive, or the same batch would be sent again without end.

A refused batch of many records is sent again in small parts, in the next transaction: one record is wrong, or they are
only too many for a limit that was lowered a moment ago. The part that is refused then is sent in smaller ones, once all
before it is committed, until one record is refused alone.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Final, NamedTuple

from eomirror.errors import Faulted, Rewind
from eomirror.model import RouteKey
from eomirror.route import Route

SUSPECT_TIMES: Final = 5  # a batch that is refused this often, for no passing reason, faults its partition
# Records that are sent apart go into one transaction, so they must not be too many requests for its time-out.
APART_REQUESTS: Final = 500
# A partition is cut into parts anew at most so often before anything of it is committed.
MAX_CUTS: Final = 30
# A partition that may not be written to is tried again after so many seconds: at first, and at the longest.
BARRED_SECONDS: Final = (1.0, 30.0)


class Apart(NamedTuple):
    """Source offsets, from `first` to below `end`, that are to be sent in batches of at most `most` records."""

    first: int
    end: int
    most: int


class Barred(NamedTuple):
    """A partition whose right to write is missing: why, how often that was seen in a row, when it is tried again."""

    detail: str
    times: int
    again_at: float


class Blame:
    """`certain` are the faults to be committed at the next take-over, or to be met on the way. Used by one thread."""

    def __init__(self) -> None:
        self.certain: dict[RouteKey, Faulted] = {}
        self._apart: dict[RouteKey, list[Apart]] = {}  # from coarse to fine, each inside the one before
        self._cuts: Counter[RouteKey] = Counter()
        self._reached: dict[RouteKey, int] = {}  # where a partition that is cut stood at the last commit
        self._times: Counter[RouteKey] = Counter()
        self._suspected: dict[RouteKey, int] = {}  # the offset of each that is counted in _times
        self._barred: dict[RouteKey, Barred] = {}

    def take(self, doubt: Rewind, now: float) -> None:
        """Learn from what the target has refused."""
        self._times.update((f.topic, f.partition) for f in doubt.suspects)
        self._suspected |= {(f.topic, f.partition): f.offset or 0 for f in doubt.suspects}
        often = [f for f in doubt.suspects if self._times[f.topic, f.partition] >= SUSPECT_TIMES]
        for fault in (*doubt.faults, *often):
            key = fault.topic, fault.partition
            if fault.records == 1 or not self._send_apart(key, fault):
                self.certain[key] = fault
        for fault in doubt.barred:
            key = fault.topic, fault.partition
            times = self._barred[key].times if key in self._barred else 0
            least, most = BARRED_SECONDS
            pause = min(least * float(2 ** min(times, 10)), most)
            self._barred[key] = Barred(fault.detail, times + 1, now + pause)

    def _send_apart(self, key: RouteKey, fault: Faulted) -> bool:
        """False if that cannot tell more than the fault does."""
        if fault.offset is None or fault.next_offset is None:
            return False
        self._cuts[key] += 1
        if self._cuts[key] > MAX_CUTS:
            return False
        parts = Apart(fault.offset, fault.next_offset, -(-fault.records // APART_REQUESTS))
        known = self._apart.get(key, [])
        if not known:
            self._apart[key] = [parts]
        elif known[-1].first <= parts.first and parts.end <= known[-1].end and fault.records <= known[-1].most:
            self._apart[key] = [*known, parts]
        else:
            # What went well that way is not committed yet and will be sent again, so the range only grows.
            outer = known[0]
            grown = min(outer.first, parts.first), max(outer.end, parts.end), max(outer.most, parts.most)
            self._apart[key] = [Apart(*grown)]
        return True

    def apart(self, key: RouteKey, at: int) -> Apart | None:
        """How what begins at this source offset is to be sent; None if that is all the same."""
        known = self._apart.get(key, ())
        inside = [parts for parts in known if parts.first <= at < parts.end]
        return inside[-1] if inside else known[0] if known else None

    def boundary(self, key: RouteKey, at: int) -> int | None:
        """The source offset behind this one from which on other parts are to be sent: everything before it is committed
        first. None if there is none."""
        finer = self._apart.get(key, [])[1:]
        return min((edge for parts in finer for edge in parts[:2] if edge > at), default=None)

    def taken(self, routes: Mapping[RouteKey, Route]) -> None:
        """The take-over is committed. What a route has still to come to is known to it alone, and a rewind would forget
        it: two partitions that are refused in turn would each be met again and again."""
        self.certain = {k: f for k, f in self.certain.items() if k in routes and _is_ahead(routes[k])}

    def committed(self, routes: Mapping[RouteKey, Route], now: float) -> None:
        """A transaction is decided: whatever went into it was not refused."""
        for key in [k for k, offset in self._suspected.items() if k not in routes or routes[k].next_offset > offset]:
            del self._suspected[key], self._times[key]
        self.taken(routes)
        for key, known in list(self._apart.items()):
            if key in routes:
                self._apart[key] = [parts for parts in known if routes[key].next_offset < parts.end]
        self._apart = {key: known for key, known in self._apart.items() if known}
        moved = {k for k in self._cuts if k in routes and routes[k].next_offset > self._reached.get(k, -1)}
        self._reached = {k: routes[k].next_offset for k in self._apart if k in routes}
        self._cuts = Counter({k: count for k, count in self._cuts.items() if k in self._apart and k not in moved})
        self._barred = {
            key: one
            for key, one in self._barred.items()
            if one.again_at > now or (key in routes and routes[key].leader is None)
        }

    def barred(self, now: float) -> dict[RouteKey, str]:
        """The partitions that are not written to for now, and why."""
        return {key: one.detail for key, one in self._barred.items() if one.again_at > now}

    def next_try(self, now: float) -> float | None:
        """When the next of them is tried again; of those whose time has come nothing is left to wait for."""
        return min((one.again_at for one in self._barred.values() if one.again_at > now), default=None)

    def reconsider(self) -> None:
        """The target has other limits, or a person has decided: nothing is known of what it refuses."""
        self.certain.clear()
        self._apart.clear()
        self._cuts.clear()
        self._reached.clear()


def _is_ahead(route: Route) -> bool:
    return route.halt is not None and not route.standing
