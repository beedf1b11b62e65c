"""The prepared topics: the same records for every system and every round.

Most are planted: segment files written beneath a broker that is down, as its producers would have left them. The one
with aborted transactions is really produced: raw batches over eomirror's connection, for a Python producer would take
longer than the benchmark.
"""

from __future__ import annotations

import datetime
import random
import struct
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cramjam

from eomirror import _fastpath as kernel
from eomirror.brokers import Brokers
from eomirror.wire import END_TXN, INIT_PRODUCER_ID, PRODUCE, Address, Connection, TcpNetwork
from integration.cluster import Cluster

from .batches import HEADER, lz4_frame, varint
from .segments import Template, fill

EPOCH_MS = 1_700_000_000_000
TEMPLATE_BYTES = 24 << 20  # of batches that are written again and again, each time with other timestamps
CODECS = {"none": 0, "lz4": 3, "zstd": 4}
SHRUNK = {"none": 1.0, "lz4": 0.6, "zstd": 0.5}  # what is left of a large batch, at most
STATES = ("created", "paid", "packed", "shipped", "delivered", "returned")


@dataclass(frozen=True)
class Data:
    """What a prepared topic holds."""

    record_bytes: int  # of each record as an uncompressed batch holds it
    batch: int  # records per producer batch
    codec: str = "none"
    headers: bool = True
    aborted_tenths: int = 0  # of its transactions; 0: no transactions
    partitions: int = 4

    def log_bytes(self, records: int) -> int:
        """About what so many records take on disk."""
        plain = records * (self.record_bytes + 61 // self.batch) * 10 // (10 - self.aborted_tenths)
        return round(plain * SHRUNK[self.codec])

    def __str__(self) -> str:
        parts = [f"{self.record_bytes} B records", f"batches of {self.batch}", f"compression {self.codec}"]
        parts.insert(1, "two headers" if self.headers else "no headers")
        if self.aborted_tenths:
            parts.append(f"{self.aborted_tenths}0 % of the transactions aborted")
        return ", ".join(parts)


def record(delta: int, data: Data, rng: random.Random) -> bytes:
    """One record of exactly `data.record_bytes`: a key of 8 bytes, JSON, headers. LZ4 halves a thousand of them."""
    head = b"\0" + varint(delta % 100) + varint(delta) + varint(8) + rng.randbytes(4).hex().encode()
    tail = b"\0"
    if data.headers:
        fields = ((b"trace", rng.randbytes(8).hex().encode()), (b"tenant", b"t-%03d" % rng.randrange(300)))
        tail = varint(2) + b"".join(varint(len(part)) + part for field in fields for part in field)
    size = data.record_bytes - len(head) - len(tail) - 4  # two bytes each for the lengths of record and value
    value = b'{"order":%d,"customer":"c-%d","state":"%s","lines":[' % (
        *(rng.randrange(10**9), rng.randrange(10**6)),
        rng.choice(STATES).encode(),
    )
    while len(value) < size:
        value += b'{"sku":"%s","quantity":%d,"cents":%d},' % (
            *(rng.randbytes(4).hex().encode(), rng.randrange(1, 9), rng.randrange(10**5)),
        )
    body = head + varint(size) + value[:size] + tail
    out = varint(len(body)) + body
    assert len(out) == data.record_bytes, (len(out), data)
    return out


def batch(data: Data, rng: random.Random) -> bytes:
    """One record batch at offset 0 without its CRC, of a producer without transactions."""
    payload = b"".join(record(delta, data, rng) for delta in range(data.batch))
    if data.codec == "lz4":
        payload = lz4_frame(payload)
    elif data.codec == "zstd":
        payload = bytes(cramjam.zstd.compress(payload, 3))
    span = min(data.batch - 1, 99)
    attributes = CODECS[data.codec] | (16 if data.aborted_tenths else 0)
    fields = (0, 49 + len(payload), 0, 2, 0, attributes, data.batch - 1, 0, span, -1, -1, -1, data.batch)
    return HEADER.pack(*fields) + payload


def templates(data: Data) -> list[Template]:
    """Different batches, as many as fit into TEMPLATE_BYTES."""
    rng = random.Random(f"{data}")
    found = [batch(data, rng)]
    while len(found) < min(2000, TEMPLATE_BYTES // (data.record_bytes * data.batch)):
        found.append(batch(data, rng))
    return [Template(one, data.batch, min(data.batch - 1, 99)) for one in found]


def plant(cluster: Cluster, topic: str, data: Data, records: int) -> None:
    """Creates a topic with so many records. The broker is restarted for it."""
    cluster.create_topic(topic, data.partitions)
    cluster.stop()
    made = templates(data)
    for partition in range(data.partitions):
        folder = cluster.log_dir / f"{topic}-{partition}"
        # Partitions begin at another batch and in another second, so none has a record of another one.
        first = partition * len(made) // data.partitions
        fill(folder, made, first, records // data.partitions, EPOCH_MS + partition * 86_400_000 * 365)
    cluster.restart()


# -- real transactions -------------------------------------------------------------------------------------------------

TRANSACTION_BATCHES = 10  # per partition in one transaction
WRITERS = 2  # connections; the broker handles one request of each at a time
IN_FLIGHT = 5
PATIENCE = 60.0
CONCURRENT_TRANSACTIONS = 51
COMING = {14, 15, 16, CONCURRENT_TRANSACTIONS}  # answers of a coordinator that is not there yet


class _Writer(threading.Thread):
    """Writes one share of the partitions in transactions of its own, every tenth or so aborted."""

    def __init__(
        self, cluster: Cluster, topic: str, data: Data, made: Sequence[Template], name: str, share: list[int], goal: int
    ) -> None:
        super().__init__(name=name, daemon=True)
        self._network = TcpNetwork()
        address = Address("127.0.0.1", cluster.port)
        self._brokers = Brokers(cluster.name, [address], name, self._network)
        self._topic_id = bytes.fromhex(self._brokers.metadata([topic]).topics[topic].topic_id)
        self._coordinator = self._brokers.at(self._brokers.coordinator(name))
        self._link: Connection = self._brokers.dial(address)
        self._data, self._made, self._share, self._goal = data, made, share, goal
        self._producer_id, self._epoch = -1, -1
        self._numbers = {partition: partition * len(made) // data.partitions for partition in share}
        self.failure: BaseException | None = None

    def run(self) -> None:
        try:
            self._take()
            committed = number = 0
            while committed < self._goal * len(self._share):
                number += 1
                aborts = number % 10 < self._data.aborted_tenths
                self._transaction(not aborts)
                if not aborts:
                    committed += TRANSACTION_BATCHES * self._data.batch * len(self._share)
        except BaseException as error:  # noqa: BLE001 - raised by whoever joins
            self.failure = error
        finally:
            self._link.close()
            self._brokers.close()

    def _deadline(self) -> float:
        return time.monotonic() + PATIENCE

    def _take(self) -> None:
        request = self._coordinator.module(INIT_PRODUCER_ID).InitProducerIdRequest(
            transactional_id=self.name,
            transaction_timeout=datetime.timedelta(minutes=1),
            producer_id=-1,
            producer_epoch=-1,
        )
        deadline = self._deadline()
        answer = self._coordinator.request(request, deadline)
        while int(answer.error_code) in COMING and time.monotonic() < deadline:
            time.sleep(0.05)
            answer = self._coordinator.request(request, deadline)
        _expect(answer.error_code, "InitProducerId")
        self._producer_id, self._epoch = int(answer.producer_id), int(answer.producer_epoch)

    def _transaction(self, commits: bool) -> None:
        deadline = self._deadline()
        for turn in range(TRANSACTION_BATCHES):
            batches = [(partition, self._stamped(partition, turn)) for partition in self._share]
            self._send(batches)
            # The first produce may meet the transaction before, whose markers are still being written. The others go
            # out when it is known to be the beginning.
            while turn == 0 and (again := self._answer()) and time.monotonic() < deadline:
                time.sleep(0.002)
                self._send([batches[self._share.index(partition)] for partition in again])
            while len(self._link.in_flight) >= IN_FLIGHT:
                self._expect_none(self._answer())
        while self._link.in_flight:
            self._expect_none(self._answer())
        request = self._coordinator.module(END_TXN).EndTxnRequest(
            transactional_id=self.name,
            producer_id=self._producer_id,
            producer_epoch=self._epoch,
            committed=commits,
        )
        answer = self._coordinator.request(request, self._deadline())
        _expect(answer.error_code, "EndTxn")
        self._producer_id, self._epoch = int(answer.producer_id), int(answer.producer_epoch)

    def _send(self, batches: list[tuple[int, bytearray]]) -> None:
        version = self._link.version(PRODUCE)
        frame = kernel.produce_request(
            *(version, self._link.next_correlation_id(), self.name, self.name, int(PATIENCE * 1000)),
            [(self._topic_id, batches)],
        )
        self._link.send_frame(PRODUCE, version, frame)

    def _answer(self) -> list[int]:
        """Reads an answer and returns the partitions that wait for the transaction before."""
        answer = self._link.receive(self._deadline())
        waiting = []
        for topic in answer.responses:
            for partition in topic.partition_responses:
                if int(partition.error_code) == CONCURRENT_TRANSACTIONS:
                    waiting.append(int(partition.index))
                else:
                    _expect(partition.error_code, f"Produce to partition {partition.index}")
        return waiting

    @staticmethod
    def _expect_none(waiting: list[int]) -> None:
        if waiting:
            raise RuntimeError(f"Produce to partitions {waiting}: the transaction before does not end")

    def _stamped(self, partition: int, turn: int) -> bytearray:
        """The next batch of a partition: timestamps, producer and CRC are its own."""
        number = self._numbers[partition]
        self._numbers[partition] += 1
        made = self._made[number % len(self._made)]
        out = bytearray(made.data)
        stamp = EPOCH_MS + partition * 86_400_000 * 365 + number * (made.span + 1)
        struct.pack_into(">qq", out, 27, stamp, stamp + made.span)
        struct.pack_into(">qhi", out, 43, self._producer_id, self._epoch, turn * made.count)
        struct.pack_into(">I", out, 17, kernel.crc32c(memoryview(out)[21:]))
        return out


def _expect(code: Any, what: str) -> None:
    if int(code) != 0:
        raise RuntimeError(f"{what}: the broker answers error {int(code)}")


def produce_transactions(cluster: Cluster, topic: str, data: Data, records: int) -> None:
    """Creates a topic and writes at least so many committed records, and the aborted ones between them."""
    cluster.create_topic(topic, data.partitions)
    made = templates(data)
    shares = [list(range(data.partitions))[number::WRITERS] for number in range(WRITERS)]
    writers = [
        _Writer(cluster, topic, data, made, f"bench.{topic}.{number}", share, records // data.partitions)
        for number, share in enumerate(shares)
    ]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
        if writer.failure is not None:
            raise writer.failure


def prepare(cluster: Cluster, topic: str, data: Data, records: int) -> None:
    """Creates the topic with at least so many committed records."""
    (produce_transactions if data.aborted_tenths else plant)(cluster, topic, data, records)
