"""Owns `lookalike dedup`: groups of near-duplicates, as text, JSON lines, or a contact sheet."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated

import typer
from more_itertools import chunked

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
from lookalike.client.sync_client import Client
from lookalike.jobs.dedup.groups import Group, check_max_distance, find_groups, read_snapshot
from lookalike.jobs.dedup.sheet import page
from lookalike.model.errors import InvalidRequest
from lookalike.model.records import StoredRecord

# A response with this many records fits into a message, whatever their attributes and thumbnails.
_KEYS_PER_CALL = 300
_KEYS_PRINTED = 5


def dedup(
    max_distance: Annotated[int, typer.Option(help="Largest distance of near-duplicates, in bits.", min=0)] = 4,
    collection: CollectionName = DEFAULT_COLLECTION,
    output: Annotated[
        Path | None,
        typer.Option(help="Write the groups to this file, as JSON lines, instead of printing them."),
    ] = None,
    sheet: Annotated[
        Path | None, typer.Option("--html", help="Write a contact sheet of the groups to this file.")
    ] = None,
    groups_shown: Annotated[
        int, typer.Option("--groups", help="Groups on the sheet, largest first.", min=1)
    ] = 200,
    each_shown: Annotated[int, typer.Option("--each", help="Records per group on the sheet.", min=2)] = 24,
    server: Server = DEFAULT_SERVER,
    timeout: Annotated[float, typer.Option(help="Timeout of a call in seconds.", min=0.001)] = 120.0,
    as_json: Json = False,
) -> None:
    """List groups of near-duplicates in a collection. The result is exact: no near pair is missed.

    A group is a connected component: each record is within the distance of another record of the group, but two
    records of a group may be further apart."""
    # Fail now, not after hours of searching, if a file cannot be written.
    for path, field in ((output, "output"), (sheet, "html")):
        if path is not None:
            _write(path, field, (), "a")
    with connect(server, timeout) as client, records_bar("reading") as bar:
        found = client.get_collection(collection)
        check_max_distance(max_distance, found.code_space.bits)
        snapshot = read_snapshot(client, found, timeout, bar.completed)
        bar.start("searching", len(snapshot.keys))
        groups = find_groups(client, collection, snapshot, max_distance, bar.completed)
        if sheet is not None:
            title = f"Near-duplicates in {collection}: {len(groups):,} groups within {max_distance} bits"
            shown = groups[:groups_shown]
            records = _records(client, collection, shown, each_shown)
            _write(sheet, "html", page(title, shown, records, each_shown))
    duplicates = sum(len(group.keys) - 1 for group in groups)
    counts = {"records": len(snapshot.keys), "groups": len(groups), "duplicates": duplicates}
    if output is not None:
        _write(output, "output", (json.dumps(_as_json(group)) + "\n" for group in groups))
    if as_json:
        listed = {} if output is not None else {"found": [_as_json(group) for group in groups]}
        print_json({**counts, "max_distance": max_distance, **listed})
        return
    if output is None:
        _print(groups)
    print(
        f"{counts['groups']:,} groups within {max_distance} bits among {counts['records']:,} records;"
        f" {duplicates:,} records are not the first of their group"
    )


def _as_json(group: Group) -> dict[str, object]:
    pairs = zip(group.keys, group.distances, strict=True)
    return {"size": len(group.keys), "records": [{"key": key, "distance": distance} for key, distance in pairs]}


def _print(groups: Sequence[Group]) -> None:
    for group in groups:
        more = f" and {len(group.keys) - _KEYS_PRINTED:,} more" if len(group.keys) > _KEYS_PRINTED else ""
        # As JSON, because a key may contain terminal control sequences.
        print(f"{len(group.keys):>6}  {', '.join(map(json.dumps, group.keys[:_KEYS_PRINTED]))}{more}")


def _records(client: Client, collection: str, groups: Sequence[Group], each: int) -> dict[str, StoredRecord]:
    keys = [key for group in groups for key in group.keys[:each]]
    records: dict[str, StoredRecord] = {}
    for part in chunked(keys, _KEYS_PER_CALL):
        found = client.get(part, collection=collection, include_thumbnails=True)
        records |= {record.key: record for record in found}
    return records


def _write(path: Path, field: str, parts: Iterable[str], mode: str = "w") -> None:
    try:
        with path.open(mode, encoding="utf-8") as file:
            file.writelines(parts)
    except OSError as error:
        raise InvalidRequest(f"{field}: {path} cannot be written to ({error.strerror}); name a file") from None
