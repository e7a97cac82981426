"""Owns the decision to answer reads: a starting shard waits until it has every record of a live sibling. A sibling
is another replica of the shard's partition."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence

from lookalike.cluster.shard_state import Readiness
from shard.replication.context import Context

log = logging.getLogger("shard.replication")
# How long a starting shard waits for a sibling that is itself still loading.
LOADING_SIBLING_SECONDS = 10.0


async def become_ready(context: Context, compared: bool) -> bool:
    """Updates the readiness of a shard that is not ready yet.

    Args:
        compared: Whether this shard's records were compared with those of a sibling.

    Returns:
        Whether the shard became ready now.
    """
    if context.readiness.is_ready:
        return False
    siblings = [state.readiness for place, state in context.states.items() if place[0] == context.partition]
    is_filling = bool(context.node.table.receiving_from(context.partition).any())
    waited = time.monotonic() - context.started
    context.readiness.state = next_readiness(siblings, compared, is_filling, waited)
    if context.readiness.is_ready:
        log.info("ready %.1f s after the start", waited)
    return context.readiness.is_ready


def next_readiness(
    siblings: Sequence[Readiness], compared: bool, is_filling: bool, waited_seconds: float
) -> Readiness:
    """Decides the readiness of a shard that is not ready yet.

    Args:
        siblings: The readiness of each sibling that answered.
        compared: Whether this shard's records were compared with those of a sibling.
        is_filling: Whether slots are still being copied from siblings.
        waited_seconds: The time since the start.
    """
    if siblings and not compared:
        all_loading = all(readiness is Readiness.LOADING for readiness in siblings)
        if not all_loading or waited_seconds < LOADING_SIBLING_SECONDS:
            return Readiness.CATCHING_UP
    if siblings and is_filling:
        return Readiness.FILLING
    return Readiness.READY
