"""Where a benchmark ran, and with what."""

from __future__ import annotations

import datetime
import importlib.metadata
import os
import platform
import re
import subprocess
from pathlib import Path
from typing import Any

from integration.cluster import ROOT, java, kafka_jars


def facts() -> dict[str, Any]:
    """Machine, system, versions, commit, load and time, as of now."""
    return {
        "machine": {
            "cpu": _value("/proc/cpuinfo", "model name") or platform.machine(),
            "cores": os.cpu_count(),
            "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
            "kernel": f"{platform.system()} {platform.release()}",
        },
        "versions": {
            "eomirror": f"{importlib.metadata.version('eomirror')}, commit {_commit()}",
            "Python": f"{platform.python_implementation()} {platform.python_version()}",
            "Kafka": _kafka(),
            "Java": _java(),
            **{name: importlib.metadata.version(name) for name in ("confluent-kafka", "cramjam", "kio")},
        },
        "load_before": [round(one, 2) for one in os.getloadavg()],
        "started": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


def _value(path: str, name: str) -> str | None:
    for line in Path(path).read_text().splitlines():
        key, _, value = line.partition(":")
        if key.strip() == name:
            return value.strip()
    return None


def _commit() -> str:
    command = ["git", "describe", "--always", "--dirty"]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False).stdout.strip() or "unknown"


def _kafka() -> str:
    (jar,) = kafka_jars().glob("kafka_2.13-*.jar")
    return jar.stem.partition("-")[2]


def _java() -> str:
    told = subprocess.run([java(), "-version"], capture_output=True, text=True, check=False).stderr
    found = re.search(r'version "([^"]+)"', told)
    return found[1] if found else "unknown"
