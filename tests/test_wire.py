"""One connection, byte by byte: what the other side may do, and that every failure ends in ConnectionLost.

The other end of a socket pair is the broker. Its answers can be laid ready before the question, for correlation ids
count from 0.
"""

from __future__ import annotations

import datetime
import io
import socket
import struct
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kio.schema.api_versions.v3.request import ApiVersionsRequest
from kio.schema.api_versions.v3.response import ApiVersion, ApiVersionsResponse, FinalizedFeatureKey
from kio.schema.describe_transactions.v0.request import DescribeTransactionsRequest
from kio.schema.end_txn.v5.request import EndTxnRequest
from kio.schema.end_txn.v5.response import EndTxnResponse
from kio.schema.errors import ErrorCode
from kio.schema.request_header.v2.header import RequestHeader
from kio.serial import entity_reader, entity_writer
from kio.static.primitive import i64

from eomirror import __version__
from eomirror.errors import ConnectionLost
from eomirror.schemas import DescribeTransactionsResponse, TransactionState
from eomirror.wire import (
    API_NAMES,
    END_TXN,
    FETCH,
    MAX_FRAME_BYTES,
    MAX_IOVEC,
    SPOKEN,
    Address,
    Buffer,
    Connection,
    Socket,
    TcpNetwork,
)

ADDRESS = Address("broker", 9092)
NO_TIME = datetime.timedelta(0)


def framed(payload: bytes) -> bytes:
    return struct.pack(">i", len(payload)) + payload


def answer(correlation_id: int, response: Any) -> bytes:
    """A response as a broker frames it: header v0 for ApiVersions, v1 (with tagged fields) for the flexible others."""
    body = io.BytesIO()
    entity_writer(type(response))(body, response)
    tags = b"" if isinstance(response, ApiVersionsResponse) else b"\0"
    return framed(struct.pack(">i", correlation_id) + tags + body.getvalue())


def versions(
    offered: dict[int, tuple[int, int]] | None = None, epoch: int = 0, features: dict[str, int] | None = None
) -> ApiVersionsResponse:
    offered = SPOKEN | {} if offered is None else offered
    return ApiVersionsResponse(
        error_code=ErrorCode.none,
        api_keys=tuple(ApiVersion(api_key=k, min_version=lo, max_version=hi) for k, (lo, hi) in offered.items()),
        throttle_time=NO_TIME,
        finalized_features_epoch=epoch,
        finalized_features=tuple(
            FinalizedFeatureKey(name=n, max_version_level=v, min_version_level=0) for n, v in (features or {}).items()
        ),
    )


def ended(epoch: int) -> EndTxnResponse:
    return EndTxnResponse(throttle_time=NO_TIME, error_code=ErrorCode.none, producer_id=7, producer_epoch=epoch)


def end(epoch: int) -> EndTxnRequest:
    return EndTxnRequest(transactional_id="eomirror.dr.0.a", producer_id=7, producer_epoch=epoch, committed=True)


class Narrow:
    """A socket that takes and gives at most `width` bytes at a time."""

    def __init__(self, inner: socket.socket, width: int) -> None:
        self._inner, self._width = inner, width

    def sendmsg(self, buffers: Sequence[Buffer], /) -> int:
        assert len(buffers) <= 1024, "Linux takes no more"
        return self._inner.send(b"".join(bytes(b) for b in buffers)[: self._width])

    def recv_into(self, buffer: Buffer, nbytes: int = 0, /) -> int:
        return self._inner.recv_into(memoryview(buffer)[: self._width])

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


class Pair(TcpNetwork):
    """A network of one broker, which is the test. `broker` is its end."""

    def __init__(self, laid_ready: bytes = b"", width: int | None = None) -> None:
        self.mine, self.broker = socket.socketpair()
        self.mine.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)  # room for many sends of one byte
        self.broker.sendall(laid_ready)
        self.broker.settimeout(5)
        self.width = width

    def dial(self, host: str, port: int, timeout: float) -> Socket:
        return self.mine if self.width is None else Narrow(self.mine, self.width)

    def connect(self) -> Connection:
        return Connection(self, ADDRESS, "me", 5.0)

    def deadline(self, seconds: float = 5.0) -> float:
        return self.now() + seconds

    def request(self) -> tuple[RequestHeader, bytes]:
        """The next request as the broker reads it: header, and the body's bytes."""
        size = struct.unpack(">i", self._exactly(4))[0]
        frame = self._exactly(size)
        header, used = entity_reader(RequestHeader)(frame, 0)
        return header, frame[used:]

    def _exactly(self, size: int) -> bytes:
        got = b""
        while len(got) < size:
            more = self.broker.recv(size - len(got))
            assert more, "closed"
            got += more
        return got

    def close(self) -> None:
        self.mine.close()
        self.broker.close()


