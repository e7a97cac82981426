"""Owns the public gRPC service: each handler decodes a request, calls the component that does the work, and
encodes the result."""

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
from coordinator.changes import AttributeChange, Changer
from coordinator.clock import Clock, node_of
from coordinator.cluster import Cluster
from coordinator.collection_calls import CollectionCalls
from coordinator.conditional import ConditionalWriter
from coordinator.copies import Copier
from coordinator.deadlines import SEARCH_SECONDS, WRITE_SECONDS
from coordinator.deadlines import deadline_of as _deadline
from coordinator.encoders import Encoders
from coordinator.ingest_messages import IngestMessages
from coordinator.ingest_stream import IngestStream
from coordinator.names import Names, resolving
from coordinator.query_encoder import QueryEncoder
from coordinator.reader import Reader
from coordinator.search import Answer, Searcher
from coordinator.selector import Selector
from coordinator.status import cluster_gauges, cluster_status, coordinator_status
from coordinator.sweeper import Sweeper
from coordinator.write_router import WriteRouter
from coordinator.writes import Writer
from lookalike import wire
from lookalike.cluster.select import MAX_FACETS
from lookalike.model.codespace import CodeSpace
from lookalike.model.errors import InvalidRequest
from lookalike.model.filters import Filter, check_field
from lookalike.model.indexing import Indexing
from lookalike.model.records import DEFAULT_FACETS, DEFAULT_PAGE, check_count
from lookalike.model.status import ClusterStatus
from lookalike.server.admission import Admission
from lookalike.server.background import BackgroundTasks
from lookalike.server.config import ClusterConfig
from lookalike.server.observe import metrics
from lookalike.server.peer_channels import PeerChannels
from lookalike.server.security.authorizer import visible
from lookalike.v1 import search_pb2 as pb
from lookalike.v1 import search_pb2_grpc, shard_pb2

Context = grpc.aio.ServicerContext[Any, Any]

_of_collection = resolving("collection", lambda context: _deadline(context, SEARCH_SECONDS))
_of_name = resolving("name", lambda context: _deadline(context, SEARCH_SECONDS))


