"""Owns what this process takes from the system's memory, and giving unused memory back."""

from __future__ import annotations

import ctypes
import os
import resource
import sys


def held_bytes() -> int:
    """Returns the memory of this process, without the pages of mapped files, which the system can drop.

    Where there is no /proc, as on macOS, returns the most that the process has held so far."""
    try:
        with open("/proc/self/statm") as file:
            _, resident, shared, *_ = map(int, file.read().split())
    except FileNotFoundError:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024
    return (resident - shared) * os.sysconf("SC_PAGE_SIZE")


def give_back() -> None:
    """Returns freed memory to the system. glibc keeps freed blocks for the next allocation otherwise."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
