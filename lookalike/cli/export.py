"""Owns `lookalike export`."""

from __future__ import annotations

from typing import Annotated

import typer

from lookalike.cli.options import (
    DEFAULT_COLLECTION,
    DEFAULT_SERVER,
    CollectionName,
    Json,
    Server,
    connect,
    print_json,
)
from lookalike.cli.progress import records_bar
from lookalike.jobs.export.parquet_file import export_to


def export(
    output: Annotated[
        str, typer.Argument(help="The parquet file: a path, or a URL such as s3://bucket/photos.parquet.")
    ],
    collection: CollectionName = DEFAULT_COLLECTION,
    features: Annotated[bool, typer.Option("--features", help="Include the stored features.")] = False,
    thumbnails: Annotated[bool, typer.Option("--thumbnails", help="Include the thumbnails.")] = False,
    server: Server = DEFAULT_SERVER,
    timeout: Annotated[
        float, typer.Option(help="Seconds to retry while a partition is unavailable.", min=0.001)
    ] = 120.0,
    as_json: Json = False,
) -> None:
    """Export a collection to a parquet file while it serves. The file appears only when it is complete."""
    with connect(server, timeout) as client, records_bar("exporting") as bar:
        found = client.get_collection(collection)
        count = export_to(client, found, output, features, thumbnails, timeout, bar.completed)
    if as_json:
        print_json({"collection": collection, "output": output, "records": count})
    else:
        print(f"{output}: {count:,} records of {collection}")
