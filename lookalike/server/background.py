"""Owns the background tasks of a server process: loops that run until the process stops.

No such task ends unnoticed. A temporary error (a full disk, a connection) is logged with its traceback and
the task restarts with back-off. Any other error is a bug, and so is a task that returns: the process reports the
failure in one line, drains and exits, so that the supervisor or Kubernetes restarts it."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
import time
from collections.abc import Awaitable, Callable, Coroutine
from types import TracebackType
from typing import Any, Self

import grpc

from lookalike.model.errors import LookalikeError
from lookalike.transport.retry import Backoff

log = logging.getLogger("lookalike.background")
RESTART_BASE_SECONDS = 0.25
RESTART_MAX_SECONDS = 30.0
# A task that ran for this long before it failed restarts with the shortest delay again.
STABLE_SECONDS = 60.0
RECOVERABLE = (OSError, sqlite3.OperationalError, LookalikeError, grpc.RpcError)


class BackgroundFailed(Exception):
    """A background task failed in a way that a restart of the task cannot repair."""


class BackgroundTasks:
    """The named background tasks of a process. Leaving the `async with` block cancels them.

    Raises:
        BackgroundFailed: On leaving the block, if a task failed for good.
    """

    def __init__(
        self,
        base_seconds: float = RESTART_BASE_SECONDS,
        max_seconds: float = RESTART_MAX_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._base_seconds = base_seconds
        self._max_seconds = max_seconds
        self._clock = clock
        self._tasks: set[asyncio.Task[None]] = set()
        self._failed = asyncio.Event()
        self._failure: BackgroundFailed | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()
        if error is None:
            self.raise_failure()

    def start(self, name: str, run: Callable[[], Coroutine[Any, Any, None]]) -> asyncio.Task[None]:
        """Starts a task.

        Args:
            name: Identifies the task in logs.
            run: Runs until cancelled. Called again after a temporary error.

        Returns:
            The task, which the caller may cancel earlier than the rest.
        """
        task = asyncio.create_task(self._supervise(name, run), name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def run_until(self, stopped: Awaitable[None]) -> None:
        """Waits for `stopped`, or until a task fails for good."""
        waits = [asyncio.ensure_future(stopped), asyncio.ensure_future(self._failed.wait())]
        try:
            done, _ = await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            for wait in done:
                wait.result()
        finally:
            for wait in waits:
                wait.cancel()
            await asyncio.gather(*waits, return_exceptions=True)

    async def stop(self) -> None:
        """Cancels all tasks and waits for their end."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def raise_failure(self) -> None:
        """Raises BackgroundFailed if a task failed for good."""
        if self._failure is not None:
            raise self._failure

    async def _supervise(self, name: str, run: Callable[[], Coroutine[Any, Any, None]]) -> None:
        backoff = Backoff(self._base_seconds, self._max_seconds)
        while True:
            began = self._clock()
            try:
                await run()
            except RECOVERABLE:
                if self._clock() - began >= STABLE_SECONDS:
                    backoff.reset()
                delay = backoff.next_seconds()
                log.exception("background task %r failed and restarts in %.1f s", name, delay)
            except Exception as error:
                log.exception("background task %r failed", name)
                self._fail(f"background task {name!r} failed: {type(error).__name__}: {error}")
                return
            else:
                self._fail(f"background task {name!r} returned before the process stopped")
                return
            await asyncio.sleep(delay)

    def _fail(self, reason: str) -> None:
        if self._failure is None:
            self._failure = BackgroundFailed(f"{' '.join(reason.split())}; the process exits to be restarted")
            self._failed.set()
