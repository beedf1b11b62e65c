"""Reading what a partition holds as any consumer sees it: committed records only, a window at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Final

from confluent_kafka import KafkaError, KafkaException, TopicPartition

from eomirror.errors import ConnectionLost, Refused
from eomirror.model import Seen
from eomirror.wire import Network

# Without a record or the end for this long, the reading ends with an error.
SILENCE_SECONDS: Final = 30.0
POLL_SECONDS: Final = 0.2
# A window has at most so many records, and about so many bytes.
WINDOW_RECORDS: Final = 2000
WINDOW_BYTES: Final = 4 << 20

_OUT_OF_RANGE: Final = frozenset({KafkaError._AUTO_OFFSET_RESET, KafkaError.OFFSET_OUT_OF_RANGE})
_GONE: Final = frozenset(
    {
        KafkaError.UNKNOWN_TOPIC_OR_PART,
        KafkaError._UNKNOWN_TOPIC,
        KafkaError._UNKNOWN_PARTITION,
        KafkaError.TOPIC_AUTHORIZATION_FAILED,
    }
)
_UNREADABLE: Final = frozenset({KafkaError._BAD_MSG, KafkaError._BAD_COMPRESSION, KafkaError._NOT_IMPLEMENTED})


class Reader:
    """One consumer of one cluster, sent from partition to partition."""

    def __init__(
        self, cluster: str, consumer: Any, network: Network, *, silence_seconds: float = SILENCE_SECONDS
    ) -> None:
        self._cluster = cluster
        self._consumer = consumer
        self._network = network
        self._silence_seconds = silence_seconds

    def close(self) -> None:
        """End the consumer; nothing can be read any more."""
        self._consumer.close()

    def windows(
        self, topic: str, partition: int, start: int, end: int, cleaned: Callable[[], int]
    ) -> Iterator[list[Seen]]:
        """The committed records of offsets `start` to `end` - 1. `end` must be no higher than the last stable offset.

        Where retention overtakes the reading, it goes on at what `cleaned` tells as the first offset that is left.
        Raises ConnectionLost when neither a record nor the end comes for a while, Refused when a record cannot be read.
        """
        if start >= end:
            return
        place = f"cluster {self._cluster}: {topic}[{partition}]"
        position, size, trouble = start, 50, ""
        self._assign(topic, partition, position)
        heard = self._network.now()
        while position < end:
            messages = self._consumer.consume(size, 0) or [self._consumer.poll(POLL_SECONDS)]
            window: list[Seen] = []
            volume = 0
            for message in messages:
                if message is None:
                    continue
                error = message.error()
                if (message.topic(), message.partition()) != (topic, partition):
                    # The cluster's, or left over from where the reader was before.
                    trouble = trouble if message.topic() or error is None else f": {error.str()}"
                    continue
                if error is None:
                    if message.offset() >= end:
                        position = end
                        break
                    window.append(_seen(place, message))
                    position = message.offset() + 1
                    volume += len(message)
                elif error.code() == KafkaError._PARTITION_EOF:
                    # Markers and aborted records at the end are no messages: only this tells that they are passed.
                    position = max(position, min(message.offset(), end))
                elif error.code() in _OUT_OF_RANGE:
                    position = self._go_on(place, topic, partition, position, end, cleaned)
                    heard = self._network.now()
                    break
                elif error.code() in _UNREADABLE and (message.offset() or 0) >= end:
                    position = end
                    break
                elif error.code() in _GONE | _UNREADABLE:
                    raise Refused(f"{place}: cannot be read at offset {position}: {error.str()}")
                else:
                    trouble = f": {error.str()}"
            if window:
                heard = self._network.now()
                size = max(1, min(WINDOW_RECORDS, WINDOW_BYTES * len(window) // max(volume, 1)))
                yield window
            elif position < end and self._network.now() - heard > self._silence_seconds:
                raise ConnectionLost(
                    f"{place}: no record and no end below offset {end} for {self._silence_seconds:g} s{trouble}"
                )

    def _go_on(
        self, place: str, topic: str, partition: int, position: int, end: int, cleaned: Callable[[], int]
    ) -> int:
        first = cleaned()
        if first <= position:
            raise Refused(f"{place}: offset {position} cannot be read, the log begins at {first}")
        self._assign(topic, partition, min(first, end))
        return min(first, end)

    def _assign(self, topic: str, partition: int, offset: int) -> None:
        try:
            self._consumer.assign([TopicPartition(topic, partition, offset)])
        except KafkaException as error:
            raise Refused(f"cluster {self._cluster}: {topic}[{partition}]: {error.args[0].str()}") from error


def _seen(place: str, message: Any) -> Seen:
    offset = message.offset()
    try:
        headers = tuple(message.headers() or ())
        return Seen(offset, message.key(), message.value(), headers, message.timestamp())
    except (UnicodeDecodeError, SystemError) as error:
        # The library leaves its exception behind and returns; whichever call comes next then raises SystemError.
        raise Refused(
            f"{place}@{offset}: a header's name is not UTF-8, and the consumer library cannot read it"
        ) from error
