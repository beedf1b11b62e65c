"""The seeds of the fuzzer on the build that is used: every kind of batch keeps what its target promises."""

from __future__ import annotations

import pytest
from fuzztargets import CORPUS, TARGETS, seeds

INPUTS = [(target, name, data) for target in TARGETS for name, data in seeds(target)]


@pytest.mark.parametrize(("target", "data"), [pytest.param(t, d, id=f"{t}-{n}") for t, n, d in INPUTS])
def test_a_seed_keeps_its_promises(target: str, data: bytes) -> None:
    TARGETS[target](data)


def test_there_are_seeds_for_every_target() -> None:
    assert {path.name for path in CORPUS.iterdir()} == set(TARGETS)
    assert all(sum(target == name for target, _, _ in INPUTS) >= 5 for name in TARGETS)
    assert sum(len(data) for _, _, data in INPUTS) < 200 * 1024


@pytest.mark.parametrize("codec", ["none", "gzip", "snappy", "lz4", "zstd"])
def test_every_codec_is_among_the_seeds(codec: str) -> None:
    for target in ("pack", "codec"):
        assert any(name.startswith(codec) for name, _ in seeds(target))
