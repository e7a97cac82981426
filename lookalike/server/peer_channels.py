"""Owns the connections between the cluster's own processes, with their certificates and secret. When either
changes, a connection is reopened at its next call; calls in flight finish on the old one."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, TypeVar

import grpc

from lookalike.files.watched import Watched
from lookalike.model.errors import CannotStart, InvalidRequest
from lookalike.server.config import SecurityConfig
from lookalike.server.security.authorizer import SECRET_KEY, ClusterAuthorizer, ClusterSecret
from lookalike.transport.channels import Metadata, open_channel
from lookalike.transport.tls import ServerTls, Tls, channel_credentials

Stub = TypeVar("Stub")
_GRACE_SECONDS = 60.0


class PeerChannels:
    """Opens a process's channels to the cluster's other processes. Raises CannotStart if a certificate or secret
    file cannot be used."""

    def __init__(self, security: SecurityConfig) -> None:
        self._secret = ClusterSecret(security.cluster_secret) if security.cluster_secret else None
        self._config = security.tls
        self._credentials: Watched[grpc.ChannelCredentials] | None = None
        if security.tls is not None:
            tls = Tls(security.tls.ca, security.tls.certificate, security.tls.key)
            self._credentials = Watched(tls.files, lambda: _credentials(tls))

    @property
    def generation(self) -> int:
        """Grows whenever the certificates or the secret change."""
        credentials = self._credentials.current_generation if self._credentials else 0
        return credentials + (self._secret.lines.current_generation if self._secret else 0)

    @property
    def metadata(self) -> Metadata:
        return ((SECRET_KEY, self._secret.shown),) if self._secret else ()

    def open(self, address: str, grpc_module: Any = grpc.aio) -> Any:
        """A channel to another process. grpc_module: grpc.aio, or grpc for a blocking channel."""
        if self._config is None or self._credentials is None:
            return open_channel(grpc_module, address, metadata=self.metadata)
        return open_channel(grpc_module, address, self._credentials.value, self._config.server_name, self.metadata)

    def connect(self, address: str) -> Connection:
        return Connection(address, self)

    def authorizer(self) -> ClusterAuthorizer | None:
        """The authorizer of a shard or an encoder; None if the config names no secret."""
        return ClusterAuthorizer(self._secret) if self._secret else None

    def inner_tls(self) -> ServerTls | None:
        """The TLS settings of a server that only the cluster's own processes call: it verifies their
        certificates."""
        config = self._config
        return ServerTls(config.certificate, config.key, [config.ca]) if config else None

    def outer_tls(self) -> ServerTls | None:
        """The TLS settings of a server for clients: it verifies client certificates if the config names a client
        CA."""
        config = self._config
        roots = [config.client_ca, config.ca] if config and config.client_ca else []
        return ServerTls(config.certificate, config.key, roots) if config else None


class Connection:
    """A connection to one of the cluster's own processes."""

    def __init__(self, address: str, peer_channels: PeerChannels) -> None:
        self.address = address
        self._peer_channels = peer_channels
        self._generation = peer_channels.generation
        self._channel = peer_channels.open(address)
        self._stubs: dict[Any, Any] = {}
        self._closing: set[asyncio.Task[None]] = set()

    def stub(self, kind: Callable[[Any], Stub]) -> Stub:
        """A stub of the current connection. Callers must not keep it."""
        if self._generation != self._peer_channels.generation:
            self._reopen()
        if kind not in self._stubs:
            self._stubs[kind] = kind(self._channel)
        return self._stubs[kind]  # type: ignore[no-any-return]

    async def close(self) -> None:
        for task in self._closing:
            task.cancel()
        await asyncio.gather(*self._closing, return_exceptions=True)
        await self._channel.close()

    async def finish(self) -> None:
        """Closes when the calls in flight have ended, or after _GRACE_SECONDS."""
        await self._channel.close(_GRACE_SECONDS)
        await self.close()

    def _reopen(self) -> None:
        old = self._channel
        self._generation = self._peer_channels.generation
        self._channel = self._peer_channels.open(self.address)
        self._stubs = {}
        task = asyncio.get_running_loop().create_task(old.close(_GRACE_SECONDS))
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)


def _credentials(tls: Tls) -> grpc.ChannelCredentials:
    try:
        return channel_credentials(tls)
    except InvalidRequest as error:
        raise CannotStart(f"config: security.{error.message}") from None
