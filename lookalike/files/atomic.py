"""Owns atomic file replacement: readers see the old file or the complete new file, even after a crash."""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import IO


@contextlib.contextmanager
def atomic_write(path: Path, mode: int = 0o666) -> Iterator[IO[bytes]]:
    """Yields a binary file that replaces `path` when the block ends without an error.

    The file and its folder are synced, so the new content survives a power failure. A replaced file's mode and
    owner are kept. Concurrent writers do not disturb each other; the last one to end wins.

    Args:
        path: The file to write. Its folder must exist.
        mode: The mode of a new file, before the umask.

    Raises:
        OSError: If the file cannot be written; `path` is then unchanged.
    """
    unfinished = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        with open(os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        if path.exists():
            _copy_mode_and_owner(path.stat(), unfinished)
        unfinished.replace(path)
        sync_folder(path.parent)
    finally:
        unfinished.unlink(missing_ok=True)


def write_bytes(path: Path, content: bytes, mode: int = 0o666) -> None:
    """Writes `content` to `path` with `atomic_write`."""
    with atomic_write(path, mode) as file:
        file.write(content)


def sync_folder(folder: Path) -> None:
    """Makes created, renamed and removed entries of a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _copy_mode_and_owner(found: os.stat_result, unfinished: Path) -> None:
    unfinished.chmod(stat.S_IMODE(found.st_mode))
    # Only root may change a file's owner. A file that another user replaces keeps its mode, but that user owns it.
    with contextlib.suppress(PermissionError):
        os.chown(unfinished, found.st_uid, found.st_gid)
