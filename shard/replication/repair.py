"""Owns repair: having what another shard has. Digests tell which slots differ, listings which rows, and only those
rows travel. Serves replicas that compare themselves, one that starts, one with a new disk, and slots that move."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

import numpy as np
import numpy.typing as npt

from lookalike.cluster.shard_state import CollectionDigest, ShardState
from lookalike.cluster.slots import SlotSet
from lookalike.model.errors import Corruption, LookalikeError, NotFound
from lookalike.server.token_bucket import TokenBucket
from shard.digests import Rows
from shard.node import Node
from shard.replication.peer import Peer
from shard.server import ShardServicer

log = logging.getLogger("shard.repair")
# Rows listed at once: some 20 MB.
LIST_ROWS = 1_000_000
READ_ROWS = 4_096
_FORGIVEN_SECONDS = 0.3

Pause = Callable[[int], Awaitable[None]]


async def no_pause(size: int) -> None:
    """For repairs that somebody waits for."""


class Throttle:
    """Keeps what is pulled under so many bytes a second."""

    def __init__(self, bytes_per_second: float) -> None:
        self._bucket = TokenBucket(bytes_per_second, burst=0)

    async def pause(self, size: int) -> None:
        await asyncio.sleep(self._bucket.take(size))


class Repairer:
    """Brings this shard up to what others have."""

    def __init__(self, node: Node, servicer: ShardServicer) -> None:
        self._node = node
        self._servicer = servicer
        # In the last comparison.
        self.slots_differing = 0

    async def follow_catalog(self, peer: Peer, state: ShardState) -> None:
        """Make the collections that a peer has and this shard lacks, drop those that were dropped, and begin anew
        with those that are damaged here."""
        node = self._node
        for name, incarnation in state.dropped.items():
            here = node.incarnation(name)
            if node.membership.dropped.get(name, 0) < incarnation or (here is not None and here <= incarnation):
                await self._servicer.in_writer(lambda n=name, i=incarnation: node.drop_collection(n, i))  # type: ignore[misc]
        for collection in state.collections:
            name, incarnation = collection.name, collection.incarnation
            here = node.incarnation(name)
            damaged = name in node.damaged() and name not in node.engines()
            if incarnation <= node.membership.dropped.get(name, 0):
                continue
            if damaged and here == incarnation and name not in state.damaged and peer.partition == state.partition:
                hash_file = await peer.fetch_hash(name)
                make = lambda c=collection, h=hash_file: node.make_anew(  # noqa: E731
                    c.name, c.code_space, c.indexing, c.incarnation, h
                )
                await self._servicer.in_writer(make)
            elif here is None or here < incarnation:
                hash_file = await peer.fetch_hash(name)
                create = lambda c=collection, h=hash_file: node.open_collection(  # noqa: E731
                    c.name, c.code_space, c.indexing, c.incarnation, False, h
                )
                await self._servicer.in_writer(create)

    async def pull(self, peer: Peer, slots: SlotSet, pause: Pause = no_pause, patience: bool = False) -> int:
        """Have every row of these slots that the peer has when this is called. Returns how many rows were pulled.
        patience: look again before believing in a difference that may be a write on its way."""
        state = await peer.state(None, include_digests=True)
        await self.follow_catalog(peer, state)
        if patience and any(found.any() for found in self._differing(state, slots).values()):
            before = self._differing(state, slots)
            await asyncio.sleep(_FORGIVEN_SECONDS)
            state = await peer.state(None, include_digests=True)
            slots = slots & np.logical_or.reduce(list(before.values()))
        pulled = 0
        found = self._differing(state, slots)
        self.slots_differing = sum(int(slots.sum()) for slots in found.values())
        for name, differing in found.items():
            try:
                pulled += await self._pull_collection(peer, name, state.digests[name], differing, pause)
            except NotFound:
                log.info("collection %s was dropped while it was compared", name)
        return pulled

    def _differing(self, state: ShardState, slots: SlotSet) -> dict[str, SlotSet]:
        """By collection, the slots in which the peer has something else."""
        differing = {}
        for name, theirs in state.digests.items():
            try:
                engine = self._node.engine(name, to_fill=True)
            except (NotFound, Corruption):
                continue
            if self._node.incarnation(name) == theirs.incarnation:
                found = slots & (engine.sums.digests != theirs.digests)
                if found.any():
                    differing[name] = found
        return differing

    async def _pull_collection(
        self, peer: Peer, name: str, theirs: CollectionDigest, slots: SlotSet, pause: Pause
    ) -> int:
        engine = self._node.engine(name, to_fill=True)
        if theirs.horizon > engine.horizon:
            await self._servicer.in_writer(lambda: engine.forget_tombstones(theirs.horizon))
        pulled = 0
        for part in _parts(slots, theirs.rows):
            listed = await peer.list_rows(name, theirs.incarnation, part)
            mine = await self._servicer.in_reader(lambda part=part: engine.listing(part))  # type: ignore[misc]
            wanted = listed.numbers[_lacking(listed.rows, mine.rows, engine.horizon)]
            while len(wanted):
                records, read = await peer.read_rows(name, theirs.incarnation, wanted[:READ_ROWS])
                if records:
                    await self._servicer.write(engine, records)
                pulled += len(records)
                wanted = wanted[read:]
                await pause(sum(record.size + 64 for record in records))
        return pulled


def _lacking(theirs: Rows, mine: Rows, horizon: int) -> npt.NDArray[np.bool_]:
    """Which of their rows are not here, forgotten tombstones apart."""
    absent: npt.NDArray[np.bool_] = ~np.isin(theirs.hashes, mine.hashes)
    forgotten = theirs.deleted & (theirs.versions < np.uint64(horizon))
    lacking: npt.NDArray[np.bool_] = absent & ~forgotten
    return lacking


def _parts(slots: SlotSet, rows: npt.NDArray[np.int64]) -> list[SlotSet]:
    """Cut a set of slots so that each part can be listed at once."""
    parts: list[SlotSet] = []
    total = LIST_ROWS
    for slot in np.flatnonzero(slots):
        if total + rows[slot] >= LIST_ROWS:
            parts.append(np.zeros_like(slots))
            total = 0
        parts[-1][slot] = True
        total += int(rows[slot])
    return parts


async def heard(peer: Peer, call: Awaitable[ShardState]) -> ShardState | LookalikeError:
    """What the peer says of itself, or why it does not."""
    try:
        return await call
    except LookalikeError as error:
        return error
