"""One route of a lane while it works: its position, its tally, its state."""

from __future__ import annotations

from eomirror import _fastpath, records
from eomirror.errors import Faulted
from eomirror.ledger import Book
from eomirror.model import RouteKey, RouteView
from eomirror.records import Fault, Gap, LedgerRoute, PositionRecord, State, Tally

STANDING = (State.FAULTED, State.PAUSED)


class Route:
    """Grows from a committed PositionRecord and makes the next one. Mutable, owned by one lane.

    `next_offset` runs ahead of the checkpoint while a transaction is open; nothing of it survives a rewind.
    """

    __slots__ = (
        "book",
        "changed",
        "fault",
        "halt",
        "key",
        "leader",
        "leader_epoch",
        "max_batch_bytes",
        "next_offset",
        "recipe",
        "source_lso",
        "source_topic_id",
        "state",
        "target_end",
        "target_topic_id",
        "trouble",
    )

    def __init__(self, key: RouteKey, position: PositionRecord) -> None:
        self.key = key
        self.next_offset = position.next_offset
        self.leader_epoch = position.leader_epoch
        self.source_topic_id = position.source_topic_id
        self.target_topic_id = position.target_topic_id
        self.target_end = position.target_end
        self.state = position.state
        self.fault = position.fault
        self.trouble = position.trouble  # what it waits for while it is RETRYING
        self.book = Book(position.pending)
        self.changed = False
        self.halt: Faulted | None = None  # a batch further on that the target has refused
        self.leader: int | None = None  # of the target partition
        self.max_batch_bytes = 0
        self.recipe: _fastpath.Recipe | None = None  # what is done to the headers of its records
        self.source_lso: int | None = None

    @property
    def until(self) -> int | None:
        """Where to stop reading: a batch that the target has refused begins there."""
        return None if self.halt is None else self.halt.offset

    @property
    def standing(self) -> bool:
        """Nothing of it is read or written."""
        return self.state in STANDING

    def consumed(self, packed: _fastpath.Packed) -> None:
        """A block was packed: everything below `packed.next_offset` is mirrored or rightly dropped."""
        self.next_offset = packed.next_offset
        # Batches before Kafka 0.11 have no epoch. That of another batch beside this offset would look like a cut log.
        self.leader_epoch = packed.last_leader_epoch if packed.last_leader_epoch >= 0 else None
        self.book.dropped(packed.control_batches, packed.aborted_records)
        self.changed = True

    def wrote(self, batch: _fastpath.Batch, base_offset: int) -> None:
        """The target has appended a batch with its first record at `base_offset`."""
        self.book.wrote(batch, base_offset)
        self.target_end = base_offset + batch.count
        self.changed = True

    def faulted(self, fault: Faulted, now_ms: int) -> None:
        """It stands still from here, by name and with a reason."""
        self.state = State.FAULTED
        self.fault = Fault(fault.reason, fault.detail, now_ms, fault.next_offset)
        self.changed = True

    def halts(self, fault: Faulted, now_ms: int) -> None:
        """It stands still at the fault's offset: at once, or when everything before it is mirrored. What is to be done
        about a single bad record is decided when it is met; one below the position has been left out already."""
        if fault.offset is not None and fault.offset < self.next_offset:
            return
        if fault.offset is not None and (fault.offset > self.next_offset or fault.of_record):
            self.halt = fault
        else:
            self.leader = None
            self.faulted(fault, now_ms)

    def released(self) -> None:
        """It goes on from where it stands."""
        self.state = State.ACTIVE
        self.fault = None
        self.changed = True

    def skip_to(self, offset: int, gap: Gap) -> None:
        """A person accepted a gap: go on at `offset`, and put it in the ledger."""
        self.book.accept(gap)
        self.next_offset = offset
        self.leader_epoch = None
        self.released()

    def leave_out(self, gap: Gap, *, quarantined: bool) -> None:
        """The flow's `on_bad_record` takes it past a record."""
        self.book.leave_out(gap, quarantined=quarantined)
        self.next_offset = gap.next
        self.leader_epoch = None
        self.halt = None
        self.changed = True

    def position(self, number: int, *, ledgered: bool) -> PositionRecord:
        """The checkpoint record for transaction `number`; without pending runs if its ledger record has them."""
        return PositionRecord(
            v=records.VERSION,
            next_offset=self.next_offset,
            source_topic_id=self.source_topic_id,
            target_topic_id=self.target_topic_id,
            transaction=number,
            leader_epoch=self.leader_epoch,
            target_end=self.target_end,
            state=self.state,
            fault=self.fault,
            trouble=self.trouble if self.state is State.RETRYING else None,
            pending=Tally() if ledgered else self.book.tally(),
        )

    def ledger(self) -> LedgerRoute:
        """Its share of the next ledger record."""
        topic, partition = self.key
        return LedgerRoute(
            source_topic=topic,
            source_partition=partition,
            target_topic=topic,
            target_partition=partition,
            tally=self.book.tally(),
            source_lso=self.source_lso,
        )

    def view(self, stable: int | None, trouble: str | None) -> RouteView:
        """What is told of it while the lane works: with the source's last stable offset, and what it waits for."""
        return RouteView(
            self.key,
            State.RETRYING if trouble and not self.standing else self.state,
            self.next_offset,
            stable,
            trouble,
            self.fault.reason if self.fault else None,
        )

    def committed(self, *, ledgered: bool) -> None:
        """The transaction with this route's position is decided."""
        self.changed = False
        if ledgered:
            self.book = Book()


def pinned(source_topic_id: str, target_topic_id: str, first: int, start: int) -> PositionRecord:
    """The position of a route that was never mirrored: it exists before the first byte does. `first` is the lowest
    offset that the source has; what lies between it and `start` is left out."""
    return PositionRecord(
        v=records.VERSION,
        next_offset=start,
        source_topic_id=source_topic_id,
        target_topic_id=target_topic_id,
        transaction=0,
        pending=Tally(gaps=(Gap(first, start),)) if first < start else Tally(),
    )
