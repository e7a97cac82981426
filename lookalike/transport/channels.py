"""Owns how a channel is opened: with TLS or without, and what each call on it bears (an API key, the cluster's
secret)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import grpc

from lookalike.model.errors import InvalidRequest
from lookalike.transport.rpc import AUTHORIZATION_KEY, CHANNEL_OPTIONS
from lookalike.transport.tls import Tls, channel_credentials

Bearing = Sequence[tuple[str, str]]
Options = Sequence[tuple[str, Any]]
_KINDS = ("unary_unary", "unary_stream", "stream_unary", "stream_stream")


def open_channel(
    flavour: Any,
    address: str,
    credentials: grpc.ChannelCredentials | None = None,
    server_name: str | None = None,
    bearing: Bearing = (),
    options: Options = CHANNEL_OPTIONS,
) -> Any:
    """A channel for programs that wait (flavour: the module grpc) or of the running loop (grpc.aio).

    credentials: none for plain text. server_name: what the certificate is made out to, if not to the address's
    host. bearing: metadata of every call."""
    if credentials is None:
        channel = flavour.insecure_channel(address, options=options)
    else:
        if server_name:
            options = [*options, ("grpc.ssl_target_name_override", server_name)]
        channel = flavour.secure_channel(address, credentials, options=options)
    return _Bearing(channel, tuple(bearing)) if bearing else channel


def client_channels(flavour: Any, api_key: str | None, tls: Tls | bool, options: Options) -> Callable[[str], Any]:
    """What opens a client's channel to an address. Raises InvalidRequest for a key or TLS files that are none."""
    if api_key is not None and not (isinstance(api_key, str) and api_key.isascii() and api_key.isprintable()):
        raise InvalidRequest("api_key: is not a line of ASCII text; give the key as `lookalike keys` printed it")
    if not isinstance(tls, Tls | bool):
        raise InvalidRequest(f"tls: is {tls!r:.80}; use True, False or a lookalike.Tls with the files")
    bearing = ((AUTHORIZATION_KEY, f"Bearer {api_key}"),) if api_key else ()
    if tls is False:
        return partial(open_channel, flavour, bearing=bearing, options=options)
    settings = Tls() if tls is True else tls
    credentials = channel_credentials(settings)
    return partial(
        open_channel, flavour, credentials=credentials, server_name=settings.server_name, bearing=bearing,
        options=options,
    )  # fmt: skip


class _Bearing:
    """A channel whose every call bears the same metadata. gRPC's own interceptors would cost a task per call."""

    def __init__(self, channel: Any, bearing: tuple[tuple[str, str], ...]) -> None:
        self._channel = channel
        self._bearing = bearing

    def __getattr__(self, name: str) -> Any:
        own = getattr(self._channel, name)
        if name not in _KINDS:
            return own

        def method(*arguments: Any, **settings: Any) -> Any:
            call = own(*arguments, **settings)

            def bear(request: Any = None, *, metadata: Bearing | None = None, **options: Any) -> Any:
                return call(request, metadata=(*self._bearing, *(metadata or ())), **options)

            return bear

        return method
