"""Owns the connections to one SQLite file (one for writing, and one per thread for reading) and the translation of
SQLite's errors."""

from __future__ import annotations

import contextlib
import re
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

from lookalike.model.errors import Corruption, Overloaded

_LOOKUP_VALUES = 500
_MAPPED_BYTES = 0x7FFF0000  # SQLite's upper limit

_DAMAGED_VALUE = re.compile("Could not decode|malformed JSON|JSON cannot hold")

Value = TypeVar("Value", str, int)


class Database:
    """A SQLite file. One thread writes, any thread reads. Connections are opened when they are needed."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()
        self._writer: sqlite3.Connection | None = None
        self._readers: dict[int, sqlite3.Connection] = {}  # by thread

    def close(self) -> None:
        """Closes all connections. They are opened again when they are needed."""
        with self._lock:
            connections = [*self._readers.values(), *filter(None, [self._writer])]
            self._readers, self._writer = {}, None
        # The writer last: the last connection copies the log into the database.
        for connection in connections:
            connection.close()

    @property
    def writer(self) -> sqlite3.Connection:
        """The connection for writing."""
        if self._writer is None:
            self._writer = self._connect()
        return self._writer

    @property
    def reader(self) -> sqlite3.Connection:
        """This thread's connection for reading."""
        reader = self._readers.get(threading.get_ident())
        if reader is None:
            reader = self._connect()
            reader.execute("PRAGMA query_only = ON")
            # Keys are looked up all over the file; if it is mapped, a lookup needs no system call.
            reader.execute(f"PRAGMA mmap_size = {_MAPPED_BYTES}")
            with self._lock:
                self._readers[threading.get_ident()] = reader
        return reader

    def close_reader(self) -> None:
        """Closes this thread's connection for reading, once the thread has finished reading."""
        with self._lock:
            reader = self._readers.pop(threading.get_ident(), None)
        if reader is not None:
            reader.close()

    @contextlib.contextmanager
    def streaming(self) -> Iterator[sqlite3.Connection]:
        """A connection for reading the whole file once, closed after the block. It does not map the file, because
        the pages would count as this process's memory."""
        connection = self._connect()
        connection.execute("PRAGMA query_only = ON")
        try:
            with explained(self.path):
                yield connection
        finally:
            connection.close()

    @contextlib.contextmanager
    def snapshot(self) -> Iterator[None]:
        """Within the block, this thread's reads see the database as it was at the start of the block."""
        reader = self.reader
        with explained(self.path):
            reader.execute("BEGIN")
            try:
                reader.execute("SELECT 1 FROM meta").fetchone()
                yield
            finally:
                reader.execute("COMMIT")

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        """Commits and syncs what the block writes; an exception in the block rolls it back."""
        with explained(self.path):
            self.writer.execute("BEGIN IMMEDIATE")
            try:
                yield
                self.writer.execute("COMMIT")
            except BaseException:
                if self.writer.in_transaction:
                    self.writer.execute("ROLLBACK")
                raise

    def lookup(self, sql: str, values: Sequence[Value], to_write: bool = False) -> Iterator[tuple[Any, ...]]:
        """Yields the rows for all values, a few hundred per statement.

        Args:
            sql: A statement with `{}` in place of a list of parameters.
            values: The parameters.
            to_write: Whether to read in the writer's current transaction.
        """
        connection = self.writer if to_write else self.reader
        with explained(self.path):
            for start in range(0, len(values), _LOOKUP_VALUES):
                part = values[start : start + _LOOKUP_VALUES]
                yield from connection.execute(sql.format(", ".join("?" * len(part))), part)

    def _connect(self) -> sqlite3.Connection:
        with explained(self.path):
            connection = sqlite3.connect(
                f"{self.path.absolute().as_uri()}?mode=rw",
                uri=True,
                isolation_level=None,
                check_same_thread=False,
            )
            try:
                connection.execute("PRAGMA journal_mode = WAL")
                connection.execute("PRAGMA synchronous = FULL")
            except BaseException:  # a damaged file can also raise UnicodeDecodeError
                connection.close()
                raise
        return connection


@contextlib.contextmanager
def explained(path: Path) -> Iterator[None]:
    """Raises SQLite's failures as errors that a client can act on.

    Raises:
        Corruption: If the file is damaged.
        Overloaded: If the disk is full, or the process has too many open files.
    """
    try:
        yield
    except sqlite3.DatabaseError as error:
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        if code == sqlite3.SQLITE_FULL:
            raise Overloaded(
                f"disk full at {path.parent}; nothing was written; free space and retry",
                retry_after_ms=30_000,
            ) from error
        if code == sqlite3.SQLITE_CANTOPEN and path.parent.exists():
            raise Overloaded(
                f"{path} cannot be opened: this process has too many open files; raise their limit (ulimit -n)",
                retry_after_ms=5_000,
            ) from error
        # Damage may also change the type or the text of a value.
        if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB) or _DAMAGED_VALUE.search(str(error)):
            raise Corruption(f"{path} is damaged ({error}); restore the partition from a backup") from error
        raise
