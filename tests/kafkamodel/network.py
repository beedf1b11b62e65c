"""The network between owners and model clusters, and the time they live in.

Owners are threads that run production code, and exactly one thread runs at any moment: an owner runs until it would
block (receive, wait, sleep), then the scheduler picks the next event. What is picked is all there is of chance, so the
same choices give the same run, to the byte.

A request lies on its connection until the event that delivers it, a response until the event that hands it over. A
connection that dies leaves its requests behind as strays: they are lost, or reach the broker later, when nobody waits.
"""

from __future__ import annotations

import itertools
import sys
import threading
import traceback
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final

from .answers import Work, answer
from .cluster import Clock, ModelCluster, Node
from .coordinator import Transaction, Wait
from .messages import ModelError, Request, parse_request, write_response
from .owner import Frame, ModelSocket, Owner, Stuck
from .story import Handled, Happened, tell

LATENCY: Final = 0.0001
PATIENCE: Final = 1.0
HANG_SECONDS: Final = 20.0


@dataclass(slots=True)
class Event:
    """Something that can happen now. Of several, the one with the lowest `order` has been possible the longest."""

    kind: str
    order: int
    owner: str | None
    label: str
    key: tuple[Any, ...]
    run: Callable[[], None]


@dataclass(slots=True, eq=False)
class Operation:
    """Work inside a broker, mostly a request. `origin` gets the answer; None if its connection is gone."""

    number: int
    owner: str
    cluster: ModelCluster
    request: Request | None
    work: Work
    origin: ModelSocket | None
    stray: Stray | None
    wait: Wait = field(default_factory=lambda: Wait(""))
    pauses: int = 0


@dataclass(slots=True, eq=False)
class Stray:
    """Requests of a connection that is no more, in their order; delivered from step `due` on."""

    number: int
    owner: str
    cluster: ModelCluster
    node: Node
    frames: deque[Frame]
    due: int
    operation: Operation | None = None


