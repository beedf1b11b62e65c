"""The clusters of a test session: each is started when the first test needs it, and serves all that follow."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from .cluster import Cluster
from .node import NEWEST, NoSuchRelease

# The feature levels of a target that fault tests meet; all others meet the first.
TRANSACTION_VERSIONS = (2, 1)
both_versions = pytest.mark.parametrize("transaction_version", TRANSACTION_VERSIONS, ids="v{}".format)


@dataclass(frozen=True)
class Kind:
    """What sort of cluster; two equal ones are the same cluster. For the fields see `Cluster.launch`."""

    name: str
    nodes: int = 1
    release: str = NEWEST
    transaction_version: int | None = None
    heap_mb: int = 512


SOURCE = Kind("source")
# Nodes 2 and 3 may come and go while the controller stays.
WIDE_SOURCE = Kind("wide-source", nodes=3, heap_mb=256)
# Transactions version 1, and a commit marker that survives the death of a leader.
OLD_TARGET = Kind("old-target", nodes=2, release="3.9", heap_mb=256)


def single_target(transaction_version: int) -> Kind:
    """The target with that feature level."""
    return Kind(f"target-v{transaction_version}", transaction_version=transaction_version)


def wide_target(transaction_version: int) -> Kind:
    """The target of two nodes with that feature level."""
    return Kind(f"wide-target-v{transaction_version}", 2, transaction_version=transaction_version, heap_mb=256)


class Fleet:
    """The clusters by their kind, in sub-folders of one folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._clusters: dict[Kind, Cluster] = {}

    def up(self, *kinds: Kind) -> tuple[Cluster, ...]:
        """A cluster of each kind, up: those that are missing start side by side, and what a test has left paused or
        down comes back. Skips the test if a release is not to be had here."""
        launched: dict[Kind, Cluster] = {}
        try:
            for kind in kinds:
                if kind in self._clusters:
                    self._clusters[kind].recover()
                else:
                    launched[kind] = self._launch(kind)
            for cluster in launched.values():
                cluster.wait_ready()
        except BaseException as error:
            for cluster in launched.values():
                cluster.remove()  # so that the next test begins anew
            if isinstance(error, NoSuchRelease):
                pytest.skip(str(error))
            raise
        self._clusters |= launched
        return tuple(self._clusters[kind] for kind in kinds)

    def _launch(self, kind: Kind) -> Cluster:
        return Cluster.launch(
            kind.name,
            self._folder / kind.name,
            nodes=kind.nodes,
            release=kind.release,
            transaction_version=kind.transaction_version,
            heap_mb=kind.heap_mb,
            acls=True,
        )

    def close(self) -> None:
        """Ends them all at once."""
        for cluster in self._clusters.values():
            cluster.kill()
