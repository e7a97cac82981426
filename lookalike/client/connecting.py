"""Owns the explanation of a failed connection: what is wrong with the address, judged by gRPC's text."""

from __future__ import annotations

import re

_UNFIT = "does not use TLS (tls=, --tls, --ca) or has no certificate that the server trusts (--certificate)"
# The first pattern that is found in the text applies.
_CAUSES = (
    (r"resolving|DNS|lookup", "its host name is unknown; check the address"),
    (r"Connection refused", "nothing listens there; is the cluster up?"),
    (r"unreachable|No route to host|timed out|Timeout", "its host cannot be reached; check address and network"),
    (r"WRONG_VERSION_NUMBER", "it does not use TLS; leave out tls (--tls, --ca), or give a port with TLS"),
    (r"ALPN", "it is a web port with TLS; give the gRPC port (7700 by default)"),
    (r"HTTP/2|http1|SETTINGS", "it is a web port, or no gRPC port; give the gRPC port (7700 by default)"),
    (r"handshake failed", "it and this client do not agree on TLS ({}); check certificates, CA and server name"),
    (r"Socket closed|reset by peer", f"it closed the connection: a TLS port does so if the client {_UNFIT}"),
)  # fmt: skip


def explain_failed_connection(address: str, text: str) -> str | None:
    """Returns why no connection was made, as a sentence about the server; None if the text says something else.

    Args:
        address: What the client was given.
        text: The details of gRPC's error.
    """
    if not re.match("failed to connect|connections to all backends failing|errors resolving|DNS resolution", text):
        return None
    for pattern, cause in _CAUSES:
        if re.search(pattern, text):
            return f"server: {address}: {cause.format(text[-160:])}"
    return None
