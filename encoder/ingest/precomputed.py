"""Owns the batch job for records that need no encoder: the job sends the rows of tables to the cluster. The rows
have codes, or features that the collection's hash turns into codes. The job needs neither Ray nor torch, and holds
only a few batches in memory."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from encoder.ingest.builder import RecordBuilder
from encoder.ingest.dead_letters import DeadLetters
from encoder.ingest.images import row_url
from encoder.ingest.rate import SendRate
from encoder.ingest.rows import Precomputed, precomputed_of, salvage
from encoder.ingest.selection import Selection
from encoder.ingest.sending import send
from encoder.ingest.stats import Summary
from encoder.ingest.tables import Row, Table, Unreadable
from encoder.ingest.target import get_or_create, noted_settings, noted_space, require_noted_space
from lookalike.client.sync_client import Client
from lookalike.model.codespace import CodeSpace
from lookalike.model.errors import InvalidRequest, LookalikeError, NotFound
from lookalike.model.indexing import Indexing
from lookalike.model.records import Collection, Record

Batches = Iterable[Sequence[Precomputed]]
Progress = Callable[[int], None]


def read_precomputed(
    tables: Sequence[Table], selection: Selection, dead_letters: DeadLetters, summary: Summary
) -> Iterator[list[Precomputed]]:
    """The selected records of the tables, in batches; invalid rows go to the dead letters."""
    for table in tables:
        number = 0
        for rows in table.batches():
            yield list(selection.apply(_valid(table, number, rows, dead_letters, summary)))
            number += len(rows)
            summary.skipped = selection.skipped
            if selection.is_full:
                return


def _valid(
    table: Table, first: int, rows: Sequence[Row], dead_letters: DeadLetters, summary: Summary
) -> Iterator[Precomputed]:
    for number, row in enumerate(rows, first):
        summary.found += 1
        try:
            if isinstance(row, Unreadable):
                raise InvalidRequest(row)
            yield precomputed_of(table, number, row)
        except InvalidRequest as error:
            summary.unreadable += 1
            key = row.get("key") if isinstance(row, dict) else None
            dead_letters.add(
                row_url(table.url, number),
                key if isinstance(key, str) else None,
                error.message,
                *salvage(table, number, row),
            )


def builder_for(client: Client, target: Collection) -> RecordBuilder:
    """Returns the builder of records for an existing collection."""
    return RecordBuilder(target.code_space, target.indexing, client.get_hash_file(target.name))


def builder_for_new(tables: Sequence[Table], batches: Batches) -> tuple[RecordBuilder, Batches]:
    """Returns the builder of records for the collection that `open_collection` would create, and the batches."""
    space, indexing, batches = _new_collection(tables, batches)
    return RecordBuilder(space, indexing, b""), batches


def open_collection(
    client: Client, name: str, tables: Sequence[Table], batches: Batches
) -> tuple[Collection, Batches]:
    """Returns the collection to store the records in, and the batches.

    If the collection does not exist, it is created: with the code space and indexing in the metadata of an
    exported file or, without such metadata, for codes as wide as the first record's.

    Raises:
        CodeSpaceMismatch: If a file's codes are in another code space than the collection.
        NotFound: If the collection does not exist, and the files do not show how wide its codes are.
    """

    def settings() -> dict[str, Any]:
        nonlocal batches
        space, indexing, batches = _new_collection(tables, batches)
        return {
            "code_space": space,
            "index": indexing.kind,
            "index_attributes": indexing.attributes,
            "features": indexing.features,
            "feature_width": indexing.feature_width,
        }

    found = get_or_create(client, name, settings)
    require_noted_space(found, noted_space(tables))
    return found, batches


def _new_collection(tables: Sequence[Table], batches: Batches) -> tuple[CodeSpace, Indexing, Batches]:
    noted = noted_settings(tables)
    if noted is not None:
        return *noted, batches
    batches = iter(batches)
    first = next((batch for batch in batches if batch), ())
    code = next((row.code for row in first if row.code is not None), None)
    if code is None:
        raise NotFound(
            "collection: it does not exist, and no code in the files says how wide its codes are; create it first"
            " with `lookalike collection create`"
        )
    return CodeSpace(8 * len(code)), Indexing(), itertools.chain([first], batches)


def run(
    client: Client,
    target: Collection,
    batches: Batches,
    dead_letters: DeadLetters,
    summary: Summary,
    progress: Progress,
    patience_seconds: float,
    bucket: SendRate,
) -> None:
    """Stores the records and counts them in `summary`.

    Args:
        client: A client of the cluster.
        target: The collection.
        batches: The records.
        dead_letters: Gets each record that is not stored.
        summary: The job's counts.
        progress: Called with the number of records that were stored since the last call.
        patience_seconds: How long to retry while the cluster accepts no record.
        bucket: The limit on records per second.
    """
    builder = builder_for(client, target)

    def built() -> Iterator[list[Record]]:
        for batch in batches:
            records = builder.build(batch, _note_invalid(dead_letters, summary))
            bucket.take(len(records))
            summary.bytes += sum(len(record.code or b"") for record in records)
            yield records

    def refused(record: Record, error: LookalikeError) -> None:
        summary.not_stored += 1
        code = bytes(record.code or b"")
        dead_letters.add("", record.key, f"not stored: {error.message}", record.attributes, code)

    for count in send(client, target.name, built(), patience_seconds, refused):
        summary.stored += count
        progress(count)


def dry_run(
    batches: Batches,
    builder: RecordBuilder,
    dead_letters: DeadLetters,
    summary: Summary,
    progress: Progress,
) -> None:
    """Checks every record as the cluster would, and counts in `summary` how many could be stored."""
    for batch in batches:
        records = builder.build(batch, _note_invalid(dead_letters, summary))
        summary.encoded += len(records)
        summary.bytes += sum(len(record.code or b"") for record in records)
        progress(len(batch))


def _note_invalid(dead_letters: DeadLetters, summary: Summary) -> Callable[[Precomputed, str], None]:
    def note(row: Precomputed, reason: str) -> None:
        summary.unreadable += 1
        dead_letters.add(row.uri, row.key, reason, row.fields, row.code or b"")

    return note
