"""Owns how a gRPC channel is opened: with or without TLS, and the metadata of every call on it (an API key, the
cluster's secret)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import grpc

from lookalike.model.errors import InvalidRequest
from lookalike.transport.rpc import AUTHORIZATION_KEY, CHANNEL_OPTIONS
from lookalike.transport.tls import Tls, channel_credentials

Metadata = Sequence[tuple[str, str]]
Options = Sequence[tuple[str, Any]]
_KINDS = ("unary_unary", "unary_stream", "stream_unary", "stream_stream")


def open_channel(
    grpc_module: Any,
    address: str,
    credentials: grpc.ChannelCredentials | None = None,
    server_name: str | None = None,
    metadata: Metadata = (),
    options: Options = CHANNEL_OPTIONS,
) -> Any:
    """Opens a channel.

    Args:
        grpc_module: `grpc` for a blocking channel, `grpc.aio` for a channel of the running event loop.
        address: "host:port".
        credentials: None for plaintext.
        server_name: The name in the server's certificate, if it is not the address's host.
        metadata: Sent with every call.
        options: gRPC channel options.
    """
    if credentials is None:
        channel = grpc_module.insecure_channel(address, options=options)
    else:
        if server_name:
            options = [*options, ("grpc.ssl_target_name_override", server_name)]
        channel = grpc_module.secure_channel(address, credentials, options=options)
    return _ChannelWithMetadata(channel, tuple(metadata)) if metadata else channel


def client_channels(
    grpc_module: Any, api_key: str | None, tls: Tls | bool, options: Options
) -> Callable[[str], Any]:
    """Returns a function that opens a client's channel to an address.

    Raises:
        InvalidRequest: If the key or the TLS files cannot be used.
    """
    if api_key is not None and not (isinstance(api_key, str) and api_key.isascii() and api_key.isprintable()):
        raise InvalidRequest("api_key: is not a line of ASCII text; give the key as `lookalike keys` printed it")
    if not isinstance(tls, Tls | bool):
        raise InvalidRequest(f"tls: is {tls!r:.80}; use True, False or a lookalike.Tls with the files")
    metadata = ((AUTHORIZATION_KEY, f"Bearer {api_key}"),) if api_key else ()
    if tls is False:
        return partial(open_channel, grpc_module, metadata=metadata, options=options)
    settings = Tls() if tls is True else tls
    credentials = channel_credentials(settings)
    return partial(
        open_channel, grpc_module, credentials=credentials, server_name=settings.server_name, metadata=metadata,
        options=options,
    )  # fmt: skip


class _ChannelWithMetadata:
    """A channel that sends the same metadata with every call. A gRPC interceptor would cost an asyncio
    task per call."""

    def __init__(self, channel: Any, metadata: tuple[tuple[str, str], ...]) -> None:
        self._channel = channel
        self._metadata = metadata

    def __getattr__(self, name: str) -> Any:
        own = getattr(self._channel, name)
        if name not in _KINDS:
            return own

        def method(*arguments: Any, **settings: Any) -> Any:
            call = own(*arguments, **settings)

            def start(request: Any = None, *, metadata: Metadata | None = None, **options: Any) -> Any:
                return call(request, metadata=(*self._metadata, *(metadata or ())), **options)

            return start

        return method
