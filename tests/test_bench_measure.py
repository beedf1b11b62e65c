"""Figures from /proc, statistics, and the window in which a round is measured."""

from __future__ import annotations

import os
import subprocess
import sys
from array import array
from pathlib import Path

import pytest

from bench import profile
from bench.live import recovery_seconds
from bench.measure import (
    TICK,
    Sample,
    Spread,
    Stat,
    Window,
    busy,
    family,
    histogram,
    parse_busy,
    parse_peak,
    parse_stat,
    percentile,
    processes,
    series,
    spread,
    usage,
    window,
)
from bench.rounds import Timing, commits, costs, marker_count, samples
from bench.segments import Marker
from bench.watch import Seen

STAT = "4711 (ja va) (x) S 12 4711 4711 0 -1 4194560 1 2 3 4 {utime} {stime} {cutime} {cstime} 20 0 41 0 5 6 7 8"


def seen(at: float, *stable: int, replicator: float = 0.0) -> Seen:
    return Seen(at, stable, replicator, 0.0, 0.0, 0.0)


def sample(at: float, records: int, replicator: float = 0.0) -> Sample:
    return Sample(at, records, replicator, 2 * replicator, 0.0)


# -- /proc


def test_cpu_counts_user_and_system_of_a_process_and_its_children_that_ended() -> None:
    text = STAT.format(utime=1, stime=20, cutime=300, cstime=4000)
    assert parse_stat(text) == Stat(4711, 12, pytest.approx(4321 * TICK))


