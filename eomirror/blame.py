"""Who is to blame when the target refuses a batch: what a lane knows about that across its rewinds.

Everything else is dropped in a rewind. This must survive, or the same batch would be sent again without end.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Final

from eomirror.errors import Faulted, Rewind
from eomirror.model import RouteKey
from eomirror.route import Route

SUSPECT_TIMES: Final = 5  # a batch that is refused this often, for no passing reason, faults its partition


# Records that are sent apart go into one transaction, so they must not be too many requests for its time-out.
APART_REQUESTS: Final = 500


class Blame:
    """`certain` are the faults to be committed at the next take-over, or to be met on the way. Used by one thread."""

    def __init__(self) -> None:
        self.certain: dict[RouteKey, Faulted] = {}
        self._apart: dict[RouteKey, tuple[int, int, int]] = {}
        self._times: Counter[RouteKey] = Counter()

    def take(self, doubt: Rewind) -> None:
        """Learn from what the target has refused. A batch of many records is sent again in small parts first: one of
        them is wrong, or they are only too many for a limit that was lowered a moment ago."""
        self._times.update((f.topic, f.partition) for f in doubt.suspects)
        often = [f for f in doubt.suspects if self._times[f.topic, f.partition] >= SUSPECT_TIMES]
        for fault in (*doubt.faults, *often):
            key = fault.topic, fault.partition
            if fault.records == 1 or not self._send_apart(key, fault):
                self.certain[key] = fault

    def _send_apart(self, key: RouteKey, fault: Faulted) -> bool:
        """False if that cannot tell more than the fault does."""
        if fault.offset is None or fault.next_offset is None:
            return False
        most = -(-fault.records // APART_REQUESTS)
        if key not in self._apart:
            self._apart[key] = fault.offset, fault.next_offset, most
            return True
        # What went well that way is not committed yet and will be sent again, so the range only grows.
        first, end, parts = self._apart[key]
        if fault.offset < end and first < fault.next_offset and fault.records <= parts:
            return False
        self._apart[key] = min(first, fault.offset), max(end, fault.next_offset), max(most, parts)
        return True

    def apart(self, key: RouteKey) -> tuple[int, int, int] | None:
        """Source offsets, from the first to below the second, that are to be sent apart, and how many in a batch."""
        return self._apart.get(key)

    def taken(self, routes: Mapping[RouteKey, Route]) -> None:
        """The take-over is committed. What a route has still to come to is known to it alone, and a rewind would forget
        it: two partitions that are refused in turn would each be met again and again."""
        self.certain = {k: f for k, f in self.certain.items() if k in routes and _is_ahead(routes[k])}

    def committed(self, routes: Mapping[RouteKey, Route]) -> None:
        """A transaction is decided: whatever went into it was not refused."""
        self._times.clear()
        self.taken(routes)
        for key in [k for k, (_, end, _) in self._apart.items() if k in routes and routes[k].next_offset >= end]:
            del self._apart[key]

    def reconsider(self) -> None:
        """The target has other limits, or a person has decided: nothing is known of what it refuses."""
        self.certain.clear()
        self._apart.clear()


def _is_ahead(route: Route) -> bool:
    return route.halt is not None and not route.standing
