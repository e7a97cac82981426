"""Owns the public gRPC surface: decode, call, encode."""

from __future__ import annotations

import asyncio
import dataclasses
import socket
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any

import grpc

from coordinator import backups
from coordinator.catalog import Catalog
from coordinator.clock import Clock
from coordinator.cluster import Cluster
from coordinator.encoder_link import EncoderLink
from coordinator.merge import QueryHits
from coordinator.search import Answer, Query, Searcher
from coordinator.status import cluster_levels, cluster_status, coordinator_status
from coordinator.writes import Draft, Writer
from lookalike import wire
from lookalike.model.codespace import CodeSpace
from lookalike.model.errors import InvalidRequest, LookalikeError, NotFound, PartitionUnavailable
from lookalike.model.indexing import Indexing
from lookalike.model.records import Outcome, check_count
from lookalike.model.status import ClusterStatus
from lookalike.server.admission import Admission
from lookalike.server.config import ClusterConfig
from lookalike.server.observe import metrics
from lookalike.server.peer_channels import PeerChannels
from lookalike.server.security.authorizer import visible
from lookalike.v1 import record_pb2, search_pb2_grpc, shard_pb2
from lookalike.v1 import search_pb2 as pb

SEARCH_SECONDS = 10.0
WRITE_SECONDS = 30.0
INGEST_MESSAGES_IN_WORK = 4

Context = grpc.aio.ServicerContext[Any, Any]


