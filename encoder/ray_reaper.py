"""Owns the clean-up after a local Ray: `python -m encoder.ray_reaper PID` waits until its standard input ends,
and then kills the descendants of the process PID that still run.

Ray's processes watch each other, but when the driver is killed two of Ray's agents keep running. The driver holds
the other end of the reaper's standard input, so the input ends however the driver dies."""

from __future__ import annotations

import contextlib
import os
import select
import subprocess
import sys
from collections.abc import Iterator

import psutil

_LOOK_SECONDS = 1.0


@contextlib.contextmanager
def reaper(pid: int) -> Iterator[None]:
    """Runs a process that kills the descendants of `pid` when the block, or this process, ends."""
    command = [sys.executable, "-m", "encoder.ray_reaper", str(pid)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True):
        yield


def main() -> None:
    watched = psutil.Process(int(sys.argv[1]))
    descendants: set[psutil.Process] = set()
    while True:
        with contextlib.suppress(psutil.NoSuchProcess):
            descendants |= set(watched.children(recursive=True))
        readable, _, _ = select.select([sys.stdin], [], [], _LOOK_SECONDS)
        if readable and not os.read(sys.stdin.fileno(), 1):
            break
    for process in descendants - {psutil.Process()}:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()


if __name__ == "__main__":
    main()
