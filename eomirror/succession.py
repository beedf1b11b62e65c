"""Who has a lane after us: told by a commit, and by nothing else."""

from __future__ import annotations

import random
import threading
from typing import Final

from eomirror import checkpoint
from eomirror.brokers import Brokers
from eomirror.checkpoint import InternalTopics
from eomirror.errors import BrokerError, ConnectionLost
from eomirror.model import Lease
from eomirror.records import LaneRecord, Owner

# How long a fenced lane looks for the commit of whoever fenced it, before it takes the lane again. Two newcomers that
# each got one identity would otherwise both let go for ever.
SUCCESSOR_SECONDS: Final = 3.0


class Succession:
    """`generation` is the newest of the lane's owners that we have seen, None before the first."""

    def __init__(self, lease: Lease, target: Brokers) -> None:
        self.generation: int | None = None
        self._lease = lease
        self._target = target
        self._topics = InternalTopics.of(lease.flow)

    def saw(self, generation: int) -> None:
        """The checkpoint says so."""
        self.generation = max(self.generation or 0, generation)

    def look(self, stop: threading.Event) -> Owner | None:
        """The owner that has committed after all that we have seen of this lane; None if nobody shows himself for some
        seconds."""
        now = self._target.network.now
        patience = now() + SUCCESSOR_SECONDS * random.uniform(0.5, 1.5)
        pause = 0.02
        while now() < patience and not stop.is_set():
            try:
                metadata = self._target.metadata(self._topics.names())
                head = checkpoint.look_lane(self._target, metadata, self._topics, self._lease.lane).lane
            except (ConnectionLost, BrokerError):
                head = None
            if head is not None and self.generation is None:
                self.generation = head.generation  # it may be a dead owner's; only what comes after counts
            if head is not None and self._is_successor(head):
                return head.owner
            self._target.network.sleep(pause)
            pause = min(pause * 1.5, 0.25)  # each look reads the whole checkpoint
        return None

    def _is_successor(self, head: LaneRecord) -> bool:
        """Did another owner commit after all that we have seen of this lane, and is it the one to stay?"""
        return (
            head.owner.instance != self._lease.owner.instance
            and self.generation is not None
            and head.generation > self.generation
            and self._lease.owner.yields_to(head.owner)
        )
