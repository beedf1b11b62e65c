"""When a lane commits: soon when there is little to do (latency), late when there is much (throughput)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import msgspec

from eomirror.ledger import LEDGER_SECONDS

# `commit.interval: auto`: a bucket of commits that refills at this rate. Few transactions never wait; a free-running
# lane is held to the rate, for its producer epochs and its checkpoint's size.
AUTO_RATE: Final = 200.0
AUTO_BURST: Final = 20.0

# Progress without records (control batches, aborted records) is checkpointed at most this often.
IDLE_PROGRESS_SECONDS: Final = 5.0


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
        self._tokens = AUTO_BURST
        self._refilled = self._last_commit = now()
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

    def due(self, *, drained: bool) -> bool:
        """Whether to commit now. `drained` says that nothing more is waiting to be written."""
        now = self._now()
        if self._urgent:
            return True
        if self._data_since is not None:
            if self._bytes >= self._pace.max_bytes or now >= self._data_since + self._pace.max_age:
                return True
            return drained and now >= self._floor()
        return any(now >= at for at in self._quiet_deadlines())

    def patience(self, most: float) -> float:
        """How long a poll may wait, in seconds."""
        now = self._now()
        if self._urgent:
            return 0.0
        if self._data_since is not None:
            return max(0.0, min(self._floor(), self._data_since + self._pace.max_age, now + most) - now)
        return max(0.0, min([now + most, *self._quiet_deadlines()]) - now)

    def ledger_due(self) -> bool:
        return self._ledger_since is not None and self._now() - self._ledger_since >= LEDGER_SECONDS

    def committed(self, *, ledgered: bool, ledger_pending: bool) -> None:
        """A commit was answered; `ledger_pending` says that position records still carry runs for the ledger."""
        now = self._now()
        self._tokens = max(self._refill(now) - 1.0, 0.0)
        self._refilled = self._last_commit = now
        since = None if ledgered else self._ledger_since
        self.reset()
        if ledger_pending:
            self._ledger_since = now if since is None else since

    def _quiet_deadlines(self) -> list[float]:
        deadlines = []
        if self._progress_since is not None:
            deadlines.append(self._progress_since + IDLE_PROGRESS_SECONDS)
        if self._ledger_since is not None:
            deadlines.append(self._ledger_since + LEDGER_SECONDS)
        return deadlines

    def _floor(self) -> float:
        """The moment before which no commit should come."""
        if self._pace.interval is not None:
            return self._last_commit + self._pace.interval
        tokens = self._refill(self._refilled)
        return self._refilled + max(0.0, 1.0 - tokens) / AUTO_RATE

    def _refill(self, now: float) -> float:
        return min(AUTO_BURST, self._tokens + (now - self._refilled) * AUTO_RATE)
