"""Owns the size of a supervised process's log: NAME.log, and older ones, NAME.log.1 to NAME.log.4.

The process holds its log open, and would go on writing to a file that was renamed. So the log is copied and then
emptied, as logrotate's copytruncate does; the process appends, and continues at the start. Lines that it writes
between the end of the copy and the emptying, some microseconds, are lost."""

from __future__ import annotations

import shutil
from pathlib import Path

LOG_BYTES = 16 * 2**20
OLD_LOGS = 4


def rotate(log: Path, max_bytes: int = LOG_BYTES, keep: int = OLD_LOGS) -> bool:
    """Moves the content of a log that is too large to the first of the older logs.

    Args:
        log: A log that a process appends to; it need not exist.
        max_bytes: The size from which on a log is too large.
        keep: How many older logs to keep, at least one.

    Returns:
        Whether the log was emptied.

    Raises:
        OSError: If the content cannot be copied; the log is then unchanged.
    """
    if not log.exists() or log.stat().st_size < max_bytes:
        return False
    _make_room(log, keep)
    newest = _older(log, 1)
    try:
        with log.open("r+b") as source, newest.open("wb") as copy:
            shutil.copyfileobj(source, copy)
            copy.flush()  # a full disk is noticed here, before the log is emptied
            source.truncate(0)
    except OSError:
        newest.unlink(missing_ok=True)
        raise
    return True


def _make_room(log: Path, keep: int) -> None:
    """Renames older logs, so that the number 1 is free. Removes the oldest if there are `keep`: on a full disk
    this makes room for the copy. After a copy that failed, the number is free already and all stay."""
    free = next((number for number in range(1, keep) if not _older(log, number).exists()), keep)
    _older(log, free).unlink(missing_ok=True)
    for number in range(free - 1, 0, -1):
        _older(log, number).replace(_older(log, number + 1))


def _older(log: Path, number: int) -> Path:
    return log.with_name(f"{log.name}.{number}")
