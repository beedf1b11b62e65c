"""One connection to one broker: a blocking socket, versions agreed first, requests pipelined, answers in order.

The outside world is reached only through `Network`: sockets, time and sleep. Production uses `TcpNetwork`; the tests
put a model of a Kafka cluster in its place, so that the very same lane and transaction classes run against both.

Messages come from kio, which is generated from Kafka's own schemas. Fetch responses and Produce requests are the two
hot messages; they pass here as raw frames and are coded by the compiled kernel.
"""

from __future__ import annotations

import io
import select
import socket
import struct
import time
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple, Protocol

from kio.schema.api_versions.v3.request import ApiVersionsRequest
from kio.schema.api_versions.v3.response import ApiVersionsResponse
from kio.serial import entity_reader, entity_writer
from kio.serial.errors import SerialError
from kio.static.primitive import i16, i32

from eomirror import __version__
from eomirror._fastpath import frame_buffer
from eomirror.errors import ConnectionLost
from eomirror.schemas import request_module, response_schema
from eomirror.security import Security, TlsSocket, is_tls, words

Buffer = bytes | bytearray | memoryview

PRODUCE: Final = 0
FETCH: Final = 1
LIST_OFFSETS: Final = 2
METADATA: Final = 3
FIND_COORDINATOR: Final = 10
API_VERSIONS: Final = 18
INIT_PRODUCER_ID: Final = 22
ADD_PARTITIONS_TO_TXN: Final = 24
END_TXN: Final = 26
DESCRIBE_PRODUCERS: Final = 61
DESCRIBE_TRANSACTIONS: Final = 65

# The versions this code is written for, lowest and highest: Kafka 3.1 and newer. What it sets exists in all of them.
SPOKEN: Final[Mapping[int, tuple[int, int]]] = {
    PRODUCE: (9, 13),  # topic ids from v13 on (KIP-516)
    FETCH: (13, 17),  # topic ids: a re-created topic is never read by mistake
    LIST_OFFSETS: (7, 8),
    METADATA: (12, 12),
    FIND_COORDINATOR: (4, 5),  # batched keys
    INIT_PRODUCER_ID: (4, 5),
    ADD_PARTITIONS_TO_TXN: (3, 3),  # from v4 on it is for brokers
    END_TXN: (3, 5),
    DESCRIBE_PRODUCERS: (0, 0),
    DESCRIBE_TRANSACTIONS: (0, 0),
}
API_NAMES: Final = {
    PRODUCE: "Produce",
    FETCH: "Fetch",
    LIST_OFFSETS: "ListOffsets",
    METADATA: "Metadata",
    FIND_COORDINATOR: "FindCoordinator",
    INIT_PRODUCER_ID: "InitProducerId",
    ADD_PARTITIONS_TO_TXN: "AddPartitionsToTxn",
    END_TXN: "EndTxn",
    DESCRIBE_PRODUCERS: "DescribeProducers",
    DESCRIBE_TRANSACTIONS: "DescribeTransactions",
}

# A frame larger than this is not a Kafka response but a stranger on the port: TLS records read as 320 MiB and more,
# HTTP as 1 GiB.
MAX_FRAME_BYTES: Final = 256 * 1024 * 1024
# A broker that takes nothing for this long is as good as gone.
SEND_SECONDS: Final = 20.0
# Linux takes at most 1024 buffers in one sendmsg.
MAX_IOVEC: Final = 1000


class Socket(Protocol):
    """The part of `socket.socket` that is used."""

    def sendmsg(self, buffers: Sequence[Buffer], /) -> int: ...
    def recv_into(self, buffer: Buffer, nbytes: int = 0, /) -> int: ...
    def settimeout(self, value: float | None, /) -> None: ...
    def fileno(self) -> int: ...
    def close(self) -> None: ...


class Network(Protocol):
    """Sockets, time and sleep; the only door to the outside."""

    def dial(self, host: str, port: int, timeout: float) -> Socket: ...
    def wait(self, sockets: Sequence[Socket], timeout: float) -> list[Socket]: ...
    def now(self) -> float: ...
    def sleep(self, seconds: float) -> None: ...


class TcpNetwork:
    """The real thing."""

    def dial(self, host: str, port: int, timeout: float) -> Socket:
        connection = socket.create_connection((host, port), timeout=timeout)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        return connection

    def wait(self, sockets: Sequence[Socket], timeout: float) -> list[Socket]:
        if not sockets:
            self.sleep(timeout)
            return []
        poller = select.poll()
        by_fileno = {s.fileno(): s for s in sockets}
        for fileno in by_fileno:
            poller.register(fileno, select.POLLIN)
        # What TLS has decrypted already is in no queue of the kernel: poll would wait for bytes that are here.
        decrypted = {s.fileno() for s in sockets if isinstance(s, TlsSocket) and s.pending()}
        # In milliseconds, which Python rounds up: a wait of 0.4 ms doesn't become a busy loop.
        polled = {fileno for fileno, _ in poller.poll(0 if decrypted else max(timeout, 0.0) * 1000)}
        return [by_fileno[fileno] for fileno in by_fileno if fileno in decrypted or fileno in polled]

    def now(self) -> float:
        return time.monotonic()

    def sleep(self, seconds: float) -> None:
        time.sleep(max(seconds, 0.0))


