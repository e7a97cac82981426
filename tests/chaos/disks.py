"""Owns small disks: file systems in memory, mounted where shards keep their data, that can be filled up."""

from __future__ import annotations

import contextlib
import errno
import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

NOT_PERMITTED = "full-disk faults: skipped, mounting a file system is not permitted here"
_SIZE = "64m"
_BALLAST = "ballast"
_BLOCK = bytes(64 * 1024)


class Disks:
    """One small file system for each of some folders."""

    def __init__(self) -> None:
        self._mounted: list[Path] = []

    @property
    def folders(self) -> Sequence[Path]:
        return self._mounted

    def mount(self, folder: Path) -> bool:
        """Mount one on a folder, which is made. Returns whether that was permitted."""
        folder.mkdir(parents=True, exist_ok=True)
        command = ["mount", "-t", "tmpfs", "-o", f"size={_SIZE}", "tmpfs", str(folder)]
        try:
            subprocess.run(command, capture_output=True, check=True)
        except (OSError, subprocess.CalledProcessError):
            return False
        self._mounted.append(folder)
        return True

    def fill(self, folder: Path) -> None:
        """Leave no byte free."""
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
