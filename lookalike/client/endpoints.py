"""Owns the choice of a coordinator for each call: round-robin over healthy endpoints. Each address has its own
channel. An endpoint that does not answer is skipped for a moment, while gRPC reconnects. A host name with several
IP addresses is one channel, and gRPC balances over its connections.

gRPC itself can balance over a list, but only over a list of IP addresses, and it would verify the certificates of
all of them against one host name."""

from __future__ import annotations

import asyncio
import dataclasses
import itertools
import json
import random
import threading
import time
from collections.abc import Iterable, Sequence
from typing import Any

from lookalike.model.errors import (
    DeadlineExceeded,
    InvalidRequest,
    LookalikeError,
    PartitionUnavailable,
)
from lookalike.transport.channels import client_channels
from lookalike.transport.rpc import CHANNEL_OPTIONS
from lookalike.transport.tls import Tls
from lookalike.v1.search_pb2_grpc import SearchServiceStub

# The time that gRPC waits before it reconnects.
BACKOFF_SECONDS = 1.0
_OPTIONS: list[tuple[str, Any]] = [
    *CHANNEL_OPTIONS,
    ("grpc.service_config", json.dumps({"loadBalancingConfig": [{"round_robin": {}}]})),
    # Host names are resolved again when a connection ends, but at most this often.
    ("grpc.dns_min_time_between_resolutions_ms", 2_000),
]


@dataclasses.dataclass(slots=True)
class Coordinator:
    """One address with its channel, of `grpc` or of `grpc.aio`, and its SearchServiceStub."""

    address: str
    channel: Any
    stub: Any
    backoff_until: float = 0.0


class Coordinators:
    """A client's endpoints. Safe to share between threads."""

    def __init__(
        self,
        grpc_module: Any,
        address: str | Sequence[str],
        api_key: str | None = None,
        tls: Tls | bool = False,
    ) -> None:
        """Opens no connection yet.

        Args:
            grpc_module: `grpc` or `grpc.aio`.
            address: One or several HOST:PORT, as a list or separated by commas.
            api_key: Sent with each call, if given.
            tls: Whether, or how, to use TLS.

        Raises:
            InvalidRequest: If an argument is malformed.
        """
        self._addresses = addresses_of(address)
        self._open = client_channels(grpc_module, api_key, tls, _OPTIONS)
        # The channels are opened at the first call, because an asynchronous channel is bound to the running loop.
        self._members: list[Coordinator] = []
        self._is_closed = False
        # The start is random, so that many short-lived clients spread over the endpoints.
        self._turns = itertools.count(random.randrange(len(self._addresses)))
        self._lock = threading.Lock()

    def close(self) -> list[Any]:
        """Rejects later calls. Returns the channels, which the caller must close."""
        with self._lock:
            self._is_closed = True
            return [member.channel for member in self._members]

    def next(self) -> Coordinator:
        """The next healthy endpoint in turn; if none is healthy, the one whose back-off ends first. Raises
        InvalidRequest once the client is closed."""
        now = time.monotonic()
        with self._lock:
            if self._is_closed:
                raise InvalidRequest("client: is closed; create another one")
            if not self._members:
                self._members = [self._opened(address) for address in self._addresses]
            healthy = [member for member in self._members if member.backoff_until <= now]
            turn = next(self._turns)
        return (
            healthy[turn % len(healthy)]
            if healthy
            else min(self._members, key=lambda member: member.backoff_until)
        )

    def failed(self, member: Coordinator, error: LookalikeError) -> bool:
        """Records a failed call. Returns whether the endpoint did not answer and another one can be tried at
        once."""
        # Every response of a coordinator, errors included, has a request id.
        if error.request_id is not None or not isinstance(error, PartitionUnavailable | DeadlineExceeded):
            return False
        now = time.monotonic()
        member.backoff_until = now + BACKOFF_SECONDS
        return isinstance(error, PartitionUnavailable) and any(one.backoff_until <= now for one in self._members)

    def _opened(self, address: str) -> Coordinator:
        channel = self._open(address)
        return Coordinator(address, channel, SearchServiceStub(channel))


class AsyncCoordinators(Coordinators):
    """The endpoints of an asynchronous client. Like its channels, they are bound to the event loop of the first
    call."""

    _loop: asyncio.AbstractEventLoop | None = None

    def next(self) -> Coordinator:
        """See `Coordinators.next`. Raises InvalidRequest in another event loop."""
        loop = asyncio.get_running_loop()
        if self._loop not in (None, loop):
            raise InvalidRequest("client: belongs to another event loop; create an AsyncClient in each loop")
        self._loop = loop
        return super().next()


def addresses_of(address: str | Sequence[str]) -> list[str]:
    """Parses a list of addresses, or text with commas between them. Raises InvalidRequest."""
    given = address.split(",") if isinstance(address, str) else address
    given = list(given) if isinstance(given, Iterable) else []
    if not given or not all(map(_is_address, given)):
        raise InvalidRequest(f"address: is {address!r}; give HOST:PORT, or several separated by commas")
    return [one.strip() for one in given]


def _is_address(one: object) -> bool:
    """Returns False for text that gRPC would treat as the name of an unreachable host."""
    return isinstance(one, str) and ":" in one.strip()[1:] and not one.strip().startswith(("http:", "https:"))
