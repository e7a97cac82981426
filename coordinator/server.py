"""Owns the public gRPC service: each handler decodes a request, calls the component that does the work, and
encodes the result."""

from __future__ import annotations

import asyncio
import dataclasses
import socket
import time
from collections.abc import AsyncIterator, Coroutine, Iterator, Sequence
from typing import Any

import grpc
import numpy as np
import numpy.typing as npt

from coordinator import backups
from coordinator.catalog import Catalog
from coordinator.changes import AttributeChange, Changer
from coordinator.clock import Clock
from coordinator.cluster import Cluster
from coordinator.encoders import Encoders
from coordinator.ingest_stream import IngestStream
from coordinator.query_encoder import QueryEncoder
from coordinator.reader import Reader
from coordinator.search import Answer, Searcher
from coordinator.selector import Selector
from coordinator.status import cluster_gauges, cluster_status, coordinator_status
from coordinator.write_router import WriteRouter
from coordinator.writes import Writer
from lookalike import wire
from lookalike.cluster.columns import CodeColumns
from lookalike.cluster.select import MAX_FACETS
from lookalike.model.codespace import CodeSpace
from lookalike.model.errors import InvalidRequest, LookalikeError
from lookalike.model.filters import Filter, check_field
from lookalike.model.indexing import Indexing
from lookalike.model.records import DEFAULT_FACETS, DEFAULT_PAGE, MAX_COLUMN_RECORDS, Outcome, check_count
from lookalike.model.status import ClusterStatus
from lookalike.server.admission import Admission
from lookalike.server.background import BackgroundTasks
from lookalike.server.config import ClusterConfig
from lookalike.server.observe import metrics
from lookalike.server.peer_channels import PeerChannels
from lookalike.server.security.authorizer import visible
from lookalike.v1 import search_pb2 as pb
from lookalike.v1 import search_pb2_grpc, shard_pb2

SEARCH_SECONDS = 10.0
WRITE_SECONDS = 30.0

Context = grpc.aio.ServicerContext[Any, Any]


