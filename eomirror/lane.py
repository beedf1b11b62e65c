"""A lane's cycle: one thread, blocking sockets.

    receive fetch -> if there is more, send the next fetch (it fills while we write) -> pack -> produce (pipelined)
      -> acks -> commit when: drained, or max bytes, or max age

Any doubt ends in a rewind: everything in memory is dropped and the lane starts as if its process had. There is one
recovery path and it is the start-up path, `_take_over`.
"""

from __future__ import annotations

import random
import threading
from collections import Counter
from collections.abc import Callable
from typing import Final

import msgspec

from eomirror import _fastpath, checkpoint, ledger, logs, markers
from eomirror.adoption import adopt, can_start
from eomirror.answers import Outgoing
from eomirror.blame import Blame
from eomirror.brokers import Brokers, Metadata
from eomirror.checkpoint import InternalTopics, LaneState, Lookout
from eomirror.errors import BrokerError, ConnectionLost, Faulted, Fenced, Reason, Refused, Rewind
from eomirror.faults import carry_out, tell
from eomirror.feed import Reading
from eomirror.identity import Identity
from eomirror.model import LaneView, Lease, Orders, Receipt, RouteKey
from eomirror.pacing import Pace, Pacing
from eomirror.quarantine import Quarantine, needed
from eomirror.records import Desired, LaneRecord
from eomirror.route import Route
from eomirror.settlement import Settlement, announcement, opening_head, settlement
from eomirror.source import Block, Source
from eomirror.succession import Succession
from eomirror.transaction import Transactions
from eomirror.units import wall_ms

log = logs.get("lane")

IDLE_SECONDS: Final = 0.5  # the longest a lane is deaf to orders and stop
REST_SECONDS: Final = 0.1  # the longest that a source with little is not read
PUBLISH_SECONDS: Final = 0.25  # how old `view` may get while there is much to do
RETRY_SECONDS: Final = (0.1, 2.0)  # when routes that could not start are tried again: at first, and at the latest
POSTPONED_SECONDS: Final = 15.0
REWIND_BACKOFF: Final = (0.02, 5.0)


