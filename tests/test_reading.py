"""Reading back: every committed record once, the end known by what the library tells, and silence is an error."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from confluent_kafka import KafkaError, KafkaException, Message

from eomirror.errors import ConnectionLost, Refused
from eomirror.model import Seen
from eomirror.reading import SILENCE_SECONDS, WINDOW_BYTES, WINDOW_RECORDS, Reader
from tests.fakes import Clock

EOF = KafkaError._PARTITION_EOF


def message(offset: int, *, size: int = 1, partition: int = 3) -> Message:
    return Message("orders", partition, offset, b"k", bytes(size), [("h", b"1")], None, (1, 1000 + offset))


def event(code: int, offset: int = -1001, topic: str | None = "orders", partition: int = 3) -> Message:
    return Message(topic, partition, offset, None, None, None, KafkaError(code))


class FakeConsumer:
    """Hands out what is scripted, a list for each call of `consume`; then nothing, and time goes."""

    def __init__(self, clock: Clock, *answers: list[Any]) -> None:
        self.clock, self.answers = clock, list(answers)
        self.assigned: list[int] = []
        self.sizes: list[int] = []

    def assign(self, partitions: list[Any]) -> None:
        self.assigned += [one.offset for one in partitions]

    def consume(self, size: int, _timeout: float) -> list[Any]:
        self.sizes.append(size)
        return self.answers.pop(0) if self.answers else []

    def poll(self, timeout: float) -> None:
        self.clock.sleep(timeout)

    def close(self) -> None:
        self.assigned.append(-1)


def read(consumer: FakeConsumer, start: int, end: int, cleaned: int = 0) -> list[Seen]:
    network: Any = SimpleNamespace(now=consumer.clock)
    reader = Reader("dublin", consumer, network)
    return [seen for window in reader.windows("orders", 3, start, end, lambda: cleaned) for seen in window]


def test_records_come_once_and_the_end_is_the_bound() -> None:
    consumer = FakeConsumer(Clock(), [message(5), message(6)], [], [message(8), message(9), message(10)])
    assert [seen.offset for seen in read(consumer, 5, 9)] == [5, 6, 8]
    assert consumer.assigned == [5]
    assert read(FakeConsumer(Clock(), [message(5)]), 5, 6) == [Seen(5, b"k", b"\0", (("h", b"1"),), (1, 1005))]


def test_markers_at_the_end_are_passed_by_the_librarys_word() -> None:
    assert [s.offset for s in read(FakeConsumer(Clock(), [message(5), event(EOF, 7)], [event(EOF, 9)]), 5, 9)] == [5]


def test_an_empty_span_asks_nobody() -> None:
    consumer = FakeConsumer(Clock())
    assert (read(consumer, 5, 5), read(consumer, 6, 5), consumer.assigned) == ([], [], [])


def test_what_is_left_over_from_another_partition_is_no_record_here() -> None:
    stray = [message(5, partition=2), event(EOF, 9, partition=2), event(KafkaError._ALL_BROKERS_DOWN, topic=None)]
    assert [s.offset for s in read(FakeConsumer(Clock(), stray, [message(5)]), 5, 6)] == [5]


def test_large_records_come_in_small_windows() -> None:
    consumer = FakeConsumer(Clock(), [message(0, size=WINDOW_BYTES)], [message(1)], [message(2)])
    assert len(read(consumer, 0, 3)) == 3
    assert consumer.sizes[1:] == [1, WINDOW_RECORDS]


def test_silence_is_an_error_with_its_cause() -> None:
    clock = Clock()
    began = clock.now
    consumer = FakeConsumer(clock, [message(0)], [event(KafkaError._TRANSPORT)], [event(EOF, 2)])
    with pytest.raises(
        ConnectionLost, match=r"cluster dublin: orders\[3\]: no record and no end below offset 5 for 30 s"
    ):
        read(consumer, 0, 5)
    assert clock.now - began > SILENCE_SECONDS


def test_retention_that_overtakes_the_reading_is_followed() -> None:
    consumer = FakeConsumer(Clock(), [message(0)], [event(KafkaError._AUTO_OFFSET_RESET)], [message(7), message(8)])
    assert [seen.offset for seen in read(consumer, 0, 9, cleaned=7)] == [0, 7, 8]
    assert consumer.assigned == [0, 7]
    consumer = FakeConsumer(Clock(), [event(KafkaError._AUTO_OFFSET_RESET)])
    assert read(consumer, 0, 9, cleaned=20) == []
    with pytest.raises(Refused, match="offset 3 cannot be read, the log begins at 2"):
        read(FakeConsumer(Clock(), [event(KafkaError._AUTO_OFFSET_RESET)]), 3, 9, cleaned=2)


def test_a_record_that_cannot_be_read_ends_the_reading_unless_it_lies_behind_the_bound() -> None:
    bad = KafkaError._BAD_MSG
    with pytest.raises(Refused, match=r"cluster dublin: orders\[3\]: cannot be read at offset 1: "):
        read(FakeConsumer(Clock(), [message(0), event(bad, 1)]), 0, 9)
    assert len(read(FakeConsumer(Clock(), [message(0), event(bad, 9)]), 0, 9)) == 1
    with pytest.raises(Refused, match="cannot be read at offset 0"):
        read(FakeConsumer(Clock(), [event(KafkaError.UNKNOWN_TOPIC_OR_PART)]), 0, 9)


@pytest.mark.parametrize("error", [UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid"), SystemError("exception set")])
def test_a_header_that_the_library_cannot_read_is_told(error: Exception) -> None:
    def headers() -> None:
        raise error

    def nothing() -> None:
        return None

    odd: Any = SimpleNamespace(
        topic=lambda: "orders", partition=lambda: 3, error=nothing, offset=lambda: 4, headers=headers
    )
    with pytest.raises(Refused, match=r"orders\[3\]@4: a header's name is not UTF-8"):
        read(FakeConsumer(Clock(), [odd]), 0, 9)


def test_an_assignment_that_fails_is_told_with_its_place() -> None:
    class Refusing(FakeConsumer):
        def assign(self, partitions: list[Any]) -> None:
            raise KafkaException(KafkaError(KafkaError._INVALID_ARG))

    with pytest.raises(Refused, match=r"cluster dublin: orders\[3\]: "):
        read(Refusing(Clock()), 0, 9)


def test_closing_ends_the_consumer() -> None:
    consumer = FakeConsumer(Clock())
    network: Any = SimpleNamespace(now=consumer.clock)
    Reader("dublin", consumer, network).close()
    assert consumer.assigned == [-1]
