"""Owns the batch job for records that need no encoder: the job sends the rows of tables to the cluster. The rows
have codes, or features that the collection's hash turns into codes. The job needs neither Ray nor torch, and holds
only a few batches in memory."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from encoder.ingest import vector_columns
from encoder.ingest.builder import RecordBuilder
from encoder.ingest.code_options import CodeOptions, CodeReader
from encoder.ingest.codes import Reading
from encoder.ingest.dead_letters import DeadLetters
from encoder.ingest.images import row_url
from encoder.ingest.rate import SendRate
from encoder.ingest.rows import Precomputed, precomputed_of, salvage
from encoder.ingest.selection import Selection
from encoder.ingest.sending import send, send_columns
from encoder.ingest.stats import WHERE, Summary
from encoder.ingest.tables.arrow_files import ARROW, PARQUET
from encoder.ingest.tables.naming import Row
from encoder.ingest.tables.table import Table
from encoder.ingest.tables.vectors import VECTORS, require_codes
from encoder.ingest.target import get_or_create, noted_settings, noted_space, require_noted_space
from lookalike.client.sync_client import Client
from lookalike.cluster.columns import CodeColumns
from lookalike.model.codespace import CodeSpace
from lookalike.model.errors import InvalidRequest, LookalikeError, NotFound
from lookalike.model.indexing import Indexing
from lookalike.model.records import Collection, Record, parse_attributes

Batches = Iterable[CodeColumns | Sequence[Precomputed]]
Progress = Callable[[int], None]
_RECOGNIZED = CodeOptions()


def read_precomputed(
    tables: Sequence[Table],
    selection: Selection,
    dead_letters: DeadLetters,
    summary: Summary,
    options: CodeOptions = _RECOGNIZED,
) -> Iterator[CodeColumns | list[Precomputed]]:
    """The selected records of the tables, in batches; invalid rows go to the dead letters. Raises InvalidRequest
    if the format of a table's codes is ambiguous."""
    for table in tables:
        number, reader = 0, CodeReader(table, options)
        for batch in _batches_of(table, selection, reader, options):
            if isinstance(batch, CodeColumns):
                taken = selection.take(len(batch))
                summary.found += taken
                yield batch if taken == len(batch) else batch.take(np.arange(taken))
            else:
                reader.see(row.get("code") for row in batch if isinstance(row, dict))
                yield list(selection.apply(_valid(table, number, batch, dead_letters, summary, reader.reading)))
            number += len(batch)
            summary.set_skipped(WHERE, selection.skipped)
            if selection.is_full:
                return


def _batches_of(
    table: Table, selection: Selection, reader: CodeReader, options: CodeOptions
) -> Iterator[CodeColumns | list[Row]]:
    if table.format in (PARQUET, ARROW) and "code" in table.columns:
        from encoder.ingest import columns

        reader.see(*columns.code_sample(table))
        if columns.fits(table) and not selection.has_filter:
            return columns.batches(table, reader.reading)
    if table.format in VECTORS:
        require_codes(table, options.format, options.target)
        if vector_columns.fits(table) and not selection.has_filter:
            return vector_columns.batches(table, reader)
    return table.batches()


def _rows_of(columns: CodeColumns) -> list[Precomputed]:
    """The same records as rows."""
    texts = columns.attributes.strings()
    return [
        Precomputed(key, "", parse_attributes(text), code.tobytes(), None)
        for key, code, text in zip(columns.keys.strings(), columns.codes, texts, strict=True)
    ]


def _valid(
    table: Table,
    first: int,
    rows: Sequence[Row],
    dead_letters: DeadLetters,
    summary: Summary,
    reading: Reading,
) -> Iterator[Precomputed]:
    for number, row in enumerate(rows, first):
        summary.found += 1
        try:
            if not isinstance(row, dict):
                raise InvalidRequest(row)
            yield precomputed_of(table, number, row, reading)
        except InvalidRequest as error:
            summary.unreadable += 1
            key = row.get("key") if isinstance(row, dict) else None
            dead_letters.add(
                row_url(table.url, number),
                key if isinstance(key, str) else None,
                error.message,
                *salvage(table, number, row, reading),
            )


def builder_for(client: Client, target: Collection) -> RecordBuilder:
    """Returns the builder of records for an existing collection."""
    return RecordBuilder(target.code_space, target.indexing, client.get_hash_file(target.name))


