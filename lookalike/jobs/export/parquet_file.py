"""Owns the export of a collection to one parquet file, which `lookalike ingest` and other tools can read.

Columns: key, code, attributes (JSON text) and version; features and thumbnail on request. The file's metadata hold
the code space and the indexing. The file appears complete or not at all."""

from __future__ import annotations

import contextlib
import dataclasses
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import fsspec.core
import pyarrow as pa
import pyarrow.parquet as parquet

from lookalike.client.sync_client import Client
from lookalike.cluster.slots import SlotSet
from lookalike.files.atomic import atomic_write
from lookalike.files.stores import explained, reason_of
from lookalike.jobs.export import notes
from lookalike.jobs.partitions import read_all_slots, read_part
from lookalike.model import features as stored_features
from lookalike.model.errors import CannotStart, InvalidRequest
from lookalike.model.indexing import Indexing
from lookalike.model.records import Collection, VersionedRecord

_COPIED_ROWS = 8_192

Report = Callable[[int], None]


def export_to(
    client: Client,
    collection: Collection,
    output: str,
    with_features: bool,
    with_thumbnails: bool,
    retry_seconds: float,
    report: Report = lambda records: None,
) -> int:
    """Writes a collection to a file.

    Args:
        client: A client of the cluster.
        collection: The collection.
        output: A path, or a URL that fsspec supports.
        with_features: Write a column of features.
        with_thumbnails: Write a column of thumbnails.
        retry_seconds: How long to retry while a partition is unavailable.
        report: Called with the number of records read so far; it falls when a part is read again.

    Returns:
        The number of records.

    Raises:
        InvalidRequest: If the output cannot be used, or the collection stores no features.
        CannotStart: If the file cannot be written.
    """
    if with_features and not collection.indexing.keeps_features:
        raise InvalidRequest(f"features: collection {collection.name!r} stores none; omit --features")
    schema = _schema(collection, with_features, with_thumbnails)
    count = 0
    with _complete_file(output) as target, parquet.ParquetWriter(target, schema, compression="zstd") as writer:

        def read(missing: SlotSet) -> SlotSet:
            nonlocal count
            head, batches = read_part(client, collection, missing)
            # Records go to a temporary file first: a part that fails is read again, perhaps from another shard.
            with tempfile.TemporaryFile() as temporary:
                read_records = 0
                with parquet.ParquetWriter(temporary, schema, compression="zstd") as part:
                    for records in batches:
                        part.write_batch(_batch(records, schema, collection.indexing))
                        read_records += len(records)
                        report(count + read_records)
                temporary.seek(0)
                for batch in parquet.ParquetFile(temporary).iter_batches(_COPIED_ROWS):
                    writer.write_batch(batch)
                    count += len(batch)
            return head.mark.slots

        read_all_slots(read, retry_seconds)
    return count


def _schema(collection: Collection, with_features: bool, with_thumbnails: bool) -> Any:
    columns = [
        pa.field("key", pa.string(), nullable=False),
        pa.field("code", pa.binary(collection.code_space.code_bytes), nullable=False),
        pa.field("attributes", pa.string(), nullable=False),
        pa.field("version", pa.uint64(), nullable=False),
    ]
    if with_features:
        columns.append(pa.field("features", pa.list_(pa.float32()), nullable=False))
    if with_thumbnails:
        columns.append(pa.field("thumbnail", pa.binary()))
    indexing = (
        collection.indexing
        if with_features
        else dataclasses.replace(collection.indexing, features=stored_features.NONE, feature_width=0)
    )
    return pa.schema(columns, notes.write(collection.code_space, indexing))


def _batch(records: Sequence[VersionedRecord], schema: Any, indexing: Indexing) -> Any:
    columns: dict[str, list[Any]] = {
        "key": [record.key for record in records],
        "code": [record.code for record in records],
        "attributes": [record.attributes for record in records],
        "version": [record.version for record in records],
        "thumbnail": [record.thumbnail or None for record in records],
    }
    if "features" in schema.names:
        columns["features"] = list(
            stored_features.unpack(indexing.features, [record.features for record in records])
        )
    return pa.record_batch([pa.array(columns[field.name], field.type) for field in schema], schema=schema)


@contextlib.contextmanager
def _complete_file(output: str) -> Iterator[Path]:
    """Yields a temporary file, and moves it to `output` when the block ends without an error."""
    system, path = _location(output)
    with tempfile.TemporaryDirectory(prefix="lookalike-export-") as folder:
        file = Path(folder) / "whole.parquet"
        try:
            yield file
        except OSError as error:
            raise CannotStart(
                f"TMPDIR: {folder} cannot be written to ({error}); set TMPDIR to a folder with more space"
            ) from None
        try:
            if "file" in system.protocol:
                with atomic_write(Path(path)) as whole, file.open("rb") as made:
                    shutil.copyfileobj(made, whole)
            else:
                # Object stores show an object only once it is complete.
                system.put_file(str(file), path)
        except Exception as error:  # each store's library raises its own errors
            raise CannotStart(f"output: {output} cannot be written to: {reason_of(error)}") from None


def _location(output: str) -> tuple[Any, str]:
    """The file system and the path in it. Raises InvalidRequest if no file can be written there."""
    with explained("output", output):
        system, path = fsspec.core.url_to_fs(output)
        if system.isdir(path):
            raise InvalidRequest(f"output: {output} is a folder; name a file")
        parent = system._parent(path)
        if "file" in system.protocol and not system.isdir(parent):
            raise InvalidRequest(f"output: {parent} is not a folder; create it first")
        if "file" in system.protocol and system.exists(path) and not system.isfile(path):
            raise InvalidRequest(f"output: {output} is not a regular file; name another")
    return system, path
