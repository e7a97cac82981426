"""Owns which coordinator takes a client's next call. Each address has a channel of its own and they take turns;
one that did not answer is left out for a moment, and gRPC meanwhile looks whether it is back. A name with several
addresses is one channel, over whose connections gRPC itself balances.

gRPC would balance over a list, too, but only of IP addresses, and would hold them all for one host when it checks
their certificates."""

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

# As long as gRPC waits before it tries to connect again.
REST_SECONDS = 1.0
_OPTIONS: list[tuple[str, Any]] = [
    *CHANNEL_OPTIONS,
    ("grpc.service_config", json.dumps({"loadBalancingConfig": [{"round_robin": {}}]})),
    # A name is looked up again when a connection ends, but no more often.
    ("grpc.dns_min_time_between_resolutions_ms", 2_000),
]


@dataclasses.dataclass(slots=True)
class Coordinator:
    """One address with its channel, which is of `grpc` or of `grpc.aio`, and a SearchServiceStub of that kind."""

    address: str
    channel: Any
    stub: Any
    rests_until: float = 0.0


class Coordinators:
    """Safe to share between threads."""

    def __init__(
        self,
        grpc_module: Any,
        address: str | Sequence[str],
        api_key: str | None = None,
        tls: Tls | bool = False,
    ) -> None:
        """grpc_module: `grpc` or `grpc.aio`. Raises InvalidRequest for what cannot be used."""
        self._addresses = addresses_of(address)
        self._open = client_channels(grpc_module, api_key, tls, _OPTIONS)
        # Opened for the first call, as an asynchronous channel belongs to the loop that runs then.
        self._members: list[Coordinator] = []
        self._is_ended = False
        # Many clients that make one call each begin at different ones.
        self._turns = itertools.count(random.randrange(len(self._addresses)))
        self._lock = threading.Lock()

    def end(self) -> list[Any]:
        """Let nobody call any more. Returns the channels that are to be closed."""
        with self._lock:
            self._is_ended = True
            return [member.channel for member in self._members]

    def next(self) -> Coordinator:
        """The one whose turn it is among those that do not rest; if all do, the first to be back. Raises
        InvalidRequest after the end."""
        now = time.monotonic()
        with self._lock:
            if self._is_ended:
                raise InvalidRequest("client: is closed; make another one")
            if not self._members:
                self._members = [self._opened(address) for address in self._addresses]
            awake = [member for member in self._members if member.rests_until <= now]
            turn = next(self._turns)
        return awake[turn % len(awake)] if awake else min(self._members, key=lambda member: member.rests_until)

    def failed(self, member: Coordinator, error: LookalikeError) -> bool:
        """Take note of a call that failed. True if the coordinator itself did not answer and another one can be
        tried at once."""
        # What a coordinator answers, errors too, has a request id.
        if error.request_id is not None or not isinstance(error, PartitionUnavailable | DeadlineExceeded):
            return False
        now = time.monotonic()
        member.rests_until = now + REST_SECONDS
        return isinstance(error, PartitionUnavailable) and any(one.rests_until <= now for one in self._members)

    def _opened(self, address: str) -> Coordinator:
        channel = self._open(address)
        return Coordinator(address, channel, SearchServiceStub(channel))


class AsyncCoordinators(Coordinators):
    """Bound to the event loop that runs at the first call, as asynchronous channels are."""

    _loop: asyncio.AbstractEventLoop | None = None

    def next(self) -> Coordinator:
        """See `Coordinators.next`. Raises InvalidRequest in another event loop."""
        loop = asyncio.get_running_loop()
        if self._loop not in (None, loop):
            raise InvalidRequest("client: belongs to another event loop; create an AsyncClient in each loop")
        self._loop = loop
        return super().next()


def addresses_of(address: str | Sequence[str]) -> list[str]:
    """The addresses in a list, or in text with commas between them. Raises InvalidRequest."""
    given = address.split(",") if isinstance(address, str) else address
    given = list(given) if isinstance(given, Iterable) else []
    if not given or not all(map(_is_address, given)):
        raise InvalidRequest(f"address: is {address!r}; give HOST:PORT, or several of them with commas between")
    return [one.strip() for one in given]


def _is_address(one: object) -> bool:
    """gRPC itself takes all else for the name of a host that does not answer."""
    return isinstance(one, str) and ":" in one.strip()[1:] and not one.strip().startswith(("http:", "https:"))
