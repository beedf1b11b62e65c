"""The steps of a lane, by name: one list for kill points, spans, watchdog and logs."""

from __future__ import annotations

import os
import signal
import threading
from typing import Final

from eomirror.errors import ConfigError

STEPS: Final = (
    "init_a",
    "init_b",
    "checkpoint_read",
    "fetch",
    "pack",
    "produce",
    "acked",
    "ledger",
    "end_sent",
    "end_answered",
)
KILL_VARIABLE: Final = "EOMIRROR_TEST_KILL_AT"


class Steps:
    """Called at each step of every lane of the process. In tests it kills the process at the n-th time of one step."""

    def __init__(self, kill_at: str | None = None) -> None:
        self._lock = threading.Lock()
        self._step, self._left = _parse(kill_at) if kill_at else ("", 0)

    def __call__(self, step: str) -> None:
        if step != self._step:
            return
        with self._lock:
            self._left -= 1
            if self._left == 0:
                os.kill(os.getpid(), signal.SIGKILL)


def from_environment() -> Steps:
    return Steps(os.environ.get(KILL_VARIABLE))


def _parse(text: str) -> tuple[str, int]:
    step, _, times = text.partition(":")
    if step not in STEPS or not (times or "1").isdecimal() or int(times or "1") < 1:
        raise ConfigError(
            f"{KILL_VARIABLE}={text}: not a step of a lane",
            hint=f"Use one of {', '.join(STEPS)}, with :n for the n-th time.",
        )
    return step, int(times or "1")
