"""What the nodes of test clusters run in. EOMIRROR_TEST_KAFKA chooses: `process`, which is also the rule, or
`containers`."""

from __future__ import annotations

import os

from .jvm import ProcessNode
from .node import ClusterError, Node

VARIABLE = "EOMIRROR_TEST_KAFKA"


def home() -> type[Node]:
    """The kind of node that was chosen. Raises ClusterError for an unknown one, and if nobody runs containers here."""
    chosen = os.environ.get(VARIABLE) or "process"
    if chosen == "process":
        return ProcessNode
    if chosen == "containers":
        from .container import ContainerNode, ask_daemon  # processes do without its libraries

        ask_daemon()
        return ContainerNode
    raise ClusterError(f'{VARIABLE}: no home for brokers is called "{chosen}"\nhint: Say "process" or "containers".')


def described() -> str:
    """Where brokers run, in words. Raises ClusterError."""
    if home() is ProcessNode:
        return "brokers are processes"
    from .container import described

    return described()