class Address(NamedTuple):
    """Where a broker listens; an IPv6 host has no brackets here."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class _Pending(NamedTuple):
    correlation_id: int
    api_key: int
    version: int


class Connection:
    """A connection after its ApiVersions exchange, and after its login if the cluster is secured.

    Every failure (refused, reset, closed, timed out, an answer that cannot be read) raises `ConnectionLost`; the
    connection is then closed and stays so. What was sent before may or may not have been done by the broker.
    """

    def __init__(
        self, network: Network, address: Address, client_id: str, timeout: float, security: Security | None = None
    ) -> None:
        self.network = network
        self.address = address
        self.client_id = client_id
        self.in_flight: deque[_Pending] = deque()
        self._next_correlation = 0
        self._timeout = 0.0  # what the socket was told last, seconds
        try:
            self.socket = network.dial(address.host, address.port, timeout)
        except OSError as error:
            raise ConnectionLost(f"{address}: {words(error)}") from error
        deadline = network.now() + timeout
        try:
            if security is not None:
                self.socket = security.wrap(self.socket, str(address), address.host)
            self._agree(deadline)
            if security is not None:
                security.log_in(str(address), lambda request: self.request(request, deadline))
        except BaseException:
            self.close()
            raise

    def _agree(self, deadline: float) -> None:
        request = ApiVersionsRequest(client_software_name="eomirror", client_software_version=__version__)
        self._send_entity(request, API_VERSIONS, 3)
        pending, frame = self._receive(deadline)
        # The header of this one response is always version 0, so that any client can read it; and an old broker
        # answers an unknown version of the request with version 0 of the response and error 35.
        error = struct.unpack_from(">h", frame, 4)[0] if len(frame) >= 6 else -1
        if error != 0:
            raise ConnectionLost(
                f"{self.address}: broker answers ApiVersions v3 with error {error}: not Kafka 3.1 or newer"
            )
        response: ApiVersionsResponse = self._parse(pending, frame, 4)
        self.versions = {int(k.api_key): (int(k.min_version), int(k.max_version)) for k in response.api_keys}
        # "Unknown" is an epoch of -1 and an empty list: a broker that is still starting. It is not "none".
        known = response.finalized_features_epoch >= 0
        self.features = {f.name: int(f.max_version_level) for f in response.finalized_features} if known else None

    def version(self, api_key: int, within: tuple[int, int] | None = None) -> int:
        """The highest version of an API that both sides know, of those `within` (all that we speak by default);
        ConnectionLost if there is none."""
        lowest, highest = within or SPOKEN[api_key]
        if not self.supports(api_key, within):
            theirs = self.versions.get(api_key)
            offered = "nothing" if theirs is None else f"v{theirs[0]} to v{theirs[1]}"
            raise ConnectionLost(
                f"{self.address}: broker offers {offered} of {API_NAMES[api_key]}, "
                f"eomirror speaks v{lowest} to v{highest}"
            )
        return min(highest, self.versions[api_key][1])

    def supports(self, api_key: int, within: tuple[int, int] | None = None) -> bool:
        """Whether `version` would find one."""
        lowest, highest = within or SPOKEN[api_key]
        theirs = self.versions.get(api_key)
        return theirs is not None and theirs[1] >= lowest and theirs[0] <= highest

    def module(self, api_key: int, within: tuple[int, int] | None = None) -> Any:
        """The kio module with the request classes of the agreed version."""
        return request_module(api_key, self.version(api_key, within))

    # --- sending

    def send(self, request: Any) -> None:
        """Send one kio request; its answer comes from `receive` in turn."""
        self._send_entity(request, int(request.__api_key__), int(request.__version__))

    def next_correlation_id(self) -> int:
        """The correlation id that the next request must carry."""
        return self._next_correlation

    def send_frame(self, api_key: int, version: int, buffers: Sequence[Buffer]) -> None:
        """Send a request that the kernel has coded, size and header included."""
        pending = _Pending(self._next_correlation, api_key, version)
        self._next_correlation = (self._next_correlation + 1) & 0x7FFFFFFF
        try:
            self._send_all(buffers)
        except OSError as error:
            self.close()
            raise ConnectionLost(f"{self.address}: {words(error)}") from error
        self.in_flight.append(pending)

    def _send_entity(self, request: Any, api_key: int, version: int) -> None:
        header_type = request.__header_schema__
        header = header_type(
            request_api_key=i16(api_key),
            request_api_version=i16(version),
            correlation_id=i32(self._next_correlation),
            client_id=self.client_id,
        )
        body = io.BytesIO()
        body.write(b"\0\0\0\0")
        entity_writer(header_type)(body, header)
        entity_writer(type(request))(body, request)
        frame = body.getbuffer()
        struct.pack_into(">i", frame, 0, len(frame) - 4)
        self.send_frame(api_key, version, [frame])

    def _send_all(self, buffers: Sequence[Buffer]) -> None:
        self._set_timeout(SEND_SECONDS)
        views = [memoryview(b) for b in buffers]
        first = 0
        while first < len(views):
            sent = self.socket.sendmsg(views[first : first + MAX_IOVEC])
            while first < len(views) and sent >= len(views[first]):
                sent -= len(views[first])
                first += 1
            if sent:
                views[first] = views[first][sent:]

    # --- receiving

    def receive(self, deadline: float) -> Any:
        """The answer to the oldest request in flight, as a kio response."""
        pending, frame = self._receive(deadline)
        return self._parse(pending, frame, 4)

    def receive_frame(self, deadline: float) -> tuple[int, bytearray]:
        """The answer to the oldest request in flight, unread: (version, frame after its size)."""
        pending, frame = self._receive(deadline)
        return pending.version, frame

    def request(self, request: Any, deadline: float) -> Any:
        """Send and wait; nothing else may be in flight."""
        self.send(request)
        return self.receive(deadline)

    def _receive(self, deadline: float) -> tuple[_Pending, bytearray]:
        if not self.in_flight:
            raise ConnectionLost(f"{self.address}: closed with answers outstanding")
        pending = self.in_flight.popleft()
        try:
            size = struct.unpack(">i", self._read(4, deadline))[0]
            if not 4 <= size <= MAX_FRAME_BYTES:
                hint = 'The listener speaks TLS: set "security.protocol" to SASL_SSL.' if is_tls(size) else ""
                raise ConnectionLost(f"{self.address}: not a Kafka response (its size reads {size})", hint=hint)
            frame = self._read(size, deadline)
        except OSError as error:
            self.close()
            raise ConnectionLost(f"{self.address}: {words(error)}") from error
        except ConnectionLost:
            self.close()
            raise
        correlation_id = struct.unpack_from(">i", frame)[0]
        if correlation_id != pending.correlation_id:
            self.close()
            raise ConnectionLost(f"{self.address}: answer {correlation_id} came where {pending.correlation_id} was due")
        return pending, frame

    def _read(self, size: int, deadline: float) -> bytearray:
        frame = frame_buffer(size)
        view = memoryview(frame)
        while view:
            left = deadline - self.network.now()
            if left <= 0:
                raise ConnectionLost(f"{self.address}: no answer in time")
            self._set_timeout(left)
            try:
                count = self.socket.recv_into(view)
            except TimeoutError as error:
                if error.errno is not None:  # the kernel has given the connection up
                    raise
                continue  # the deadline decides
            if count == 0:
                raise ConnectionLost(f"{self.address}: closed by the broker")
            view = view[count:]
        return frame

    def _set_timeout(self, seconds: float) -> None:
        """Let the socket wait that long or a little less. Each change is a system call: what is near enough stays."""
        if not seconds / 2 <= self._timeout <= seconds:
            self._timeout = seconds * 0.7
            self.socket.settimeout(self._timeout)

    def _parse(self, pending: _Pending, frame: bytearray, offset: int) -> Any:
        """Read a response body; `offset` is where the correlation id ends."""
        response_type = response_schema(pending.api_key, pending.version)
        try:
            if response_type.__header_schema__.__version__ >= 1:
                offset = _skip_tagged_fields(frame, offset)
            response, _ = entity_reader(response_type)(bytes(frame), offset)
        except (SerialError, ValueError, LookupError, struct.error, EOFError, ArithmeticError) as error:
            self.close()
            cause = str(error) or type(error).__name__
            raise ConnectionLost(f"{self.address}: {response_type.__name__} cannot be read: {cause}") from error
        return response

    def close(self) -> None:
        """Close the socket; what is in flight will never be answered."""
        self.in_flight.clear()
        self.socket.close()


def _skip_tagged_fields(frame: bytearray, offset: int) -> int:
    count, offset = _uvarint(frame, offset)
    for _ in range(count):
        _, offset = _uvarint(frame, offset)
        size, offset = _uvarint(frame, offset)
        offset += size
    return offset


def _uvarint(frame: bytearray, offset: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = frame[offset]
        offset += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, offset
        shift += 7