@pytest.fixture
def pairs() -> Iterator[Any]:
    made: list[Pair] = []

    def make(laid_ready: bytes = b"", width: int | None = None) -> Pair:
        made.append(Pair(laid_ready, width))
        return made[-1]

    yield make
    for one in made:
        one.close()


READY = answer(0, versions())


def _lost(connection: Connection, deadline: float, message: str) -> None:
    """Receiving fails with this message, and leaves the connection closed for good."""
    with pytest.raises(ConnectionLost) as caught:
        connection.receive(deadline)
    assert caught.value.message == f"broker:9092: {message}"
    _is_closed(connection)


def _is_closed(connection: Connection) -> None:
    assert connection.socket.fileno() == -1
    assert not connection.in_flight
    with pytest.raises(ConnectionLost):
        connection.receive(connection.network.now() + 5)
    with pytest.raises(ConnectionLost):
        connection.send(end(1))


# --- agreeing


def test_the_first_request_says_who_we_are(pairs: Any) -> None:
    pair = pairs(READY)
    pair.connect()
    header, body = pair.request()
    assert (header.request_api_key, header.request_api_version, header.correlation_id) == (18, 3, 0)
    assert header.client_id == "me"
    sent, _ = entity_reader(ApiVersionsRequest)(body, 0)
    assert sent == ApiVersionsRequest(client_software_name="eomirror", client_software_version=__version__)


@pytest.mark.parametrize("api", SPOKEN)
@pytest.mark.parametrize(
    ("below", "above", "expected"),
    [
        (0, 0, "highest"),
        (-99, 99, "highest"),
        (0, 99, "highest"),
        (-99, "lowest", "lowest"),
        ("highest", 99, "highest"),
    ],
)
def test_the_highest_version_that_both_know(pairs: Any, api: int, below: Any, above: Any, expected: str) -> None:
    low, high = SPOKEN[api]
    ends = {"lowest": low, "highest": high}
    offer = (
        ends[below] if isinstance(below, str) else max(low + below, 0),
        ends[above] if isinstance(above, str) else high + above,
    )
    connection = pairs(answer(0, versions({api: offer}))).connect()
    assert connection.supports(api)
    assert connection.version(api) == ends[expected]
    assert connection.module(api).__name__.endswith(f".v{ends[expected]}.request")


@pytest.mark.parametrize("api", SPOKEN)
def test_an_api_without_a_common_version_is_refused_by_name(pairs: Any, api: int) -> None:
    low, high = SPOKEN[api]
    offers = [None, (high + 1, high + 5), *([(0, low - 1)] if low else [])]
    for offer in offers:
        connection = pairs(answer(0, versions({} if offer is None else {api: offer}))).connect()
        assert not connection.supports(api)
        with pytest.raises(ConnectionLost) as caught:
            connection.version(api)
        offered = "nothing" if offer is None else f"v{offer[0]} to v{offer[1]}"
        assert caught.value.message == (
            f"broker:9092: broker offers {offered} of {API_NAMES[api]}, eomirror speaks v{low} to v{high}"
        )


def test_features_that_are_not_known_yet_are_not_none(pairs: Any) -> None:
    finalized = {"transaction.version": 2}
    assert pairs(answer(0, versions(epoch=5, features=finalized))).connect().features == finalized
    assert pairs(answer(0, versions(epoch=5))).connect().features == {}
    assert pairs(answer(0, versions(epoch=-1))).connect().features is None


