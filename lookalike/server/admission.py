"""Owns admission control: limits on the total bytes of requests in flight, and of answers that their callers have
not read yet. A unary request that would exceed the limit is refused before memory grows; a stream's message
waits."""

from __future__ import annotations

import asyncio
import collections
import contextlib
import functools
from collections.abc import Callable

from lookalike.model.errors import Overloaded

# The cost of a request in addition to its bytes: the call and its decoded objects.
_REQUEST_BYTES = 4_096
_RETRY_AFTER_MS = 200
# The share of the limit that all streams may fill together, so that searches always find room.
_STREAMS_SHARE = 0.75
# Answers up to this size are not counted, so a caller that leaves large answers unread does not block small ones.
# All calls that a server accepts at once hold at most 512 MiB of small answers.
_SMALL_ANSWER_BYTES = 64 * 1024


class Admission:
    """Room for requests of `limit` bytes in total. A request over `limit` is admitted if no other is in flight."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._taken = 0
        self._taken_by_streams = 0
        self._waiting: collections.deque[tuple[int, asyncio.Future[None]]] = collections.deque()

    @property
    def taken(self) -> int:
        """Bytes of the requests in flight."""
        return self._taken

    @property
    def limit(self) -> int:
        return self._limit

    def admit(self, size: int) -> contextlib.AbstractContextManager[None]:
        """Takes room for a request of `size` bytes, and returns a context manager that frees it: enter it at once.
        Raises Overloaded if there is no room."""
        size += _REQUEST_BYTES
        if self._taken and self._taken + size > self._limit:
            raise Overloaded(
                f"requests: {self._taken / 2**20:,.0f} MiB are in flight, the limit is {self._limit / 2**20:,.0f}"
                " MiB; retry later, or send smaller requests",
                retry_after_ms=_RETRY_AFTER_MS,
            )
        self._taken += size
        return _Room(functools.partial(self._free, size))

    async def take(self, size: int) -> int:
        """Waits for room for a stream's message, first come first served. Returns the size for `give_back`."""
        size += _REQUEST_BYTES
        if not self._waiting and self._streams_have_room(size):
            self._admit_stream(size)
            return size
        waiting: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((size, waiting))
        try:
            await waiting
        except asyncio.CancelledError:
            if waiting.done() and not waiting.cancelled():
                self.give_back(size)
            else:
                self._admit_waiting()
            raise
        return size

    def give_back(self, size: int) -> None:
        """Frees the room that `take` reserved. size: what `take` returned."""
        self._taken_by_streams -= size
        self._free(size)

    def _streams_have_room(self, size: int) -> bool:
        if self._taken_by_streams + size <= self._limit * _STREAMS_SHARE:
            return self._taken + size <= self._limit
        return self._taken == 0

    def _admit_stream(self, size: int) -> None:
        self._taken_by_streams += size
        self._taken += size

    def _free(self, size: int) -> None:
        self._taken -= size
        self._admit_waiting()

    def _admit_waiting(self) -> None:
        while self._waiting:
            size, waiting = self._waiting[0]
            if not waiting.done():
                if not self._streams_have_room(size):
                    return
                self._admit_stream(size)
                waiting.set_result(None)
            self._waiting.popleft()


class _Room:  # a plain class, because contextlib's generators are slow and every call makes one
    __slots__ = ("_free",)

    def __init__(self, free: Callable[[], None]) -> None:
        self._free = free

    def __enter__(self) -> None:
        pass

    def __exit__(self, *failure: object) -> None:
        self._free()


class ResponseBudget:
    """Room for answers of `limit` bytes in total, until their callers have read them. A larger answer is sent if
    no other answer is held."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._held = 0

    def hold(self, size: int) -> Callable[[], None] | None:
        """Holds room for an answer.

        Args:
            size: The answer's size in bytes.

        Returns:
            A function that frees the room; None for a small answer, which needs none.

        Raises:
            Overloaded: If there is no room.
        """
        if size <= _SMALL_ANSWER_BYTES:
            return None
        if self._held and self._held + size > self._limit:
            raise Overloaded(
                f"answers: {self._held / 2**20:,.0f} MiB are not read yet, the limit is {self._limit / 2**20:,.0f}"
                " MiB; read the answers, set deadlines, or request less",
                retry_after_ms=_RETRY_AFTER_MS,
            )
        self._held += size
        return functools.partial(self._free, size)

    def _free(self, size: int) -> None:
        self._held -= size
