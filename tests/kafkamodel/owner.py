"""An owner: a thread of production code, its sockets, and how it gives the baton back when it would block."""

from __future__ import annotations

import struct
import threading
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from .messages import NAMES, ModelError

if TYPE_CHECKING:
    from .cluster import ModelCluster, Node
    from .network import ModelNetwork, Operation

IDLE_POLLS: Final = 100


class Killed(BaseException):
    """The owner's process is gone: raised in whatever it does next to the outside, every time."""


class Stuck(AssertionError):
    """Everybody waits and nothing can happen, or the budget of steps is used up."""


class Frame(NamedTuple):
    order: int
    data: bytes

    @property
    def api(self) -> str:
        return NAMES.get(struct.unpack_from(">h", self.data)[0], "?")


class ModelSocket:
    """What `dial` returns: the part of a socket that a Kafka client uses."""

    def __init__(self, net: ModelNetwork, owner: Owner, number: int, cluster: ModelCluster, node: Node) -> None:
        self.net = net
        self.owner = owner
        self.number = number
        self.cluster = cluster
        self.node = node
        self.requests: deque[Frame] = deque()
        self.answers: deque[Frame] = deque()
        self.operation: Operation | None = None
        self.broken: BaseException | bool = False
        self.closed = False
        self._out = bytearray()
        self._inbox = bytearray()
        self._timeout: float | None = None

    def __repr__(self) -> str:
        return f"<connection {self.number} of {self.owner.name} to {self.node}>"

    def fileno(self) -> int:
        return -1 if self.closed else self.number

    def settimeout(self, value: float | None, /) -> None:
        self._timeout = value

    def _check(self) -> None:
        self.owner.alive()
        if self.closed:
            raise OSError(9, "Bad file descriptor")

    def sendmsg(self, buffers: Iterable[Any], /) -> int:
        self._check()
        if self.broken:
            raise BrokenPipeError(32, "Broken pipe")
        data = b"".join(bytes(b) for b in buffers)
        if self.net.max_send is not None:
            data = data[: self.net.max_send]
        self._out += data
        while len(self._out) >= 4:
            size = struct.unpack_from(">i", self._out)[0]
            if len(self._out) < 4 + size:
                break
            self.requests.append(Frame(self.net.next_order(), bytes(self._out[4 : 4 + size])))
            del self._out[: 4 + size]
        return len(data)

    def sendall(self, data: Any, /) -> None:
        view = memoryview(data)
        while view:
            view = view[self.sendmsg([view]) :]

    def readable(self) -> bool:
        return bool(self._inbox) or bool(self.broken)

    def recv_into(self, buffer: Any, nbytes: int = 0, /) -> int:
        self._check()
        if not self.readable():
            if self._timeout == 0:
                raise BlockingIOError(11, "Resource temporarily unavailable")
            deadline = None if self._timeout is None else self.net.clock.now + self._timeout
            self.owner.block(f"receives on connection {self.number}", self.readable, deadline)
            self._check()
        if self._inbox:
            view = memoryview(buffer).cast("B")
            room = min(nbytes or len(view), self.net.max_receive or len(view), len(self._inbox))
            view[:room] = self._inbox[:room]
            del self._inbox[:room]
            return room
        if self.broken is True:
            return 0
        if self.broken:
            raise ConnectionResetError(104, "Connection reset by peer")
        raise TimeoutError("timed out")

    def close(self) -> None:
        if not self.closed:
            self.closed = True
            # Bytes that were sent before are in the network: closing a socket doesn't call them back.
            self.net.strand(self, after=0)

    def hand_over(self) -> None:
        self._inbox += self.answers.popleft().data


class Owner:
    """One thread of production code, and the network as that thread sees it."""

    def __init__(self, net: ModelNetwork, name: str, main: Callable[[Owner], Any] | None) -> None:
        self.net = net
        self.name = name
        self.main = main
        self.sockets: list[ModelSocket] = []
        self.started = main is None
        self.done = main is None
        self.killed = False
        self.result: Any = None
        self.error: BaseException | None = None
        self.refuse_dials = 0
        self.waits_for = ""
        self.ready: Callable[[], bool] = lambda: False
        self.deadline: float | None = None
        self.go = threading.Lock()
        self.go.acquire()
        self.thread: threading.Thread | None = None
        self._idle_polls = 0

    def __repr__(self) -> str:
        state = "ended" if self.done else self.waits_for or "not started"
        return f"<owner {self.name}: {state}>"

    # --- the production code's Network

    def dial(self, host: str, port: int, timeout: float) -> ModelSocket:
        self.alive()
        found = self.net.places.get((host, port))
        if found is None:
            raise ModelError(f"{self.name} dials {host}:{port}, which no model cluster has")
        cluster, node = found
        if self.refuse_dials > 0 or not node.up:
            self.refuse_dials = max(0, self.refuse_dials - 1)
            raise ConnectionRefusedError(111, "Connection refused")
        connection = ModelSocket(self.net, self, next(self.net.numbers), cluster, node)
        self.sockets.append(connection)
        self.net.sockets.append(connection)
        return connection

    def wait(self, sockets: Sequence[ModelSocket], timeout: float) -> list[ModelSocket]:
        self.alive()
        if any(s.closed for s in sockets):
            raise ValueError("file descriptor cannot be a negative integer (-1)")

        def readable() -> list[ModelSocket]:
            return [s for s in sockets if s.readable()]

        found = readable()
        if found:
            self._idle_polls = 0
            return found
        if timeout <= 0:
            # A loop that only polls would stop the model's clock for good.
            self._idle_polls += 1
            if self._idle_polls < IDLE_POLLS:
                return []
            timeout = 0.001
        self._idle_polls = 0
        self.block(f"waits on {len(sockets)} connections", lambda: bool(readable()), self.net.clock.now + timeout)
        return readable()

    def now(self) -> float:
        return self.net.clock.now

    def sleep(self, seconds: float) -> None:
        self.alive()
        if seconds > 0:
            self.block("sleeps", lambda: False, self.net.clock.now + seconds)

    # --- the baton

    def alive(self) -> None:
        if self.killed:
            raise Killed(self.name)

    def block(self, why: str, ready: Callable[[], bool], deadline: float | None) -> None:
        """Give the baton away until `ready` or the deadline."""
        self.alive()
        self.waits_for, self.ready, self.deadline = why, ready, deadline
        if self.thread is None:
            while not self.due():
                if not self.net.step():
                    raise Stuck(f"{self.name} {why}, and nothing can happen any more:\n" + self.net.explain())
            self.deadline = None
        else:
            self.net.back.release()
            self.go.acquire()
        self.waits_for = ""
        self.alive()

    def due(self) -> bool:
        return self.killed or self.ready() or (self.deadline is not None and self.net.clock.now >= self.deadline)

    def run(self) -> None:
        self.go.acquire()
        try:
            self.alive()
            assert self.main is not None
            self.result = self.main(self)
        except Killed:
            pass
        except BaseException as error:  # noqa: BLE001 (the thread's last frame: the test looks at it)
            self.error = error
        finally:
            self.done = True
            self.net.back.release()
