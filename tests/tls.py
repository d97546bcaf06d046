"""Gives test servers TLS: makes a certificate authority, and starts a relay that terminates TLS, as pgbouncer does."""

from __future__ import annotations

import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from socket import AF_INET, AF_UNIX, SHUT_RDWR, create_server, socket

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

_SSL_REQUEST = bytes.fromhex("0000000804d2162f")  # the message with which a PostgreSQL client requests TLS


@dataclass(frozen=True)
class Authority:
    """Files of a certificate authority: its own certificate (``ca``), and a certificate with key for ``localhost``."""

    ca: Path
    certificate: Path


def make_authority(folder: Path) -> Authority:
    """Make a certificate for ``localhost``, signed by a new authority."""
    folder.mkdir(parents=True, exist_ok=True)
    authority, server = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    issuer = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"authority of {folder.name}")])
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])

    def signed(name: x509.Name, key: ec.EllipticCurvePublicKey, *, ca: bool) -> x509.Certificate:
        now = datetime.now(UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(issuer)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(hours=1))
            .not_valid_after(now + timedelta(days=1))
            .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        )
        if not ca:
            builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        return builder.sign(authority, hashes.SHA256())

    found = Authority(folder / "ca.pem", folder / "server.pem")
    pem = serialization.Encoding.PEM
    found.ca.write_bytes(signed(issuer, authority.public_key(), ca=True).public_bytes(pem))
    key = server.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    found.certificate.write_bytes(signed(subject, server.public_key(), ca=False).public_bytes(pem) + key)
    return found


@contextmanager
def tls_relay(authority: Authority, target: tuple[str, int] | str, *, postgres: bool = False) -> Iterator[int]:
    """Start a relay that accepts only TLS, and forwards to ``target`` (address or socket's path). Yields its port."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(authority.certificate)
    opened: list[socket] = []

    def connect() -> socket:
        upstream = socket(AF_UNIX if isinstance(target, str) else AF_INET)
        upstream.connect(target)
        return upstream

    def serve(plain: socket) -> None:
        opened.append(plain)
        with suppress(OSError):
            if postgres:
                if plain.recv(len(_SSL_REQUEST)) != _SSL_REQUEST:
                    plain.close()
                    return
                plain.sendall(b"S")
            client, upstream = context.wrap_socket(plain, server_side=True), connect()
            opened.extend((client, upstream))
            threading.Thread(target=pump, args=(upstream, client), daemon=True).start()
            pump(client, upstream)

    def pump(source: socket, sink: socket) -> None:
        with suppress(OSError):
            while data := source.recv(1 << 16):
                sink.sendall(data)
        for end in (source, sink):
            with suppress(OSError):
                end.shutdown(SHUT_RDWR)

    with create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=_accept, args=(listener, serve), daemon=True).start()
        yield listener.getsockname()[1]
        with suppress(OSError):
            listener.shutdown(SHUT_RDWR)
    for each in opened:
        with suppress(OSError):
            each.close()


def _accept(listener: socket, serve: Callable[[socket], None]) -> None:
    with suppress(OSError):
        while True:
            threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()
