"""Owns a coordinator's view of one replica: the client that calls it, and its health, which determines which of a
partition's replicas is called first."""

from __future__ import annotations

import asyncio
import dataclasses
import math
import time
from collections.abc import Callable

from lookalike.cluster.placement import Target
from lookalike.cluster.shard_state import ShardState
from lookalike.model.errors import DeadlineExceeded, LookalikeError, SlotMoved
from lookalike.server.shard_client import ShardClient

# A replica that may lag by more than this is called only if no replica of its partition is healthy.
LAG_SECONDS = 10.0
# How long a failed replica is avoided. Doubles with each further failure.
_BACKOFF_SECONDS = 0.25
_BACKOFF_MAX_SECONDS = 5.0
# A replica that leaves calls unanswered for this long, and answers no other call during that time, is down. Reads
# do not wait for it until it answers a poll or its health stream reports that it serves.
DOWN_AFTER_SECONDS = 1.5
# Calls that were given up sooner say nothing about the replica.
_PATIENT_SECONDS = 0.5


class ReplicaHealth:
    """A replica's health, learnt from calls, polls and its health stream. Times are of the monotonic clock."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        # The answer to the last poll; None if the replica did not answer, or has not been polled yet.
        self.last_state: ShardState | None = None
        # When the last poll that was answered was sent.
        self.polled_at = float("-inf")
        self._is_serving = True
        self._is_suspect = False
        self._failures = 0
        self._backoff_until = 0.0
        self._missed_write_at: float | None = None
        self._answered_at = -math.inf
        # When the first of the calls was sent that were not answered in time, if none was answered since.
        self._silent_since: float | None = None
        # Whether a call would almost certainly wait until its deadline.
        self.is_down = False

    @property
    def silent_seconds(self) -> float:
        """How long the replica has not answered calls; 0 if it has answered the last one."""
        return 0.0 if self._silent_since is None else self._clock() - self._silent_since

    @property
    def penalty(self) -> int:
        """0 for a healthy replica, 1 for one that lags, 2 for one that failed or is slow, 3 for one that is down
        or does not serve. The replica with the lowest penalty is called first."""
        if not self._is_serving or self.is_down:
            return 3
        if self._is_suspect or self._clock() < self._backoff_until:
            return 2
        return 1 if self.lags else 0

    @property
    def is_live(self) -> bool:
        """Whether the replica is serving, answered the last poll, and has caught up since it started."""
        return self._is_serving and self.last_state is not None and self.last_state.is_ready

    @property
    def lags(self) -> bool:
        """Whether the replica may lack an acknowledged write, or may lag by more than `LAG_SECONDS`."""
        behind = self.last_state is not None and self.last_state.stale_ms > LAG_SECONDS * 1000
        return behind or self._missed_write_at is not None

    def mark_serving(self, is_serving: bool) -> None:
        """Records what the health stream reported."""
        self._is_serving = is_serving
        if is_serving:
            self.mark_answered()

    def mark_answered(self) -> None:
        """Records that the replica answered a call, with a result or an error."""
        self._answered_at = self._clock()
        self._silent_since = None
        self.is_down = False

    def mark_unanswered(self, seconds: float) -> None:
        """Records that a call was given up after `seconds` without an answer."""
        began = self._clock() - seconds
        if seconds < _PATIENT_SECONDS or began <= self._answered_at:
            return
        if self._silent_since is None:
            self._silent_since = began
        self.is_down = self.silent_seconds >= DOWN_AFTER_SECONDS

    def mark_failed(self, error: LookalikeError) -> None:
        """Records that a call failed because of the replica: other replicas are preferred for a while."""
        if isinstance(error, SlotMoved):
            return
        backoff = min(_BACKOFF_MAX_SECONDS, _BACKOFF_SECONDS * 2**self._failures)
        self._backoff_until = self._clock() + backoff
        self._failures = min(self._failures + 1, 10)

    def mark_suspect(self) -> None:
        """Records that a call took far too long: other replicas are preferred until this one answers a poll."""
        self._is_suspect = True

    def mark_missed_write(self, acknowledged_at: float) -> None:
        """Records that this replica may lack a write. acknowledged_at: when the write was acknowledged."""
        self._missed_write_at = acknowledged_at

    def mark_polled(self, state: ShardState | None, began: float) -> None:
        """Records a poll. state: the answer; None if there was none. began: when the poll was sent."""
        self.last_state = state
        if state is None:
            return
        self.polled_at = began
        self.mark_answered()
        self._is_suspect = False
        self._failures = 0
        if self._missed_write_at is not None and began - state.stale_ms / 1000 > self._missed_write_at:
            self._missed_write_at = None


@dataclasses.dataclass(eq=False, slots=True)
class Replica:
    """A replica of a partition. in_flight: the number of calls to it that are not answered yet."""

    client: ShardClient
    health: ReplicaHealth = dataclasses.field(default_factory=ReplicaHealth)
    in_flight: int = 0

    @property
    def partition(self) -> int:
        return self.client.partition

    @property
    def replica(self) -> int:
        """The replica's number within its partition."""
        return self.client.replica

    async def poll(self, target: Target | None, seconds: float) -> None:
        """Requests the replica's state, within `seconds`, and sends it the target (the intended distribution of
        slots)."""
        began = time.monotonic()
        try:
            deadline = asyncio.get_running_loop().time() + seconds
            state = await self.client.state(target, deadline=deadline)
        except LookalikeError as error:
            if isinstance(error, DeadlineExceeded):
                self.health.mark_unanswered(time.monotonic() - began)
            self.health.mark_polled(None, began)
            return
        self.health.mark_polled(state, began)

    async def watch(self) -> None:
        """Follows the replica's health stream until cancelled."""
        async for is_serving in self.client.watch_serving():
            self.health.mark_serving(is_serving)
