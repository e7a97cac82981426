"""Owns whether this shard answers calls and reads, and the age of the data that its reads return.

The replication loop sets both, the gRPC server enforces them, and status and metrics report them."""

from __future__ import annotations

import asyncio
import time

from lookalike.cluster.shard_state import Readiness
from lookalike.model.errors import Recovering

_FRESH_SECONDS = 60.0
_FRESH_POLL_SECONDS = 0.1
_REASONS = {
    Readiness.LOADING: "is loading",
    Readiness.CATCHING_UP: "is catching up with its other replicas",
    Readiness.FILLING: "is being filled from its other replicas",
}


class ReadinessTracker:
    """The readiness and the freshness of one shard.

    Until `mark_loaded` the shard answers status calls only; until `state` is READY it answers no reads.

    Attributes:
        state: The readiness. It stays LOADING until the replication loop decides otherwise, which may be after
            the collections are loaded.
        is_loaded: Whether the collections are in memory.
        fresh_at: A time of the monotonic clock: this shard has every write that was acknowledged before it. None
            if it always has every write.
    """

    def __init__(self, partition: int) -> None:
        self.state = Readiness.LOADING
        self.is_loaded = False
        self.fresh_at: float | None = None
        self._partition = partition

    def mark_loaded(self) -> None:
        self.is_loaded = True

    @property
    def is_ready(self) -> bool:
        return self.state is Readiness.READY

    @property
    def reason(self) -> str:
        """Why reads are refused; empty when ready."""
        return "" if self.is_ready else f"partition {self._partition} {_REASONS[self.state]}"

    @property
    def stale_ms(self) -> int:
        """Reads return every write that was acknowledged at least this many milliseconds ago."""
        return 0 if self.fresh_at is None else max(0, int((time.monotonic() - self.fresh_at) * 1000))

    def require_loaded(self) -> None:
        """Raises Recovering while the collections are being read into memory."""
        if not self.is_loaded:
            raise Recovering(f"partition {self._partition} is loading; retry in a moment")

    def require_ready(self) -> None:
        """Raises Recovering unless reads are answered."""
        if not self.is_ready:
            raise Recovering(f"{self.reason}; retry in a moment")

    async def wait_fresh(self, moment: float) -> None:
        """Waits until this shard has every write that was acknowledged before `moment` (monotonic clock).

        Raises:
            Recovering: If that takes more than a minute.
        """
        give_up = time.monotonic() + _FRESH_SECONDS
        while self.fresh_at is not None and self.fresh_at < moment:
            if time.monotonic() > give_up:
                raise Recovering(f"partition {self._partition} has not caught up; retry in a moment")
            await asyncio.sleep(_FRESH_POLL_SECONDS)
