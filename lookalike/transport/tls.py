"""Owns TLS: the certificates that servers and clients present and verify, all from PEM files.

A server reads its files again when they change, so replacing the files renews a certificate. If the new key does
not match the new certificate, the server logs this and keeps using the previous pair."""

from __future__ import annotations

import dataclasses
import ssl
from collections.abc import Sequence
from pathlib import Path

import grpc

from lookalike.files.watched import Watched, read_file
from lookalike.model.errors import CannotStart, InvalidRequest


@dataclasses.dataclass(frozen=True, slots=True)
class Tls:
    """TLS settings of a client.

    Attributes:
        ca: PEM file of the trusted authorities; None for the system's.
        certificate: PEM file of the client certificate, if the server asks for one.
        key: PEM file of its key.
        server_name: The name in the server's certificate, if it is not the address's host.
    """

    ca: Path | str | None = None
    certificate: Path | str | None = None
    key: Path | str | None = None
    server_name: str | None = None

    @property
    def files(self) -> list[Path]:
        """The PEM files that are set."""
        return [Path(file) for file in (self.ca, self.certificate, self.key) if file is not None]


@dataclasses.dataclass(frozen=True, slots=True)
class Material:
    """PEM texts and the SSL context made of them. roots: the trusted authorities, concatenated."""

    certificate: bytes
    key: bytes
    roots: bytes
    context: ssl.SSLContext


class ServerTls:
    """TLS of a server. roots: PEM files of the authorities that must have signed client certificates; if empty,
    clients need no certificate."""

    def __init__(self, certificate: Path, key: Path, roots: Sequence[Path] = ()) -> None:
        """Raises CannotStart for files that cannot be read or do not match."""
        self._certificate = certificate
        self._key = key
        self._roots = roots
        self._material = Watched([certificate, key, *roots], self._read)
        self._sent = self._material.current_generation

    def grpc_credentials(self) -> grpc.ServerCredentials:
        return grpc.dynamic_ssl_server_credentials(
            _configuration(self._material.value),
            self._newer,  # type: ignore[arg-type]  # None tells gRPC that nothing changed
            require_client_authentication=bool(self._roots),
        )

    def web_context(self) -> ssl.SSLContext:
        """The context of an HTTPS server with the same settings. Each new connection uses the current files."""
        context = self._material.value.context

        def renew(connection: ssl.SSLObject, name: str | None, used: ssl.SSLContext) -> None:
            connection.context = self._material.value.context

        context.sni_callback = renew
        return context

    def _newer(self) -> grpc.ServerCertificateConfiguration | None:
        """The configuration for the next handshake, or None if it has not changed."""
        newest = self._material.current_generation
        if newest == self._sent:
            return None
        self._sent = newest
        return _configuration(self._material.value)

    def _read(self) -> Material:
        certificate = read_file(self._certificate, "security.tls.certificate")
        key = read_file(self._key, "security.tls.key")
        roots = b"\n".join(read_file(path, "security.tls.ca") for path in self._roots)
        try:
            return Material(certificate, key, roots, self._context(roots))
        except (ssl.SSLError, ValueError, OSError) as error:
            raise CannotStart(
                f"config: security.tls: {self._certificate}, {self._key} and the CA are not matching PEM files"
                f" ({getattr(error, 'reason', None) or error}); a key must have no password"
            ) from None

    def _context(self, roots: bytes) -> ssl.SSLContext:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.load_cert_chain(self._certificate, self._key, _no_password)
        if roots:
            context.verify_mode = ssl.CERT_REQUIRED
            context.load_verify_locations(cadata=roots.decode("ascii"))
        return context


def channel_credentials(tls: Tls) -> grpc.ChannelCredentials:
    """The credentials of a channel. Raises InvalidRequest for files that cannot be used."""
    if (tls.certificate is None) != (tls.key is None):
        raise InvalidRequest("tls: certificate and key go together; give both files or neither")
    try:
        roots, key, chain = (
            None if file is None else Path(file).read_bytes() for file in (tls.ca, tls.key, tls.certificate)
        )
        if tls.certificate is not None and tls.key is not None:
            ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_cert_chain(tls.certificate, tls.key, _no_password)
        if roots is not None:
            ssl.create_default_context(cadata=roots.decode("ascii"))
    except (OSError, ValueError) as error:
        raise InvalidRequest(
            f"tls: {', '.join(map(str, tls.files))} cannot be used ({error}); give PEM files, the key without a"
            " password"
        ) from None
    return grpc.ssl_channel_credentials(roots, key, chain)


def _configuration(material: Material) -> grpc.ServerCertificateConfiguration:
    return grpc.ssl_server_certificate_configuration(
        [(material.key, material.certificate)], material.roots or None
    )


def _no_password() -> str:
    """Answers OpenSSL's request for a key's password; without it OpenSSL would ask on the terminal."""
    return ""
