"""When a lane commits: soon when there is little to do (latency), late when there is much (throughput)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import msgspec

from eomirror.ledger import LEDGER_SECONDS

# `commit.interval: auto`: between two commits a lane leaves as long as they take, so they are fewer where they
# are slow: on a busy machine, to a distant cluster.
AUTO_WEIGHT: Final = 0.125  # of the newest commit in how long they take
# Not less, for the producer epochs and the checkpoint's size; not more, for a target may hesitate once.
AUTO_SECONDS: Final = (0.005, 0.1)
# A lane that is behind leaves so many times as long, and commits only while it would wait for the source: it shall
# catch up, but what comes in its other partitions shall not wait for that.
BEHIND_TIMES: Final = 10.0

# Progress without records (control batches, aborted records) is checkpointed at most this often.
IDLE_PROGRESS_SECONDS: Final = 5.0
# Such a commit leaves records this long, once the floor has passed, to come and take it along.
QUIET_GRACE: Final = 0.1

TICK: Final = 1e-6  # seconds: a moment that is as near as this has come


class Pace(msgspec.Struct, frozen=True):
    """`interval` (seconds) is the least between commits, None adapts; `max_bytes`, `max_age` (seconds) are ceilings."""

    interval: float | None
    max_bytes: int
    max_age: float


class Pacing:
    """Knows what is uncommitted and since when; never what it is."""

    def __init__(self, pace: Pace, now: Callable[[], float]) -> None:
        self._pace = pace
        self._now = now
        self._last_commit = now()
        self._cost = 0.0  # seconds that a commit takes, lately
        self.reset()

    def reset(self) -> None:
        """Nothing is uncommitted: after a commit, or after a rewind dropped it."""
        self._bytes = 0
        self._data_since: float | None = None
        self._progress_since: float | None = None
        self._ledger_since: float | None = None
        self._urgent = False

    def consumed(self) -> None:
        """A position moved."""
        if self._progress_since is None:
            self._progress_since = self._now()

    def wrote(self, size: int) -> None:
        """Records were sent."""
        self._bytes += size
        if self._data_since is None:
            self._data_since = self._now()

    def urgent(self) -> None:
        """Something must be in the checkpoint soon: a fault."""
        self._urgent = True

    @property
    def open(self) -> bool:
        """Records were sent that are not committed."""
        return self._data_since is not None

    def due(self, *, drained: bool, behind: bool = False) -> bool:
        """Whether to commit now. `drained` says that nothing more has come to be written, `behind` that more will."""
        now = self._now() + TICK
        if self._urgent:
            return True
        if self._data_since is not None:
            if self._bytes >= self._pace.max_bytes or now >= self._data_since + self._pace.max_age:
                return True
            return drained and now >= self._floor(behind)
        return any(now >= at for at in self._quiet_deadlines())

    def rest(self, most: float) -> float:
        """How long no commit may come yet, in seconds, at most `most`."""
        return self._until([self._floor()], most)

    def patience(self, most: float, *, behind: bool = False) -> float:
        """How long a poll may wait, in seconds."""
        return self._until([self._floor(behind)] if self.open else self._quiet_deadlines(), most)

    def ledger_due(self) -> bool:
        return self._ledger_since is not None and self._now() - self._ledger_since >= LEDGER_SECONDS

    def committed(self, *, seconds: float, ledgered: bool, ledger_pending: bool) -> None:
        """A commit was answered, which took `seconds` once all data was acked; `ledger_pending` says that position
        records still carry runs for the ledger."""
        self._last_commit = now = self._now()
        self._cost += AUTO_WEIGHT * (seconds - self._cost)
        since = None if ledgered else self._ledger_since
        self.reset()
        if ledger_pending:
            self._ledger_since = now if since is None else since

    def _until(self, moments: list[float], most: float) -> float:
        """Seconds until the first of the moments or until a ceiling is reached; at most that many."""
        if self._urgent:
            return 0.0
        now = self._now()
        ceiling = [] if self._data_since is None else [self._data_since + self._pace.max_age]
        wait = min([now + most, *moments, *ceiling]) - now
        return wait if wait > TICK else 0.0

    def _quiet_deadlines(self) -> list[float]:
        deadlines = []
        if self._progress_since is not None:
            deadlines.append(self._progress_since + IDLE_PROGRESS_SECONDS)
        if self._ledger_since is not None:
            deadlines.append(self._ledger_since + LEDGER_SECONDS)
        return [max(at, self._floor() + QUIET_GRACE) for at in deadlines]

    def _floor(self, behind: bool = False) -> float:
        """The moment before which no commit should come."""
        interval = self._pace.interval
        if interval is None:
            least, most = AUTO_SECONDS
            interval = min(max(least, self._cost), most)
        return self._last_commit + interval * (BEHIND_TIMES if behind else 1.0)