class Lane:
    """Runs one lane until told to stop, fenced, or refused. `run` is its thread; `orders`, `stop` and `view` are the
    only ways in and out, each an atomic attribute."""

    def __init__(
        self,
        lease: Lease,
        source: Source,
        source_brokers: Brokers,
        target: Brokers,
        transactions: Transactions,
        pace: Pace,
        step: Callable[[str], None],
        orders: Orders,
        clock_ms: Callable[[], int] = wall_ms,
    ) -> None:
        self.lease = lease
        self.orders = orders
        self.stop = threading.Event()
        self.view = LaneView(lease.lane, 0, 0, 0, 0, 0, (), False, "starting")
        self._topics = InternalTopics.of(lease.flow)
        self._source = source
        self._source_brokers = source_brokers
        self._target = target
        self._transactions = transactions
        self._lookout = Lookout(target, self._topics.checkpoint, lease.lane)
        self._pacing = Pacing(pace, target.network.now)
        self._step = step
        self._clock_ms = clock_ms
        self._now = target.network.now
        # What outlives a rewind: how often we rewound, which partitions would fail again, whom we have seen.
        self._rewinds = 0
        self._rewinds_unledgered: Counter[str] = Counter()
        self._failures = 0
        self._retries = 0
        self._blame = Blame()
        self._succession = Succession(lease, target)
        self._quarantine = Quarantine(lease, source_brokers)
        self._records = self._bytes = self._commits = 0
        self._publish_at = 0.0
        self._again_at: float | None = None  # when to try again what a person wants and a cluster did not allow yet
        self._forget()

    def _forget(self) -> None:
        """Drop what is in memory; the checkpoint is the authority."""
        self._head: LaneRecord | None = None
        self._routes: dict[RouteKey, Route] = {}
        self._touched: dict[RouteKey, Route] = {}  # what the next commit or ledger record has to say something about
        self._obeyed: Orders | None = None
        self._waiting: set[RouteKey] = set()
        self._retry_at = 0.0
        self._quarantine.clear()
        self._open_records = self._open_bytes = 0
        self._began = 0.0
        self._pacing.reset()

    # --- the thread

    def run(self) -> None:
        """Mirror until `stop` is set, then finish the open transaction. Raises Fenced or Refused."""
        try:
            while not self.stop.is_set():
                try:
                    self._take_over()
                    while not self.stop.is_set():
                        self._cycle()
                    self._finish()
                    return
                except Rewind as doubt:
                    self._blame.take(doubt, self._now())
                    self._rewind(doubt.cause, doubt.message)
                except (ConnectionLost, BrokerError) as error:
                    self._rewind("target_away", error.message)
                except Fenced as fenced:
                    self._fenced(fenced)
        finally:
            self._transactions.close()
            self._source.close()
            self._source_brokers.close()

    def _rewind(self, cause: str, message: str) -> None:
        self._rewinds += 1
        self._rewinds_unledgered[cause] += 1
        self._failures += 1
        log.warning("lane.rewind", flow=self.lease.flow, lane=self.lease.lane, cause=cause, detail=message)
        self._transactions.lose()
        self._forget()
        least, most = REWIND_BACKOFF
        pause = min(least * float(2 ** min(self._failures - 1, 10)), most) * random.uniform(0.5, 1.0)
        self._publish(waiting=f"{cause}: {message}")
        if not self.stop.is_set():
            self._target.network.sleep(pause)

    def _fenced(self, fenced: Fenced) -> None:
        """Give the lane up to whoever shows by a commit that it has it; else take it again.

        Raises Fenced with the successor's name. Nothing has been written since the broker refused our epoch.
        """
        self._transactions.lose()
        self._forget()
        successor = self._succession.look(self.stop)
        if successor is not None:
            raise Fenced(
                f"flow {self.lease.flow} lane {self.lease.lane}: taken over by {successor}",
                hint="The newest owner wins. Nothing was written after the take-over; do not restart this process.",
            )
        self._transactions.forget_epochs()
        self._rewind("fenced", fenced.message)

    # --- taking over

    def _take_over(self, obeyed: Orders | None = None) -> None:
        """The start-up path, and the only one back from doubt. `obeyed` are orders that have just been carried out."""
        orders = self.orders
        internal = needed(self._topics, self.lease.on_bad_record)
        names = {*internal, *(topic for topic, _ in orders.routes)}
        metadata = self._target.metadata(names)
        checkpoint.require_leaders(self._target, metadata, internal, self.lease.lane)
        checkpoint.require_same(self._target, metadata, self._topics, self.lease.checkpoint_id)
        # Identities first, checkpoint second. The other way round, the previous owner's commit can land between the
        # two and its records would be mirrored twice.
        self._transactions.take(metadata)
        markers.check_internal(self._target, metadata, self._topics, self.lease.lane, self._transactions)
        state = self._read_checkpoint(metadata)
        self._step("checkpoint_read")
        self._succession.saw(state.lane.generation if state.lane else 0)
        self._head = opening_head(self.lease, state)
        missing = {topic for topic, _ in state.positions} - names
        if missing:
            metadata = self._target.metadata(names | missing)
        self._open(orders, metadata, state, obeyed)
        self._succession.saw(self._head.generation)
        log.info("lane.taken", flow=self.lease.flow, lane=self.lease.lane, n=self._head.n, routes=len(self._routes))

    def _read_checkpoint(self, metadata: Metadata) -> LaneState:
        try:
            return checkpoint.read_lane(self._target, metadata, self._topics, self.lease.lane)
        except Refused:
            # Open below the bound: a newer owner of this very lane is no stranger.
            if markers.newer_owner(self._target, metadata, self._topics, self.lease.lane, self._transactions):
                raise Rewind("epoch", "a newer owner has a transaction open") from None
            raise

    def _open(self, orders: Orders, metadata: Metadata, state: LaneState, obeyed: Orders | None) -> None:
        """Commit the new owner and what was found out about its routes before the first byte of data; then read on."""
        # One moment for both: a route that is barred now has a time at which it is tried again.
        now, now_ms = self._now(), self._clock_ms()
        adopted = adopt(
            self._source_brokers,
            self._target,
            metadata,
            orders,
            state.positions,
            self._known_head(),
            self._transactions,
            self._blame.certain,
            self._blame.barred(now),
            now_ms,
        )
        if self._known_head().pinned_ms is None and not adopted.waiting:
            self._head = msgspec.structs.replace(self._known_head(), pinned_ms=now_ms)
        self._routes = adopted.routes
        self._touched = {k: r for k, r in adopted.routes.items() if r.changed or not r.book.empty}
        for route in self._routes.values():
            route.recipe = self.lease.recipe(route.key)
            if route.changed and route.fault is not None:
                tell(self.lease.flow, route)
        self._commit(self._begin())
        self._blame.taken(self._routes)
        active = [r for r in self._routes.values() if r.leader is not None and r.key in orders.routes]
        for route in active:
            self._transactions.expect_end(*route.key, adopted.ends[route.key])
        self._source.assign(Reading(r.key, r.source_topic_id, r.next_offset, r.leader_epoch) for r in active)
        # What a person decided while nobody ran, or while a cluster was away, is still to be done.
        self._obeyed = orders if orders is obeyed or not self._undone(orders) else None
        self._waiting = adopted.waiting
        self._again_at = self._blame.next_try(now)
        # A topic that was just created is news to its broker for a moment only.
        self._retry_at = self._now() + min(RETRY_SECONDS[0] * 2**self._retries, RETRY_SECONDS[1])
        self._retries = min(self._retries + 1, 10) if adopted.waiting else 0
        self._publish()

    # --- the cycle

    def _cycle(self) -> None:
        again = self._again_at is not None and self._now() >= self._again_at
        if self.orders is not self._obeyed or again or self._can_go_on():
            self._obey()
        block = self._read()
        self._take_source_faults()
        if block is not None:
            self._write(block)
        if self._pacing.due(drained=block is None, behind=self._source.behind):
            self._commit(self._begin())
            self._failures = 0
            self._blame.committed(self._routes, self._now())
        elif block is None and self._lookout.stranger(self._now()):
            raise Rewind("epoch", "somebody else has written to the checkpoint")
        if block is None or self._now() >= self._publish_at:
            self._publish()

    def _read(self) -> Block | None:
        """The next block. A source with little is left alone for a moment: one fetch brings all that came, then."""
        may_rest = self._source.may_rest
        rest = self._pacing.rest(REST_SECONDS) if may_rest else 0.0
        if rest > 0.0:
            self._target.network.sleep(rest)
            self._source.rested()
        if may_rest and self._pacing.open and self._pacing.rest(REST_SECONDS) == 0.0:
            return self._source.gather(ask=rest > 0.0)
        return self._source.poll(self._pacing.patience(IDLE_SECONDS - rest, behind=self._source.behind))

    def _write(self, block: Block) -> None:
        """Pack a block and send it. Its records are in the open transaction when this returns, not yet acked."""
        self._step("fetch")
        identity = self._begin()
        outgoing: list[list[Outgoing]] = []
        sequences: dict[tuple[bytes, int], int] = {}
        for part in block.parts:
            route = self._routes[part.key]
            if route.standing:
                continue
            if part.position != route.next_offset:
                raise RuntimeError(f"{part.key}: block begins at {part.position}, the route is at {route.next_offset}")
            topic_id = bytes.fromhex(route.target_topic_id)
            apart = self._blame.apart(part.key, part.position)
            edges = route.until, self._blame.boundary(part.key, part.position)
            until = min((edge for edge in edges if edge is not None), default=None)
            if apart is not None:
                self._pacing.urgent()  # many small requests: no more of them in this transaction than need be
            packed = _fastpath.pack(
                block.frame,
                part.start,
                part.end,
                part.position,
                part.aborted,
                producer_id=identity.producer_id,
                producer_epoch=identity.epoch,
                base_sequence=self._transactions.sequence(topic_id, part.key[1]),
                max_batch_bytes=route.max_batch_bytes,
                recipe=route.recipe,
                until=until,
                apart=apart,
            )
            route.source_lso = part.stable
            if packed.next_offset > part.position:
                route.consumed(packed)
                self._touched[part.key] = route
                self._pacing.consumed()
            if packed.batches:
                sequences[topic_id, part.key[1]] = packed.next_sequence
                outgoing.append(self._outgoing(route, topic_id, packed.batches))
                self._open_records += packed.records
            if packed.error is not None:
                self._fault_batch(route, packed.error)
            elif until is not None and packed.next_offset >= until:
                self._halted(route)
        self._step("pack")
        if outgoing:
            size = sum(len(out.view) for partition in outgoing for out in partition)
            self._open_bytes += size
            self._pacing.wrote(size)
            self._transactions.produce(outgoing, sequences)
            self._step("produce")
            self._book_acks()

    def _outgoing(self, route: Route, topic_id: bytes, batches: list[_fastpath.Batch]) -> list[Outgoing]:
        topic, partition = route.key
        if route.leader is None:
            raise RuntimeError(f"{route.key}: read without a target leader")
        return [Outgoing(topic, topic_id, partition, route.leader, b, b.view) for b in batches]

    def _book_acks(self) -> None:
        for acked in self._transactions.acked():
            self._routes[acked.topic, acked.partition].wrote(acked.batch, acked.base_offset)
        for foreign in self._transactions.foreign():
            log.warning("partition.foreign_write", flow=self.lease.flow, **foreign._asdict(), hint=foreign.hint)
        if sum(route.book.run_count for route in self._touched.values()) >= ledger.MAX_RUNS_PER_TRANSACTION:
            self._pacing.urgent()

    def _take_source_faults(self) -> None:
        for fault in self._source.faults:
            route = self._routes[fault.topic, fault.partition]
            self._fault(route, fault)
        self._source.faults.clear()

    def _fault_batch(self, route: Route, error: _fastpath.BatchError) -> None:
        reason = Reason(error.reason)
        alone = reason is Reason.RECORD_TOO_LARGE and error.next_offset == error.offset + 1
        self._bad(
            route,
            Faulted(
                *route.key,
                reason,
                error.detail,
                offset=error.offset,
                next_offset=error.next_offset,
                of_record=alone,
            ),
        )

    def _halted(self, route: Route) -> None:
        """Everything before what the target has refused is written: the rest comes when that is committed."""
        if route.halt is not None and route.until is not None and route.next_offset >= route.until:
            self._bad(route, route.halt)
        else:
            self._reread(route)

    def _bad(self, route: Route, fault: Faulted) -> None:
        """What cannot be mirrored: left out if the flow's `on_bad_record` wants that, else here the route stands."""
        if self._quarantine.full or self._quarantine.leave_out(route, fault):
            self._reread(route)
        else:
            self._source.stop(route.key)
            self._fault(route, fault)

    def _reread(self, route: Route) -> None:
        """Commit soon, and read on from where the route is."""
        self._source.reread(Reading(route.key, route.source_topic_id, route.next_offset, route.leader_epoch))
        self._touched[route.key] = route
        self._pacing.urgent()

    def _fault(self, route: Route, fault: Faulted) -> None:
        route.faulted(fault, self._clock_ms())
        self._touched[route.key] = route
        self._pacing.urgent()
        tell(self.lease.flow, route)

    # --- the transaction

    def _begin(self) -> Identity:
        """The open transaction's identity; begins transaction n if none is open.

        A producer id that has not announced itself does so first, in a transaction of its own with its own number.
        """
        if self._transactions.number is not None:
            return self._transactions.turn(self._transactions.number)
        while True:
            head = self._known_head()
            identity = self._transactions.begin(head.n)
            if head.announced.get(identity.name) == identity.producer_id:
                self._began = self._now()
                return identity
            self._announce(head, identity)

    def _announce(self, head: LaneRecord, identity: Identity) -> None:
        settled = announcement(self.lease, head, identity, self._clock_ms())
        self._transactions.record(settled.writes, self._clock_ms())
        self._transactions.commit()
        self._head = settled.following

    def _commit(self, identity: Identity, *, close_ledger: bool = False) -> Receipt:
        """Acks, then checkpoint and (when due) ledger, then EndTxn: data, position and ledger move together."""
        head = self._known_head()
        self._transactions.drain()
        self._step("acked")
        began = self._now()
        self._book_acks()
        settled = settlement(
            self.lease,
            head,
            self._touched,
            dict(self._rewinds_unledgered),
            self._clock_ms(),
            ledger_due=close_ledger or self._pacing.ledger_due(),
            others=self._quarantine.writes(),
        )
        self._transactions.record(settled.writes, self._clock_ms())
        self._transactions.commit()
        self._head = settled.following
        for key in settled.moved:
            self._touched[key].committed(ledgered=settled.ledgered)
        self._touched = {k: r for k, r in self._touched.items() if not r.book.empty}
        if settled.ledgered:
            self._rewinds_unledgered.clear()
        self._quarantine.clear()
        self._lookout.reset()
        self._pacing.committed(
            seconds=self._now() - began, ledgered=settled.ledgered, ledger_pending=bool(self._touched)
        )
        return self._receipt(head.n, identity, settled)

    def _receipt(self, number: int, identity: Identity, settled: Settlement) -> Receipt:
        receipt = Receipt(
            number,
            identity.name,
            self._open_records,
            self._open_bytes,
            len(settled.moved),
            self._now() - self._began,
            settled.ledgered,
        )
        self._records += self._open_records
        self._bytes += self._open_bytes
        self._commits += 1
        self._open_records = self._open_bytes = 0
        log.debug("lane.committed", flow=self.lease.flow, lane=self.lease.lane, receipt=str(receipt))
        return receipt

    def _finish(self) -> None:
        """Stop cleanly: what was read is committed, the ledger is up to date."""
        if self._touched:
            self._commit(self._begin(), close_ledger=True)
        self._publish()
        log.info("lane.drained", flow=self.lease.flow, lane=self.lease.lane, n=self._known_head().n)

    # --- orders

    def _can_go_on(self) -> bool:
        """Is one of the routes that wait likely to find its leaders now? Asked every few seconds, cheaply."""
        if not self._waiting or self._now() < self._retry_at:
            return False
        self._retry_at = self._now() + RETRY_SECONDS[1]
        return can_start(self._waiting, self._source_brokers, self._target)

    def _obey(self) -> None:
        """New orders: commit what is open, do what a person wants of the faults, then start as after a take-over."""
        orders = self.orders
        are_new = orders is not self._obeyed
        if self._touched or self._transactions.number is not None:
            # With the ledger up to date a route may also go back: runs ascend inside a ledger record only.
            self._commit(self._begin(), close_ledger=True)
        resolved, silent = carry_out(self.lease.flow, self._undone(orders), self._target, self._source_brokers)
        self._touched.update((route.key, route) for route in resolved)
        if self._touched:
            self._commit(self._begin(), close_ledger=True)
        self._publish()
        self._forget()
        if are_new:
            self._blame.reconsider()
        self._take_over(obeyed=orders)
        if silent:
            self._again_at = min(self._now() + POSTPONED_SECONDS, self._again_at or float("inf"))

    def _undone(self, orders: Orders) -> list[tuple[Route, Desired]]:
        """The faults about which a person has decided, and that still stand."""
        found = []
        for key, desired in orders.desired.items():
            route = self._routes.get(key)
            if route is not None and route.fault is not None and route.fault.since_ms == desired.since_ms:
                found.append((route, desired))
        return found

    # --- telling

    def _publish(self, waiting: str | None = None) -> None:
        self._publish_at = self._now() + PUBLISH_SECONDS
        views = []
        for key, route in self._routes.items():
            reading = self._source.readings.get(key)
            views.append(route.view(reading.stable, reading.trouble) if reading else route.view(None, route.trouble))
        idle = not self._open_records and waiting is None and self._obeyed is self.orders and not self._waiting
        running = [k for k, r in self._routes.items() if not r.standing and k in self.orders.routes]
        caught_up = idle and all(self._source.caught_up(k) for k in running)
        self.view = LaneView(
            self.lease.lane,
            self._head.n if self._head else 0,
            self._records,
            self._bytes,
            self._commits,
            self._rewinds,
            tuple(views),
            caught_up,
            waiting,
        )

    def _known_head(self) -> LaneRecord:
        if self._head is None:
            raise RuntimeError("the checkpoint has not been read")
        return self._head
