"""Owns how a file is replaced: whole or not at all, whoever reads or writes it meanwhile, and whatever breaks off.
A shard's state is not written here but by `shard.membership`, which syncs the folder, too."""

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
    """A file to write, which takes the place of `path` once the block is done; after an error that is as it was.
    It keeps the mode and the owner of the one that it replaces; mode: of one that is new, within the umask.
    Raises OSError."""
    fresh = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        with open(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        if path.exists():
            _pass_on(path.stat(), fresh)
        fresh.replace(path)
    finally:
        fresh.unlink(missing_ok=True)


def _pass_on(found: os.stat_result, fresh: Path) -> None:
    fresh.chmod(stat.S_IMODE(found.st_mode))
    # Only root may give files away; for others the mode says who may read it.
    with contextlib.suppress(PermissionError):
        os.chown(fresh, found.st_uid, found.st_gid)
