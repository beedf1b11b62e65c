"""The even stream of the benchmark: how it is sent."""

from __future__ import annotations

import pytest

from bench import stream


class Clock:
    """Stands for `time`: goes on by a microsecond with each look at it, and sleeps a tenth longer than asked."""

    def __init__(self) -> None:
        self.now = 5.0

    def monotonic(self) -> float:
        self.now += 1e-6
        return self.now

    def monotonic_ns(self) -> int:
        return int(self.monotonic() * 1e9)

    def sleep(self, seconds: float) -> None:
        self.now += 1.1 * seconds


class Until:
    """An event that sets itself at a time."""

    def __init__(self, clock: Clock, end: float) -> None:
        self.clock, self.end = clock, end

    def is_set(self) -> bool:
        return self.clock.now >= self.end


class Recorder:
    """Stands for confluent_kafka's Producer."""

    def __init__(self) -> None:
        self.turns = 0
        self.partitions: list[int] = []

    def list_topics(self, topic: str, timeout: float) -> None:
        pass

    def produce(self, topic: str, value: bytes, key: bytes, partition: int, headers: object) -> None:
        self.partitions.append(partition)

    def poll(self, timeout: float) -> None:
        self.turns += 1

    def flush(self, timeout: float) -> int:
        return 0


@pytest.mark.parametrize("rate", [300, 1000, 20_000])
def test_it_rests_between_two_turns_and_keeps_its_rate(rate: int, monkeypatch: pytest.MonkeyPatch) -> None:
    clock, producer = Clock(), Recorder()
    monkeypatch.setattr(stream, "time", clock)
    monkeypatch.setattr(stream, "Producer", lambda _: producer)
    monkeypatch.setattr(stream, "_until_closed", lambda: Until(clock, clock.now + 0.5))
    monkeypatch.setattr(stream.gc, "disable", lambda: None)
    found = stream.produce("nowhere", "orders", 3, rate)
    # A loop that does not sleep takes from what is measured up to a core; it turned here a hundred thousand times.
    assert producer.turns <= 0.5 / stream.TICK
    assert found["sent"] == pytest.approx(rate * found["seconds"], abs=1 + 2 * rate * stream.TICK)
    assert 0 <= found["late_ms"] < 1.2  # a sleep
    assert producer.partitions == [n % 3 for n in range(found["sent"])]
    assert found["failed"] == 0
