"""Owns how the kernel's functions are compiled: without the GIL, and kept on disk for the next process.

Numba keeps them beside the source, or under the user's cache folder where the source is read-only, or where
NUMBA_CACHE_DIR says. Where none of these can be written they are compiled anew in each process."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import numba

log = logging.getLogger("shard.kernel")


def compiled(function: Callable[..., Any]) -> Any:
    """Compile the function when it is first called."""
    try:
        return numba.njit(nogil=True, cache=True)(function)
    except RuntimeError:
        log.warning(
            "%s is compiled in every process: set NUMBA_CACHE_DIR to a folder to keep it", function.__name__
        )
        return numba.njit(nogil=True)(function)
