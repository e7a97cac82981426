"""Owns the storing of one message of an ingest stream: records, or columns."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from coordinator.deadlines import WRITE_SECONDS
from coordinator.names import Names
from coordinator.writes import Writer
from lookalike import wire
from lookalike.cluster.columns import CodeColumns
from lookalike.model.errors import InvalidRequest, LookalikeError
from lookalike.model.records import MAX_COLUMN_RECORDS, Outcome, check_count
from lookalike.v1 import search_pb2 as pb


class IngestMessages:
    """Stores the messages of ingest streams."""

    def __init__(self, writer: Writer, names: Names) -> None:
        self._writer = writer
        self._names = names

    @staticmethod
    def check(request: pb.IngestRequest) -> None:
        """Raises InvalidRequest if a message has too many records, none, or some with a condition."""
        if request.HasField("columns"):
            check_count("columns", len(wire.columns_from_wire(request.columns)), MAX_COLUMN_RECORDS)
        else:
            check_count("records", len(request.records))
            if wire.if_versions_from_wire(request.records):
                raise InvalidRequest("if_version: is for Upsert; an ingest stream stores unconditionally")

    def start(self, request: pb.IngestRequest) -> Coroutine[Any, Any, pb.IngestResponse]:
        """Returns the coroutine that stores a message. Call it in the order of arrival: versions follow that
        order, whichever message is stored first."""
        if request.HasField("columns"):
            columns = wire.columns_from_wire(request.columns)
            return self._store_columns(request, columns, self._writer.reserve(len(columns)))
        return self._store_records(request, self._writer.stamp(len(request.records)))

    async def _store_records(self, request: pb.IngestRequest, versions: Sequence[int]) -> pb.IngestResponse:
        drafts = [wire.draft_from_wire(record) for record in request.records]
        deadline = asyncio.get_running_loop().time() + WRITE_SECONDS
        errors: Sequence[LookalikeError | None]
        try:
            collection = await self._names.stored(request.collection, deadline)
        except LookalikeError as error:
            errors = [error] * len(drafts)
        else:
            errors = await self._writer.ingest(collection, drafts, versions, request.fingerprint, deadline)
        return wire.outcomes_to_wire(
            [Outcome(draft.key, error) for draft, error in zip(drafts, errors, strict=True)]
        )

    async def _store_columns(
        self, request: pb.IngestRequest, columns: CodeColumns, versions: npt.NDArray[np.uint64]
    ) -> pb.IngestResponse:
        deadline = asyncio.get_running_loop().time() + WRITE_SECONDS
        try:
            collection = await self._names.stored(request.collection, deadline)
        except LookalikeError as error:
            pieces = columns.keys.pieces()
            failed = {row: Outcome(key.decode(errors="replace"), error) for row, key in enumerate(pieces)}
        else:
            failed = await self._writer.ingest_columns(
                collection, columns, versions, request.fingerprint, deadline
            )
        response = wire.outcomes_to_wire(list(failed.values()))
        response.rows.extend(failed)
        return response
