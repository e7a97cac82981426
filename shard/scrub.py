"""Owns the scrub, which searches stored data for damage: it checks the checksum of every row, and SQLite's own
pages and indexes.

A damaged collection is quarantined at once: its reads and writes fail with DATA_LOSS, coordinators ask another
replica, and replication copies the collection again from that replica."""

from __future__ import annotations

import asyncio
import logging
from functools import partial

from lookalike.model.errors import Corruption, LookalikeError
from lookalike.server.observe import metrics
from shard.engine import Engine
from shard.executor import ShardExecutor
from shard.node import Node

log = logging.getLogger("shard.scrub")
FIRST_SECONDS = 5.0
_ROWS_AT_ONCE = 2_000
# The pause between portions of rows, so that a scrub takes a few per cent of a processor.
_PAUSE_SECONDS = 0.1


class Scrubber:
    """Scrubs all collections repeatedly until cancelled.

    Args:
        hours: The pause between two scrubs, in hours.
    """

    def __init__(self, node: Node, executor: ShardExecutor, hours: float) -> None:
        self._node = node
        self._executor = executor
        self._seconds = hours * 3_600

    async def run(self) -> None:
        await asyncio.sleep(min(FIRST_SECONDS, self._seconds))
        while True:
            for name, engine in self._node.engines().items():
                try:
                    await self._scrub(engine)
                except Corruption as error:
                    metrics.SCRUB_DAMAGE.inc()
                    await self._executor.quarantine(name, engine, error.message)
                except LookalikeError as error:
                    log.info("collection %s was not scrubbed: %s", name, error.message)
                except Exception:
                    log.exception("the scrub of collection %s failed", name)
            metrics.SCRUB_ENDED.set_to_current_time()
            await asyncio.sleep(self._seconds)

    async def _scrub(self, engine: Engine) -> None:
        """Raises Corruption if anything differs from what was written."""
        await self._executor.read(engine.check_structure)
        first: int | None = 0
        while first is not None:
            start = first
            damaged, first = await self._executor.read(partial(engine.damaged_rows, start, _ROWS_AT_ONCE))
            if damaged:
                raise Corruption(f"{damaged} rows from number {start} on differ from what was written")
            await asyncio.sleep(_PAUSE_SECONDS)
        metrics.SCRUBBED.inc(engine.rows)
