"""Secured connections: what is checked, what is refused and in which words, over real TLS on loopback.

The other end is a small broker with a certificate from a CA of this session; its half of SCRAM is scramp's own server.
"""

from __future__ import annotations

import io
import socket
import ssl
import struct
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from configtext import parse, refused, with_client
from confluent_kafka.admin import AdminClient
from kio.schema.errors import ErrorCode
from kio.schema.sasl_authenticate.v2.request import SaslAuthenticateRequest
from kio.schema.sasl_authenticate.v2.response import SaslAuthenticateResponse
from kio.schema.sasl_handshake.v1.request import SaslHandshakeRequest
from kio.schema.sasl_handshake.v1.response import SaslHandshakeResponse
from kio.serial import entity_reader, entity_writer
from scramp import ScramException, ScramMechanism
from test_wire import Pair, answer, end, ended, framed, versions

from eomirror import shown
from eomirror.errors import ConnectionLost
from eomirror.security import JOINED_BYTES, Security, TlsSocket, Untrusted, trust
from eomirror.wire import END_TXN, FETCH, MAX_IOVEC, Address, Connection, TcpNetwork
from integration.certificates import Authority

USER, PASSWORD = "mirror", "s3cret-hunter2"
TRIED = "what works: security.protocol PLAINTEXT, or SASL_SSL with sasl.mechanism SCRAM-SHA-512"


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("tls") / "ca")


@pytest.fixture(scope="session")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("tls") / "stranger")


# --- keys


def section(ca: Path | str, **changed: str | None) -> str:
    keys = {
        "security.protocol": "SASL_SSL",
        "ssl.ca.location": str(ca),
        "sasl.mechanism": "SCRAM-SHA-512",
        "sasl.username": USER,
        "sasl.password": PASSWORD,
    }
    keys |= {key.replace("_", "."): value for key, value in changed.items()}  # type: ignore[misc]
    return with_client(", ".join(f"{key}: {value!r}" for key, value in keys.items() if value is not None))


@pytest.mark.parametrize("mechanism", ["sasl.mechanism", "sasl.mechanisms"])
def test_a_secured_cluster_is_read_and_librdkafka_takes_its_keys(authority: Authority, mechanism: str) -> None:
    text = section(authority.ca).replace("sasl.mechanism", mechanism)
    client = parse(text).clusters["paris"].client
    assert client[mechanism] == "SCRAM-SHA-512"
    assert Security.of(client) is not None
    AdminClient({"bootstrap.servers": "127.0.0.1:1", "log_level": 0, **client})
    assert Security.of({}) is None


def test_the_password_is_masked_and_nothing_else(authority: Authority) -> None:
    read = parse(section(authority.ca))
    assert shown.tree(read)["clusters"]["paris"]["client"] == {
        "security.protocol": "SASL_SSL",
        "ssl.ca.location": str(authority.ca),
        "sasl.mechanism": "SCRAM-SHA-512",
        "sasl.username": USER,
        "sasl.password": "***",
    }
    assert PASSWORD not in shown.text(read, resolved=True)


@pytest.mark.parametrize("missing", ["ssl.ca.location", "sasl.mechanism", "sasl.username", "sasl.password"])
def test_a_key_that_is_missing_is_told_at_the_protocol(authority: Authority, missing: str) -> None:
    error = refused(section(authority.ca, **{missing.replace(".", "_"): None}))
    assert f'3:41: clusters.paris.client["security.protocol"]: SASL_SSL needs {missing}' in error.message
    assert f'add "{missing}' in error.hint
    assert PASSWORD not in error.message + error.hint


@pytest.mark.parametrize("protocol", [None, "PLAINTEXT"])
def test_keys_of_a_secured_cluster_do_not_go_with_plaintext(authority: Authority, protocol: str | None) -> None:
    error = refused(section(authority.ca, security_protocol=protocol))
    for key in ("ssl.ca.location", "sasl.mechanism", "sasl.username", "sasl.password"):
        assert f'client["{key}"]: has no effect with security.protocol PLAINTEXT' in error.message
    assert PASSWORD not in error.message


def test_the_mechanism_is_said_once(authority: Authority) -> None:
    error = refused(section(authority.ca, sasl_mechanisms="SCRAM-SHA-512"))
    assert 'client["sasl.mechanisms"]: means the same as sasl.mechanism, which is set too' in error.message


@pytest.mark.parametrize("mechanism", ["PLAIN", "OAUTHBEARER", "GSSAPI", "SCRAM-SHA-256", "scram-sha-512"])
def test_a_mechanism_that_was_not_tried_is_refused_by_name(authority: Authority, mechanism: str) -> None:
    error = refused(section(authority.ca, sasl_mechanism=mechanism))
    assert f'client["sasl.mechanism"]: "{mechanism}" has not been tried, so it is refused' in error.message
    assert error.hint == TRIED


