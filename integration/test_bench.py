"""The benchmark's prepared topics are real ones, its check agrees with plain consumers, and it runs."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from bench import check
from bench.prepare import PARTITIONS, Data, prepare
from bench.watch import settled

from . import oracle
from .cluster import ROOT, Cluster
from .process import Eomirror
from .promise import catch_up
from .tamper import Records, tamper

KINDS = {
    "planted": Data(218, 10),
    "one by one, lz4": Data(218, 1, "lz4"),
    "zstd": Data(1024, 50, "zstd"),
    "aborts": Data(218, 20, aborted_tenths=3),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_prepared_topic_arrives_and_both_checks_say_so(
    source: Cluster, target: Cluster, eomirror: Eomirror, flow_config: Callable[..., Path], name: str, kind: str
) -> None:
    prepare(source, name, KINDS[kind], 4000)
    if KINDS[kind].aborted_tenths:
        settled(source, name)
    prepared = check.read_source(source, name)
    assert 4000 <= prepared.records < 10_000
    catch_up(eomirror, flow_config())
    ends = [tuple(settled(target, name).values())]
    verdict = check.compare(prepared, target, ends)
    assert verdict.wrong is None
    assert (verdict.records, sum(verdict.counts[0])) == (prepared.records, prepared.records)
    report = oracle.compare(source.bootstrap, target.bootstrap, [name])
    assert (report.ok, report.total("records")) == (True, prepared.records)


def _changed(records: Records) -> None:
    offset = max(offset for offset, record in records.items() if record.key)
    records[offset] = replace(records[offset], headers=())


def _lost(records: Records) -> None:
    records.popitem()


@pytest.mark.parametrize("edit", [_changed, _lost])
def test_the_check_sees_one_record_among_thousands(
    source: Cluster,
    target: Cluster,
    eomirror: Eomirror,
    flow_config: Callable[..., Path],
    name: str,
    edit: Callable[[Records], None],
) -> None:
    prepare(source, name, KINDS["planted"], 4000)
    prepared = check.read_source(source, name)
    catch_up(eomirror, flow_config())
    settled(target, name)
    assert check.compare(prepared, target).wrong is None
    target.stop()
    tamper(target.log_dir / f"{name}-2", edit)
    target.restart()
    verdict = check.compare(prepared, target)
    if edit is _changed:
        assert verdict.wrong is not None
        assert verdict.wrong.startswith(f"{name}[2]: record ")
    else:
        # A round may end before all is mirrored, so a record that lacks at the very end is no difference, but counts.
        assert (verdict.wrong, verdict.records) == (None, prepared.records - 1)


def test_the_benchmark_runs() -> None:
    options = ["--smoke", "--scenario", "batches-10", "--scenario", "recovery", "--system", "eomirror"]
    before = set((ROOT / ".work" / "bench").glob("mirror-*.json"))
    command = [sys.executable, "-m", "bench.mirror", *options]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=280, check=False)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr
    (written,) = set((ROOT / ".work" / "bench").glob("mirror-*.json")) - before
    fast, killed = json.loads(written.read_text())["scenarios"]
    (round_,) = fast["systems"][0]["rounds"]
    assert round_["checked_records"] > round_["window_records"] > 0
    assert len(killed["systems"][0]["rounds"][0]["recovery_s"]) == 1
    assert fast["prepared_records"] % PARTITIONS == 0
