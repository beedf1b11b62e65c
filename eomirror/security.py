"""Secured connections: TLS, with the broker's certificate and host name always checked, and SCRAM-SHA-512 inside it.

Only what has been tried on real brokers is here; `client_keys` refuses the rest by name. A session that the broker ends
(KIP-368) is not prolonged: the broker closes the connection, which is then lost as any other.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from kio.schema.sasl_authenticate.v2.request import SaslAuthenticateRequest
from kio.schema.sasl_handshake.v1.request import SaslHandshakeRequest
from scramp import ScramClient, ScramException

from eomirror.errors import ConfigError, ConnectionLost, error_name

PROTOCOL: Final = "SASL_SSL"
MECHANISM: Final = "SCRAM-SHA-512"
UNSUPPORTED_SASL_MECHANISM: Final = 33
# X509_V_ERR_HOSTNAME_MISMATCH and X509_V_ERR_IP_ADDRESS_MISMATCH.
OTHER_HOST: Final = frozenset({62, 64})
# One TLS record holds 16 KiB; buffers are joined up to this many bytes, so that small ones share a record.
JOINED_BYTES: Final = 256 * 1024
# TLS 1.0 to 1.3 say 3 here; a frame of Kafka's would be 352 MB or larger.
_TLS_RECORDS: Final = frozenset({0x1503, 0x1603})

_LISTENER_HINT: Final = (
    "See that this is the port of a SASL_SSL listener; one without TLS closes the connection at the first bytes."
)


class Untrusted(ConfigError):
    """A file that holds no CA certificates; `cause` says why, without the file's name."""

    def __init__(self, file: str, cause: str) -> None:
        super().__init__(f"{file}: {cause}", hint="Name a PEM file with the certificates of the CA.")
        self.cause = cause


