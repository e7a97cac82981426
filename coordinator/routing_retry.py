"""Owns the retry after SlotMoved: when slots have moved, the routing is refreshed and the request sent again."""

from __future__ import annotations

import asyncio

from coordinator.cluster import Cluster

# How long to look for the partition that serves slots that have moved.
MOVE_SECONDS = 5.0
PAUSE_SECONDS = 0.02


class RoutingRetry:
    """The retries of one request. Deadlines are times of the running loop's clock."""

    def __init__(self, cluster: Cluster, deadline: float) -> None:
        self._cluster = cluster
        self._give_up_at = min(deadline, asyncio.get_running_loop().time() + MOVE_SECONDS)
        self._pause = 0.0

    async def refreshed(self) -> bool:
        """Refreshes the routing; pauses first, except at the first retry. Returns False immediately if the time
        for retries is over."""
        left = self._give_up_at - asyncio.get_running_loop().time()
        if left <= 0:
            return False
        await asyncio.sleep(min(left, self._pause))
        self._pause = PAUSE_SECONDS
        await self._cluster.refresh()
        return True
