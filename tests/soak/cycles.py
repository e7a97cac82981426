"""Owns what goes on beside the load, over and over: the number of partitions changes from 2 to 3 and back, and
backups are taken, of which the last three are kept."""

from __future__ import annotations

import collections
import itertools
import threading
import time
from collections.abc import Callable
from pathlib import Path

from lookalike import Client
from lookalike.jobs.backup import backup, retention
from lookalike.jobs.backup.folder import Folder
from lookalike.local.supervisor import Supervisor
from lookalike.model.errors import LookalikeError
from lookalike.server.config import ClusterConfig
from tests.soak.load import CALL_SECONDS, CODES
from tests.soak.settings import Settings

PARTITIONS = (2, 3)
_KEPT_BACKUPS = 3
_FULL_EVERY = 5
_MOVE_SECONDS = 1_800.0
_POLL_SECONDS = 0.5


class Stuck(Exception):
    """The records have not moved in time."""


class Cycles:
    """The threads of a run. For the attributes see `tests.soak.load.Load`."""

    def __init__(
        self, settings: Settings, config: ClusterConfig, supervisor: Supervisor, client: Client, backups: Path
    ) -> None:
        self._settings = settings
        self._config = config
        self._supervisor = supervisor
        self._client = client
        self._backups = backups
        self._ending = threading.Event()
        self.done: collections.Counter[str] = collections.Counter()
        self.failed: collections.Counter[tuple[str, str]] = collections.Counter()
        self.broken: list[BaseException] = []
        self._threads = [
            threading.Thread(target=self._repeat, args=("reshard", self._reshard), name="reshard"),
            threading.Thread(target=self._repeat, args=("backup", self._back_up), name="backup"),
        ]

    def begin(self) -> None:
        for thread in self._threads:
            thread.start()

    def end(self) -> None:
        """Waits for the threads; a change of partitions or a backup that has begun is completed."""
        self._ending.set()
        for thread in self._threads:
            thread.join()

    @property
    def kinds(self) -> set[str]:
        return {"reshard", "backup"}

    def _repeat(self, kind: str, step: Callable[[int], None]) -> None:
        try:
            for number in itertools.count(1):
                if self._ending.wait(self._settings.cycle_seconds):
                    return
                try:
                    step(number)
                    self.done[kind] += 1
                except LookalikeError as error:
                    self.failed[kind, type(error).__name__] += 1
        except BaseException as error:
            self.broken.append(error)

    def _reshard(self, number: int) -> None:
        partitions = PARTITIONS[number % 2]
        self._supervisor.reload(self._config.model_copy(update={"partitions": partitions}))
        give_up = time.monotonic() + _MOVE_SECONDS
        while not self._is_balanced(partitions):
            if time.monotonic() > give_up:
                raise Stuck(f"the records have not moved to {partitions} partitions in {_MOVE_SECONDS:.0f} s")
            time.sleep(_POLL_SECONDS)

    def _is_balanced(self, partitions: int) -> bool:
        """Whether all records have moved, and the supervisor has stopped the removed shards."""
        try:
            status = self._client.status()
        except LookalikeError:  # it is asked again
            return False
        serving = [part.partition for part in status.partitions if part.slots]
        return (
            status.rebalance.partitions == partitions
            and status.rebalance.slots_to_move == 0
            and serving == list(range(partitions))
            and len(status.partitions) == partitions
        )

    def _back_up(self, number: int) -> None:
        folder = Folder(str(self._backups), CODES)
        backup.take(self._client, folder, full=number % _FULL_EVERY == 0, retry_seconds=CALL_SECONDS)
        retention.prune(folder, _KEPT_BACKUPS)