@pytest.mark.parametrize(
    ("reply", "message"),
    [
        (
            framed(struct.pack(">ihi", 0, 35, 0)),
            "broker answers ApiVersions v3 with error 35: not Kafka 3.1 or newer",
        ),
        (framed(struct.pack(">i", 0)), "broker answers ApiVersions v3 with error -1: not Kafka 3.1 or newer"),
        (framed(struct.pack(">ihb", 0, 0, 0)), "ApiVersionsResponse cannot be read: "),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "not a Kafka response (its size reads 1213486160)"),
        (b"\x15\x03\x03\x00\x02\x02\x46", "not a Kafka response (its size reads 352518912)"),
        (b"", "closed by the broker"),
    ],
)
def test_a_stranger_on_the_port_is_told_and_the_socket_closed(pairs: Any, reply: bytes, message: str) -> None:
    pair = pairs(reply)
    if not reply:
        pair.broker.shutdown(socket.SHUT_WR)
    with pytest.raises(ConnectionLost) as caught:
        pair.connect()
    assert caught.value.message.startswith(f"broker:9092: {message}")
    assert pair.mine.fileno() == -1


def test_every_name_has_its_api() -> None:
    assert set(API_NAMES) == set(SPOKEN)


# --- asking and answering


def test_a_request_is_answered(pairs: Any) -> None:
    pair = pairs(READY + answer(1, ended(4)))
    connection = pair.connect()
    assert connection.request(end(3), pair.deadline()) == ended(4)
    pair.request()
    header, body = pair.request()
    assert (header.request_api_key, header.request_api_version, header.correlation_id) == (END_TXN, 5, 1)
    assert entity_reader(EndTxnRequest)(body, 0)[0] == end(3)


def test_a_transaction_that_has_not_begun_can_be_described(pairs: Any) -> None:
    """Brokers write -1 for its start, which is no point in time."""
    state = TransactionState(
        error_code=ErrorCode.none,
        transactional_id="eomirror.dr.0.a",
        transaction_state="Empty",
        transaction_timeout=datetime.timedelta(seconds=60),
        transaction_start_time=i64(-1),
        producer_id=7,
        producer_epoch=1,
        topics=(),
    )
    described = DescribeTransactionsResponse(throttle_time=datetime.timedelta(0), transaction_states=(state,))
    pair = pairs(READY + answer(1, described))
    connection = pair.connect()
    asked = DescribeTransactionsRequest(transactional_ids=("eomirror.dr.0.a",))
    assert connection.request(asked, pair.deadline()) == described


def test_requests_are_pipelined_and_answered_in_order(pairs: Any) -> None:
    pair = pairs(READY)
    connection = pair.connect()
    for number in range(5):
        connection.send(end(number))
    pair.request()
    assert [pair.request()[0].correlation_id for _ in range(5)] == [1, 2, 3, 4, 5]
    assert [p.correlation_id for p in connection.in_flight] == [1, 2, 3, 4, 5]
    pair.broker.sendall(b"".join(answer(1 + number, ended(number)) for number in range(5)))
    assert [connection.receive(pair.deadline()).producer_epoch for _ in range(5)] == [0, 1, 2, 3, 4]
    assert not connection.in_flight


def test_a_coded_frame_goes_out_as_it_is_and_comes_back_unread(pairs: Any) -> None:
    pair = pairs(READY)
    connection = pair.connect()
    pair.request()
    assert connection.next_correlation_id() == 1
    connection.send_frame(FETCH, 13, [b"ab", memoryview(b"cde"), bytearray(b"f")])
    assert pair.broker.recv(100) == b"abcdef"
    pair.broker.sendall(framed(struct.pack(">i", 1) + b"\0rest"))
    version, frame = connection.receive_frame(pair.deadline())
    assert (version, bytes(frame)) == (13, struct.pack(">i", 1) + b"\0rest")
    assert connection.next_correlation_id() == 2


def test_correlation_ids_wrap_to_zero(pairs: Any) -> None:
    pair = pairs(READY)
    connection = pair.connect()
    connection._next_correlation = 0x7FFFFFFF
    pair.broker.sendall(answer(0x7FFFFFFF, ended(1)) + answer(0, ended(2)))
    connection.send(end(1))
    connection.send(end(2))
    assert [connection.receive(pair.deadline()).producer_epoch for _ in range(2)] == [1, 2]