class SearchServicer(search_pb2_grpc.SearchServiceServicer):
    """Serves a cluster config. Holds connections, no data."""

    def __init__(self, config: ClusterConfig, admission: Admission, peer_channels: PeerChannels) -> None:
        self._config = config
        self._admission = admission
        self._draining = asyncio.Event()
        self._started = time.monotonic()
        self._cluster = Cluster(config, peer_channels)
        self._encoder = EncoderLink(
            config.encoder.address if config.encoder else None, peer_channels, config.limits.max_image_bytes
        )
        self._catalog = Catalog(self._cluster)
        self._searcher = Searcher(self._cluster, self._catalog, self._encoder)
        clock = Clock()
        self._cluster.on_version = clock.observe
        self._writer = Writer(self._cluster, self._catalog, self._encoder, clock)

    async def start(self) -> None:
        """Look for the shards."""
        await self._cluster.start()

    async def reload(self, config: ClusterConfig) -> None:
        """Go on with another config. Its addresses of this process and of the encoder need a restart."""
        await self._cluster.reload(config)

    def drain(self) -> None:
        """Begin no new work of streams: they end once what they have taken in is answered."""
        self._draining.set()

    async def close(self) -> None:
        await self._searcher.close()
        await self._cluster.close()
        await self._encoder.close()

    def levels(self) -> Iterator[metrics.Sample]:
        """What its metrics show of it and of the cluster."""
        yield metrics.QUEUE_WAITING, ("round",), self._searcher.waiting
        yield from cluster_levels(self._cluster)

    async def status(self) -> ClusterStatus:
        name = f"{socket.gethostname()}:{self._config.coordinator.listen.rpartition(':')[2]}"
        own = coordinator_status(name, time.monotonic() - self._started)
        return await cluster_status(self._config.cluster, self._cluster, self._encoder, own)

    async def Search(self, request: pb.SearchRequest, context: Context) -> pb.SearchResponse:
        answer = await self._search(
            request.collection, [request.query], request.fingerprint, request.options, context
        )
        return pb.SearchResponse(
            hits=_hits(answer.results[0], answer.bits),
            coverage=wire.coverage_to_wire(answer.coverage),
            exact=all(answer.is_exact),
            timings=_timings(answer),
        )

    async def SearchBatch(self, request: pb.SearchBatchRequest, context: Context) -> pb.SearchBatchResponse:
        most = self._config.limits.max_batch
        if not 1 <= len(request.queries) <= most:
            raise InvalidRequest(f"queries: are {len(request.queries):,}; send 1..{most:,} a request")
        answer = await self._search(
            request.collection, request.queries, request.fingerprint, request.options, context
        )
        return pb.SearchBatchResponse(
            results=[pb.Hits(hits=_hits(hits, answer.bits)) for hits in answer.results],
            coverage=wire.coverage_to_wire(answer.coverage),
            exact=all(answer.is_exact),
            timings=_timings(answer),
        )

    async def Get(self, request: pb.GetRequest, context: Context) -> pb.GetResponse:
        check_count("keys", len(request.keys))
        consistency = wire.consistency_from_wire(request.consistency)
        records = await self._searcher.fetch(
            request.collection,
            request.keys,
            consistency,
            _deadline(context, SEARCH_SECONDS),
            request.include_thumbnails,
        )
        return pb.GetResponse(records=[wire.stored_record_to_wire(record) for record in records])

    async def Upsert(self, request: pb.UpsertRequest, context: Context) -> pb.UpsertResponse:
        check_count("records", len(request.records))
        drafts = [_draft(record) for record in request.records]
        stored = await self._writer.upsert(
            request.collection, drafts, request.fingerprint, _deadline(context, WRITE_SECONDS)
        )
        return pb.UpsertResponse(upserted=stored)

    async def Ingest(
        self, requests: AsyncIterator[pb.IngestRequest], context: Context
    ) -> AsyncIterator[pb.IngestResponse]:
        # Reading goes on while answers wait, so a sender that waits for an answer gets it; and stops while
        # enough is in work, so a fast sender feels it.
        in_work: asyncio.Queue[asyncio.Task[pb.IngestResponse] | None] = asyncio.Queue(INGEST_MESSAGES_IN_WORK)
        tasks: set[asyncio.Task[pb.IngestResponse]] = set()

        async def read() -> None:
            async for request in requests:
                check_count("records", len(request.records))
                room = await self._admission.take(request.ByteSize())
                # Versions follow the order of arrival, whichever message is done first.
                versions = self._writer.stamp(len(request.records))
                task = asyncio.create_task(self._ingest(request, versions))
                tasks.add(task)

                def done(task: asyncio.Task[pb.IngestResponse], room: int = room) -> None:
                    self._admission.give_back(room)
                    tasks.discard(task)

                task.add_done_callback(done)
                await in_work.put(task)

        async def read_until_draining() -> None:
            reading, draining = asyncio.create_task(read()), asyncio.create_task(self._draining.wait())
            try:
                await asyncio.wait((reading, draining), return_when=asyncio.FIRST_COMPLETED)
                if not reading.done():
                    raise PartitionUnavailable(
                        "this coordinator is stopping; send what was not answered again, which is harmless"
                    )
                await reading
            finally:
                for task in (reading, draining):
                    task.cancel()
                await asyncio.gather(reading, draining, return_exceptions=True)

        async def read_to_end() -> None:
            try:
                await read_until_draining()
            except Exception:
                await in_work.put(None)
                raise
            await in_work.put(None)

        reader = asyncio.create_task(read_to_end())
        try:
            while (task := await in_work.get()) is not None:
                yield await task
            await reader
        finally:
            for unfinished in (reader, *tasks):
                unfinished.cancel()
            await asyncio.gather(reader, *tasks, return_exceptions=True)

    async def Delete(self, request: pb.DeleteRequest, context: Context) -> pb.DeleteResponse:
        check_count("keys", len(request.keys))
        deleted = await self._writer.delete(request.collection, request.keys, _deadline(context, WRITE_SECONDS))
        return pb.DeleteResponse(deleted=deleted)

    async def CreateCollection(
        self, request: pb.CreateCollectionRequest, context: Context
    ) -> pb.CreateCollectionResponse:
        deadline = _deadline(context, WRITE_SECONDS)
        indexing, hash_file = wire.indexing_from_wire(request.indexing), request.hash_file
        match request.WhichOneof("space"):
            case "bits":
                space = CodeSpace(request.bits)
            case "code_space":
                space = wire.space_from_wire(request.code_space)
            case _:
                own = await self._encoder.describe(deadline, include_hash=True)
                space, hash_file = own.space, own.hash_file
                indexing = _with_width(indexing, own.feature_width)
        if request.hash_file and request.WhichOneof("space") != "code_space":
            raise InvalidRequest("hash_file: comes with a code space; the encoder's own is kept by itself")
        indexing.require_width()
        collection = await self._catalog.create(request.name, space, indexing, hash_file, deadline)
        return pb.CreateCollectionResponse(collection=wire.collection_to_wire(collection))

    async def GetCollection(self, request: pb.GetCollectionRequest, context: Context) -> pb.GetCollectionResponse:
        deadline = _deadline(context, SEARCH_SECONDS)
        collection = await self._catalog.get(request.name, deadline)
        return pb.GetCollectionResponse(
            collection=wire.collection_to_wire(collection),
            hash_file=await self._catalog.hash_file(request.name, deadline) if request.include_hash else b"",
        )

    async def ListCollections(
        self, request: pb.ListCollectionsRequest, context: Context
    ) -> pb.ListCollectionsResponse:
        collections = await self._catalog.list(_deadline(context, SEARCH_SECONDS))
        allowed = visible(collection.name for collection in collections)
        return pb.ListCollectionsResponse(
            collections=[
                wire.collection_to_wire(collection) for collection in collections if collection.name in allowed
            ]
        )

    async def DropCollection(
        self, request: pb.DropCollectionRequest, context: Context
    ) -> pb.DropCollectionResponse:
        await self._catalog.drop(request.name, _deadline(context, WRITE_SECONDS))
        return pb.DropCollectionResponse()

    async def Backup(self, request: shard_pb2.DumpRequest, context: Context) -> AsyncIterator[shard_pb2.DumpPart]:
        await self._catalog.get(request.collection, _deadline(context, SEARCH_SECONDS))
        async for part in backups.dump(self._cluster, request):
            yield part

    async def Restore(self, request: pb.RestoreRequest, context: Context) -> pb.RestoreResponse:
        check_count("records", len(request.records))
        records = [wire.versioned_from_wire(message) for message in request.records]
        restored = await self._writer.restore(
            request.collection, records, request.fingerprint, request.features, _deadline(context, WRITE_SECONDS)
        )
        return pb.RestoreResponse(restored=restored)

    async def Drain(self, request: pb.DrainRequest, context: Context) -> pb.DrainResponse:
        partition = request.partition
        await self._cluster.refresh()
        target = self._cluster.target
        if partition >= target.partitions:
            raise NotFound(f"partition: {partition} is not one of the {target.partitions} that the cluster has")
        drained = set(target.drained) - {partition} if request.undo else {*target.drained, partition}
        if len(drained) == target.partitions:
            raise InvalidRequest(f"partition: {partition} is the last that is not drained; add one first")
        if drained != set(target.drained):
            changed = target.followed_by(target.partitions, tuple(sorted(drained)))
            if not await self._cluster.tell(changed):
                raise PartitionUnavailable("no shard answers; see the cluster's status")
        return pb.DrainResponse(slots=int(self._cluster.routing.slots_of(partition).sum()))

    async def ClusterStatus(self, request: pb.ClusterStatusRequest, context: Context) -> pb.ClusterStatusResponse:
        status = await self.status()
        allowed = visible(collection.name for collection in status.collections)
        known = [collection for collection in status.collections if collection.name in allowed]
        return wire.status_to_wire(dataclasses.replace(status, collections=known))

    async def _search(
        self,
        collection: str,
        queries: Sequence[pb.Query],
        fingerprint: str,
        options: pb.SearchOptions,
        context: Context,
    ) -> Answer:
        return await self._searcher.search(
            collection,
            [_query(query) for query in queries],
            fingerprint,
            wire.options_from_wire(options, self._config.limits.max_k),
            _deadline(context, SEARCH_SECONDS),
        )

    async def _ingest(self, request: pb.IngestRequest, versions: Sequence[int]) -> pb.IngestResponse:
        drafts = [_draft(record) for record in request.records]
        deadline = asyncio.get_running_loop().time() + WRITE_SECONDS
        errors: Sequence[LookalikeError | None] = await self._writer.ingest(
            request.collection, drafts, versions, request.fingerprint, deadline
        )
        return wire.outcomes_to_wire(
            [Outcome(draft.key, error) for draft, error in zip(drafts, errors, strict=True)]
        )