@pytest.mark.parametrize("text", ["", "4711 (java) S 12", "nothing"])
def test_what_is_no_stat_line_is_refused(text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - also of int()
        parse_stat(text)


def test_a_family_is_a_process_and_all_its_descendants() -> None:
    stats = [Stat(5, 3, 0), Stat(1, 0, 0), Stat(3, 2, 0), Stat(2, 1, 0), Stat(4, 1, 0)]
    assert [one.pid for one in family(2, stats)] == [2, 3, 5]
    assert family(9, stats) == []


def test_peak_memory_is_the_high_water_mark() -> None:
    assert parse_peak("Name:\tjava\nVmPeak:\t  9 kB\nVmHWM:\t    1234 kB\nVmRSS:\t 5 kB\n") == 1234 * 1024
    assert parse_peak("Name:\tkthreadd\n") == 0


def test_busy_time_leaves_out_idle_and_waiting_and_guests() -> None:
    assert parse_busy("cpu  1 20 300 4000000 5000000 4000 50000 600000 7 8\ncpu0 1 2\n") == pytest.approx(654321 * TICK)


def test_this_machine_can_be_read() -> None:
    command = [sys.executable, "-c", "import time; x = bytearray(50 << 20); print(1, flush=True); time.sleep(60)"]
    child = subprocess.Popen(command, stdout=subprocess.PIPE)
    try:
        assert child.stdout is not None
        assert child.stdout.readline() == b"1\n"
        stats = processes()
        assert child.pid in {one.pid for one in family(os.getpid(), stats)}
        used = usage(child.pid, stats)
        assert used.peak > 50 << 20
        assert usage(os.getpid(), stats).peak >= used.peak
        assert 0 < usage(os.getpid(), stats).cpu <= busy()
    finally:
        child.kill()
        child.communicate()
    assert usage(child.pid, processes()).peak == 0


# -- statistics


def test_a_percentile_is_a_value_that_was_measured() -> None:
    ordered = [float(n) for n in range(1, 101)]
    assert [percentile(ordered, share) for share in (0.5, 0.99, 0.999, 1.0)] == [50, 99, 100, 100]
    assert percentile([7.0], 0.5) == 7
    assert percentile([1.0, 2.0], 0.0) == 1
    with pytest.raises(ValueError, match="no values"):
        percentile([], 0.5)


def test_rounds_without_a_figure_are_left_out() -> None:
    assert spread([3.0, None, 1.0, 2.0]) == Spread(2.0, 1.0, 3.0, 3)
    assert spread([None, None]) is None
    assert spread([]) is None


def test_a_histogram_counts_every_value_once() -> None:
    found = histogram([0.01, 0.1, 1.0, 1.01, 2.0, 9_999.0, 10_000.0, 70_000.0])
    bounds, counts = found["up_to_ms"], found["records"]
    assert len(bounds) == len(counts) == 40
    assert bounds[7] == 1.0
    assert bounds[-1] == 10_000.0
    assert {bounds[at]: count for at, count in enumerate(counts) if count} == {
        bounds[0]: 2,
        1.0: 1,
        bounds[8]: 1,
        bounds[10]: 1,
        10_000.0: 3,
    }


def test_a_series_has_two_samples_a_second_and_the_last_one() -> None:
    found = series(sample(number / 10, number) for number in range(23))
    assert found["at_s"] == [0.0, 0.5, 1.0, 1.5, 2.0, 2.2]
    assert found["records"] == [0, 5, 10, 15, 20, 22]
    assert set(map(len, found.values())) == {6}
    assert set(map(len, series([]).values())) == {0}


# -- the window


def test_a_window_begins_and_ends_with_a_commit() -> None:
    steps = [(0.0, 0), (1.0, 0), (2.0, 5), (4.0, 5), (7.5, 30), (8.0, 30), (9.0, 40), (12.4, 60), (12.6, 90)]
    found = window([sample(*one) for one in steps], warm_up=5.0, seconds=5.0)
    # Visible since 2.0, warm since 7.0; the first commit after that is at 7.5, the first one 5 s later at 12.6.
    assert found == Window(sample(7.5, 30), sample(12.6, 90))
    assert found.seconds == pytest.approx(5.1)
    assert found.records == 60


def test_a_window_shorter_than_wanted_has_no_figure() -> None:
    steps = [(0.0, 0), (2.0, 5), (7.5, 30), (12.4, 60), (40.0, 60)]
    found = window([sample(*one) for one in steps], warm_up=5.0, seconds=5.0)
    assert found == Window(sample(7.5, 30), sample(12.4, 60))
    assert not Timing(seconds=5.0).suffices(found)
    assert Timing(seconds=4.5).suffices(found)
    assert Timing(seconds=5.0, least=0.1).suffices(found)
    assert not Timing().suffices(None)


@pytest.mark.parametrize(
    "steps",
    [
        [],
        [(0.0, 0), (9.0, 0)],
        [(0.0, 0), (1.0, 5), (9.0, 5)],
        [(0.0, 0), (1.0, 5), (9.0, 6)],
        [(0.0, 0), (1.0, 5), (9.0, 6), (20.0, 6)],
    ],
)
def test_without_two_commits_there_is_no_window(steps: list[tuple[float, int]]) -> None:
    assert window([sample(*one) for one in steps], warm_up=5.0, seconds=5.0) is None


def test_costs_are_those_of_the_window_alone() -> None:
    found = costs(Window(sample(10.0, 1_000_000, replicator=3.0), sample(20.0, 5_000_000, replicator=7.0)))
    assert found["records_per_s"] == 400_000
    assert found["cpu_per_million"] == 1.0
    assert found["broker_cpu_per_million"] == 2.0
    assert found["replicator_cores"] == 0.4


def test_samples_hold_records_not_offsets() -> None:
    looks = [seen(1.0, 0, 0), seen(2.0, 11, 5, replicator=0.5)]
    assert samples(looks, [(0, 0), (10, 4)]) == [sample(1.0, 0), Sample(2.0, 14, 0.5, 0.0, 0.0)]


def test_a_transaction_is_one_commit_however_many_partitions_it_has() -> None:
    looks = [seen(1.0, 10, 10), seen(2.0, 20, 20)]
    measured = Window(sample(1.0, 0), sample(2.0, 18))
    first = [Marker(9, 1, 0, True), Marker(12, 1, 1, True), Marker(15, 1, 2, False), Marker(20, 1, 3, True)]
    second = [Marker(11, 1, 1, True), Marker(12, 2, 1, True), Marker(13, 1, 2, False)]
    # In the window: (1, 1) on both partitions and (2, 1). The others are aborted, before it, or behind it.
    assert commits(measured, looks, (first, second)) == 2.0
    assert commits(measured, looks, ([], [])) is None
    # Every marker takes its bytes, of whichever outcome and in each partition.
    assert marker_count(measured, looks, (first, second)) == 5
    assert marker_count(measured, looks, ([], [])) == 0


def test_recovery_ends_with_the_first_arrival_of_what_was_sent_after_the_kill() -> None:
    stamps, delays = array("q", [5, 11, 12, 13]), array("q", [900, 100, 60, 70])
    assert recovery_seconds(stamps, delays, 10) == pytest.approx(62e-9)


# -- profiles


def test_a_profile_counts_functions_not_lines_and_leaves_out_what_waits() -> None:
    text = (
        "run (lane.py:10);pack (k.pyx:5) 6\n"
        "run (lane.py:11);send (wire.py:1) 3\n"
        "run (lane.py:12);run (lane.py:13) 1\n"
        "run (lane.py:9);poll (libc.so.6) 90\n"
    )
    stacks = profile.parse_stacks(text)
    assert profile.top(stacks, 2) == [("pack (k.pyx)", 0.6, 0.6), ("send (wire.py)", 0.3, 0.3)]
    assert {name: whole for name, _, whole in profile.top(stacks)}["run (lane.py)"] == 1.0
    assert profile.table(profile.top(stacks, 1)).splitlines()[1].split() == ["60.0%", "60.0%", "pack", "(k.pyx)"]


def test_nothing_but_files_is_read(tmp_path: Path) -> None:
    (tmp_path / "12").mkdir()
    (tmp_path / "self").mkdir()
    (tmp_path / "34").mkdir()
    (tmp_path / "34" / "stat").write_text(STAT.format(utime=1, stime=0, cutime=0, cstime=0))
    assert [one.pid for one in processes(tmp_path)] == [4711]
