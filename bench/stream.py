"""An even stream of records and its reader, each a process of its own so that neither disturbs the other's clock.

    python -m bench.stream produce --bootstrap 127.0.0.1:19092 --topic live --rate 1000
    python -m bench.stream consume --bootstrap 127.0.0.1:29092 --topic live --out arrivals

Every value begins with the moment at which it was given to the producer (CLOCK_MONOTONIC, ns), which is one clock for
all processes of a machine. Both end when their stdin is closed. The producer then prints what it has sent; the consumer
writes pairs of 64-bit numbers to its file, moment of sending and ns until `poll` returned it, and prints while it runs
the newest moment that it has seen and how many records that were.
"""

from __future__ import annotations

import argparse
import gc
import json
import random
import struct
import sys
import threading
import time
from array import array
from pathlib import Path
from typing import Any

from confluent_kafka import Consumer, Producer, TopicPartition

TICK = 0.001  # seconds; what is due is sent at each, of a faster stream several records
VALUE_BYTES = 165  # with key and headers: 218 bytes a record
TELL_SECONDS = 0.05


def _until_closed() -> threading.Event:
    closed = threading.Event()

    def listen() -> None:
        sys.stdin.read()
        closed.set()

    threading.Thread(target=listen, daemon=True).start()
    return closed


def produce(bootstrap: str, topic: str, partitions: int, rate: int) -> dict[str, Any]:
    """Sends at that rate (records/s) until stdin is closed: linger 0, acks 1. Returns what it did."""
    failed: list[str] = []

    def delivered(error: object, _message: object) -> None:
        if error is not None:
            failed.append(str(error))

    producer = Producer(
        {
            "bootstrap.servers": bootstrap,
            "linger.ms": 0,
            "acks": 1,
            "socket.nagle.disable": True,
            "log_level": 0,
            "on_delivery": delivered,
        }
    )
    producer.list_topics(topic, timeout=30)
    rng = random.Random(7)
    filler = [rng.randbytes(VALUE_BYTES).hex().encode()[: VALUE_BYTES - 16] for _ in range(64)]
    headers: list[tuple[str, str | bytes | None]] = [("trace", b"4bf92f3577b34da6"), ("tenant", b"t-017")]
    closed = _until_closed()
    gc.disable()
    sent = 0
    late = 0.0
    began = time.monotonic()
    while not closed.is_set():
        # In every turn: what this loop takes of a core, the measured systems do not have.
        time.sleep(TICK)
        elapsed = time.monotonic() - began
        due = int(elapsed * rate)
        late = max(late, elapsed - (sent + 1) / rate)
        while sent < due:
            value = struct.pack(">qq", time.monotonic_ns(), sent) + filler[sent % 64]
            producer.produce(topic, value, b"%08d" % (sent % 10**8), sent % partitions, headers=headers)
            sent += 1
        producer.poll(0)
    seconds = time.monotonic() - began
    unsent = producer.flush(30)
    return {"sent": sent, "seconds": seconds, "late_ms": late * 1000, "failed": len(failed) + unsent}


def consume(bootstrap: str, topic: str, partitions: int, out: Path) -> None:
    """Reads the topic from its beginning until stdin is closed."""
    consumer = Consumer(
        {
            "bootstrap.servers": bootstrap,
            "group.id": "bench.reads.without.a.group",
            "enable.auto.commit": False,
            "auto.offset.reset": "error",
            "isolation.level": "read_committed",
            "fetch.wait.max.ms": 10,
            "socket.nagle.disable": True,
            "log_level": 0,
        }
    )
    consumer.assign([TopicPartition(topic, partition, 0) for partition in range(partitions)])
    closed = _until_closed()
    arrivals = array("q")
    gc.disable()
    newest, told = 0, 0.0
    while not closed.is_set():
        # consume() would wait until it has as many as asked for.
        message = consumer.poll(0.05)
        now = time.monotonic_ns()
        if message is not None:
            if message.error() is not None:
                raise SystemExit(f"consumer: {message.error()}")
            (stamp,) = struct.unpack_from(">q", message.value() or b"")
            arrivals.append(stamp)
            arrivals.append(now - stamp)
            newest = max(newest, stamp)
        if now / 1e9 > told + TELL_SECONDS:
            told = now / 1e9
            print(newest, len(arrivals) // 2, flush=True)
    consumer.close()
    with out.open("wb") as file:
        arrivals.tofile(file)


def main() -> int:
    """Runs one of the two."""
    parser = argparse.ArgumentParser(prog="stream", description=__doc__.splitlines()[0])
    parser.add_argument("part", choices=("produce", "consume"))
    parser.add_argument("--bootstrap", required=True)
    parser.add_argument("--topic", required=True)
    parser.add_argument("--partitions", type=int, default=4)
    parser.add_argument("--rate", type=int, default=1000, help="records/s")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    if given.part == "produce":
        print(json.dumps(produce(given.bootstrap, given.topic, given.partitions, given.rate)), flush=True)
    else:
        consume(given.bootstrap, given.topic, given.partitions, given.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
