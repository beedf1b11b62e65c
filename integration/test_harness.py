"""The harness keeps its own promises: clusters that come back as they were and die with whoever started them."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from .cluster import ROOT, Cluster, kafka_jars
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
    names = {path.name.rsplit("-", 1)[0] for path in kafka_jars().glob("*.jar")}
    assert {"kafka_2.13", "connect-mirror", "connect-runtime", "kafka-tools", "slf4j-simple"} <= names


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
