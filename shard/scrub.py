"""Owns the search for damage in what is stored: every row's checksum, and SQLite's own pages and indexes.

A collection with damage is set aside at once: its reads and writes are answered with DATA_LOSS, coordinators go to
another replica, and the keeper fills it again from there."""

from __future__ import annotations

import asyncio
import logging

from lookalike.model.errors import Corruption, LookalikeError
from lookalike.server.observe import metrics
from shard.engine import Engine
from shard.node import Node
from shard.server import ShardServicer

log = logging.getLogger("shard.scrub")
FIRST_SECONDS = 5.0
_ROWS_AT_ONCE = 2_000
# Between portions: a scrub takes a few per cent of a processor.
_PAUSE_SECONDS = 0.1


class Scrubber:
    """Runs beside the servicer until cancelled."""

    def __init__(self, node: Node, servicer: ShardServicer, hours: float) -> None:
        self._node = node
        self._servicer = servicer
        self._seconds = hours * 3_600

    async def run(self) -> None:
        await asyncio.sleep(min(FIRST_SECONDS, self._seconds))
        while True:
            for name, engine in self._node.engines().items():
                try:
                    await self._scrub(engine)
                except Corruption as error:
                    metrics.SCRUB_DAMAGE.inc()
                    await self._servicer.set_aside(name, engine, error.message)
                except LookalikeError as error:
                    log.info("collection %s was not scrubbed: %s", name, error.message)
                except Exception:
                    log.exception("the scrub of collection %s failed", name)
            metrics.SCRUB_ENDED.set_to_current_time()
            await asyncio.sleep(self._seconds)

    async def _scrub(self, engine: Engine) -> None:
        """Raises Corruption when anything is not as it was written."""
        await self._servicer.in_reader(engine.check_structure)
        first: int | None = 0
        while first is not None:
            start = first
            damaged, first = await self._servicer.in_reader(
                lambda start=start: engine.damaged_rows(start, _ROWS_AT_ONCE)  # type: ignore[misc]
            )
            if damaged:
                raise Corruption(f"{damaged} of its rows from number {start} on are not as they were written")
            await asyncio.sleep(_PAUSE_SECONDS)
        metrics.SCRUBBED.inc(engine.rows)
