"""Owns repeating a write that depends on what is stored, while other writers change the same keys."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator

from lookalike.model.errors import Overloaded

_ATTEMPTS = 20
_PAUSE_SECONDS = 0.02
_MAX_PAUSE_SECONDS = 0.5


async def attempts(collection: str) -> AsyncIterator[None]:
    """Yields once for each attempt, after a pause that grows. Raises Overloaded after the last."""
    for attempt in range(_ATTEMPTS):
        # Two writes of one key can prevent each other from being stored, so they wait for different times.
        await asyncio.sleep(random.uniform(0, min(_MAX_PAUSE_SECONDS, attempt * _PAUSE_SECONDS)))
        yield
    raise Overloaded(
        f"collection {collection!r}: too many concurrent writers of the same keys", retry_after_ms=100
    )