class ModelNetwork:
    """Clusters, owners and the events between them. Use it as a context manager: no thread outlives it.

    `interleave`: work inside a broker pauses wherever a real one lets others in between (a produce that is checked and
    not yet appended, a state that is being written to the transaction log). `max_send` and `max_receive` are the most
    bytes that one call takes.
    """

    def __init__(
        self,
        *clusters: ModelCluster,
        interleave: bool = True,
        max_send: int | None = None,
        max_receive: int | None = None,
    ) -> None:
        self.clock = Clock()
        self.clusters = clusters
        self.places: dict[tuple[str, int], tuple[ModelCluster, Node]] = {}
        for cluster in clusters:
            cluster.clock = self.clock
            for node in cluster.nodes.values():
                self.places[node.host, node.port] = cluster, node
        self.interleave = interleave
        self.max_send = max_send
        self.max_receive = max_receive
        self.owners: list[Owner] = []
        self.local_owners: list[Owner] = []
        self.sockets: list[ModelSocket] = []
        self.strays: list[Stray] = []
        self.operations: list[Operation] = []
        self.held: dict[tuple[Any, ...], int] = {}
        self.steps = 0
        self.trace: list[Happened] = []
        self.history: list[Handled] = []
        self.numbers = itertools.count(100)
        self.back = threading.Lock()
        self.back.acquire()
        self._orders = itertools.count()
        self._first_seen: dict[tuple[Any, ...], int] = {}
        self._respawn: dict[str, tuple[Callable[[Owner], Any], int]] = {}
        self._on_step: list[Callable[[], None]] = []

    def __enter__(self) -> ModelNetwork:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def next_order(self) -> int:
        return next(self._orders)

    # --- owners

    def spawn(self, name: str, main: Callable[[Owner], Any], *, respawn: bool = False, after: int = 0) -> Owner:
        """A new owner that runs `main(network)`. It starts as an event, not before step `after` from now.

        `respawn`: each time it is killed, another one (name', name'' ...) starts in its place.
        """
        owner = Owner(self, name, main)
        owner.thread = threading.Thread(target=owner.run, name=name, daemon=True)
        owner.thread.start()
        self.owners.append(owner)
        if after:
            self.held["start", name] = self.steps + after
        if respawn:
            self._respawn[name] = main, 0
        return owner

    def local(self, name: str = "test") -> Owner:
        """The network for the test's own thread: whoever blocks lets everybody else go on, fairly."""
        owner = Owner(self, name, None)
        self.local_owners.append(owner)
        return owner

    def owner(self, name: str) -> Owner:
        return next(o for o in self.owners if o.name == name)

    def _resume(self, owner: Owner) -> None:
        owner.go.release()
        if not self.back.acquire(timeout=HANG_SECONDS):
            frame = sys._current_frames().get(owner.thread.ident or 0) if owner.thread else None
            where = "".join(traceback.format_stack(frame)) if frame else ""
            raise Stuck(f"owner {owner.name} runs for {HANG_SECONDS:.0f} s without blocking:\n{where}")
        if owner.done and isinstance(owner.error, ModelError):
            raise owner.error

    def _wake(self) -> None:
        """Let every owner run whose wait is over."""
        woken = True
        while woken:
            woken = False
            for owner in self.owners:
                if owner.started and not owner.done and owner.due():
                    self._resume(owner)
                    woken = True

    # --- what can happen

    def progress(self, *, allow: Callable[[Event], bool] = lambda event: True) -> list[Event]:
        """Everything that can happen by itself, the longest possible first; time passes only if nothing else can."""
        events = [e for e in self._possible() if self.held.get(e.key, 0) <= self.steps and allow(e)]
        events.sort(key=lambda e: e.order)
        return events or self._tick()

    def _event(self, kind: str, order: int, owner: str | None, label: str, key: Any, run: Callable[[], None]) -> Event:
        return Event(kind, order, owner, label, (kind, key), run)

    def _seen(self, *key: Any) -> int:
        order = self._first_seen.get(key)
        if order is None:
            order = self._first_seen[key] = self.next_order()
        return order

    def _possible(self) -> Iterator[Event]:
        for owner in self.owners:
            if not owner.started:
                yield Event("start", -1, owner.name, "", ("start", owner.name), lambda o=owner: self._start(o))
        for sock in self.sockets:
            name = sock.owner.name
            if sock.requests and sock.operation is None:
                head = sock.requests[0]
                yield self._event("deliver", head.order, name, head.api, sock.number, lambda s=sock: self._deliver(s))
            if sock.answers:
                yield self._event(
                    "respond", sock.answers[0].order, name, "", sock.number, lambda s=sock: self._respond(s)
                )
        for stray in self.strays:
            if stray.frames and stray.operation is None and stray.due <= self.steps:
                head = stray.frames[0]
                yield self._event(
                    "stray", head.order, stray.owner, head.api, stray.number, lambda s=stray: self._deliver(s)
                )
        for op in self.operations:
            wait = op.wait
            if wait.until is None or self.clock.now >= wait.until or (wait.ready is not None and wait.ready()):
                order = self._seen("resume", op.number, op.pauses)
                yield self._event("resume", order, op.owner, wait.what, op.number, lambda o=op: self._advance(o))
        for cluster in self.clusters:
            yield from self._coordinator_events(cluster)

    def _coordinator_events(self, cluster: ModelCluster) -> Iterator[Event]:
        for txn in cluster.coordinator.transactions.values():
            expires = cluster.coordinator.expires_at(txn)
            if expires is not None and self.clock.now >= expires:
                key = (cluster.name, txn.transactional_id, expires)
                yield self._event(
                    "time_out",
                    self._seen("time_out", *key),
                    None,
                    txn.transactional_id,
                    key,
                    lambda c=cluster, t=txn: self.time_out(c, t),
                )
        for marker in cluster.owed():
            txn = marker.txn
            key = (cluster.name, txn.transactional_id, txn.producer_id, txn.epoch, marker.topic, marker.partition)
            yield self._event(
                "marker",
                self._seen("marker", *key),
                None,
                f"{txn.transactional_id} {marker.topic}[{marker.partition}]",
                key,
                lambda c=cluster, m=marker: c.write_marker(m),
            )
        for txn in cluster.completable():
            key = (cluster.name, txn.transactional_id, txn.producer_id, txn.epoch)
            yield self._event(
                "complete",
                self._seen("complete", *key),
                None,
                txn.transactional_id,
                key,
                lambda c=cluster, t=txn: c.coordinator.complete(t),
            )

    def _tick(self) -> list[Event]:
        """Time passes up to the next thing that waits for it."""
        times = [o.deadline for o in self.owners if o.started and not o.done and o.deadline is not None]
        times += [o.deadline for o in self.local_owners if o.deadline is not None]
        times += [op.wait.until for op in self.operations if op.wait.until is not None]
        for cluster in self.clusters:
            found = (cluster.coordinator.expires_at(t) for t in cluster.coordinator.transactions.values())
            times += [t for t in found if t is not None]
        times = [t for t in times if t > self.clock.now]
        late = [s for s in self.strays if s.due > self.steps]
        # What is held back is slow, not lost: it outlasts short waits, but nobody's time-out while all else is idle.
        if (self.held or late) and (not times or min(times) > self.clock.now + PATIENCE):
            return [Event("tick", -1, None, "holds end", ("tick",), self.release)]
        if times:
            return [Event("tick", -1, None, "", ("tick",), lambda: self._pass_to(min(times)))]
        return []

    def release(self) -> None:
        """End every hold, and let every stray arrive."""
        self.held.clear()
        for stray in self.strays:
            stray.due = min(stray.due, self.steps)

    def _pass_to(self, when: float) -> None:
        self.clock.now = max(self.clock.now, when)

    # --- one step

    def step(self, event: Event | None = None) -> bool:
        """Do this event, or the one that has been possible the longest. False if nothing can happen."""
        if event is None:
            events = self.progress()
            if not events:
                return False
            event = events[0]
        self.steps += 1
        self.trace.append(Happened(self.steps, self.clock.now, event.kind, event.owner or "", event.label))
        event.run()
        self._wake()
        for look in self._on_step:
            look()
        return True

    def each_step(self, look: Callable[[], None]) -> None:
        """Call this after every step: an invariant that must hold at every moment."""
        self._on_step.append(look)

    def _start(self, owner: Owner) -> None:
        owner.started = True
        self._resume(owner)

    def _deliver(self, source: ModelSocket | Stray) -> None:
        """The broker takes a request. It handles one of a connection at a time."""
        self.clock.now += LATENCY
        alive = isinstance(source, ModelSocket)
        frame = (source.requests if alive else source.frames).popleft()
        request = parse_request(frame.data)
        op = Operation(
            next(self.numbers),
            source.owner.name if alive else source.owner,
            source.cluster,
            request,
            answer(source.cluster, source.node, request),
            source if alive else None,
            None if alive else source,
        )
        source.operation = op
        self.operations.append(op)
        self._advance(op)

    def _advance(self, op: Operation) -> None:
        while True:
            try:
                op.wait = next(op.work)
                op.pauses += 1
            except StopIteration as end:
                self._finish(op, end.value)
                return
            if self.interleave or op.wait.until is not None or op.wait.ready is not None:
                return

    def _finish(self, op: Operation, response: Any) -> None:
        self.operations.remove(op)
        if op.stray is not None:
            op.stray.operation = None
            self._sweep()
        if op.request is None:
            return
        if op.origin is not None:
            op.origin.operation = None
            op.origin.answers.append(Frame(self.next_order(), write_response(op.request, response)))
        self.history.append(
            Handled(
                self.steps, op.owner, op.cluster.name, op.request.api, op.request.body, response, op.origin is not None
            )
        )

    def _respond(self, sock: ModelSocket) -> None:
        self.clock.now += LATENCY
        sock.hand_over()

    # --- what goes wrong

    def strand(self, sock: ModelSocket, *, after: int | None) -> None:
        """The connection is gone. Its requests reach the broker from `after` steps on, or never if None.

        The one that the broker is working on is finished in any case; nobody hears the answer.
        """
        if sock not in self.sockets:
            return
        self.sockets.remove(sock)
        if sock in sock.owner.sockets:
            sock.owner.sockets.remove(sock)
        sock.answers.clear()
        frames = sock.requests if after is not None else deque()
        sock.requests = deque()
        if frames or sock.operation is not None:
            stray = Stray(
                next(self.numbers),
                sock.owner.name,
                sock.cluster,
                sock.node,
                frames,
                self.steps + (after or 0),
                sock.operation,
            )
            if sock.operation is not None:
                sock.operation.origin, sock.operation.stray = None, stray
                sock.operation = None
            self.strays.append(stray)

    def _sweep(self) -> None:
        self.strays = [s for s in self.strays if s.frames or s.operation is not None]

    def break_connection(self, sock: ModelSocket, *, after: int | None, reset: bool = False) -> None:
        """Cut a connection: its owner reads the end of the stream, or a reset. See `strand` for its requests."""
        self.strand(sock, after=after)
        sock.broken = ConnectionResetError() if reset else True

    def duplicate(self, sock: ModelSocket, *, after: int) -> None:
        """The next request of a connection will arrive once more, from `after` steps on."""
        frame = Frame(self.next_order(), sock.requests[0].data)
        self.strays.append(
            Stray(next(self.numbers), sock.owner.name, sock.cluster, sock.node, deque([frame]), self.steps + after)
        )

    def hold(self, event: Event, steps: int) -> None:
        """Nothing like this happens for that many steps."""
        self.held[event.key] = self.steps + steps

    def kill(self, owner: Owner, *, after: int | None = 0) -> None:
        """SIGKILL. What it has sent arrives from `after` steps on, or never if None."""
        for sock in list(owner.sockets):
            self.strand(sock, after=after)
        owner.killed = True
        owner.started = True
        while not owner.done:
            self._resume(owner)
        base = owner.name.rstrip("'")
        if base in self._respawn:
            main, lives = self._respawn[base]
            self._respawn[base] = main, lives + 1
            self.spawn(base + "'" * (lives + 1), main)

    def time_out(self, cluster: ModelCluster, txn: Transaction) -> None:
        """The coordinator gives an open transaction up, whatever the owners' clocks say."""

        op = Operation(next(self.numbers), "", cluster, None, cluster.coordinator.time_out(txn), None, None)
        self.operations.append(op)
        self._advance(op)

    def expire(self, owner: Owner) -> None:
        """So much time passes that this owner's wait ends by its deadline."""
        if owner.deadline is not None:
            self._pass_to(owner.deadline)

    # --- running

    def run(
        self,
        policy: Callable[[ModelNetwork, list[Event]], Event | None] | None = None,
        *,
        until: Callable[[], bool] | None = None,
        budget: int = 20_000,
    ) -> None:
        """Let events happen until `until`, or until every owner has ended and nothing more can happen.

        The policy sees what can happen by itself and returns one of it, or an event of its own (a fault), or None for
        the first. Raises Stuck if nothing can happen any more or the budget of steps is used up.
        """
        last = self.steps + budget
        while not (until is not None and until()):
            allow = getattr(policy, "allow", None)
            events = self.progress(allow=allow) if allow else self.progress()
            over = all(o.done for o in self.owners)
            if over and until is None and (not events or events[0].kind == "tick"):
                return
            if not events:
                why = "every owner has ended" if over else "nothing can happen any more"
                raise Stuck(f"{why}:\n{self.explain()}")
            if self.steps >= last:
                raise Stuck(f"no end after {budget} steps:\n" + self.explain())
            chosen = policy(self, events) if policy is not None else None
            self.step(chosen if chosen is not None else events[0])

    def settle(self, budget: int = 20_000) -> None:
        """No owner any more: kill them all, let every stray arrive and every marker be written."""
        self._respawn.clear()
        for owner in list(self.owners):
            if not owner.done:
                self.kill(owner)
        self.release()
        for _ in range(budget):
            events = [e for e in self._possible() if e.kind != "time_out"]
            if not events and not any(s.frames for s in self.strays):
                waiting = [op.wait.until for op in self.operations if op.wait.until is not None]
                if not waiting:
                    return
                self._pass_to(min(waiting))
                continue
            self.release()
            self.step(min(events, key=lambda e: e.order) if events else None)
        raise Stuck("does not settle:\n" + self.explain())

    def close(self) -> None:
        """End every thread."""
        self._respawn.clear()
        for owner in self.owners:
            if not owner.done:
                self.kill(owner, after=None)
            if owner.thread is not None:
                owner.thread.join(HANG_SECONDS)
        for op in self.operations:
            op.work.close()

    # --- looking

    def handled(self, *, owner: str | None = None, api: str | None = None) -> list[Handled]:
        """Requests worked off so far, by owner and API name."""
        return [h for h in self.history if owner in (None, h.owner) and api in (None, h.api)]

    def explain(self, last: int = 60) -> str:
        """The last events and what everybody waits for."""
        lines = tell(self.trace[-last:], self.history, self.clock.start)
        lines += [repr(o) for o in self.owners]
        lines += [f"stray of {s.owner}: {[f.api for f in s.frames]} from step {s.due}" for s in self.strays]
        return "\n".join(lines)
