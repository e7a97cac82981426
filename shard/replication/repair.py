"""Owns the repair step: compares this shard with its siblings (the other replicas of its partition), pulls missing
rows, and records how fresh this shard's data is."""

from __future__ import annotations

import contextlib
import logging
import os
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from lookalike.cluster.shard_state import Readiness
from lookalike.model.errors import LookalikeError
from lookalike.server.observe import metrics
from shard.replication.context import Context

log = logging.getLogger("shard.replication")
# Comparing takes at most this share of the time.
_REPAIR_SHARE = 0.2
_VERSION_SHIFT = 21


class Repair:
    """Compares in every round, but no more often than `_REPAIR_SHARE` permits.

    The time of the last comparison is kept in the data folder as the modification time of the file `synced`."""

    def __init__(self, folder: Path) -> None:
        self._mark = folder / "synced"
        self._next_at = 0.0
        self._synced_at: float | None = None

    def restore_freshness(self, context: Context) -> None:
        """After a restart, sets the freshness of this shard's data to the time of the last comparison before the
        restart."""
        if context.quorum.reads == 1:
            return
        now = time.monotonic()
        with contextlib.suppress(FileNotFoundError):
            now -= max(0.0, (time.time_ns() - os.stat(self._mark).st_mtime_ns) / 1e9)
        context.readiness.fresh_at = now

    async def run(self, context: Context, began: float) -> bool:
        """Pulls the rows that the siblings have and this shard lacks.

        Args:
            context: What the steps of replication share.
            began: When this round of replication began, in seconds of the monotonic clock. After a comparison with
                enough siblings, this shard has every write that was acknowledged before this time.

        Returns:
            Whether this shard was compared with at least one sibling, now or too recently to compare again.
        """
        if time.monotonic() < self._next_at:
            return True
        repair_began = time.monotonic()
        compared = await _compare(context)
        if compared >= context.quorum.siblings:
            await _mark_filled(context)
        if compared + 1 >= context.quorum.reads:
            context.readiness.fresh_at = began if context.quorum.reads > 1 else None
            self._mark.touch()
            self._synced_at = began
            await _forget_tombstones(context)
        took = time.monotonic() - repair_began
        pause = took * (1 / _REPAIR_SHARE - 1)
        self._next_at = time.monotonic() + pause if context.readiness.is_ready else 0.0
        return compared > 0

    def gauges(self, context: Context) -> Iterator[metrics.Sample]:
        place = (str(context.place[0]), str(context.place[1]))
        if self._synced_at is not None and context.config.replicas > 1:
            yield metrics.SYNC_AGE_SECONDS, place, time.monotonic() - self._synced_at
        yield metrics.SLOTS_DIFFERING, place, context.puller.slots_differing


def tombstone_horizon(now_ms: int, grace_ms: int) -> int:
    """Returns the version below which tombstones are discarded. It lies at least the grace period in the past,
    and is rounded down so that all replicas choose the same version."""
    step = max(1, grace_ms // 8)
    return ((now_ms - grace_ms) // step * step) << _VERSION_SHIFT


async def _compare(context: Context) -> int:
    """Returns the number of siblings that this shard was compared with."""
    own, compared = context.node.table, 0
    for place, table in context.sibling_tables().items():
        if context.states[place].readiness is Readiness.LOADING:
            continue
        # Only slots that both have in the same generation; `recover` handles a slot that left and returned.
        slots = own.writable & table.serving & (own.generations == table.generations)
        try:
            pulled = await context.puller.pull(context.peer(place), slots, recheck=context.readiness.is_ready)
            metrics.PULLED.labels("repair").inc(pulled)
        except LookalikeError as error:
            log.info("replica %d could not be compared with: %s", place[1], error.message)
            continue
        compared += 1
        if pulled:
            log.info("%d rows came from replica %d", pulled, place[1])
    return compared


async def _mark_filled(context: Context) -> None:
    node = context.node
    for name in node.damaged():
        if name in node.engines():
            await context.executor.mutate(partial(node.mark_filled, name))


async def _forget_tombstones(context: Context) -> None:
    grace_ms = int(context.config.shard.tombstone_hours * 3_600_000)
    horizon = tombstone_horizon(time.time_ns() // 1_000_000, grace_ms)
    for name, engine in context.node.engines().items():
        if engine.horizon >= horizon:
            continue
        if await context.executor.mutate(partial(engine.forget_tombstones, horizon)):
            log.info("collection %s: old tombstones were discarded", name)