def test_unknown_tagged_fields_in_a_header_are_passed_over(pairs: Any) -> None:
    pair = pairs(READY)
    connection = pair.connect()
    plain = answer(1, ended(4))
    tagged = framed(plain[4:8] + b"\x02\x05\x03abc\x81\x01\x00" + plain[9:])
    pair.broker.sendall(tagged)
    assert connection.request(end(3), pair.deadline()) == ended(4)


@pytest.mark.parametrize("width", [1, 2, 3, 7, 64])
def test_it_does_not_matter_in_how_many_pieces_bytes_come_and_go(pairs: Any, width: int) -> None:
    pair = pairs(READY + answer(1, ended(4)) + answer(2, ended(5)), width)
    connection = pair.connect()
    assert connection.request(end(3), pair.deadline()) == ended(4)
    connection.send_frame(END_TXN, 5, [b"", b"abc", b"", b"de", b"f" * 9, b""])
    assert connection.receive(pair.deadline()) == ended(5)
    pair.request()
    pair.request()
    assert pair.broker.recv(100) == b"abcde" + b"f" * 9


@settings(deadline=None, max_examples=30)
@given(st.lists(st.binary(max_size=40), max_size=30), st.integers(1, 60))
def test_any_buffers_are_sent_whole_and_in_order(buffers: list[bytes], width: int) -> None:
    pair = Pair(READY, width)
    try:
        connection = pair.connect()
        pair.request()
        connection.send_frame(FETCH, 13, buffers)
        pair.broker.sendall(b"")
        connection.close()
        assert b"".join(iter(lambda: pair.broker.recv(4096), b"")) == b"".join(buffers)
    finally:
        pair.close()


def test_more_buffers_than_the_kernel_takes_at_once(pairs: Any) -> None:
    pair = pairs(READY, 1 << 20)
    connection = pair.connect()
    pair.request()
    buffers = [bytes([n & 0xFF]) for n in range(3 * MAX_IOVEC + 7)]
    connection.send_frame(FETCH, 13, buffers)
    assert pair._exactly(len(buffers)) == b"".join(buffers)


def test_a_request_larger_than_the_sockets_buffers(pairs: Any) -> None:
    pair = pairs(READY)
    connection = pair.connect()
    pair.request()
    large = bytes(range(256)) * 20_000
    got: list[bytes] = []
    reader = threading.Thread(target=lambda: got.append(pair._exactly(len(large) + 3)))
    reader.start()
    connection.send_frame(FETCH, 13, [large, b"end"])
    reader.join(10)
    assert got == [large + b"end"]


# --- failing


@pytest.mark.parametrize("cut", [0, 1, 3, 4, 5, 9, 20])
def test_a_connection_that_is_closed_within_an_answer(pairs: Any, cut: int) -> None:
    pair = pairs(READY + answer(1, ended(4))[:cut])
    connection = pair.connect()
    connection.send(end(3))
    pair.broker.shutdown(socket.SHUT_WR)
    _lost(connection, pair.deadline(), "closed by the broker")


@pytest.mark.parametrize("cut", [0, 2, 4, 9])
def test_an_answer_that_does_not_come_in_time(pairs: Any, cut: int) -> None:
    pair = pairs(READY + answer(1, ended(4))[:cut])
    connection = pair.connect()
    connection.send(end(3))
    before = time.monotonic()
    _lost(connection, pair.deadline(0.05), "no answer in time")
    assert 0.04 < time.monotonic() - before < 2


def test_a_deadline_that_has_passed_is_not_waited_for(pairs: Any) -> None:
    pair = pairs(READY)
    connection = pair.connect()
    connection.send(end(3))
    _lost(connection, pair.now() - 1, "no answer in time")


@pytest.mark.parametrize("size", [-1, 0, 3, MAX_FRAME_BYTES + 1, 0x7FFFFFFF, -0x80000000])
def test_a_size_that_no_answer_has(pairs: Any, size: int) -> None:
    pair = pairs(READY + struct.pack(">i", size) + bytes(16))
    connection = pair.connect()
    connection.send(end(3))
    _lost(connection, pair.deadline(), f"not a Kafka response (its size reads {size})")


@pytest.mark.parametrize("came", [0, 2, -1])
def test_an_answer_to_another_question(pairs: Any, came: int) -> None:
    pair = pairs(READY + answer(came, ended(4)))
    connection = pair.connect()
    connection.send(end(3))
    _lost(connection, pair.deadline(), f"answer {came} came where 1 was due")


