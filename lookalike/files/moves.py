"""Owns moving a file without overwriting another, so that a crash at any moment leaves the whole file at one of
the two paths or at both."""

from __future__ import annotations

import errno
import filecmp
import os
import shutil
from pathlib import Path

from lookalike.files.atomic import sync_folder

_UNFINISHED = ".lookalike-unfinished"
# What file systems without hard links, and moves between file systems, raise.
_NO_LINKS = frozenset((errno.EXDEV, errno.EPERM, errno.EOPNOTSUPP, errno.EMLINK, errno.ENOSYS))


def move(source: Path, target: Path) -> None:
    """Moves a regular file, with its modification time. Creates the target's folder.

    Once more after a crash, it completes what it began: a target with the same bytes is taken as moved.

    Raises:
        FileExistsError: If another file is at the target; nothing is changed.
        OSError: If the file cannot be moved; it is still at the source.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    if not is_copied(source, target):
        _copy(source, target)
    sync_folder(target.parent)
    source.unlink()
    sync_folder(source.parent)


def is_copied(source: Path, target: Path) -> bool:
    """Whether the target is a file with the source's bytes. Raises FileExistsError if another file is there."""
    if not os.path.lexists(target):
        return False
    if target.is_symlink() or not target.is_file() or not filecmp.cmp(source, target, shallow=False):
        raise FileExistsError(errno.EEXIST, "another file is there", str(target))
    return True


def _copy(source: Path, target: Path) -> None:
    """Makes the target the same file as the source or, where that is impossible, a complete copy of it."""
    try:
        os.link(source, target, follow_symlinks=False)
        return
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
    unfinished = target.with_name(target.name[:200] + _UNFINISHED)
    try:
        shutil.copy2(source, unfinished)
        with unfinished.open("rb+") as file:
            os.fsync(file.fileno())
        _publish(unfinished, target)
    finally:
        unfinished.unlink(missing_ok=True)


def _publish(unfinished: Path, target: Path) -> None:
    try:
        os.link(unfinished, target)
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        # Without links, another process could create the target between this check and the renaming.
        if os.path.lexists(target):
            raise FileExistsError(errno.EEXIST, "another file is there", str(target)) from None
        unfinished.rename(target)