def _deadline(context: Context, default_seconds: float) -> float:
    """The call's own deadline as a time of the loop's clock, or the default if the client set none."""
    remaining = context.time_remaining()
    return asyncio.get_running_loop().time() + (default_seconds if remaining is None else remaining)


def _query(message: pb.Query) -> Query:
    kind = message.WhichOneof("kind")
    if kind is None:
        raise InvalidRequest("query: is empty; set an image, a code or a key")
    if kind != "code" and (message.projections or message.features):
        raise InvalidRequest(
            "query: projections and features come with a code; those of an image are made from it"
        )
    return Query(**{kind: getattr(message, kind)}, projections=message.projections, features=message.features)


def _with_width(indexing: Indexing, width: int) -> Indexing:
    """The indexing with the encoder's feature width, if features are kept. Raises InvalidRequest for another."""
    if indexing.feature_width not in (0, width):
        raise InvalidRequest(
            f"feature_width: is {indexing.feature_width:,}, the encoder's features have {width:,}; leave it out"
        )
    return dataclasses.replace(indexing, feature_width=width) if indexing.keeps_features else indexing


def _draft(message: record_pb2.Record) -> Draft:
    kind = message.WhichOneof("content")
    return Draft(
        message.key,
        message.image if kind == "image" else None,
        message.code if kind == "code" else None,
        message.attributes,
        message.features,
        message.thumbnail,
    )


def _hits(hits: QueryHits, bits: int) -> list[record_pb2.Hit]:
    attributes = hits.attributes or [""] * len(hits.keys)
    ranks = hits.ranks or [distance / bits for distance in hits.distances]
    return [
        record_pb2.Hit(key=key, distance=distance, score=1 - rank, attributes=text)
        for key, distance, rank, text in zip(hits.keys, hits.distances, ranks, attributes, strict=True)
    ]


def _timings(answer: Answer) -> pb.Timings:
    timings = answer.timings
    return pb.Timings(
        encode_ms=timings.encode_ms,
        search_ms=timings.search_ms,
        merge_ms=timings.merge_ms,
        total_ms=timings.total_ms,
    )
