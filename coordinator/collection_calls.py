"""Owns the calls of the public gRPC service that change what collections are called and when their records
expire, and that copy collections."""

from __future__ import annotations

from typing import Any

import grpc

from coordinator.catalog import Catalog
from coordinator.copies import Copier
from coordinator.deadlines import SEARCH_SECONDS, WRITE_SECONDS, deadline_of
from coordinator.names import Names
from lookalike import wire
from lookalike.cluster.directory import Change, Kind
from lookalike.model.records import DEFAULT_PAGE, Collection, check_count
from lookalike.server.security.authorizer import visible
from lookalike.v1 import search_pb2 as pb

Context = grpc.aio.ServicerContext[Any, Any]


class CollectionCalls:
    """The handlers of these calls. The servicer provides the attributes."""

    names: Names
    catalog: Catalog
    copier: Copier

    async def CreateAlias(self, request: pb.CreateAliasRequest, context: Context) -> pb.CreateAliasResponse:
        change = Change(Kind.CREATE_ALIAS, request.alias, request.collection)
        return pb.CreateAliasResponse(alias=await self._set_alias(change, context))

    async def SwitchAlias(self, request: pb.SwitchAliasRequest, context: Context) -> pb.SwitchAliasResponse:
        change = Change(Kind.SWITCH_ALIAS, request.alias, request.collection)
        return pb.SwitchAliasResponse(alias=await self._set_alias(change, context))

    async def DeleteAlias(self, request: pb.DeleteAliasRequest, context: Context) -> pb.DeleteAliasResponse:
        await self.names.change(Change(Kind.DELETE_ALIAS, request.alias), deadline_of(context, WRITE_SECONDS))
        return pb.DeleteAliasResponse()

    async def ListAliases(self, request: pb.ListAliasesRequest, context: Context) -> pb.ListAliasesResponse:
        aliases = await self.names.aliases(deadline_of(context, SEARCH_SECONDS))
        allowed = visible(aliases)
        return pb.ListAliasesResponse(
            aliases=[
                pb.Alias(alias=alias, collection=collection)
                for alias, collection in aliases.items()
                if alias in allowed
            ]
        )

    async def RenameCollection(
        self, request: pb.RenameCollectionRequest, context: Context
    ) -> pb.RenameCollectionResponse:
        deadline = deadline_of(context, WRITE_SECONDS)
        await self.names.change(Change(Kind.RENAME, request.name, request.new_name), deadline)
        collection = await self._collection(request.new_name, deadline)
        return pb.RenameCollectionResponse(collection=wire.collection_to_wire(collection))

    async def SetTtl(self, request: pb.SetTtlRequest, context: Context) -> pb.SetTtlResponse:
        deadline = deadline_of(context, WRITE_SECONDS)
        ttl = wire.ttl_from_wire(request.ttl) if request.HasField("ttl") else None
        await self.names.set_ttl(request.name, ttl, deadline)
        collection = await self._collection(request.name, deadline)
        return pb.SetTtlResponse(collection=wire.collection_to_wire(collection))

    async def CopyRecords(self, request: pb.CopyRecordsRequest, context: Context) -> pb.CopyRecordsResponse:
        deadline = deadline_of(context, WRITE_SECONDS)
        limit = request.limit or DEFAULT_PAGE
        check_count("limit", limit)
        if not request.cursor:
            await self.copier.prepare(request.collection, request.target, deadline)
        page = await self.copier.copy(
            await self.names.stored(request.collection, deadline),
            await self.names.stored(request.target, deadline),
            wire.filter_from_wire(request.filter) if request.HasField("filter") else None,
            limit,
            request.cursor,
            deadline,
        )
        return pb.CopyRecordsResponse(records=page.records, copied=page.copied, cursor=page.cursor)

    async def _set_alias(self, change: Change, context: Context) -> pb.Alias:
        directory = await self.names.change(change, deadline_of(context, WRITE_SECONDS))
        return pb.Alias(alias=change.name, collection=directory.shown(directory.aliases[change.name]))

    async def _collection(self, name: str, deadline: float) -> Collection:
        stored = await self.names.stored(name, deadline)
        return self.names.described(await self.catalog.get(stored, deadline))
