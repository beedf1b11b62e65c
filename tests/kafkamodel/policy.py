"""Who decides what happens next: fairness, a seed, a list of numbers, or a test that lets only some owners go on."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

from .network import Event, ModelNetwork

# How many steps something is held back or a stray stays away: within a transaction, a few of them, nearly for ever.
DELAYS: Final = (3, 12, 40, 150, 600)


_KINDS: Final = {
    "holds": "hold",
    "breaks": "break",
    "duplicates": "duplicate",
    "kills": "kill",
    "time_outs": "time_out",
    "expiries": "expire",
    "refusals": "refuse",
    "evictions": "evict",
}


@dataclass(slots=True)
class Faults:
    """How many of each may still happen. A fault with no number left is never offered.

    `holds`: a request, answer, marker or pause inside a broker is held back. `breaks`: a connection is cut, its
    requests lost or late. `duplicates`: a request arrives twice. `kills`: SIGKILL. `time_outs`: the coordinator gives
    an open transaction up. `expiries`: an owner's wait ends by its deadline though nothing is late. `refusals`: a dial
    fails. `evictions`: a broker drops a fetch session. `victims` says which owners faults may hit.
    """

    holds: int = 10
    breaks: int = 3
    duplicates: int = 3
    kills: int = 0
    time_outs: int = 1
    expiries: int = 1
    refusals: int = 1
    evictions: int = 2
    victims: Callable[[str], bool] = field(default=lambda name: True)

    @classmethod
    def none(cls) -> Faults:
        return cls(0, 0, 0, 0, 0, 0, 0, 0)

    def options(self, net: ModelNetwork, events: Sequence[Event]) -> list[list[Callable[[], Event]]]:
        """What could go wrong now, one list per kind that has anything to offer."""
        kinds = [
            list(self._holds(net, events)) if self.holds else [],
            list(self._breaks(net)) if self.breaks else [],
            list(self._duplicates(net)) if self.duplicates else [],
            list(self._kills(net)) if self.kills else [],
            list(self._time_outs(net)) if self.time_outs else [],
            list(self._expiries(net)) if self.expiries else [],
            list(self._refusals(net)) if self.refusals else [],
            list(self._evictions(net)) if self.evictions else [],
        ]
        return [k for k in kinds if k]

    def _make(self, name: str, owner: str | None, label: str, run: Callable[[], None]) -> Callable[[], Event]:
        """The fault as an event; counted off when it is chosen."""

        def chosen() -> Event:
            setattr(self, name, getattr(self, name) - 1)
            return Event(_KINDS[name], -1, owner, label, (name,), run)

        return chosen

    def _holds(self, net: ModelNetwork, events: Sequence[Event]) -> Iterator[Callable[[], Event]]:
        for event in events:
            if event.kind != "tick":
                for steps in DELAYS:
                    label = f"{event.kind} {event.label} for {steps}"
                    yield self._make("holds", event.owner, label, lambda e=event, n=steps: net.hold(e, n))

    def _breaks(self, net: ModelNetwork) -> Iterator[Callable[[], Event]]:
        for sock in net.sockets:
            name = sock.owner.name
            if self.victims(name) and not sock.owner.done and (sock.requests or sock.answers or sock.operation):
                for after in (None, 0, *DELAYS):
                    fate = "lost" if after is None else f"after {after}"
                    label = f"connection {sock.number}: {len(sock.requests)} requests {fate}"
                    yield self._make(
                        "breaks",
                        name,
                        label,
                        lambda s=sock, a=after: net.break_connection(s, after=a, reset=bool(a)),
                    )

    def _duplicates(self, net: ModelNetwork) -> Iterator[Callable[[], Event]]:
        for sock in net.sockets:
            if sock.requests and self.victims(sock.owner.name):
                for after in (0, *DELAYS):
                    label = f"{sock.requests[0].api} after {after}"
                    yield self._make(
                        "duplicates", sock.owner.name, label, lambda s=sock, a=after: net.duplicate(s, after=a)
                    )

    def _kills(self, net: ModelNetwork) -> Iterator[Callable[[], Event]]:
        for owner in net.owners:
            if owner.started and not owner.done and self.victims(owner.name):
                for after in (None, 0, *DELAYS):
                    label = "requests lost" if after is None else f"requests after {after}"
                    yield self._make("kills", owner.name, label, lambda o=owner, a=after: net.kill(o, after=a))

    def _time_outs(self, net: ModelNetwork) -> Iterator[Callable[[], Event]]:
        for cluster in net.clusters:
            for txn in cluster.coordinator.transactions.values():
                if cluster.coordinator.expires_at(txn) is not None:
                    yield self._make(
                        "time_outs", None, txn.transactional_id, lambda c=cluster, t=txn: net.time_out(c, t)
                    )

    def _expiries(self, net: ModelNetwork) -> Iterator[Callable[[], Event]]:
        for owner in net.owners:
            if owner.started and not owner.done and owner.deadline is not None and self.victims(owner.name):
                yield self._make("expiries", owner.name, owner.waits_for, lambda o=owner: net.expire(o))

    def _refusals(self, net: ModelNetwork) -> Iterator[Callable[[], Event]]:
        for owner in net.owners:
            if owner.started and not owner.done and owner.refuse_dials == 0 and self.victims(owner.name):

                def refuse(o=owner) -> None:
                    o.refuse_dials = 1

                yield self._make("refusals", owner.name, "next dial", refuse)

    def _evictions(self, net: ModelNetwork) -> Iterator[Callable[[], Event]]:
        for cluster in net.clusters:
            for node in cluster.nodes.values():
                for number in node.sessions.of:
                    label = f"fetch session {number} of {cluster.name}/{node.node_id}"
                    yield self._make("evictions", None, label, lambda s=node.sessions, n=number: s.evict(n))


class Seeded:
    """Chance from a seed: mostly the fair choice, sometimes another one, seldom a fault."""

    def __init__(self, seed: int, faults: Faults | None = None, *, reorder: float = 0.3, fault: float = 0.03) -> None:
        self.random = random.Random(seed)
        self.faults = faults if faults is not None else Faults()
        self.reorder = reorder
        self.fault = fault

    def __call__(self, net: ModelNetwork, events: list[Event]) -> Event | None:
        draw = self.random.random()
        if draw < self.fault:
            kinds = self.faults.options(net, events)
            if kinds:
                return self.random.choice(self.random.choice(kinds))()
        if draw < self.fault + self.reorder:
            return self.random.choice(events)
        return None


class Script:
    """A list of numbers, such as Hypothesis draws and shrinks: one per step, and fairness when it is used up.

    0 is the fair choice; an odd number another event that can happen by itself; an even one a fault. So a shorter list
    and smaller numbers are a calmer run.
    """

    def __init__(self, choices: Sequence[int], faults: Faults | None = None) -> None:
        self.choices = choices
        self.faults = faults if faults is not None else Faults()
        self.position = 0

    def __call__(self, net: ModelNetwork, events: list[Event]) -> Event | None:
        if self.position >= len(self.choices):
            return None
        choice = self.choices[self.position]
        self.position += 1
        if choice == 0:
            return None
        if choice % 2:
            return events[(choice // 2) % len(events)]
        kinds = self.faults.options(net, events)
        if not kinds:
            return None
        which, among = choice // 2 % len(kinds), choice // 2 // len(kinds)
        return kinds[which][among % len(kinds[which])]()


class Only:
    """Fair, but only these owners go on (and what the clusters do by themselves, unless `background` is off).

    A killed owner's successors count as the same owner.
    """

    def __init__(self, *names: str, background: bool = True) -> None:
        self.names = names
        self.background = background

    def allow(self, event: Event) -> bool:
        if event.owner is None or event.owner == "":
            return self.background
        return event.owner.rstrip("'") in self.names

    def __call__(self, net: ModelNetwork, events: list[Event]) -> Event | None:
        return None