def trust(file: str) -> ssl.SSLContext:
    """The terms of TLS: 1.2 or newer, a certificate that a CA of this PEM file has signed, for the very host that was
    dialled. Raises Untrusted."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # checks certificates and host names
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        pem = Path(file).read_text("ascii", "ignore")  # comments may be of any kind
    except (OSError, ValueError) as error:
        cause = getattr(error, "strerror", None) or str(error)
        raise Untrusted(file, f"the file cannot be read: {cause.lower()}") from error
    try:
        context.load_verify_locations(cadata=pem)
    except (ssl.SSLError, ValueError) as error:
        raise Untrusted(file, "no PEM file with certificates") from error
    return context


class TlsSocket:
    """The part of `ssl.SSLSocket` that `wire` uses, in the words of `socket.socket`: TLS has no `sendmsg`."""

    def __init__(self, secured: ssl.SSLSocket) -> None:
        self._secured = secured

    def sendmsg(self, buffers: Sequence[bytes | bytearray | memoryview], /) -> int:
        chosen: list[bytes | bytearray | memoryview] = []
        size = 0
        for buffer in buffers:
            if chosen and size + len(buffer) > JOINED_BYTES:
                break
            chosen.append(buffer)
            size += len(buffer)
        self._secured.sendall(chosen[0] if len(chosen) == 1 else b"".join(chosen))
        return size

    def recv_into(self, buffer: bytes | bytearray | memoryview, nbytes: int = 0, /) -> int:
        return self._secured.recv_into(buffer, nbytes or None)

    def pending(self) -> int:
        """Bytes that were decrypted and not read yet: no poll on the file descriptor tells of them."""
        return self._secured.pending()

    def settimeout(self, value: float | None, /) -> None:
        self._secured.settimeout(value)

    def fileno(self) -> int:
        return self._secured.fileno()

    def close(self) -> None:
        self._secured.close()


class Security:
    """How all connections to one cluster are secured; made once, used by any thread."""

    def __init__(self, ca_file: str, username: str, password: str) -> None:
        self._context = trust(ca_file)
        self._username = username
        self._password = password

    @classmethod
    def of(cls, client: Mapping[str, str]) -> Security | None:
        """What a checked `client:` section asks for; None for PLAINTEXT. Raises Untrusted."""
        if client.get("security.protocol") != PROTOCOL:
            return None
        return cls(client["ssl.ca.location"], client["sasl.username"], client["sasl.password"])

    def wrap(self, plain: Any, place: str, host: str) -> TlsSocket:
        """TLS over a connected socket, which keeps its time-out. Raises ConnectionLost; the socket is then closed."""
        try:
            return TlsSocket(self._context.wrap_socket(plain, server_hostname=host))
        except (OSError, ValueError) as error:
            plain.close()
            cause, hint = _handshake_failure(error)
            raise ConnectionLost(f"{place}: {cause}", hint=hint) from error

    def log_in(self, place: str, ask: Callable[[Any], Any]) -> None:
        """SCRAM over `ask`, which sends a request and returns its answer. The broker must prove that it knows the
        password too. Raises ConnectionLost."""
        shaken = ask(SaslHandshakeRequest(mechanism=MECHANISM))
        if int(shaken.error_code) == UNSUPPORTED_SASL_MECHANISM:
            raise ConnectionLost(
                f"{place}: the broker does not offer {MECHANISM}, only {', '.join(map(str, shaken.mechanisms))}",
                hint=f'Enable it in the "sasl.enabled.mechanisms" of this listener; eomirror speaks {MECHANISM} only.',
            )
        if int(shaken.error_code) != 0:
            raise ConnectionLost(
                f"{place}: SaslHandshake: {error_name(shaken.error_code)}",
                hint="See that this is the port of a SASL_SSL listener.",
            )
        try:
            client = ScramClient([MECHANISM], self._username, self._password)
            client.set_server_first(self._authenticate(place, ask, client.get_client_first()))
            client.set_server_final(self._authenticate(place, ask, client.get_client_final()))
        except (ScramException, ValueError) as error:
            # The library's words may repeat what was exchanged.
            raise ConnectionLost(
                f"{place}: the broker's answer to {MECHANISM} is not right", hint="It may not be the broker it says."
            ) from error

    def _authenticate(self, place: str, ask: Callable[[Any], Any], said: str) -> str:
        answer = ask(SaslAuthenticateRequest(auth_bytes=said.encode()))
        if int(answer.error_code) != 0:
            raise ConnectionLost(
                f'{place}: login as "{self._username}" failed: {error_name(answer.error_code)}',
                hint=f'See "sasl.username" and "sasl.password", and that the user has {MECHANISM} credentials there.',
            )
        return bytes(answer.auth_bytes).decode()


def is_tls(size: int) -> bool:
    """Whether the four bytes that should be a frame's size are the beginning of a TLS record."""
    return size >> 16 in _TLS_RECORDS


def words(error: OSError) -> str:
    """What went wrong on a socket, without the places in C files that ssl adds."""
    if isinstance(error, ssl.SSLError) and error.reason:
        return f"TLS: {error.reason.lower().replace('_', ' ')}"
    return str(error.strerror or error)


def _handshake_failure(error: Exception) -> tuple[str, str]:
    """(cause, hint) of a TLS handshake that failed."""
    match error:
        case ssl.SSLCertVerificationError() if error.verify_code in OTHER_HOST:
            return (
                "the broker's certificate is not for this host",
                "Host names are always checked: the certificate must name (subjectAltName) the host of the bootstrap "
                "address and of the broker's advertised.listeners.",
            )
        case ssl.SSLCertVerificationError():
            return (
                f"the broker's certificate is not trusted: {error.verify_message}",
                'See that "ssl.ca.location" holds the CA that signed it, and that it has not expired.',
            )
        case TimeoutError():
            return "no answer to the TLS handshake in time", _LISTENER_HINT
        case ssl.SSLEOFError() | ConnectionError():
            return "the broker closed the connection in the TLS handshake", _LISTENER_HINT
        case OSError():
            return f"no TLS handshake: {words(error)}", _LISTENER_HINT
    return "this host can be in no certificate", "Write the address as a host name or an IP address."
