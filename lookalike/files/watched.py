"""Owns the detection of changed files (`FileWatch`), and values such as certificates, keys and secrets that are
read from files, and read again when the files change (`Watched`).

Files are polled. The package watchfiles was considered, but kernel notifications do not arrive on network and some
container mounts, inotify watches can run out, and each watch needs a thread. A poll needs no thread, because it
runs when the value is used. A poll of a few small files costs microseconds, and follows the symbolic links that
Kubernetes swaps for a ConfigMap.

If a changed file cannot be read, the last value stays in use and the error is logged once: a half-done rotation
must not cut the cluster's processes off from each other."""

from __future__ import annotations

import hashlib
import logging
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Generic, TypeVar

from lookalike.model.errors import CannotStart

log = logging.getLogger("lookalike.security")
POLL_SECONDS = 1.0

Value = TypeVar("Value")
# Change time (ns), size, inode and digest. Only the change time shows that a file's mode changed; only the digest
# shows a second write of the same size within the clock's resolution.
_Stamp = tuple[int, int, int, bytes]
_UNREADABLE: _Stamp = (0, 0, 0, b"")


class FileWatch:
    """Detects changes of the content, mode or identity of some files."""

    def __init__(self, paths: Sequence[Path]) -> None:
        """Records the current state of the files.

        Args:
            paths: The files; they need not exist.
        """
        self._paths = paths
        self._stamps: tuple[_Stamp, ...] | None = self._read_stamps()

    def changed(self) -> bool:
        """Whether the files changed since the last call or, at the first call, since this object was created."""
        stamps = self._read_stamps()
        is_changed = stamps != self._stamps
        self._stamps = stamps
        return is_changed

    def forget(self) -> None:
        """Makes the next call of `changed` return True."""
        self._stamps = None

    def _read_stamps(self) -> tuple[_Stamp, ...]:
        return tuple(map(_stamp, self._paths))


class Watched(Generic[Value]):
    """The value that `read` makes from some files. Safe to share between threads."""

    def __init__(
        self, paths: Sequence[Path], read: Callable[[], Value], clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Reads the value.

        Args:
            paths: The files that `read` reads.
            read: Makes the value, or raises CannotStart, naming the file and the remedy.
            clock: Seconds, monotonic.

        Raises:
            CannotStart: If the value cannot be read.
        """
        self._paths = paths
        self._read = read
        self._clock = clock
        self._lock = threading.Lock()
        self._watch = FileWatch(paths)
        self._value = read()
        self._polled_at = clock()
        self._generation = 1

    @property
    def value(self) -> Value:
        """The value of the files, at most a second old."""
        if self._clock() - self._polled_at >= POLL_SECONDS:
            with self._lock:
                self._refresh()
        return self._value

    @property
    def current_generation(self) -> int:
        """The number of the current value, which grows with each change."""
        _ = self.value
        return self._generation

    def _refresh(self) -> None:
        self._polled_at = self._clock()
        if not self._watch.changed():
            return
        try:
            self._value = self._read()
        except CannotStart as error:
            log.error("a changed file is not applied: %s", error.message)
            return
        self._generation += 1
        log.info("read again: %s", ", ".join(map(str, self._paths)))


def _stamp(path: Path) -> _Stamp:
    try:
        status = path.stat()
    except OSError:
        return _UNREADABLE
    try:
        digest = hashlib.blake2b(path.read_bytes()).digest()
    except OSError:
        digest = b""
    return (status.st_ctime_ns, status.st_size, status.st_ino, digest)


def read_file(path: Path, field: str) -> bytes:
    """Reads a file that the config names.

    Args:
        path: The file.
        field: The config key that names the file, for the error text.

    Raises:
        CannotStart: If the file cannot be read.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise CannotStart(f"config: {field}: {path} cannot be read: {error.strerror}") from None
