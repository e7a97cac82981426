"""Owns reads by key: from one replica of each partition, or from a majority."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from coordinator.catalog import Catalog, Layout
from coordinator.cluster import Cluster
from coordinator.routing import slots_of_keys
from coordinator.routing_retry import RoutingRetry
from lookalike.model.errors import InvalidRequest, SlotMoved
from lookalike.model.records import MAX_ANSWER_BYTES, VersionedRecord, check_key
from lookalike.model.search_options import Consistency
from lookalike.server.shard_client import ShardClient


class Reader:
    """Reads records by key. Deadlines are times of the running loop's clock."""

    def __init__(self, cluster: Cluster, catalog: Catalog) -> None:
        self._cluster = cluster
        self._catalog = catalog

    async def get(
        self,
        collection: str,
        keys: Sequence[str],
        consistency: Consistency,
        deadline: float,
        include_thumbnails: bool = False,
    ) -> list[VersionedRecord]:
        """Returns the live records among `keys`, in the order of the keys. Never partial.

        Raises:
            InvalidRequest: If a key is invalid or the records are too large for one answer.
            NotFound: If the collection does not exist.
            PartitionUnavailable: If a partition does not answer.
        """
        for key in keys:
            check_key(key)
        return await self._catalog.in_layout(
            collection,
            deadline,
            lambda layout: self.fetch(
                collection, keys, consistency, deadline, include_thumbnails=include_thumbnails
            ),
        )

    async def exists(
        self, collection: str, keys: Sequence[str], consistency: Consistency, deadline: float
    ) -> list[bool]:
        """Returns for each of `keys` whether it has a live record. Raises what `get` raises."""
        for key in keys:
            check_key(key)

        async def fetch(_: Layout) -> list[VersionedRecord]:
            return await self.fetch(collection, keys, consistency, deadline, omit_content=True)

        found = {record.key for record in await self._catalog.in_layout(collection, deadline, fetch)}
        return [key in found for key in keys]

    async def fetch(
        self,
        collection: str,
        keys: Sequence[str],
        consistency: Consistency,
        deadline: float,
        features: str = "",
        include_thumbnails: bool = False,
        omit_content: bool = False,
        include_deleted: bool = False,
    ) -> list[VersionedRecord]:
        """Returns what `get` returns, for valid keys of a known layout.

        Args:
            features: How the layout stores features, such as "int8 1280", to include them; empty to omit them.
            omit_content: Whether to read keys and versions only.
            include_deleted: Whether to return tombstones too, as far as a read at `quorum` finds them.
        """
        slots = slots_of_keys(keys)
        retry = RoutingRetry(self._cluster, deadline)
        while True:
            parts = self._cluster.routing.split(slots, range(len(keys)))
            try:
                answers = await asyncio.gather(
                    *(
                        self._fetch_part(
                            partition, collection, [keys[i] for i in indices], consistency, deadline, features,
                            include_thumbnails, omit_content,
                        )
                        for partition, indices in parts.items()
                    )
                )  # fmt: skip
                break
            except SlotMoved:
                if not await retry.refreshed():
                    raise
        found = {
            record.key: record
            for answer in answers
            for record in answer
            if include_deleted or record.code is not None
        }
        if sum(len(record.attributes) + len(record.thumbnail) for record in found.values()) > MAX_ANSWER_BYTES:
            raise InvalidRequest(f"keys: the records take over {MAX_ANSWER_BYTES:,} bytes; request fewer at once")
        return [found[key] for key in keys if key in found]

    async def _fetch_part(
        self,
        partition: int,
        collection: str,
        keys: Sequence[str],
        consistency: Consistency,
        deadline: float,
        features: str,
        include_thumbnails: bool,
        omit_content: bool,
    ) -> list[VersionedRecord]:
        """One replica's records; or the newest that a majority has, tombstones included."""
        group = self._cluster.group(partition)
        count = group.majority if consistency == "quorum" else 1

        async def fetch(client: ShardClient) -> list[VersionedRecord]:
            return await client.fetch(
                collection, keys, deadline, features, consistency == "quorum", include_thumbnails, omit_content
            )

        newest: dict[str, VersionedRecord] = {}
        for _, records in await group.some(fetch, count, deadline):
            for record in records:
                if record.key not in newest or newest[record.key].version < record.version:
                    newest[record.key] = record
        return list(newest.values())
