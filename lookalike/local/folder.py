"""Owns the data folder of a local cluster: its layout, its lock, and the config that the processes read.

DATA/run/config.yaml   the config in effect     DATA/run/NAME.pid   each process's pid
DATA/logs/NAME.log     each process's output    DATA/r0-2/ ...      the shards' folders
DATA/logs/NAME.log.1   older output: see lookalike.local.logs

Unix sockets are in a temporary folder, because their paths must be short."""

from __future__ import annotations

import fcntl
import tempfile
from pathlib import Path
from typing import IO

from lookalike.files.atomic import atomic_write
from lookalike.files.sockets import socket_folder
from lookalike.model.errors import CannotStart
from lookalike.server.config import ClusterConfig, dump_config

# Marks the folder of a shard that was stopped because it held nothing.
_EMPTY_FILE = "empty"


class DataFolder:
    """The data folder. Only one cluster at a time uses it: `claim` locks it until `release` or the end of this
    process."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock: IO[str] | None = None
        self._sockets: tempfile.TemporaryDirectory[str] | None = None

    def claim(self, config: ClusterConfig) -> None:
        """Locks the folder and writes the config. Raises CannotStart if another cluster uses the folder."""
        try:
            for name in ("run", "logs"):
                (self.path / name).mkdir(parents=True, exist_ok=True)
            self._lock = _locked(self.path / "run" / "lock")
        except BlockingIOError:
            raise CannotStart(f"data: {self.path} is in use by another cluster; stop that one first") from None
        except OSError as error:
            raise CannotStart(
                f"data: {self.path} cannot be used ({error.strerror}); name a folder that you may write to"
            ) from None
        self.write_config(config)

    def release(self) -> None:
        if self._lock is not None:
            self._lock.close()
        if self._sockets is not None:
            self._sockets.cleanup()
            self._sockets = None

    @property
    def config_file(self) -> Path:
        return self.path / "run" / "config.yaml"

    def write_config(self, config: ClusterConfig) -> None:
        """Replaces the config that the processes read. Raises CannotStart if it cannot be written."""
        try:
            with atomic_write(self.config_file) as file:
                file.write(dump_config(config).encode())
        except OSError as error:
            raise CannotStart(
                f"data: {self.config_file} cannot be written ({error.strerror}); free space or fix its permissions"
            ) from None

    def pid_file(self, name: str) -> Path:
        return self.path / "run" / f"{name}.pid"

    def log_file(self, name: str) -> Path:
        return self.path / "logs" / f"{name}.log"

    def socket_file(self, name: str) -> Path:
        """The path of a process's unix socket, which exists until `release`. Raises CannotStart."""
        if self._sockets is None:
            self._sockets = socket_folder("lookalike-up-")
        return Path(self._sockets.name) / name

    def mark_empty(self, partition: int, replica: int) -> None:
        """Records that a removed shard held nothing, so that it is not started again."""
        self._empty_file(partition, replica).touch()

    def unmark_empty(self, partition: int, replica: int) -> None:
        self._empty_file(partition, replica).unlink(missing_ok=True)

    def is_empty(self, partition: int, replica: int) -> bool:
        return self._empty_file(partition, replica).exists()

    def partitions_with_data(self) -> set[int]:
        """The partitions with a replica whose folder may still hold records."""
        found = set()
        for file in self.path.glob("r*-*/shard.json"):
            replica, _, partition = file.parent.name.removeprefix("r").partition("-")
            if replica.isdecimal() and partition.isdecimal() and not (file.parent / _EMPTY_FILE).exists():
                found.add(int(partition))
        return found

    def _empty_file(self, partition: int, replica: int) -> Path:
        return self.path / f"r{replica}-{partition}" / _EMPTY_FILE


def _locked(path: Path) -> IO[str]:
    """Opens and locks a file. Raises BlockingIOError if another process has locked it."""
    file = path.open("a")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        file.close()
        raise
    return file
