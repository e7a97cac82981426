"""Owns the repetition of a read of all partitions while the cluster changes: when slots have moved, and while only
some partitions have a collection."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol, TypeVar

from coordinator.catalog import Catalog
from coordinator.cluster import Cluster
from coordinator.routing_retry import PAUSE_SECONDS, RoutingRetry
from lookalike.model.errors import LookalikeError, NotFound, SlotMoved

# A partial answer, or the name of the partition that did not answer, must be back before the client's own deadline
# ends the call.
_RESERVED_SHARE = 0.1
_RESERVED_MAX_SECONDS = 0.25
# How long a read waits while only some partitions have a collection, which is being created or dropped.
_SETTLE_SECONDS = 1.0


class Answered(Protocol):
    """The answers of all partitions to one read."""

    @property
    def parts(self) -> Sequence[object]: ...


Answers = TypeVar("Answers", bound=Answered)


async def settled(
    cluster: Cluster,
    catalog: Catalog,
    collection: str,
    deadline: float,
    ask: Callable[[float], Awaitable[Answers]],
) -> Answers:
    """Returns what `ask` returns for a deadline that is a little earlier than the client's.

    Asks again if slots moved during the read, and while only some partitions have the collection, because it is
    being created or dropped. Raises NotFound once it is dropped."""
    clock = asyncio.get_running_loop()
    deadline -= min(_RESERVED_MAX_SECONDS, (deadline - clock.time()) * _RESERVED_SHARE)
    retry = RoutingRetry(cluster, deadline)
    give_up_at = min(deadline, clock.time() + _SETTLE_SECONDS)
    while True:
        answers = await ask(deadline)
        errors = [part for part in answers.parts if isinstance(part, LookalikeError)]
        if not errors:
            return answers
        if any(isinstance(error, SlotMoved) for error in errors) and await retry.refreshed():
            continue
        absent = sum(isinstance(error, NotFound) for error in errors)
        if not absent or absent == len(answers.parts) or clock.time() >= give_up_at:
            return answers
        await catalog.get(collection, deadline)
        await asyncio.sleep(PAUSE_SECONDS)
