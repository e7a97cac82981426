"""Owns the isolation of the harness: if permitted, it re-executes itself in its own namespaces, so that its
network, mounts and processes (stopped ones too) disappear with it, however it ends."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence

_MARK = "CHAOS_IS_ISOLATED"
UNSHARE = ("unshare", "--net", "--mount", "--pid", "--fork", "--mount-proc", "--kill-child")


def isolate(arguments: Sequence[str]) -> bool:
    """Re-executes the program in its own namespaces.

    Returns:
        True in the new namespaces, with loopback up; False if namespaces are not permitted.
    """
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
