"""Owns the harness's shelter: where it is permitted, the harness starts itself again in namespaces of its own, so
that its network, its mounts and its processes all vanish with it, stopped ones too, however it ends."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence

_MARK = "CHAOS_IS_ISOLATED"
UNSHARE = ("unshare", "--net", "--mount", "--pid", "--fork", "--mount-proc", "--kill-child")


def isolate(arguments: Sequence[str]) -> bool:
    """Go on in namespaces of our own: returns there, True, with loopback up; or here, False, where that is not
    permitted."""
    if _MARK in os.environ:
        subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
        return True
    if not is_permitted():
        return False
    command = [*UNSHARE, sys.executable, "-m", "tests.chaos", *arguments]
    os.execvpe(command[0], command, {**os.environ, _MARK: "1"})


def is_permitted() -> bool:
    try:
        probe = subprocess.run([*UNSHARE, "ip", "link", "set", "lo", "up"], capture_output=True, check=False)
    except OSError:
        return False
    return probe.returncode == 0
