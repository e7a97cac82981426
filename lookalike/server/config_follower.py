"""Owns how a running process follows its config file: by SIGHUP, and by polling for a change."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path

from lookalike.files.watched import FileWatch
from lookalike.model.errors import CannotStart
from lookalike.server.config import CONFIG_POLL_SECONDS, ClusterConfig, content_of, load_config

log = logging.getLogger("lookalike.serving")
Reload = Callable[[ClusterConfig], Awaitable[None]]


class ConfigFollower:
    """Calls `reload` on SIGHUP, and when the file's config differs from the config in use."""

    def __init__(
        self, path: Path, config: ClusterConfig, reload: Reload, poll_seconds: float = CONFIG_POLL_SECONDS
    ) -> None:
        """Follows a file; `run` does the work.

        Args:
            path: The config file.
            config: The config that the process started with.
            reload: Applies another config.
            poll_seconds: The time between two checks of the file.
        """
        self._path = path
        self._config = config
        self._reload = reload
        self._poll_seconds = poll_seconds
        self._watch = FileWatch([path])
        self._requested = asyncio.Event()

    def request(self) -> None:
        """Applies the file's config at once, changed or not."""
        self._requested.set()

    async def run(self) -> None:
        """Runs until cancelled. An invalid file is logged and changes nothing. If `reload` fails, its error is
        raised, and the next `run` tries that reload again."""
        asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, self.request)
        # The file may have changed while the process started.
        self._watch.forget()
        while True:
            await self._follow()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._requested.wait(), self._poll_seconds)

    async def _follow(self) -> None:
        is_requested = self._requested.is_set()
        self._requested.clear()
        # An editor may truncate the file before it writes it; an empty file would mean the defaults.
        if content_of(self._path) == b"":
            return
        if not self._watch.changed() and not is_requested:
            return
        try:
            found = load_config(self._path)
            if is_requested or found != self._config:
                await self._reload(found)
                self._config = found
        except CannotStart as error:
            log.error("the config is not applied: %s", error.message)
        except Exception:
            self.request()
            raise
