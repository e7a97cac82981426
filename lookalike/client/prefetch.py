"""Owns fetching the next page of a scroll while the caller uses the current one."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable, Coroutine
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Generic, Self, TypeVar

Page = TypeVar("Page")


class AsyncPrefetch(Generic[Page]):
    """One call at a time, in a task. Leaving the block cancels a call that nobody waited for."""

    def __init__(self) -> None:
        self._task: asyncio.Task[Page] | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._task is not None:
            self._task.cancel()

    def start(self, call: Callable[[], Coroutine[Any, Any, Page]]) -> None:
        """Starts a call."""
        self._task = asyncio.create_task(call())

    async def result(self) -> Page:
        """Waits for the call that was started."""
        assert self._task is not None, "start comes first"
        return await self._task


class Prefetch(Generic[Page]):
    """One call at a time, in a thread. Leaving the block does not wait for a call that nobody waited for."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="scroll")
        self._future: Future[Page] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._thread.shutdown(wait=False, cancel_futures=True)

    def start(self, call: Callable[[], Page]) -> None:
        """Starts a call."""
        # With the caller's context, the call belongs to the caller's trace.
        self._future = self._thread.submit(contextvars.copy_context().run, call)

    def result(self) -> Page:
        """Waits for the call that was started."""
        assert self._future is not None, "start comes first"
        return self._future.result()