def builder_for_new(
    tables: Sequence[Table], batches: Batches, options: CodeOptions, dead_letters: DeadLetters
) -> tuple[RecordBuilder, Batches]:
    """Returns the builder of records for the collection that `open_collection` would create, and the batches."""
    space, indexing, batches = _new_collection(tables, batches, options, dead_letters)
    return RecordBuilder(space, indexing, b""), batches


def open_collection(
    client: Client,
    name: str,
    tables: Sequence[Table],
    batches: Batches,
    dead_letters: DeadLetters,
    options: CodeOptions = _RECOGNIZED,
) -> tuple[Collection, Batches]:
    """Returns the collection to store the records in, and the batches.

    If the collection does not exist, it is created with the code space and indexing in the metadata of an exported
    file. Without such metadata, the code space has the kind of the codes and the width of the first record's code.

    Raises:
        CodeSpaceMismatch: If a file's codes are in another code space than the collection.
        InvalidRequest: If the width of the codes does not fit their kind.
        NotFound: If the collection does not exist, and the files do not show how wide its codes are.
    """

    def settings() -> dict[str, Any]:
        nonlocal batches
        space, indexing, batches = _new_collection(tables, batches, options, dead_letters)
        return {
            "code_space": space,
            "index": indexing.kind,
            "index_attributes": indexing.attributes,
            "features": indexing.features,
            "feature_width": indexing.feature_width,
        }

    found = get_or_create(client, name, settings)
    require_space(found, tables, options)
    return found, batches


def require_space(target: Collection, tables: Sequence[Table], options: CodeOptions) -> None:
    """Raises CodeSpaceMismatch unless the tables' codes may be in the collection's code space."""
    noted = noted_space(tables)
    require_noted_space(target, noted)
    if noted is None:
        options.require_kind(target, tables)


def _new_collection(
    tables: Sequence[Table], batches: Batches, options: CodeOptions, dead_letters: DeadLetters
) -> tuple[CodeSpace, Indexing, Batches]:
    noted = noted_settings(tables)
    batches = iter(batches)
    first: CodeColumns | Sequence[Precomputed] = next((batch for batch in batches if len(batch)), ())
    if noted is not None and len(first):
        return *noted, itertools.chain([first], batches)
    if isinstance(first, CodeColumns):
        code: bytes | None = first.codes[0].tobytes()
    else:
        code = next((row.code for row in first if row.code is not None), None)
    if code is None and dead_letters.count:
        raise NotFound(
            f"collection: it does not exist, and it is not created, because no record can be stored:"
            f" {dead_letters.commonest()}; see {dead_letters.path}"
        )
    if code is None:
        raise NotFound(
            "collection: it does not exist, and no code in the files says how wide its codes are; create it first"
            " with `lookalike collection create`"
        )
    return options.new_space(8 * len(code), tables), Indexing(), itertools.chain([first], batches)


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

    def built(parts: Iterable[Any]) -> Iterator[list[Record]]:
        for part in parts:
            records = builder.build(part, _note_invalid(dead_letters, summary))
            bucket.take(len(records))
            summary.bytes += sum(len(record.code or b"") for record in records)
            yield records

    def metered(parts: Iterable[Any]) -> Iterator[CodeColumns]:
        for part in parts:
            bucket.take(len(part))
            summary.bytes += part.codes.nbytes
            yield part

    def refused(record: Record, error: LookalikeError) -> None:
        summary.not_stored += 1
        code = bytes(record.code or b"")
        dead_letters.add("", record.key, f"not stored: {error.message}", record.attributes, code)

    def fitting() -> Iterator[CodeColumns | Sequence[Precomputed]]:
        for batch in batches:
            if isinstance(batch, CodeColumns) and not builder.takes_columns(batch):
                yield _rows_of(batch)
            else:
                yield batch

    for is_columns, group in itertools.groupby(fitting(), lambda batch: isinstance(batch, CodeColumns)):
        prepare: Callable[[Iterable[Any]], Iterator[Any]] = metered if is_columns else built
        send_all = send_columns if is_columns else send
        for count in send_all(client, target.name, prepare(group), patience_seconds, refused):
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
        rows = _rows_of(batch) if isinstance(batch, CodeColumns) else batch
        records = builder.build(rows, _note_invalid(dead_letters, summary))
        summary.encoded += len(records)
        summary.bytes += sum(len(record.code or b"") for record in records)
        progress(len(batch))


def _note_invalid(dead_letters: DeadLetters, summary: Summary) -> Callable[[Precomputed, str], None]:
    def note(row: Precomputed, reason: str) -> None:
        summary.unreadable += 1
        dead_letters.add(row.uri, row.key, reason, row.fields, row.code or b"")

    return note