class SearchServicer(CollectionCalls, search_pb2_grpc.SearchServiceServicer):
    """Serves the cluster that a config describes. Holds connections, no data."""

    def __init__(
        self, config: ClusterConfig, admission: Admission, peer_channels: PeerChannels, process: int = 0
    ) -> None:
        """process: The number of this process among those that share its ports."""
        self._config = config
        self._process = process
        self._admission = admission
        self._draining = asyncio.Event()
        self._started = time.monotonic()
        self._cluster = Cluster(config, peer_channels)
        self._encoders = Encoders(config.all_encoders, peer_channels, config.limits.max_image_bytes)
        self.names = Names(self._cluster)
        self.catalog = Catalog(self._cluster, self.names)
        self._reader = Reader(self._cluster, self.catalog)
        queries = QueryEncoder(self._encoders, self._reader)
        self._selector = Selector(self._cluster, self.catalog, self._reader)
        self._searcher = Searcher(self._cluster, self.catalog, queries, self._reader, self._selector)
        clock = Clock(node=node_of(process, config.coordinator.processes))
        changes_clock = clock.sibling()
        self._clocks = (clock, changes_clock)
        self._cluster.on_version = self._observe
        router = WriteRouter(self._cluster, changes_clock)
        conditional = ConditionalWriter(self._cluster, self._reader, router, changes_clock)
        self._writer = Writer(self._cluster, self.catalog, self._encoders, clock, conditional)
        self._ingest_messages = IngestMessages(self._writer, self.names)
        self._changer = Changer(self.catalog, self._reader, self._selector, router, changes_clock, conditional)
        self._sweeper = Sweeper(self.names, self.catalog, self._changer, config.coordinator.ttl_seconds)
        self.copier = Copier(self.names, self.catalog, self._reader, self._selector, router, changes_clock)

    def _observe(self, version: int) -> None:
        for clock in self._clocks:
            clock.observe(version)

    async def start(self, background: BackgroundTasks) -> None:
        """Looks for the shards, and follows their state in the background."""
        await self._cluster.start(background)
        background.start("deletion of expired records", self._sweeper.run)

    async def reload(self, config: ClusterConfig) -> None:
        """Applies another config. New addresses of this process and of encoders take effect after a restart."""
        await self._cluster.reload(config)
        self._sweeper.seconds = config.coordinator.ttl_seconds

    def drain(self) -> None:
        """Stops reading from ingest streams: each ends once the messages read from it are answered."""
        self._draining.set()

    async def close(self) -> None:
        await self._searcher.close()
        await self._cluster.close()
        await self._encoders.close()

    def gauges(self) -> Iterator[metrics.Sample]:
        """Yields the gauges of this process and of the cluster."""
        yield metrics.QUEUE_WAITING, ("round",), self._searcher.waiting
        yield from cluster_gauges(self._cluster)

    async def status(self) -> ClusterStatus:
        name = f"{socket.gethostname()}:{self._config.coordinator.listen.rpartition(':')[2]}"
        if self._config.coordinator.processes > 1:
            name += f"#{self._process}"
        own = coordinator_status(name, time.monotonic() - self._started)
        status = await cluster_status(self._config.cluster, self._cluster, self._encoders, own)
        return dataclasses.replace(status, collections=self.names.all_described(status.collections))

    @_of_collection
    async def Search(self, request: pb.SearchRequest, context: Context) -> pb.SearchResponse:
        answer = await self._search(
            request.collection, [request.query], request.fingerprint, request.options, context
        )
        hits = wire.hits_to_wire(answer.hits, answer.bits, answer.thumbnails)
        return pb.SearchResponse(
            hits=hits[0] if answer.groups is None else (),
            more=answer.more[0],
            cursor=answer.cursor,
            groups=wire.groups_to_wire(answer.groups or (), hits),
            **_facts(answer),
        )

    @_of_collection
    async def SearchBatch(self, request: pb.SearchBatchRequest, context: Context) -> pb.SearchBatchResponse:
        most = self._config.limits.max_batch
        if not 1 <= len(request.queries) <= most:
            raise InvalidRequest(f"queries: {len(request.queries):,} in one request; send 1..{most:,}")
        for name in ("after", "group_by"):
            if getattr(request.options, name):
                raise InvalidRequest(f"{name}: is for one query, not for a batch; send each query by itself")
        answer = await self._search(
            request.collection, request.queries, request.fingerprint, request.options, context
        )
        found = wire.hits_to_wire(answer.hits, answer.bits, answer.thumbnails)
        results = [pb.Hits(hits=hits, more=more) for hits, more in zip(found, answer.more, strict=True)]
        return pb.SearchBatchResponse(results=results, **_facts(answer))

    @_of_collection
    async def Get(self, request: pb.GetRequest, context: Context) -> pb.GetResponse:
        check_count("keys", len(request.keys))
        consistency = wire.consistency_from_wire(request.consistency)
        records = await self._reader.get(
            request.collection,
            request.keys,
            consistency,
            _deadline(context, SEARCH_SECONDS),
            request.include_thumbnails,
        )
        return pb.GetResponse(records=[wire.stored_record_to_wire(record) for record in records])

    @_of_collection
    async def Upsert(self, request: pb.UpsertRequest, context: Context) -> pb.UpsertResponse:
        check_count("records", len(request.records))
        drafts = [wire.draft_from_wire(record) for record in request.records]
        stored = await self._writer.upsert(
            request.collection,
            drafts,
            request.fingerprint,
            _deadline(context, WRITE_SECONDS),
            wire.if_versions_from_wire(request.records),
        )
        return pb.UpsertResponse(upserted=stored)

    async def Ingest(
        self, requests: AsyncIterator[pb.IngestRequest], context: Context
    ) -> AsyncIterator[pb.IngestResponse]:
        messages = self._ingest_messages
        stream = IngestStream(self._admission, self._draining, messages.check, messages.start)
        async for answer in stream.answers(requests):
            yield answer

    @_of_collection
    async def Delete(self, request: pb.DeleteRequest, context: Context) -> pb.DeleteResponse:
        check_count("keys", len(request.keys))
        deleted = await self._writer.delete(
            request.collection, request.keys, _deadline(context, WRITE_SECONDS), request.if_versions
        )
        return pb.DeleteResponse(deleted=deleted)

    @_of_collection
    async def Exists(self, request: pb.ExistsRequest, context: Context) -> pb.ExistsResponse:
        check_count("keys", len(request.keys))
        consistency = wire.consistency_from_wire(request.consistency)
        exists = await self._reader.exists(
            request.collection, request.keys, consistency, _deadline(context, SEARCH_SECONDS)
        )
        return pb.ExistsResponse(exists=exists)

    @_of_collection
    async def Count(self, request: pb.CountRequest, context: Context) -> pb.CountResponse:
        count, coverage, warnings = await self._selector.count(
            request.collection,
            _filter_of(request),
            request.allow_partial,
            _deadline(context, SEARCH_SECONDS),
            wire.consistency_from_wire(request.consistency),
        )
        return pb.CountResponse(count=count, coverage=wire.coverage_to_wire(coverage), warnings=warnings)

    @_of_collection
    async def Scroll(self, request: pb.ScrollRequest, context: Context) -> pb.ScrollResponse:
        page = await self._selector.page(
            request.collection,
            _filter_of(request),
            wire.list_from_wire(request),
            request.cursor,
            wire.consistency_from_wire(request.consistency),
            _deadline(context, SEARCH_SECONDS),
        )
        return wire.page_to_wire(page.listed, page.cursor, page.warnings, request.columns)

    @_of_collection
    async def Facets(self, request: pb.FacetsRequest, context: Context) -> pb.FacetsResponse:
        check_field(request.attribute, "attribute")
        limit = request.limit or DEFAULT_FACETS
        check_count("limit", limit, MAX_FACETS)
        facets = await self._selector.facets(
            request.collection,
            request.attribute,
            _filter_of(request),
            limit,
            request.allow_partial,
            _deadline(context, SEARCH_SECONDS),
        )
        return pb.FacetsResponse(
            facets=[wire.facet_to_wire(value, count) for (_, value), count in facets.top],
            other_values=facets.other_values,
            other_count=facets.other_count,
            coverage=wire.coverage_to_wire(facets.coverage),
            warnings=facets.warnings,
        )

    @_of_collection
    async def DeleteByFilter(
        self, request: pb.DeleteByFilterRequest, context: Context
    ) -> pb.DeleteByFilterResponse:
        done = await self._changer.delete_matching(
            request.collection,
            _required_filter(request),
            _page_limit(request),
            request.cursor,
            _deadline(context, WRITE_SECONDS),
        )
        return pb.DeleteByFilterResponse(deleted=done.count, cursor=done.cursor, warnings=done.warnings)

    @_of_collection
    async def SetAttributes(self, request: pb.SetAttributesRequest, context: Context) -> pb.SetAttributesResponse:
        deadline = _deadline(context, WRITE_SECONDS)
        change = AttributeChange.parse(request.attributes, request.remove)
        if not request.HasField("filter"):
            check_count("keys", len(request.keys))
            changed = await self._changer.set_attributes(
                request.collection, request.keys, change, deadline, request.if_versions
            )
            return pb.SetAttributesResponse(changed=changed)
        if request.if_versions:
            raise InvalidRequest("if_versions: are given with a filter; give keys instead of it")
        if request.keys:
            raise InvalidRequest("keys: are given with a filter; give one of the two")
        done = await self._changer.set_matching(
            request.collection,
            _required_filter(request),
            change,
            _page_limit(request),
            request.cursor,
            deadline,
        )
        return pb.SetAttributesResponse(changed=done.count, cursor=done.cursor, warnings=done.warnings)

    async def CreateCollection(
        self, request: pb.CreateCollectionRequest, context: Context
    ) -> pb.CreateCollectionResponse:
        deadline = _deadline(context, WRITE_SECONDS)
        indexing, hash_file = wire.indexing_from_wire(request.indexing), request.hash_file
        if request.encoder and request.WhichOneof("space"):
            raise InvalidRequest("encoder: is given with bits or a code space; give only one of these")
        match request.WhichOneof("space"):
            case "bits":
                space = CodeSpace(request.bits)
            case "code_space":
                space = wire.space_from_wire(request.code_space)
            case _:
                own = await self._encoders.describe(request.encoder, deadline)
                space, hash_file = own.space, own.hash_file
                indexing = _with_width(indexing, own.feature_width)
        if request.hash_file and request.WhichOneof("space") != "code_space":
            raise InvalidRequest(
                "hash_file: needs a code space; the encoder's own hash file is stored automatically"
            )
        indexing.require_width()
        collection = await self.catalog.create(request.name, space, indexing, hash_file, deadline)
        if request.HasField("ttl"):
            await self.names.set_ttl(request.name, wire.ttl_from_wire(request.ttl), deadline)
        collection = self.names.described(collection)
        return pb.CreateCollectionResponse(collection=wire.collection_to_wire(collection))

    @_of_name
    async def GetCollection(self, request: pb.GetCollectionRequest, context: Context) -> pb.GetCollectionResponse:
        deadline = _deadline(context, SEARCH_SECONDS)
        collection = self.names.described(await self.catalog.get(request.name, deadline))
        return pb.GetCollectionResponse(
            collection=wire.collection_to_wire(collection),
            hash_file=await self.catalog.hash_file(request.name, deadline) if request.include_hash else b"",
        )

    async def ListCollections(
        self, request: pb.ListCollectionsRequest, context: Context
    ) -> pb.ListCollectionsResponse:
        deadline = _deadline(context, SEARCH_SECONDS)
        await self.names.confirmed(deadline)
        collections = self.names.all_described(await self.catalog.list(deadline))
        allowed = visible(collection.name for collection in collections)
        return pb.ListCollectionsResponse(
            collections=[
                wire.collection_to_wire(collection) for collection in collections if collection.name in allowed
            ]
        )

    async def DropCollection(
        self, request: pb.DropCollectionRequest, context: Context
    ) -> pb.DropCollectionResponse:
        deadline = _deadline(context, WRITE_SECONDS)
        await self.catalog.drop(await self.names.own(request.name, "drop", deadline), deadline)
        return pb.DropCollectionResponse()

    async def Backup(self, request: shard_pb2.DumpRequest, context: Context) -> AsyncIterator[shard_pb2.DumpPart]:
        deadline = _deadline(context, SEARCH_SECONDS)
        request.collection = await self.names.stored(request.collection, deadline)
        await self.catalog.get(request.collection, deadline)
        async for part in backups.dump(self._cluster, request):
            yield part

    @_of_collection
    async def Restore(self, request: pb.RestoreRequest, context: Context) -> pb.RestoreResponse:
        check_count("records", len(request.records))
        records = [wire.versioned_from_wire(message) for message in request.records]
        restored = await self._writer.restore(
            request.collection, records, request.fingerprint, request.features, _deadline(context, WRITE_SECONDS)
        )
        return pb.RestoreResponse(restored=restored)

    async def Drain(self, request: pb.DrainRequest, context: Context) -> pb.DrainResponse:
        return pb.DrainResponse(slots=await self._cluster.drain(request.partition, request.undo))

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
            [wire.query_from_wire(query) for query in queries],
            fingerprint,
            wire.options_from_wire(options, self._config.limits.max_k),
            _deadline(context, SEARCH_SECONDS),
        )


def _facts(answer: Answer) -> dict[str, Any]:
    """The fields that responses to searches share."""
    return {
        "coverage": wire.coverage_to_wire(answer.coverage),
        "exact": answer.is_exact,
        "timings": wire.timings_to_wire(answer.timings),
        "warnings": answer.warnings,
    }


def _filter_of(request: Any) -> Filter | None:
    """Returns the request's filter; None if it has none."""
    return wire.filter_from_wire(request.filter) if request.HasField("filter") else None


def _required_filter(request: Any) -> Filter:
    condition = _filter_of(request)
    if condition is None:
        raise InvalidRequest("filter: is missing; name the records to change")
    return condition


def _page_limit(request: Any) -> int:
    limit: int = request.limit or DEFAULT_PAGE
    check_count("limit", limit)
    return limit


def _with_width(indexing: Indexing, width: int) -> Indexing:
    """Sets the encoder's feature width if the collection is to store features. Raises InvalidRequest if the client
    asked for another width."""
    if indexing.feature_width not in (0, width):
        raise InvalidRequest(
            f"feature_width: is {indexing.feature_width:,}, but the encoder's is {width:,}; leave it out"
        )
    return dataclasses.replace(indexing, feature_width=width) if indexing.keeps_features else indexing
