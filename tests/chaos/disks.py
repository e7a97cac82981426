"""Owns small disks: in-memory file systems, mounted on the shards' data folders, that can be filled."""

from __future__ import annotations

import contextlib
import errno
import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

NOT_PERMITTED = "full-disk faults: skipped; mounting a file system is not permitted here"
_SIZE = "64m"
_BALLAST = "ballast"
_BLOCK = bytes(64 * 1024)


class Disks:
    """Small file systems, one per folder."""

    def __init__(self) -> None:
        self._mounted: list[Path] = []

    @property
    def folders(self) -> Sequence[Path]:
        return self._mounted

    def mount(self, folder: Path) -> bool:
        """Mounts a file system on a folder, which is created if missing; returns whether that was permitted."""
        folder.mkdir(parents=True, exist_ok=True)
        command = ["mount", "-t", "tmpfs", "-o", f"size={_SIZE}", "tmpfs", str(folder)]
        try:
            subprocess.run(command, capture_output=True, check=True)
        except (OSError, subprocess.CalledProcessError):
            return False
        self._mounted.append(folder)
        return True

    def fill(self, folder: Path) -> None:
        """Fills the disk completely."""
        with (folder / _BALLAST).open("wb", buffering=0) as ballast:
            try:
                while True:
                    ballast.write(_BLOCK)
            except OSError as error:
                if error.errno != errno.ENOSPC:
                    raise

    def free(self, folder: Path) -> None:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(folder / _BALLAST)

    def close(self) -> None:
        for folder in self._mounted:
            subprocess.run(["umount", "--lazy", str(folder)], capture_output=True, check=False)
        self._mounted.clear()
