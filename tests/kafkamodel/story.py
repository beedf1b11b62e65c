"""What happened in a run, for people: the events, and the requests with their answers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple


class Happened(NamedTuple):
    """One event of a run."""

    step: int
    clock: float
    kind: str
    owner: str
    label: str


class Handled(NamedTuple):
    """A request that a broker has worked off. `answered` is False if nobody was there any more to hear the answer."""

    step: int
    owner: str
    cluster: str
    api: str
    body: Any
    response: Any
    answered: bool


def tell(events: Iterable[Happened], history: Sequence[Handled], start: float) -> list[str]:
    """One line per event, and below it what the brokers answered in it; time counts from `start`."""
    answers: dict[int, list[Handled]] = {}
    for h in history:
        answers.setdefault(h.step, []).append(h)
    lines = []
    for step, clock, kind, owner, label in events:
        lines.append(f"{step:5} {clock - start:10.4f} {kind:9} {owner:4} {label}")
        lines += [f"      {summary(h)}" for h in answers.get(step, ())]
    return lines


def summary(handled: Handled) -> str:
    """One line about a request and its answer."""
    body, response = handled.body, handled.response
    parts = [f"{handled.owner}: {handled.api}"]
    for name in ("transactional_id", "producer_id", "producer_epoch", "committed"):
        if hasattr(body, name):
            parts.append(f"{name}={getattr(body, name)}")
    error = getattr(response, "error_code", None)
    if error is not None:
        parts.append(f"-> {error.name}")
    for name in ("producer_id", "producer_epoch"):
        if hasattr(response, name):
            parts.append(f"{name}={getattr(response, name)}")
    if handled.api == "Produce":
        for topic in response.responses:
            parts += [f"[{p.index}] {p.error_code.name} at {p.base_offset}" for p in topic.partition_responses]
    return " ".join(parts)
