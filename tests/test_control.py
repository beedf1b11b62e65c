"""What people want, folded from the control topic; what they did, in order; and one order as it is written."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from eomirror import control, records
from eomirror.control import Control, order
from eomirror.errors import BrokerError, ConnectionLost, Refused
from eomirror.model import RouteKey
from eomirror.records import Desired, Event
from tests.fakes import FakeBrokers, Log

TOPIC = "__eomirror.dr.control"
KEY: RouteKey = ("orders", 3)


def _desired(since_ms: int = 5, action: Any = "accept") -> Desired:
    return Desired(v=1, action=action, since_ms=since_ms, by="ada", why="known", at_ms=1_700_000_000_000)


def _event(verb: str = "fault accept") -> Event:
    return Event(v=1, verb=verb, scope=records.fault_scope(*KEY), by="ada", why="known", at_ms=1_700_000_000_000)


def _key(key: RouteKey = KEY) -> bytes:
    return records.desired_key(records.fault_scope(*key))


@pytest.fixture
def target() -> FakeBrokers:
    brokers = FakeBrokers()
    brokers.add(TOPIC, Log())
    return brokers


def test_an_empty_topic_wants_nothing(target: FakeBrokers) -> None:
    assert Control(target, "dr").read() == {}


def test_the_newest_wish_counts_and_a_tombstone_takes_it_back(target: FakeBrokers) -> None:
    following = Control(target, "dr")
    target.append(TOPIC, _key(), records.encode(_desired(5)))
    target.append(TOPIC, _key(("orders", 4)), records.encode(_desired(6, "retry")))
    assert following.read() == {KEY: _desired(5), ("orders", 4): _desired(6, "retry")}
    target.append(TOPIC, _key(), records.encode(_desired(7)))
    assert following.read()[KEY] == _desired(7)
    target.append(TOPIC, _key(), None)
    target.append(TOPIC, _key(("never", 0)), None)
    assert following.read() == {("orders", 4): _desired(6, "retry")}


def test_each_read_costs_only_what_is_new(target: FakeBrokers, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    read = target.read_committed
    monkeypatch.setattr(
        target, "read_committed", lambda topic, p, start, *rest: asked.append(start) or read(topic, p, start, *rest)
    )
    following = Control(target, "dr")
    target.append(TOPIC, records.event_key("1"), records.encode(_event("one")))
    following.read()
    target.append(TOPIC, records.event_key("2"), records.encode(_event("two")))
    following.read()
    following.read()
    assert asked == [0, 1, 2]
    assert [event.verb for event in following.events] == ["one", "two"]


def test_what_is_not_committed_is_not_wanted_yet(target: FakeBrokers) -> None:
    following = Control(target, "dr")
    target.append(TOPIC, _key(), records.encode(_desired()), stable=False)
    assert following.read() == {}
    target.logs[TOPIC, 0].stable = 1
    assert following.read() == {KEY: _desired()}


def test_the_answer_is_the_callers(target: FakeBrokers) -> None:
    following = Control(target, "dr")
    target.append(TOPIC, _key(), records.encode(_desired()))
    following.read().clear()
    assert following.read() == {KEY: _desired()}


@pytest.mark.parametrize(
    "key", [["desired", ["pause", "orders", 3]], ["desired"], ["event"], ["event", 5], ["later"], []]
)
def test_an_unknown_key_is_refused(target: FakeBrokers, key: list[object]) -> None:
    target.append(TOPIC, msgspec.json.encode(key), b"{}")
    with pytest.raises(Refused) as caught:
        Control(target, "dr").read()
    assert caught.value.message == f"{TOPIC}[0]@0: unknown key {key!r}"
    assert caught.value.hint == "It was written by a newer eomirror; run that one."


def test_failures_are_never_no_orders(target: FakeBrokers) -> None:
    target.away.add((TOPIC, 0))
    with pytest.raises(BrokerError):
        Control(target, "dr").read()
    target.down = True
    with pytest.raises(ConnectionLost):
        Control(target, "dr").read()
    target.down = False
    target.ids.clear()
    with pytest.raises(Refused, match=f"internal topic {TOPIC} is missing"):
        Control(target, "dr").read()


class Producer:
    """Answers each record with an error or not, or not at all."""

    def __init__(self, error: str | None = None, *, silent: bool = False) -> None:
        self.error, self.silent = error, silent
        self.sent: list[tuple[str, bytes, bytes, int]] = []
        self._waiting: list[Any] = []

    def produce(self, topic: str, *, key: bytes, value: bytes, partition: int, on_delivery: Any) -> None:
        self.sent.append((topic, key, value, partition))
        self._waiting.append(on_delivery)

    def flush(self, _seconds: float) -> int:
        if self.silent:
            return len(self._waiting)
        for tell in self._waiting:
            tell(self.error, None)
        return 0


def _order(producer: Producer) -> None:
    order(SimpleNamespace(name="dublin", producer=lambda: producer), "dr", KEY, _desired())


def test_an_order_is_a_wish_and_an_event() -> None:
    producer = Producer()
    _order(producer)
    (topic, key, value, partition), (_, event_key, event, event_partition) = producer.sent
    assert (topic, key, partition) == (TOPIC, _key(), 0)
    assert records.decode("here", Desired, value) == _desired()
    assert event_partition == 0
    assert records.decode("here", Event, event) == _event()
    name, ulid = records.decode_key("here", event_key)
    assert (name, len(ulid), ulid[:10]) == ("event", 26, "01HF7YAT00")


@pytest.mark.parametrize(
    ("producer", "cause"),
    [(Producer("TOPIC_AUTHORIZATION_FAILED"), "TOPIC_AUTHORIZATION_FAILED"), (Producer(silent=True), "no answer")],
)
def test_an_order_that_was_not_stored_says_so(producer: Producer, cause: str) -> None:
    with pytest.raises(Refused) as caught:
        _order(producer)
    assert caught.value.message == f"cluster dublin: {TOPIC}: the order was not stored: {cause}"
    assert caught.value.hint == "Nothing has changed; try again."


def test_ulids_sort_by_time() -> None:
    made = [control._ulid(at) for at in (0, 1, 31, 32, 1_700_000_000_000, 2**48 - 1)]
    assert made == sorted(made)
    assert {len(one) for one in made} == {26}
    assert made[0][:10] == "0000000000"
    assert made[-1][:10] == "7ZZZZZZZZZ"
    assert control._ulid(5) != control._ulid(5)


def test_who_is_a_person_or_a_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SUDO_USER", "ada")
    assert control.who() == "ada"
    monkeypatch.delenv("SUDO_USER")
    monkeypatch.setattr("getpass.getuser", lambda: "grace")
    assert control.who() == "grace"

    def nobody() -> str:
        raise KeyError("uid")

    monkeypatch.setattr("getpass.getuser", nobody)
    monkeypatch.setattr("os.getuid", lambda: 1234)
    assert control.who() == "uid 1234"
