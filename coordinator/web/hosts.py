"""Owns the check of the Host header where it is the only lock: on a loopback address, without API keys. There a
page that a user opens could have its own name resolve to 127.0.0.1 (DNS rebinding) and write to the cluster."""

from __future__ import annotations

import ipaddress

from aiohttp import web

from coordinator.web.answers import Handler
from lookalike.model.errors import PermissionDenied
from lookalike.server.config import ClusterConfig


def needs_check(config: ClusterConfig) -> bool:
    """Whether nothing else keeps strangers' pages out."""
    return config.security.keys is None and is_loopback(config.coordinator.web)


def is_loopback(host: str) -> bool:
    """Of "host", "host:port" or "[host]:port"."""
    name = host.rpartition("]")[0].removeprefix("[") or host.partition(":")[0]
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return name.lower() == "localhost"


@web.middleware
async def only_loopback(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Refuse a request that was meant for another name."""
    host = request.headers.get("Host")
    if host is not None and not is_loopback(host):
        raise PermissionDenied(
            f"host: is {host[:100]!r}, but without security.keys this address is for this machine alone;"
            " open it as 127.0.0.1 or localhost, or set keys"
        )
    return await handler(request)
