"""Reading: how soon it is known that there is nothing to read, and who is asked for more, and when."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest

from eomirror import _fastpath
from eomirror.brokers import Brokers
from eomirror.feed import Reading
from eomirror.source import POLL_SECONDS, Source
from eomirror.wire import Address
from tests.kafkamodel import ModelCluster, ModelNetwork, Owner

KEY = ("orders", 0)


def _source(cluster: ModelCluster, network: Owner, max_bytes: int) -> Source:
    source = Source(Brokers("source", [Address("source", 9092)], "test", network), max_bytes=max_bytes)
    topic_id = cluster.topics["orders"].topic_id.hex
    source.assign([Reading(("orders", partition), topic_id, 0, None) for partition in (0, 1)])
    return source


def _cluster(records: int) -> ModelCluster:
    """Two partitions; so many batches of one record in the first."""
    cluster = ModelCluster("source")
    cluster.create_topic("orders", 2)
    for number in range(records):
        cluster.write(*KEY, [b"record %d" % number])
    return cluster


def _run(cluster: ModelCluster, main: Callable[[Owner, ModelNetwork], Any]) -> Any:
    """What `main` returns, as a process by itself."""
    with ModelNetwork(cluster) as net:
        reader = net.spawn("reader", lambda network: main(network, net))
        net.run(until=lambda: reader.done)
    assert reader.error is None
    return reader.result


def test_a_partition_with_nothing_to_read_is_caught_up_without_a_long_poll() -> None:
    cluster = _cluster(1)

    def main(network: Owner, net: ModelNetwork) -> list[float]:
        source = Source(Brokers("source", [Address("source", 9092)], "test", network), max_bytes=1 << 20)
        topic_id = cluster.topics["orders"].topic_id.hex
        source.assign([Reading(("orders", 0), topic_id, 1, None), Reading(("orders", 1), topic_id, 0, None)])
        times = []
        for _ in range(3):
            began = network.now()
            assert source.poll(10 * POLL_SECONDS) is None
            assert all(source.caught_up(("orders", partition)) for partition in (0, 1))
            times.append(network.now() - began)
        source.close()
        return times

    first, *others = _run(cluster, main)
    assert first < POLL_SECONDS / 2
    assert min(others) >= 10 * POLL_SECONDS  # from then on it waits at the broker


def test_a_broker_with_nothing_more_is_not_asked_before_the_next_poll() -> None:
    """What comes meanwhile then comes in one answer, not record by record."""
    cluster = _cluster(1)

    def main(network: Owner, net: ModelNetwork) -> None:
        source = _source(cluster, network, 1 << 20)
        block = source.poll(1.0)
        assert block is not None
        assert not source.behind
        assert source.gather(ask=False) is None
        for value in (b"two", b"three"):
            cluster.write(*KEY, [value])
            network.sleep(0.01)  # what was asked would be answered meanwhile
            assert source.gather(ask=False) is None
        assert len(net.handled(api="Fetch")) == 1
        assert source.poll(1.0) is not None
        assert source.caught_up(KEY)
        assert len(net.handled(api="Fetch")) == 2
        source.close()

    _run(cluster, main)


def test_a_broker_with_more_is_asked_before_its_block_is_written() -> None:
    cluster = _cluster(3)

    def main(network: Owner, net: ModelNetwork) -> None:
        source = _source(cluster, network, 100)
        for behind, fetches in ((True, 2), (True, 3), (False, 3)):
            assert source.poll(1.0) is not None
            assert source.behind is behind
            assert source.caught_up(KEY) is not behind
            network.sleep(0.01)  # what was asked ahead is answered while the block is written
            assert len(net.handled(api="Fetch")) == fetches
        source.close()

    _run(cluster, main)


def _after_the_first_answer(monkeypatch: pytest.MonkeyPatch, second: Callable[[], object]) -> Any:
    """Is a source that is behind still so when the next thing that it reads is `second`?"""
    cluster = _cluster(3)

    def main(network: Owner, net: ModelNetwork) -> bool:
        source = _source(cluster, network, 100)
        assert source.poll(1.0) is not None
        assert source.behind
        monkeypatch.setattr(_fastpath, "fetch_response", lambda frame, version: second())
        assert source.poll(0.02) is None
        behind = source.behind
        source.close()
        return behind

    return _run(cluster, main)


def test_what_cannot_be_read_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    def unreadable() -> object:
        raise _fastpath.FrameError("no answer")

    assert not _after_the_first_answer(monkeypatch, unreadable)


def test_a_broker_over_its_quota_has_more_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    empty = partial(SimpleNamespace, error_code=0, session_id=0, partitions=[])
    assert _after_the_first_answer(monkeypatch, partial(empty, throttle_ms=100))
    monkeypatch.undo()
    assert not _after_the_first_answer(monkeypatch, partial(empty, throttle_ms=0))


def test_a_log_that_ends_without_records_is_not_waited_for() -> None:
    """Compaction may take the last records away: then nothing leads to the end of the log."""
    cluster = _cluster(2)

    def main(network: Owner, net: ModelNetwork) -> None:
        source = _source(cluster, network, 100)
        assert source.poll(1.0) is not None
        assert source.behind
        cluster.log(*KEY).batches.pop()
        assert source.poll(1.0) is None
        assert not source.caught_up(KEY)
        assert not source.behind
        source.close()

    _run(cluster, main)
