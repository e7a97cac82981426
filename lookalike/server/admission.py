"""Owns how much a server takes on at once: the bytes of the requests in work, and of the answers that nobody has
read yet. What is over that is refused before memory grows, or, from a stream, read later."""

from __future__ import annotations

import asyncio
import collections
import contextlib
import functools
from collections.abc import Callable, Iterator

from lookalike.model.errors import Overloaded

# What a request costs beside its bytes: the call itself, and what is made of it.
_REQUEST_BYTES = 4_096
_RETRY_AFTER_MS = 200
# What streams may fill together, so that there is room for a search beside any number of them.
_STREAMS_SHARE = 0.75
# Answers up to here need no room: those of all calls that a server takes are 512 MiB together, and whoever leaves
# large ones unread keeps nobody from these.
_SMALL_ANSWER_BYTES = 64 * 1024


class Admission:
    """Room for requests of `limit` bytes together. One that is larger alone is taken when nothing else is."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._taken = 0
        self._taken_by_streams = 0
        self._waiting: collections.deque[tuple[int, asyncio.Future[None]]] = collections.deque()

    @property
    def taken(self) -> int:
        """Bytes of the requests in work."""
        return self._taken

    @property
    def limit(self) -> int:
        return self._limit

    @contextlib.contextmanager
    def admit(self, size: int) -> Iterator[None]:
        """Room for a request of so many bytes while the block lasts. Raises Overloaded when there is none."""
        size += _REQUEST_BYTES
        if self._taken and self._taken + size > self._limit:
            raise Overloaded(
                f"requests of {self._taken / 2**20:,.0f} MiB are in work, of at most {self._limit / 2**20:,.0f}"
                " MiB; come back later, or send smaller requests",
                retry_after_ms=_RETRY_AFTER_MS,
            )
        self._taken += size
        try:
            yield
        finally:
            self._free(size)

    async def take(self, size: int) -> int:
        """Wait for room for a stream's message, in the order of coming. Returns what to `give_back`."""
        size += _REQUEST_BYTES
        if not self._waiting and self._streams_have_room(size):
            self._let_stream_in(size)
            return size
        waiting: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((size, waiting))
        try:
            await waiting
        except asyncio.CancelledError:
            if waiting.done() and not waiting.cancelled():
                self.give_back(size)
            else:
                self._let_in()
            raise
        return size

    def give_back(self, size: int) -> None:
        """Of a `take`."""
        self._taken_by_streams -= size
        self._free(size)

    def _streams_have_room(self, size: int) -> bool:
        if self._taken_by_streams + size <= self._limit * _STREAMS_SHARE:
            return self._taken + size <= self._limit
        return self._taken == 0

    def _let_stream_in(self, size: int) -> None:
        self._taken_by_streams += size
        self._taken += size

    def _free(self, size: int) -> None:
        self._taken -= size
        self._let_in()

    def _let_in(self) -> None:
        while self._waiting:
            size, waiting = self._waiting[0]
            if not waiting.done():
                if not self._streams_have_room(size):
                    return
                self._let_stream_in(size)
                waiting.set_result(None)
            self._waiting.popleft()


class ResponseBudget:
    """Room for answers of `limit` bytes together until their callers have read them. One that is larger alone is
    given when nothing else is held."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._held = 0

    def hold(self, size: int) -> Callable[[], None] | None:
        """Room for an answer of so many bytes. Returns what gives it back, None for a small one that needs none.
        Raises Overloaded when there is none."""
        if size <= _SMALL_ANSWER_BYTES:
            return None
        if self._held and self._held + size > self._limit:
            raise Overloaded(
                f"answers of {self._held / 2**20:,.0f} MiB are not read yet, of at most {self._limit / 2**20:,.0f}"
                " MiB; read what you asked for, set deadlines, or ask for less",
                retry_after_ms=_RETRY_AFTER_MS,
            )
        self._held += size
        return functools.partial(self._free, size)

    def _free(self, size: int) -> None:
        self._held -= size
