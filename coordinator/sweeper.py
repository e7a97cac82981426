"""Owns the deletion of expired records: a sweep over the collections with a TTL, again and again.

Every coordinator sweeps, because coordinators do not know each other. A record is deleted only if its newest
version on a majority has expired, like any change that depends on the stored record (`coordinator.changes`). So
two sweeps at the same time delete it once, and neither deletes a record that was written in the meantime."""

from __future__ import annotations

import asyncio
import logging
import random
import time

from coordinator.catalog import Catalog
from coordinator.changes import Changer
from coordinator.deadlines import WRITE_SECONDS
from coordinator.names import Names
from lookalike.model.errors import LookalikeError
from lookalike.model.ttl import Expired, Ttl
from lookalike.server.observe import metrics

# Sweeps take at most this share of the time, whatever the interval.
_SHARE = 0.1

log = logging.getLogger("coordinator.sweeper")


class Sweeper:
    """Deletes expired records. seconds: The time from the beginning of a sweep to that of the next."""

    def __init__(self, names: Names, catalog: Catalog, changer: Changer, seconds: float) -> None:
        self.seconds = seconds
        self._names = names
        self._catalog = catalog
        self._changer = changer

    async def run(self) -> None:
        """Sweeps until cancelled."""
        # Coordinators that start together do not sweep together.
        await asyncio.sleep(random.uniform(0, self.seconds))
        while True:
            began = time.monotonic()
            await self.sweep()
            took = time.monotonic() - began
            metrics.SWEEP_SECONDS.observe(took)
            await asyncio.sleep(max(self.seconds - took, took * (1 / _SHARE - 1)))

    async def sweep(self) -> None:
        """Deletes what has expired in every collection. A collection for which that fails is left to the next
        sweep."""
        directory = await self._names.confirmed(_deadline())
        if directory is None:
            log.info("too few shards answer to know which records expire")
            return
        for collection, ttl in directory.ttls.items():
            name = directory.shown(collection)
            try:
                deleted = await self._sweep(collection, ttl)
            except LookalikeError as error:
                log.info("expired records of %s are left to the next sweep: %s", name, error.message)
                continue
            if deleted:
                log.info("collection %s: %d expired records were deleted", name, deleted)

    async def _sweep(self, collection: str, ttl: Ttl) -> int:
        expired = Expired(ttl, time.time_ns() // 1_000_000)
        # Creates the layout, and raises NotFound for a collection that does not exist.
        await self._catalog.layout(collection, _deadline())
        deleted, cursor = 0, ""
        while True:
            # The TTL may have been changed since the page before.
            directory = await self._names.confirmed(_deadline())
            if directory is None or directory.ttls.get(collection) != ttl:
                return deleted
            count, cursor = await self._changer.delete_expired(collection, expired, cursor, _deadline())
            deleted += count
            if not cursor:
                return deleted


def _deadline() -> float:
    return asyncio.get_running_loop().time() + WRITE_SECONDS