@pytest.mark.parametrize("protocol", ["SSL", "SASL_PLAINTEXT", "sasl_ssl"])
def test_a_protocol_that_was_not_tried_is_refused_by_name(authority: Authority, protocol: str) -> None:
    error = refused(section(authority.ca, security_protocol=protocol))
    assert f'client["security.protocol"]: "{protocol}" has not been tried, so it is refused' in error.message
    assert error.hint == TRIED


@pytest.mark.parametrize(
    ("key", "what"),
    [
        ("ssl.key.location", "mutual TLS"),
        ("ssl.keystore.location", "mutual TLS"),
        ("ssl.certificate.pem", "mutual TLS"),
        ("sasl.oauthbearer.config", "OAUTHBEARER"),
        ("enable.sasl.oauthbearer.unsecure.jwt", "OAUTHBEARER"),
        ("sasl.kerberos.keytab", "GSSAPI"),
        ("ssl.ca.pem", "this key"),
        ("https.ca.location", "this key"),
    ],
)
def test_a_key_that_was_not_tried_is_refused_by_name(key: str, what: str) -> None:
    error = refused(with_client(f"{key}: hunter2"))
    assert error.message.endswith(f'client["{key}"]: {what} has not been tried, so it is refused')
    assert error.hint == TRIED


@pytest.mark.parametrize("password", ["", "hunter2\u00e4", "hunter2\t"])
def test_a_password_that_cannot_be_used_is_not_repeated(authority: Authority, password: str) -> None:
    error = refused(section(authority.ca).replace(repr(PASSWORD), '"' + password.replace("\t", "\\t") + '"'))
    assert 'client["sasl.password"]: the value is not 1 to 1000 printable ASCII characters' in error.message
    assert "hunter2" not in error.message + error.hint


