"""Fixtures of the integration tests: clusters for the whole session, unique names, the CLI as a real process."""

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

from .cluster import ROOT, Cluster
from .fleet import SOURCE, TRANSACTION_VERSIONS, Fleet, single_target
from .home import described
from .node import ClusterError
from .process import Eomirror, write_config

_SERIAL = itertools.count()


def pytest_configure() -> None:
    """Ends the run at once if brokers cannot be had as they were asked for."""
    try:
        described()
    except ClusterError as error:
        raise pytest.UsageError(str(error)) from None


def pytest_report_header() -> str:
    """Where brokers run."""
    return described()


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
def fleet(work_folder: Path) -> Iterator[Fleet]:
    """The session's clusters; one that no test needs is not started."""
    clusters = Fleet(work_folder)
    yield clusters
    clusters.close()


@pytest.fixture
def transaction_version() -> int:
    """The target's feature level. Tests marked with `both_versions` run once with each."""
    return TRANSACTION_VERSIONS[0]


@pytest.fixture
def clusters(fleet: Fleet, transaction_version: int) -> tuple[Cluster, ...]:
    """Source and target cluster, up. A test that killed or paused one has it back for the next one."""
    return fleet.up(SOURCE, single_target(transaction_version))


@pytest.fixture
def source(clusters: tuple[Cluster, ...]) -> Cluster:
    """The source cluster, up."""
    return clusters[0]


@pytest.fixture
def target(clusters: tuple[Cluster, ...]) -> Cluster:
    """The target cluster, up."""
    return clusters[1]


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
