"""Where the mirrored partitions of a lane end on the target, and what lies between our batches there.

Inside a partition our batches follow one another, and between them lie the markers of our own commits. What is more
than those was written by somebody else: nothing is lost by that, but a person should know.

    which markers are there    Every commit that wrote to a partition leaves one marker there, one offset wide. When a
                               batch of transaction n is appended, the markers of all transactions up to n - 2 are: n
                               uses the identity of n - 2, and the coordinator lets it in only when that transaction is
                               complete. The one of n - 1 may come before this batch, or after it.
    after a take-over          Nothing is known of what was aborted behind the checkpoint's target end, so the count
                               begins at the end that the leader names after both InitProducerIds. By then every marker
                               of ours is written, and no earlier owner can append any more: what comes next is ours.
                               (A marker that a dying leader lost is found out by `markers`, which stops the partition.)
"""

from __future__ import annotations

from collections import deque
from typing import Final, NamedTuple

# One foreign record may be taken for a marker that is late. It shows with the first marker that is not; so many gaps
# back it may lie.
REMEMBERED_GAPS: Final = 8


class Foreign(NamedTuple):
    """Somebody else has written to a mirrored partition, at target offsets from `first` to below `next`. What else lies
    there is our own."""

    topic: str
    partition: int
    first: int
    next: int

    @property
    def hint(self) -> str:
        """What to do about it."""
        return (
            "Somebody else writes to this mirrored partition. Nothing is lost by that; eomirror verify shows the "
            "records. Let nobody but the principal of the lanes write there."
        )


class _Tail:
    """The end of one partition. `owed` are the numbers of our transactions whose markers we have not met yet."""

    __slots__ = ("end", "gaps", "number", "owed")

    def __init__(self, end: int) -> None:
        self.end = end
        self.number: int | None = None  # the last transaction that wrote here
        self.owed: list[int] = []
        # Where the gaps began that held no more than markers, as far as one can tell.
        self.gaps: deque[int] = deque(maxlen=REMEMBERED_GAPS)

    def append(self, number: int, base: int, count: int) -> int | None:
        """A batch of transaction `number` was appended at `base`. Returns the offset behind which somebody else has
        written, None if nobody has."""
        gap = base - self.end
        late = [n for n in self.owed if n >= number - 1]
        certain = number != self.number and gap == len(self.owed) - len(late)
        begins = None
        if gap:
            self.gaps.append(self.end)
        if gap > len(self.owed):
            begins = self.gaps[0]
            certain = True
        elif gap > len(self.owed) - len(late):
            late = []
        if certain:
            self.gaps.clear()
        self.owed = late
        self.number = number
        self.end = base + count
        return begins


class Ends:
    """The known ends of a lane's mirrored partitions on the target. Used by one thread."""

    def __init__(self) -> None:
        self._tails: dict[tuple[str, int], _Tail] = {}
        self._written: set[tuple[str, int]] = set()
        self._foreign: list[Foreign] = []

    def expect(self, topic: str, partition: int, end: int) -> None:
        """The partition ends at `end`, and no marker of ours is on its way there."""
        self._tails[topic, partition] = _Tail(end)

    def known(self, topic: str, partition: int) -> int:
        """The offset that the partition is known to reach; 0 if nothing is known of it."""
        tail = self._tails.get((topic, partition))
        return 0 if tail is None else tail.end

    def appended(self, number: int, topic: str, partition: int, base: int, count: int) -> None:
        """The open transaction `number` has appended `count` records at `base`, which is not below the known end."""
        key = topic, partition
        self._written.add(key)
        tail = self._tails.get(key)
        if tail is None:
            tail = self._tails[key] = _Tail(base)
        first = tail.append(number, base, count)
        if first is not None:
            self._foreign.append(Foreign(topic, partition, first, base))

    def committed(self, number: int) -> None:
        """The open transaction is decided: a marker will come wherever it has written."""
        for key in self._written:
            self._tails[key].owed.append(number)
        self._written.clear()

    def forget(self) -> None:
        """Nothing is known any more, but what was found out about others stays to be told."""
        self._tails.clear()
        self._written.clear()

    def foreign(self) -> list[Foreign]:
        """What others have written, found out since the last call."""
        foreign, self._foreign = self._foreign, []
        return foreign
