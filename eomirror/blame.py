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


class Blame:
    """`certain` are the faults to be committed at the next take-over. Used by one thread."""

    def __init__(self) -> None:
        self.certain: dict[RouteKey, Faulted] = {}
        self._apart: dict[RouteKey, tuple[int, int]] = {}
        self._times: Counter[RouteKey] = Counter()

    def take(self, doubt: Rewind) -> None:
        """Learn from what the target has refused. A batch of many records is sent again record by record first: one of
        them is wrong, or they are only too many for a limit that was lowered a moment ago."""
        self._times.update((f.topic, f.partition) for f in doubt.suspects)
        often = [f for f in doubt.suspects if self._times[f.topic, f.partition] >= SUSPECT_TIMES]
        for fault in (*doubt.faults, *often):
            key = fault.topic, fault.partition
            if fault.many and fault.offset is not None and fault.next_offset is not None:
                # What went well that way is not committed yet and will be sent again, so the range only grows.
                first, following = self._apart.get(key, (fault.offset, fault.next_offset))
                self._apart[key] = min(first, fault.offset), max(following, fault.next_offset)
            else:
                self.certain[key] = fault

    def apart(self, key: RouteKey) -> tuple[int, int] | None:
        """The source offsets, from the first to below the second, that are to be sent record by record."""
        return self._apart.get(key)

    def committed(self, routes: Mapping[RouteKey, Route]) -> None:
        """A transaction is decided: whatever went into it was not refused."""
        self._times.clear()
        for key in [k for k, (_, end) in self._apart.items() if k in routes and routes[k].next_offset >= end]:
            del self._apart[key]