def test_nothing_more_is_read_after_a_failure(pairs: Any) -> None:
    """What follows an answer that was not understood could be taken for the answer to another request."""
    pair = pairs(READY + framed(struct.pack(">i", 1)) + answer(2, ended(5)))
    connection = pair.connect()
    connection.send(end(3))
    connection.send(end(4))
    with pytest.raises(ConnectionLost, match="EndTxnResponse cannot be read: "):
        connection.receive(pair.deadline())
    _is_closed(connection)


@settings(deadline=None)
@given(st.binary(max_size=30))
def test_garbage_is_an_answer_or_a_lost_connection(garbage: bytes) -> None:
    pair = Pair(READY + framed(struct.pack(">i", 1) + garbage))
    try:
        connection = pair.connect()
        connection.send(end(3))
        try:
            read = connection.receive(pair.deadline())
        except ConnectionLost:
            _is_closed(connection)
        else:
            assert isinstance(read, EndTxnResponse)
    finally:
        pair.close()


def test_a_tagged_field_that_the_schema_does_not_have_is_a_lost_connection(pairs: Any) -> None:
    plain = answer(1, ended(4))[4:]
    pair = pairs(READY + framed(plain[:-1] + b"\x01\x63\x01x"))
    connection = pair.connect()
    connection.send(end(3))
    with pytest.raises(ConnectionLost, match=r"EndTxnResponse cannot be read: .*99"):
        connection.receive(pair.deadline())
    _is_closed(connection)


def test_a_broker_that_went_away_is_noticed_while_sending(pairs: Any) -> None:
    pair = pairs(READY)
    connection = pair.connect()
    pair.broker.close()
    with pytest.raises(ConnectionLost) as caught:
        connection.send(end(3))
    assert caught.value.message == "broker:9092: Broken pipe"
    _is_closed(connection)


def test_an_agreement_that_is_cut_anywhere(pairs: Any) -> None:
    """Every prefix of a true answer, in a frame of its own size."""
    payload = answer(0, versions(features={"transaction.version": 2}))[4:]
    for size in range(4, len(payload)):
        with pytest.raises(ConnectionLost):
            pairs(framed(payload[:size])).connect()


# --- the real network


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(5)
        yield server


def test_over_tcp(listener: socket.socket) -> None:
    network = TcpNetwork()
    address = Address(*listener.getsockname())

    def serve() -> None:
        broker, _ = listener.accept()
        with broker:
            broker.sendall(READY)
            while broker.recv(4096):
                pass

    server = threading.Thread(target=serve)
    server.start()
    connection = Connection(network, address, "me", 5.0)
    assert connection.socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) != 0
    assert connection.version(END_TXN) == 5
    connection.close()
    server.join(5)
    assert not server.is_alive()


def test_a_port_where_nobody_listens(listener: socket.socket) -> None:
    address = Address(*listener.getsockname())
    listener.close()
    with pytest.raises(ConnectionLost) as caught:
        Connection(TcpNetwork(), address, "me", 5.0)
    assert caught.value.message == f"{address}: Connection refused"


def test_a_port_where_nobody_answers(listener: socket.socket) -> None:
    address = Address(*listener.getsockname())
    with pytest.raises(ConnectionLost) as caught:
        Connection(TcpNetwork(), address, "me", 0.05)
    assert caught.value.message == f"{address}: no answer in time"


def test_waiting_gives_back_what_can_be_read(pairs: Any) -> None:
    network = TcpNetwork()
    first, second = pairs(), pairs(b"x")
    assert network.wait([first.mine, second.mine], 5.0) == [second.mine]
    before = time.monotonic()
    assert network.wait([first.mine], 0.02) == []
    assert network.wait([], 0.02) == []
    assert 0.04 <= time.monotonic() - before + 0.002 < 2
    assert network.wait([first.mine], -1.0) == []
    first.broker.close()
    assert network.wait([first.mine], 5.0) == [first.mine]


def test_addresses_are_spelled_as_they_are_configured() -> None:
    assert str(Address("10.0.0.1", 9092)) == "10.0.0.1:9092"
    assert str(Address("::1", 9092)) == "[::1]:9092"
