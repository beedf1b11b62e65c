"""Kill points: a test names a step, and the process dies there."""

from __future__ import annotations

import os
import signal

import pytest

from eomirror import steps
from eomirror.errors import ConfigError, Exit
from eomirror.steps import KILL_VARIABLE, STEPS, Steps


@pytest.fixture
def killed(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    kills: list[tuple[int, int]] = []
    monkeypatch.setattr(os, "kill", lambda pid, number: kills.append((pid, number)))
    return kills


KILL = (os.getpid(), signal.SIGKILL)


def test_the_steps_are_the_interface() -> None:
    assert " ".join(STEPS) == ("init_a init_b checkpoint_read fetch pack produce acked ledger end_sent end_answered")


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize(("suffix", "times"), [("", 1), (":1", 1), (":3", 3)])
def test_it_dies_at_the_nth_time_of_its_step_and_only_there(
    step: str, suffix: str, times: int, killed: list[tuple[int, int]]
) -> None:
    steps_ = Steps(step + suffix)
    for number in range(1, 6):
        for one in STEPS:
            steps_(one)
        assert killed == ([KILL] if number >= times else [])


def test_without_the_variable_nothing_dies(monkeypatch: pytest.MonkeyPatch, killed: list[tuple[int, int]]) -> None:
    monkeypatch.delenv(KILL_VARIABLE, raising=False)
    for text in (None, ""):
        if text is not None:
            monkeypatch.setenv(KILL_VARIABLE, text)
        step = steps.from_environment()
        for one in STEPS:
            step(one)
    assert killed == []


def test_the_variable_is_read(monkeypatch: pytest.MonkeyPatch, killed: list[tuple[int, int]]) -> None:
    monkeypatch.setenv(KILL_VARIABLE, "ledger:2")
    step = steps.from_environment()
    step("ledger")
    assert killed == []
    step("ledger")
    assert killed == [KILL]


@pytest.mark.parametrize("text", ["commit", "produce:0", "produce:-1", "produce:x", ":3", "produce:1:2", "PRODUCE"])
def test_a_step_that_does_not_exist_is_refused(text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Steps(text)
    assert caught.value.message == f"{KILL_VARIABLE}={text}: not a step of a lane"
    assert caught.value.hint == f"Use one of {', '.join(STEPS)}, with :n for the n-th time."
    assert caught.value.exit_code == Exit.USAGE
