"""Owns how the kernel's functions are compiled: to run without the GIL, and cached on disk for the next process.

Numba caches them in NUMBA_CACHE_DIR if set, else next to the source, else (if the source is read-only) in the
user's cache folder. If none of these is writable, every process compiles them again.

Numba compiles a function again if the file that defines it has changed, but not if only a file has changed that it
calls into. After a change in shard/kernel/, delete the cached files (shard/kernel/__pycache__/*.nb*)."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import numba

log = logging.getLogger("shard.kernel")


def compiled(function: Callable[..., Any]) -> Any:
    """Returns the function, compiled on its first call."""
    try:
        return numba.njit(nogil=True, cache=True)(function)
    except RuntimeError:
        log.warning(
            "%s is compiled in every process: set NUMBA_CACHE_DIR to a writable folder to cache it",
            function.__name__,
        )
        return numba.njit(nogil=True)(function)
