"""Owns values that are read from files and read again when those change: certificates, keys, secrets.

A change that cannot be read leaves the last value in force and is logged once: a rotation that is half done must
not shut the cluster's own door."""

from __future__ import annotations

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
_Stamp = tuple[tuple[int, int, int], ...]


class Watched(Generic[Value]):
    """The value that `read` makes of some files. Safe to share between threads."""

    def __init__(
        self, paths: Sequence[Path], read: Callable[[], Value], clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Reads at once. Raises CannotStart if it cannot; `read` raises that, naming the file and the remedy."""
        self._paths = paths
        self._read = read
        self._clock = clock
        self._lock = threading.Lock()
        self._stamp = self._look()
        self._value = read()
        self._looked = clock()
        self._generation = 1

    @property
    def value(self) -> Value:
        """What the files say now, or said a second ago."""
        if self._clock() - self._looked >= POLL_SECONDS:
            with self._lock:
                self._refresh()
        return self._value

    @property
    def current_generation(self) -> int:
        """Counts the values up to the one that is in force now."""
        _ = self.value
        return self._generation

    def _refresh(self) -> None:
        self._looked = self._clock()
        stamp = self._look()
        if stamp == self._stamp:
            return
        self._stamp = stamp
        try:
            self._value = self._read()
        except CannotStart as error:
            log.error("a changed file is not taken over: %s", error.message)
            return
        self._generation += 1
        log.info("read again: %s", ", ".join(map(str, self._paths)))

    def _look(self) -> _Stamp:
        return tuple(map(_stamp, self._paths))


def _stamp(path: Path) -> tuple[int, int, int]:
    try:
        status = path.stat()
    except OSError:
        return (0, 0, 0)
    # Its change time, for a file that may be read at last has no other sign of it.
    return (status.st_ctime_ns, status.st_size, status.st_ino)


def read_file(path: Path, field: str) -> bytes:
    """The bytes of a file that the config names. Raises CannotStart."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise CannotStart(f"config: {field}: {path} cannot be read: {error.strerror}") from None