class SearchServicer(search_pb2_grpc.SearchServiceServicer):
    """Serves the cluster that a config describes. Holds connections, no data."""

    def __init__(self, config: ClusterConfig, admission: Admission, peer_channels: PeerChannels) -> None:
        self._config = config
        self._admission = admission
        self._draining = asyncio.Event()
        self._started = time.monotonic()
        self._cluster = Cluster(config, peer_channels)
        self._encoders = Encoders(config.all_encoders, peer_channels, config.limits.max_image_bytes)
        self._catalog = Catalog(self._cluster)
        self._reader = Reader(self._cluster, self._catalog)
        queries = QueryEncoder(self._encoders, self._reader)
        self._selector = Selector(self._cluster, self._catalog, self._reader)
        self._searcher = Searcher(self._cluster, self._catalog, queries, self._reader, self._selector)
        clock = Clock()
        changes_clock = clock.sibling()
        self._clocks = (clock, changes_clock)
        self._cluster.on_version = self._observe
        self._writer = Writer(self._cluster, self._catalog, self._encoders, clock)
        self._changer = Changer(
            self._catalog,
            self._reader,
            self._selector,
            WriteRouter(self._cluster, changes_clock),
            changes_clock,
        )

    def _observe(self, version: int) -> None:
        for clock in self._clocks:
            clock.observe(version)

    async def start(self, background: BackgroundTasks) -> None:
        """Looks for the shards, and follows their state in the background."""
        await self._cluster.start(background)

    async def reload(self, config: ClusterConfig) -> None:
        """Applies another config. New addresses of this process and of encoders take effect after a restart."""
        await self._cluster.reload(config)

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
        own = coordinator_status(name, time.monotonic() - self._started)
        return await cluster_status(self._config.cluster, self._cluster, self._encoders, own)

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

    async def SearchBatch(self, request: pb.SearchBatchRequest, context: Context) -> pb.SearchBatchResponse:
        most = self._config.limits.max_batch
        if not 1 <= len(request.queries) <= most:
            raise InvalidRequest(f"queries: {len(request.queries):,} in one request; send 1..{most:,}")
        answer = await self._search(
            request.collection, request.queries, request.fingerprint, request.options, context
        )
        found = wire.hits_to_wire(answer.hits, answer.bits, answer.thumbnails)
        results = [pb.Hits(hits=hits, more=more) for hits, more in zip(found, answer.more, strict=True)]
        return pb.SearchBatchResponse(results=results, **_facts(answer))

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

    async def Upsert(self, request: pb.UpsertRequest, context: Context) -> pb.UpsertResponse:
        check_count("records", len(request.records))
        drafts = [wire.draft_from_wire(record) for record in request.records]
        stored = await self._writer.upsert(
            request.collection, drafts, request.fingerprint, _deadline(context, WRITE_SECONDS)
        )
        return pb.UpsertResponse(upserted=stored)

    async def Ingest(
        self, requests: AsyncIterator[pb.IngestRequest], context: Context
    ) -> AsyncIterator[pb.IngestResponse]:
        def check(request: pb.IngestRequest) -> None:
            if request.HasField("columns"):
                check_count("columns", len(wire.columns_from_wire(request.columns)), MAX_COLUMN_RECORDS)
            else:
                check_count("records", len(request.records))

        stream = IngestStream(self._admission, self._draining, check, self._start_ingest)
        async for answer in stream.answers(requests):
            yield answer

    async def Delete(self, request: pb.DeleteRequest, context: Context) -> pb.DeleteResponse:
        check_count("keys", len(request.keys))
        deleted = await self._writer.delete(request.collection, request.keys, _deadline(context, WRITE_SECONDS))
        return pb.DeleteResponse(deleted=deleted)

    async def Exists(self, request: pb.ExistsRequest, context: Context) -> pb.ExistsResponse:
        check_count("keys", len(request.keys))
        consistency = wire.consistency_from_wire(request.consistency)
        exists = await self._reader.exists(
            request.collection, request.keys, consistency, _deadline(context, SEARCH_SECONDS)
        )
        return pb.ExistsResponse(exists=exists)

    async def Count(self, request: pb.CountRequest, context: Context) -> pb.CountResponse:
        count, coverage, warnings = await self._selector.count(
            request.collection, _filter_of(request), request.allow_partial, _deadline(context, SEARCH_SECONDS)
        )
        return pb.CountResponse(count=count, coverage=wire.coverage_to_wire(coverage), warnings=warnings)

    async def Scroll(self, request: pb.ScrollRequest, context: Context) -> pb.ScrollResponse:
        page = await self._selector.page(
            request.collection,
            _filter_of(request),
            wire.list_from_wire(request),
            request.cursor,
            wire.consistency_from_wire(request.consistency),
            _deadline(context, SEARCH_SECONDS),
        )
        return wire.page_to_wire(page.records, page.cursor, page.warnings)

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

    async def SetAttributes(self, request: pb.SetAttributesRequest, context: Context) -> pb.SetAttributesResponse:
        deadline = _deadline(context, WRITE_SECONDS)
        change = AttributeChange.parse(request.attributes, request.remove)
        if not request.HasField("filter"):
            check_count("keys", len(request.keys))
            changed = await self._changer.set_attributes(request.collection, request.keys, change, deadline)
            return pb.SetAttributesResponse(changed=changed)
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

    def _start_ingest(self, request: pb.IngestRequest) -> Coroutine[Any, Any, pb.IngestResponse]:
        # Versions follow the order of arrival, whichever message is stored first.
        if request.HasField("columns"):
            columns = wire.columns_from_wire(request.columns)
            return self._ingest_columns(request, columns, self._writer.reserve(len(columns)))
        return self._ingest(request, self._writer.stamp(len(request.records)))

    async def _ingest(self, request: pb.IngestRequest, versions: Sequence[int]) -> pb.IngestResponse:
        drafts = [wire.draft_from_wire(record) for record in request.records]
        deadline = asyncio.get_running_loop().time() + WRITE_SECONDS
        errors: Sequence[LookalikeError | None] = await self._writer.ingest(
            request.collection, drafts, versions, request.fingerprint, deadline
        )
        return wire.outcomes_to_wire(
            [Outcome(draft.key, error) for draft, error in zip(drafts, errors, strict=True)]
        )

    async def _ingest_columns(
        self, request: pb.IngestRequest, columns: CodeColumns, versions: npt.NDArray[np.uint64]
    ) -> pb.IngestResponse:
        deadline = asyncio.get_running_loop().time() + WRITE_SECONDS
        failed = await self._writer.ingest_columns(
            request.collection, columns, versions, request.fingerprint, deadline
        )
        response = wire.outcomes_to_wire(list(failed.values()))
        response.rows.extend(failed)
        return response


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


def _deadline(context: Context, default_seconds: float) -> float:
    """The call's deadline as a time on the event loop's clock; in `default_seconds` if the client set none."""
    remaining = context.time_remaining()
    return asyncio.get_running_loop().time() + (default_seconds if remaining is None else remaining)


def _with_width(indexing: Indexing, width: int) -> Indexing:
    """Sets the encoder's feature width if the collection is to store features. Raises InvalidRequest if the client
    asked for another width."""
    if indexing.feature_width not in (0, width):
        raise InvalidRequest(
            f"feature_width: is {indexing.feature_width:,}, but the encoder's is {width:,}; leave it out"
        )
    return dataclasses.replace(indexing, feature_width=width) if indexing.keeps_features else indexing
