"""Owns pulling: copying from another shard the rows that this shard lacks.

Digests show which slots differ, listings show which rows, and only those rows are sent. Pulling serves the
periodic repair, a starting replica, a replica with a new disk, and slots that move."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from functools import partial

import numpy as np
import numpy.typing as npt

from lookalike.cluster.rows import Rows
from lookalike.cluster.shard_state import CollectionDigest, ShardState
from lookalike.cluster.slots import SlotSet
from lookalike.model.errors import Corruption, NotFound
from lookalike.server.shard_client import ShardClient
from lookalike.server.token_bucket import TokenBucket
from shard import work
from shard.executor import ShardExecutor
from shard.node import Node
from shard.replication.catalog import follow_catalog

log = logging.getLogger("shard.replication")
# The number of rows listed at once, in a message of some 20 MB.
LIST_ROWS = 1_000_000
READ_ROWS = 4_096
# The bytes of a row in a message, in addition to its record.
_ROW_BYTES = 64
# A write in flight normally reaches all replicas within this time.
_RECHECK_SECONDS = 0.3

Pause = Callable[[int], Awaitable[None]]


async def no_pause(size: int) -> None:
    """Does not pause. For pulls that must be fast, because reads or writes wait for them."""


class Throttle:
    """Limits pulls to a number of bytes per second."""

    def __init__(self, bytes_per_second: float) -> None:
        self._bucket = TokenBucket(bytes_per_second, burst=0)

    async def pause(self, size: int) -> None:
        """Waits until `size` more bytes fit the rate."""
        await asyncio.sleep(self._bucket.take(size))


class Puller:
    """Copies missing rows from other shards.

    Attributes:
        slots_differing: The number of slots, over all collections, that differed in the last comparison.
    """

    def __init__(self, node: Node, executor: ShardExecutor) -> None:
        self._node = node
        self._executor = executor
        self.slots_differing = 0

    async def pull(self, peer: ShardClient, slots: SlotSet, pause: Pause = no_pause, recheck: bool = False) -> int:
        """Stores every row of these slots that the peer has at the time of the call.

        Args:
            peer: The shard to copy from.
            slots: The slots to compare.
            pause: Awaited after each batch of records, with its size in bytes.
            recheck: Whether to compare again after a moment before pulling, because a difference may be a write
                that is still in flight.

        Returns:
            The number of rows pulled.

        Raises:
            LookalikeError: If the peer does not answer.
        """
        state = await peer.state(None, include_digests=True)
        await follow_catalog(self._node, self._executor, peer, state)
        if recheck and (found := self._differing(state, slots)):
            await asyncio.sleep(_RECHECK_SECONDS)
            state = await peer.state(None, include_digests=True)
            slots = slots & np.logical_or.reduce(list(found.values()))
        pulled = 0
        found = self._differing(state, slots)
        self.slots_differing = sum(int(differing.sum()) for differing in found.values())
        for name, differing in found.items():
            try:
                pulled += await self._pull_collection(peer, name, state.digests[name], differing, pause)
            except NotFound:
                log.info("collection %s was dropped while it was compared", name)
        return pulled

    def _differing(self, state: ShardState, slots: SlotSet) -> dict[str, SlotSet]:
        """Returns, by collection, the slots whose content on the peer differs. Collections without such slots
        are omitted."""
        differing = {}
        for name, theirs in state.digests.items():
            try:
                engine = self._node.engine(name, include_filling=True)
            except (NotFound, Corruption):
                continue
            if self._node.incarnation(name) == theirs.incarnation:
                found = slots & (engine.sums.digests != theirs.digests)
                if found.any():
                    differing[name] = found
        return differing

    async def _pull_collection(
        self, peer: ShardClient, name: str, theirs: CollectionDigest, slots: SlotSet, pause: Pause
    ) -> int:
        engine = self._node.engine(name, include_filling=True)
        if theirs.horizon > engine.horizon:
            await self._executor.mutate(partial(engine.forget_tombstones, theirs.horizon))
        pulled = 0
        for part in portions(slots, theirs.rows):
            listed = await peer.list_rows(name, theirs.incarnation, part)
            mine = await self._executor.read(partial(engine.listing, part))
            wanted = listed.numbers[lacking(listed.rows, mine.rows, engine.horizon)]
            while len(wanted):
                records, read = await peer.read_rows(name, theirs.incarnation, wanted[:READ_ROWS])
                if records:
                    await self._executor.write(work.Write(engine, records, is_repair=True))
                pulled += len(records)
                wanted = wanted[read:]
                await pause(sum(record.size + _ROW_BYTES for record in records))
        return pulled


def lacking(theirs: Rows, mine: Rows, horizon: int) -> npt.NDArray[np.bool_]:
    """Returns a mask of the peer's rows that this shard lacks. Tombstones with versions below `horizon` do
    not count."""
    absent: npt.NDArray[np.bool_] = ~np.isin(theirs.hashes, mine.hashes)
    forgotten = theirs.deleted & (theirs.versions < np.uint64(horizon))
    missing: npt.NDArray[np.bool_] = absent & ~forgotten
    return missing


def portions(slots: SlotSet, rows: npt.NDArray[np.int64]) -> list[SlotSet]:
    """Cuts a set of slots so that each part can be listed at once.

    Args:
        slots: The set to cut.
        rows: int64 (SLOTS,), the number of rows in each slot. A slot with more than LIST_ROWS is a separate part.
    """
    parts: list[SlotSet] = []
    total = LIST_ROWS
    for slot in np.flatnonzero(slots):
        if total + rows[slot] >= LIST_ROWS:
            parts.append(np.zeros_like(slots))
            total = 0
        parts[-1][slot] = True
        total += int(rows[slot])
    return parts
