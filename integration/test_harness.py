"""The harness keeps its own promises: clusters that come back as they were and die with whoever started them."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from confluent_kafka.admin import AclOperation

from eomirror.brokers import Brokers
from eomirror.wire import Address, TcpNetwork

from .cluster import ROOT, Cluster, kafka_jars
from .fleet import OLD_TARGET, Fleet, single_target, wide_target
from .home import home
from .jvm import ProcessNode
from .promise import contents, produce
from .suite import Counts, counts_of, counts_of_checks

PARENT = """
import sys, time
from integration.cluster import Cluster
cluster = Cluster.launch("orphan", sys.argv[1])
print(cluster.pid, flush=True)
time.sleep(600)
"""


def test_a_killed_cluster_comes_back_with_its_records(source: Cluster, name: str) -> None:
    source.create_topic(name, 2)
    producer = source.producer({"acks": "all"})
    for number in range(10):
        producer.produce(name, b"%d" % number, partition=0)
    assert producer.flush(30) == 0
    address, old = source.bootstrap, source.pid
    source.kill()
    assert not source.running
    source.restart()
    assert (source.bootstrap, source.pid != old) == (address, True)
    assert source.end_offsets(name) == {0: 10, 1: 0}
    assert [path.name for path in source.segments(name, 0)] == ["00000000000000000000.log"]


def test_a_broker_dies_with_its_sigkilled_parent(tmp_path: Path) -> None:
    command = [sys.executable, "-c", PARENT, str(tmp_path / "orphan")]
    parent = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        assert parent.stdout is not None
        with parent.stdout:
            broker = psutil.Process(int(parent.stdout.readline()))
        program = Path(f"/proc/{broker.pid}/exe")
        deadline = time.monotonic() + 30
        while program.readlink().name != "java" and time.monotonic() < deadline:
            time.sleep(0.05)
        assert program.readlink().name == "java"
    finally:
        parent.kill()
        parent.wait(10)
    broker.wait(10)
    assert not broker.is_running()


def test_a_node_is_taken_away_and_given_back(fleet: Fleet, name: str) -> None:
    (cluster,) = fleet.up(wide_target(2))
    assert set(cluster.leaders("__transaction_state").values()) == {1}
    cluster.create_topic(name, replicas=[[2, 1], [1, 2]])
    assert cluster.leaders(name) == {0: 2, 1: 1}
    cluster.kill(node=2)
    cluster.await_leader(name, 0, 1)
    produce(cluster, name, (b"k", b"while node 2 is away"))
    cluster.restart(node=2)
    cluster.await_in_sync(name, 0, {1, 2})
    assert cluster.leaders(name)[0] == 1
    cluster.elect(name, 0)
    cluster.await_leader(name, 0, 2)
    assert [value for _, (_, value, _, _) in contents(cluster, [name])[name, 0]] == [b"while node 2 is away"]


def test_a_right_is_taken_away_and_given_back(source: Cluster, name: str) -> None:
    source.create_topic(name)

    def write() -> str | None:
        failed: list[str | None] = []
        producer = source.producer({"linger.ms": 0})
        producer.produce(name, b"v", on_delivery=lambda error, _: failed.append(error and error.name()))
        assert producer.flush(30) == 0
        return failed[0]

    assert write() is None
    source.deny(name, AclOperation.WRITE)
    assert write() == "TOPIC_AUTHORIZATION_FAILED"
    assert source.end_offsets(name) == {0: 1}  # only what was denied
    source.permit(name)
    assert write() is None


def test_a_cluster_has_the_release_and_the_features_that_were_chosen(fleet: Fleet) -> None:
    kinds = {single_target(2): 2, single_target(1): 1, OLD_TARGET: 0}
    for cluster, version in zip(fleet.up(*kinds), kinds.values(), strict=True):
        brokers = Brokers(cluster.name, [Address("127.0.0.1", cluster.port)], "test", TcpNetwork())
        features = brokers.at(Address("127.0.0.1", cluster.port)).features
        brokers.close()
        assert features is not None
        assert features.get("transaction.version", 0) == version


@pytest.mark.parametrize(
    ("report", "code", "counts"),
    [
        ('<testsuite tests="5" failures="1" errors="1" skipped="1"/>', 1, Counts(2, 2, 1)),
        ('<testsuite tests="5" failures="0" errors="0" skipped="0"/>', 0, Counts(5, 0, 0)),
        ('<testsuite tests="5" failures="0" errors="0" skipped="0"/>', 3, Counts(5, 1, 0)),
        ('<testsuite tests="0" failures="0" errors="0" skipped="0"/>', 5, Counts(0, 1, 0)),
        (None, 0, Counts(0, 1, 0)),
    ],
)
def test_the_suite_counts_what_pytest_reported(tmp_path: Path, report: str | None, code: int, counts: Counts) -> None:
    file = tmp_path / "report.xml"
    if report is not None:
        file.write_text(f"<testsuites>{report}</testsuites>")
    assert counts_of(file, code) == counts


def test_the_jars_are_kafka_itself() -> None:
    if home() is not ProcessNode:
        pytest.skip("containers bring their own jars")
    names = {path.name.rsplit("-", 1)[0] for path in kafka_jars().glob("*.jar")}
    assert {"kafka_2.13", "connect-mirror", "connect-runtime", "kafka-tools", "slf4j-simple"} <= names
    assert {path.name for path in kafka_jars("3.9").glob("kafka_2.13-*.jar")} == {"kafka_2.13-3.9.2.jar"}


@pytest.mark.parametrize(
    ("codes", "counts"),
    [
        ([0, 0], Counts(1, 0, 0)),
        ([0, 1], Counts(0, 1, 0)),
        ([77], Counts(0, 0, 1)),
        ([77, 2], Counts(0, 1, 0)),
        ([0, 77], Counts(0, 0, 1)),
    ],
)
def test_the_suite_counts_what_a_check_says(codes: list[int], counts: Counts) -> None:
    assert counts_of_checks(codes) == counts
