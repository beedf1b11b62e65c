"""The benchmark still runs: a prepared topic and a live stream through eomirror, every record compared."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from .cluster import ROOT


@pytest.mark.parametrize(("scenario", "figure"), [("batches-10-lz4", "records_per_s"), ("latency-1k", "p50_ms")])
def test_a_round_has_its_figures(scenario: str, figure: str) -> None:
    command = [sys.executable, "-m", "bench.mirror", "--smoke", "--scenario", scenario, "--system", "eomirror"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.rstrip().endswith("bench: complete, 0 rounds are wrong")
    (written,) = [line.removeprefix("written: ") for line in done.stdout.splitlines() if line.startswith("written: ")]
    result = json.loads((ROOT / written).with_suffix(".json").read_text())
    assert result["smoke"]
    ((found,),) = [system["rounds"] for one in result["scenarios"] for system in one["systems"]]
    assert found[figure] > 0
    assert found["checked_records"] > 1000