def test_a_ca_file_must_be_there_and_hold_certificates(
    authority: Authority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # a message shows the beginning of a long path only
    (tmp_path / "text.pem").write_text("no certificate")
    (tmp_path / "binary.pem").write_bytes(bytes(range(256)))
    (tmp_path / "empty.pem").touch()
    for name in ("text.pem", "binary.pem", "empty.pem"):
        error = refused(section(name))
        assert f'"{name}": no PEM file with certificates' in error.message
        assert error.hint == "Name a PEM file with the certificates of the CA."
    gone = refused(section("gone.pem"))
    place = '3:72: clusters.paris.client["ssl.ca.location"]'
    assert gone.message.endswith(f'{place}: "gone.pem": the file cannot be read: no such file or directory')
    assert "is a directory" in refused(section(tmp_path)).message
    with pytest.raises(Untrusted):
        trust(str(tmp_path / "gone.pem"))
    context = trust(str(authority.ca))
    assert context.check_hostname
    assert context.verify_mode is ssl.CERT_REQUIRED
    assert context.minimum_version is ssl.TLSVersion.TLSv1_2


# --- SCRAM


class Login:
    """A broker's half of the exchange; `flaw` is what it does wrong."""

    def __init__(self, flaw: str = "", password: str = PASSWORD) -> None:
        mechanism = ScramMechanism("SCRAM-SHA-512")
        self.known = mechanism.make_auth_info(password, iteration_count=4096)
        self.server = mechanism.make_server(lambda user: self.known)
        self.flaw = flaw
        self.asked: list[Any] = []

    def __call__(self, request: Any) -> Any:
        self.asked.append(request)
        if isinstance(request, SaslHandshakeRequest):
            code = {"mechanism": ErrorCode.unsupported_sasl_mechanism, "state": ErrorCode.illegal_sasl_state}
            return SaslHandshakeResponse(error_code=code.get(self.flaw, ErrorCode.none), mechanisms=("PLAIN", "GSSAPI"))
        assert isinstance(request, SaslAuthenticateRequest)
        said = request.auth_bytes.decode()
        if len(self.asked) == 2:
            self.server.set_client_first(said)
            first = self.server.get_server_first()
            return _said(
                {"nonce": first.replace("r=", "r=x", 1), "weak": first.replace("i=4096", "i=1")}.get(self.flaw, first)
            )
        try:
            self.server.set_client_final(said)
        except ScramException:
            return _said("", ErrorCode.sasl_authentication_failed)
        final = self.server.get_server_final()
        return _said({"signature": "v=" + "A" * 86 + "==", "garbage": "\x00"}.get(self.flaw, final))


def _said(text: str, code: ErrorCode = ErrorCode.none) -> SaslAuthenticateResponse:
    return SaslAuthenticateResponse(error_code=code, error_message="told by the broker", auth_bytes=text.encode())


def _login_fails(authority: Authority, login: Login) -> ConnectionLost:
    with pytest.raises(ConnectionLost) as caught:
        Security(str(authority.ca), USER, PASSWORD).log_in("b:1", login)
    assert PASSWORD not in caught.value.message + caught.value.hint
    return caught.value


def test_both_sides_prove_that_they_know_the_password(authority: Authority) -> None:
    login = Login()
    Security(str(authority.ca), USER, PASSWORD).log_in("b:1", login)
    assert [type(one) for one in login.asked] == [SaslHandshakeRequest, *2 * [SaslAuthenticateRequest]]
    assert login.asked[0].mechanism == "SCRAM-SHA-512"
    assert login.asked[1].auth_bytes.startswith(b"n,,n=mirror,r=")
    assert all(PASSWORD.encode() not in one.auth_bytes for one in login.asked[1:])


def test_a_wrong_password(authority: Authority) -> None:
    error = _login_fails(authority, Login(password="another"))
    assert error.message == 'b:1: login as "mirror" failed: SASL_AUTHENTICATION_FAILED (58)'
    assert "sasl.password" in error.hint


@pytest.mark.parametrize("flaw", ["nonce", "weak", "signature", "garbage"])
def test_a_broker_that_does_not_prove_itself(authority: Authority, flaw: str) -> None:
    assert _login_fails(authority, Login(flaw)).message == "b:1: the broker's answer to SCRAM-SHA-512 is not right"


def test_a_broker_that_has_no_scram(authority: Authority) -> None:
    error = _login_fails(authority, Login("mechanism"))
    assert error.message == "b:1: the broker does not offer SCRAM-SHA-512, only PLAIN, GSSAPI"
    assert _login_fails(authority, Login("state")).message == "b:1: SaslHandshake: ILLEGAL_SASL_STATE (34)"


# --- TLS


class Broker:
    """A listener on loopback that serves one connection: versions, login, then `then` with its socket."""

    def __init__(self, pem: Path | None, then: Callable[[Any], None] = lambda connection: None) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.settimeout(10)
        self._pem, self._then = pem, then
        self.address = Address(*self._listener.getsockname())
        self.login = Login()
        self.failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        try:
            plain, _ = self._listener.accept()
            plain.settimeout(10)
            with plain:
                if self._pem is None:
                    plain.recv(64)
                    return
                context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
                context.load_cert_chain(self._pem)
                with context.wrap_socket(plain, server_side=True) as connection:
                    self._serve(connection)
        except OSError as error:
            self.failure = error

    def _serve(self, connection: ssl.SSLSocket) -> None:
        first = request(connection)
        if first is None:
            return
        connection.sendall(answer(0, versions()))
        for number, kind in enumerate((SaslHandshakeRequest, SaslAuthenticateRequest, SaslAuthenticateRequest), 1):
            frame = request(connection)
            assert frame is not None
            header, used = entity_reader(kind.__header_schema__)(frame, 0)
            assert header.correlation_id == number
            asked, _ = entity_reader(kind)(frame[used:], 0)
            body = io.BytesIO()
            replied = self.login(asked)
            entity_writer(type(replied))(body, replied)
            tags = b"\0" if replied.__flexible__ else b""
            connection.sendall(framed(struct.pack(">i", number) + tags + body.getvalue()))
        self._then(connection)

    def close(self) -> None:
        self._thread.join(15)
        assert not self._thread.is_alive()
        self._listener.close()


def request(connection: ssl.SSLSocket) -> bytes | None:
    head = exactly(connection, 4)
    return exactly(connection, struct.unpack(">i", head)[0]) if head else None


def exactly(connection: ssl.SSLSocket, size: int) -> bytes:
    got = b""
    while len(got) < size:
        more = connection.recv(size - len(got))
        if not more:
            return b""
        got += more
    return got


@pytest.fixture
def brokers() -> Iterator[Callable[..., Broker]]:
    made: list[Broker] = []

    def make(*arguments: Any) -> Broker:
        made.append(Broker(*arguments))
        return made[-1]

    yield make
    for one in made:
        one.close()


def connect(broker: Broker, authority: Authority, host: str = "127.0.0.1") -> Connection:
    security = Security(str(authority.ca), USER, PASSWORD)
    return Connection(TcpNetwork(), Address(host, broker.address.port), "me", 10.0, security)


@pytest.mark.parametrize(("name", "host"), [("IP:127.0.0.1", "127.0.0.1"), ("DNS:localhost", "localhost")])
def test_a_request_is_answered_over_tls(
    authority: Authority, brokers: Callable[..., Broker], name: str, host: str
) -> None:
    def one(connection: ssl.SSLSocket) -> None:
        assert request(connection)
        connection.sendall(answer(4, ended(4)))

    connection = connect(brokers(authority.certificate(name), one), authority, host)
    assert isinstance(connection.socket, TlsSocket)
    assert connection.version(END_TXN) == 5
    assert connection.request(end(3), connection.network.now() + 10) == ended(4)
    connection.close()
    assert connection.socket.fileno() == -1


def test_what_is_decrypted_already_is_not_waited_for(authority: Authority, brokers: Callable[..., Broker]) -> None:
    """Two answers in one TLS record: after the first is read, nothing is left for poll to tell of."""
    done = threading.Event()

    def both(connection: ssl.SSLSocket) -> None:
        assert request(connection)
        assert request(connection)
        connection.sendall(answer(4, ended(4)) + answer(5, ended(5)))
        done.wait(10)

    connection = connect(brokers(authority.certificate("IP:127.0.0.1"), both), authority)
    connection.send(end(3))
    connection.send(end(4))
    deadline = connection.network.now() + 10
    assert connection.receive(deadline) == ended(4)
    assert isinstance(connection.socket, TlsSocket)
    assert connection.socket.pending() > 0
    assert connection.network.wait([connection.socket], 3600.0) == [connection.socket]
    assert connection.receive(deadline) == ended(5)
    assert connection.network.wait([connection.socket], 0.0) == []
    done.set()
    connection.close()


@pytest.mark.parametrize(
    "buffers",
    [
        [b"", b"ab", b"", b"c"],
        [bytes([n & 0xFF]) for n in range(3 * MAX_IOVEC + 7)],
        [bytes(range(256)) * 8192, b"end"],
        [b"x" * (JOINED_BYTES - 1), b"yz", b"", b"w" * (JOINED_BYTES + 1)],
    ],
    ids=["empty", "many", "large", "edges"],
)
def test_buffers_are_sent_whole_and_in_order(
    authority: Authority, brokers: Callable[..., Broker], buffers: list[bytes]
) -> None:
    whole = b"".join(buffers)
    got: list[bytes] = []
    broker = brokers(authority.certificate("IP:127.0.0.1"), lambda one: got.append(exactly(one, len(whole))))
    connection = connect(broker, authority)
    connection.send_frame(FETCH, 13, buffers)
    broker.close()
    connection.close()
    assert got == [whole]


def _refuses(broker: Broker, authority: Authority) -> ConnectionLost:
    with pytest.raises(ConnectionLost) as caught:
        connect(broker, authority)
    broker.close()
    assert broker.login.asked == []  # nobody was told who we are
    return caught.value


def test_a_certificate_of_another_ca(authority: Authority, stranger: Authority, brokers: Callable[..., Broker]) -> None:
    broker = brokers(stranger.certificate("IP:127.0.0.1"))
    error = _refuses(broker, authority)
    assert error.message.startswith(f"{broker.address}: the broker's certificate is not trusted: ")
    assert "ssl.ca.location" in error.hint


@pytest.mark.parametrize("name", ["DNS:localhost", "IP:127.0.0.2", "DNS:other.example"])
def test_a_certificate_for_another_host(authority: Authority, brokers: Callable[..., Broker], name: str) -> None:
    broker = brokers(authority.certificate(name))
    error = _refuses(broker, authority)
    assert error.message == f"{broker.address}: the broker's certificate is not for this host"
    assert "advertised.listeners" in error.hint


def test_a_port_without_tls(authority: Authority, brokers: Callable[..., Broker]) -> None:
    broker = brokers(None)
    error = _refuses(broker, authority)
    assert error.message == f"{broker.address}: the broker closed the connection in the TLS handshake"
    assert "SASL_SSL" in error.hint


def test_a_port_with_tls_where_none_is_expected() -> None:
    pair = Pair(b"\x15\x03\x03\x00\x02\x02\x46")
    with pytest.raises(ConnectionLost) as caught:
        pair.connect()
    pair.close()
    assert caught.value.message == "broker:9092: not a Kafka response (its size reads 352518912)"
    assert caught.value.hint == 'The listener speaks TLS: set "security.protocol" to SASL_SSL.'


def test_a_session_that_the_broker_ends_is_a_lost_connection(
    authority: Authority, brokers: Callable[..., Broker]
) -> None:
    broker = brokers(authority.certificate("IP:127.0.0.1"))
    connection = connect(broker, authority)
    broker.close()
    connection.send(end(3))
    with pytest.raises(ConnectionLost):
        connection.receive(connection.network.now() + 10)
    assert connection.socket.fileno() == -1
