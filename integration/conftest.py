"""Fixtures of the integration tests: two clusters for the whole session, unique names, the CLI as a real process."""

from __future__ import annotations

import itertools
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from .cluster import ROOT, Cluster, start_pair
from .process import Eomirror, write_config

_SERIAL = itertools.count()


@pytest.fixture(scope="session")
def work_folder() -> Iterator[Path]:
    """A folder for the session's clusters, removed at its end. `EOMIRROR_KEEP_LOGS=1` leaves it for a look."""
    parent = ROOT / ".work" / "tests"
    parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="session-", dir=parent))
    yield folder
    if not os.environ.get("EOMIRROR_KEEP_LOGS"):
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def clusters(work_folder: Path) -> Iterator[tuple[Cluster, Cluster]]:
    """The session's source and target cluster, started side by side."""
    source, target = start_pair(work_folder)
    yield source, target
    source.kill()
    target.kill()


@pytest.fixture
def source(clusters: tuple[Cluster, Cluster]) -> Cluster:
    """The source cluster, up. A test that killed or paused it has it back for the next one."""
    return _up(clusters[0])


@pytest.fixture
def target(clusters: tuple[Cluster, Cluster]) -> Cluster:
    """The target cluster, up."""
    return _up(clusters[1])


def _up(cluster: Cluster) -> Cluster:
    cluster.resume()
    if not cluster.running:
        cluster.restart()
    return cluster


@pytest.fixture
def name(request: pytest.FixtureRequest) -> str:
    """A name that no other test of the session uses; it is a legal topic, flow and group name."""
    words = re.sub(r"[^a-z0-9]+", "-", request.node.name.lower()).strip("-")
    return f"{words.removeprefix('test-')[:40].strip('-')}-{next(_SERIAL)}"


@pytest.fixture
def eomirror(tmp_path: Path) -> Iterator[Eomirror]:
    """The CLI as a subprocess; whatever it started ends with the test."""
    runner = Eomirror(tmp_path)
    yield runner
    runner.close()


@pytest.fixture
def flow_config(tmp_path: Path, source: Cluster, target: Cluster, name: str) -> Callable[..., Path]:
    """Writes a config file for one flow from source to target and returns its path.

    `flow_config(include=["orders"], lanes=2, commit={"interval": "5ms"})`: keyword arguments are keys of the flow;
    `include` goes to its topics (by default the test's `name` and `name.<anything>`); `flow` names it.
    """

    def write(
        *,
        include: list[str] | None = None,
        flow: str = name,
        topics: Mapping[str, Any] | None = None,
        clusters: Mapping[str, Any] | None = None,
        telemetry: Mapping[str, Any] | None = None,
        file: str = "eomirror.yaml",
        **settings: Any,
    ) -> Path:
        return write_config(
            tmp_path / file,
            clusters=clusters or {"source": source.bootstrap, "target": target.bootstrap},
            flow=flow,
            topics=topics or {"include": include or [rf"{name}(\..*)?"]},
            telemetry=telemetry,
            **settings,
        )

    return write
