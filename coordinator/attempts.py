"""Owns repeating a write that depends on what is stored, while other writers change the same keys."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator

from lookalike.model.errors import Overloaded

_ATTEMPTS = 20
_PAUSE_SECONDS = 0.02
_MAX_PAUSE_SECONDS = 0.5


async def paced_attempts() -> AsyncIterator[int]:
    """Yields the number of each attempt, from 0, after a pause that grows."""
    for attempt in range(_ATTEMPTS):
        # Two writes of one key can prevent each other from being stored, so they wait for different times.
        await asyncio.sleep(random.uniform(0, min(_MAX_PAUSE_SECONDS, attempt * _PAUSE_SECONDS)))
        yield attempt


def too_many_writers(collection: str) -> Overloaded:
    """The error after the last attempt."""
    return Overloaded(
        f"collection {collection!r}: too many concurrent writers of the same keys", retry_after_ms=100
    )
