"""Killed at any step, a flow goes on from its checkpoint: nothing lost, nothing twice."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from eomirror.steps import KILL_VARIABLE, STEPS

from .cluster import Cluster
from .process import Eomirror
from .promise import SMALL, Load, assert_promise, catch_up

# One kill per start, in this order, before the start that is left alone. The first time of a step is in the opening
# transactions or in the first block; the later time is in the middle of data, or in the take-over that follows it.
KILLS = {
    "init_a": ("init_a:1", "end_sent:9", "init_a:2"),
    "init_b": ("init_b:1", "acked:9", "init_b:2"),
    "checkpoint_read": ("checkpoint_read:1", "ledger:9", "checkpoint_read:2"),
    "fetch": ("fetch:1", "fetch:7"),
    "pack": ("pack:1", "pack:8"),
    "produce": ("produce:1", "produce:7"),
    "acked": ("acked:1", "acked:10"),
    "ledger": ("ledger:1", "ledger:11"),
    "end_sent": ("end_sent:1", "end_sent:5", "end_sent:12"),
    "end_answered": ("end_answered:1", "end_answered:6", "end_answered:11"),
}


def test_every_step_is_killed_early_and_late() -> None:
    kills = {tuple(kill.split(":")) for kills in KILLS.values() for kill in kills}
    assert {step for step, times in kills if times == "1"} == set(STEPS)
    assert {step for step, times in kills if times != "1"} == set(STEPS)


@pytest.mark.parametrize("step", KILLS)
def test_killed_at(
    step: str,
    source: Cluster,
    target: Cluster,
    eomirror: Eomirror,
    flow_config: Callable[..., Path],
    name: str,
) -> None:
    topics = {f"{name}.plain": 2, f"{name}.lz4.tx": 2}
    for topic, partitions in topics.items():
        source.create_topic(topic, partitions)
    Load(source, name)(topics, 1500)
    config = flow_config(**SMALL)
    for kill in KILLS[step]:
        run = eomirror("run", "--until-caught-up", config=config, env={KILL_VARIABLE: kill})
        run.expect(-signal.SIGKILL)
    catch_up(eomirror, config)
    assert_promise(eomirror, config, source, target, topics, least=2500)
