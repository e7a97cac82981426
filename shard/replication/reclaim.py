"""Owns the reclaim step: removes the rows of slots that belong to other partitions now."""

from __future__ import annotations

from functools import partial

from shard.replication.context import Context

_REMOVE_ROWS = 2_000
# The bytes that the throttle counts for the removal of a row.
_REMOVED_BYTES = 100


async def reclaim(context: Context) -> None:
    """Removes rows in portions, so that writes are committed in between."""
    node = context.node
    foreign = ~node.table.writable & (node.slot_rows() > 0)
    if not foreign.any():
        return
    for engine in node.engines().values():
        listing = await context.executor.read(partial(engine.listing, foreign))
        for start in range(0, len(listing.numbers), _REMOVE_ROWS):
            part = listing.numbers[start : start + _REMOVE_ROWS]
            await context.executor.mutate(partial(engine.remove, part))
            await context.throttle.pause(len(part) * _REMOVED_BYTES)
