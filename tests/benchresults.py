"""Results of the benchmark as its JSON has them, with figures of our own."""

from __future__ import annotations

from typing import Any

from bench.peer import SYSTEMS
from bench.rounds import Timing
from bench.scenarios import SCENARIOS


def fast(rate: float, cpu: float, **more: Any) -> dict[str, Any]:
    """A round of a prepared topic."""
    figures = {"megabytes_per_s": rate * 218 / 1e6, "broker_cpu_per_million": 1.5, "commits_per_s": 4.0}
    return {
        **figures,
        "records_per_s": rate,
        "cpu_per_million": cpu,
        "peak_rss": 1e8,
        "startup_s": 1.2,
        "window_s": 30.1,
        "other_cores": 0.05,
        **more,
    }


def slow(p50: float) -> dict[str, Any]:
    """A round of a stream."""
    figures = {"cpu_per_million": 60.0, "broker_cpu_per_million": 90.0, "commits_per_s": 90.0, "peak_rss": 7e7}
    return {**figures, "p50_ms": p50, "p99_ms": 3 * p50, "p999_ms": 4 * p50, "max_ms": 5 * p50, "internal_ratio": 0.6}


def scenario(name: str, kind: str, **rounds: list[dict[str, Any]]) -> dict[str, Any]:
    """One of a result; the systems' names with _ for -."""
    named = {key.replace("_", "-"): found for key, found in rounds.items()}
    systems = [{"name": n, "title": SYSTEMS[n].title, "settings": f"of {n}", "rounds": r} for n, r in named.items()]
    prepared = 5_000_000 if kind == "throughput" else None
    title = next(one.title for one in SCENARIOS if one.name == name)
    rate = None if prepared else 1000
    about = {"data": "218 B records", "rate": rate, "prepared_records": prepared, "note": ""}
    return {"name": name, "title": title, "kind": kind, **about, "systems": systems}


def result(*scenarios: dict[str, Any], **more: Any) -> dict[str, Any]:
    """A whole result."""
    return {
        "machine": {"cpu": "Some CPU", "cores": 2, "memory_gib": 23.5, "kernel": "Linux 6.1"},
        "versions": {"Kafka": "4.3.1", "Java": "17"},
        "load_before": [0.1, 0.2, 0.3],
        "finished": "2026-11-25T10:00:00+00:00",
        "minutes": 48.5,
        "command": "python -m bench.mirror",
        "smoke": False,
        "incomplete": None,
        "timing": {"rounds": 3, **vars(Timing())},
        "brokers": {"heap_mb": 512},
        "scenarios": list(scenarios),
        **more,
    }


WHOLE = result(
    scenario(
        "batches-1000",
        "throughput",
        eomirror=[fast(1_000_000, 0.3), fast(1_300_000, 0.2), fast(1_200_000, 0.25)],
        mm2_exactly_once=[fast(100_000, 10.0), fast(150_000, 8.0), fast(120_000, 9.0)],
        mm2_at_least_once=[{"wrong": "orders[2]: record 7 is the source's record 9: lost or reordered"}],
    ),
    scenario("latency-1k", "latency", eomirror=[slow(5.0)], mm2_exactly_once=[slow(10.0)]),
    scenario("recovery", "recovery", eomirror=[{"recovery_s": [1.0, 2.0, 4.0]}], mm2_exactly_once=[{"wrong": "no"}]),
)


def complete(**more: Any) -> dict[str, Any]:
    """A result of every scenario by both systems."""
    kinds = {"throughput": [fast(1e6, 0.3)], "latency": [slow(5.0)], "recovery": [{"recovery_s": [1.0]}]}
    found = [scenario(o.name, o.kind, eomirror=kinds[o.kind], mm2_exactly_once=kinds[o.kind]) for o in SCENARIOS]
    return result(*found, **more)
