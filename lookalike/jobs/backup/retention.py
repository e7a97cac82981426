"""Owns which backups of a collection are kept, and the removal of the others.

A backup with only changes cannot be restored without those that it adds to, so these are kept with it. Nothing is
removed before the files of the latest backup, and of those that it adds to, have been read back and match their
checksums."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

from lookalike.jobs.backup import restore
from lookalike.jobs.backup.folder import Folder
from lookalike.model.errors import Corruption, NotFound

_DAY_SECONDS = 86_400.0


def is_full_due(folder: Folder, days: float) -> bool:
    """Whether the latest full backup is more than `days` days old, or cannot be found."""
    finished = folder.finished()
    try:
        return not finished or time.time() - folder.chain(finished[-1])[0].started > days * _DAY_SECONDS
    except (NotFound, Corruption):
        return True


def superseded(bases: Mapping[int, int | None], keep: int) -> list[int]:
    """Returns the numbers of the backups that none of the last `keep` needs, the latest first.

    Args:
        bases: For each finished backup's number, the backup that it adds to; None for a full backup.
        keep: How many of the latest backups to keep.
    """
    needed: set[int] = set()
    for number in sorted(bases)[-keep:]:
        base: int | None = number
        while base is not None and base not in needed:
            needed.add(base)
            base = bases.get(base)
    return sorted(bases.keys() - needed, reverse=True)


def prune(folder: Folder, keep: int) -> list[int]:
    """Verifies the latest backup, and then removes the backups that none of the last `keep` needs. What an
    interrupted backup left is removed too, once a later backup was finished before the latest one.

    Returns:
        The numbers of the backups that were removed, finished or not.

    Raises:
        Corruption: If the latest backup, or one that it adds to, is damaged. Nothing is removed then.
        NotFound: If one that it adds to is missing. Nothing is removed then.
    """
    finished = folder.finished()
    restore.verify(folder, folder.chain(finished[-1]))
    # The latest first: a backup that adds to another never outlives it, however the removal is interrupted.
    removed = superseded(_bases(folder, finished), keep)
    for number in [*removed, *(abandoned := _abandoned(folder.numbers(), finished))]:
        folder.remove(number)
    return sorted([*removed, *abandoned])


def _bases(folder: Folder, finished: Sequence[int]) -> dict[int, int | None]:
    """The base of each finished backup. One with a damaged manifest cannot be restored, and has none."""
    bases: dict[int, int | None] = {}
    for number in finished:
        try:
            bases[number] = folder.manifest(number).base
        except Corruption:
            bases[number] = None
    return bases


def _abandoned(numbers: Sequence[int], finished: Sequence[int]) -> list[int]:
    """The unfinished backups that can no longer be running: a later one was taken, and it was not the latest."""
    before = finished[-2] if len(finished) > 1 else 0
    return [number for number in numbers if number < before and number not in finished]
