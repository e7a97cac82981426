"""Owns the check of the Host header against DNS rebinding. The check applies if the web port is on loopback and
the cluster has no API keys: otherwise a web page could let its own host name resolve to 127.0.0.1 and then write
to the cluster."""

from __future__ import annotations

import ipaddress

from aiohttp import web

from coordinator.web.responses import Handler
from lookalike.model.errors import PermissionDenied
from lookalike.server.config import ClusterConfig


def needs_host_check(config: ClusterConfig) -> bool:
    """Whether the check of the Host header is the only protection against pages of other sites."""
    return config.security.keys is None and is_loopback(config.coordinator.web)


def is_loopback(host: str) -> bool:
    """Whether a "host", "host:port" or "[host]:port" is a loopback address."""
    name = host.rpartition("]")[0].removeprefix("[") or host.partition(":")[0]
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return name.lower() == "localhost"


@web.middleware
async def require_loopback_host(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Rejects requests whose Host header is not a loopback address."""
    host = request.headers.get("Host")
    if host is not None and not is_loopback(host):
        raise PermissionDenied(
            f"host: {host[:100]!r} is not allowed, because without security.keys only this machine has access;"
            " use 127.0.0.1 or localhost, or set security.keys"
        )
    return await handler(request)
