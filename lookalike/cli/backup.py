"""Owns `lookalike backup` and `lookalike restore`."""

from __future__ import annotations

import dataclasses
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
from lookalike.jobs.backup import backup as backups
from lookalike.jobs.backup import restore as restores
from lookalike.jobs.backup import retention
from lookalike.jobs.backup.folder import Folder, Manifest
from lookalike.model.errors import NotFound
from lookalike.model.records import SLOTS

Url = Annotated[str, typer.Argument(help="A folder, or a URL such as s3://bucket/backups that fsspec supports.")]
RetrySeconds = Annotated[
    float, typer.Option("--timeout", help="Seconds to retry while a partition is unavailable.", min=0.001)
]


def backup(
    url: Url,
    collection: CollectionName = DEFAULT_COLLECTION,
    full: Annotated[
        bool, typer.Option("--full", help="Back up all records, not only changes since the last backup.")
    ] = False,
    full_days: Annotated[
        float | None,
        typer.Option(min=0, help="Back up all records if the last full backup is older than this many days."),
    ] = None,
    keep: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Verify the new backup, then remove all but the last KEEP backups and those that they add to.",
        ),
    ] = None,
    server: Server = DEFAULT_SERVER,
    timeout: RetrySeconds = 120.0,
    as_json: Json = False,
) -> None:
    """Back up a collection while it serves. The first backup is full; each later backup stores the changes since
    the previous backup. Run one backup of a collection at a time."""
    folder = Folder(url, collection)
    full = full or (full_days is not None and retention.is_full_due(folder, full_days))
    with connect(server, timeout) as client, records_bar("slots", SLOTS) as bar:
        manifest = backups.take(
            client, folder, full, timeout,
            lambda slots, records: bar.completed(records, slots),
        )  # fmt: skip
    removed = [] if keep is None else retention.prune(folder, keep)
    if as_json:
        print_json(_summary(manifest) | ({} if keep is None else {"removed": removed}))
        return
    added = "" if manifest.base is None else f" since backup {manifest.base}"
    print(
        f"backup {manifest.number} of {collection}: {manifest.records:,} records{added} in"
        f" {manifest.size:,} bytes; {manifest.rows:,} records in total"
    )
    if keep is not None:
        print(f"verified; removed: {', '.join(map(str, removed)) or 'none'}")


def restore(
    url: Url,
    collection: CollectionName = DEFAULT_COLLECTION,
    number: Annotated[int | None, typer.Option(min=1, help="The backup's number; the latest by default.")] = None,
    into: Annotated[
        str | None, typer.Option(help="Name of the restored collection; the original name by default.")
    ] = None,
    merge: Annotated[
        bool, typer.Option("--merge", help="Restore into an existing collection; keep records with other keys.")
    ] = False,
    check: Annotated[bool, typer.Option("--check", help="Only verify the backup's checksums.")] = False,
    server: Server = DEFAULT_SERVER,
    timeout: RetrySeconds = 120.0,
    as_json: Json = False,
) -> None:
    """Restore a collection from its backup. All files are verified first. The number of partitions may
    differ from that of the cluster that was backed up."""
    folder = Folder(url, collection)
    finished = folder.finished()
    if not finished:
        raise NotFound(f"backup: no backup of {collection!r} at {url!r}; `lookalike backup` creates one")
    chain = folder.chain(finished[-1] if number is None else number)
    restores.verify(folder, chain)
    latest = chain[-1]
    if check:
        _print_checked(chain, as_json)
        return
    name = into or collection
    with connect(server, timeout) as client, records_bar("records", sum(one.records for one in chain)) as bar:
        rows = restores.restore(client, folder, chain, name, merge, bar.completed)
    if as_json:
        print_json({**_summary(latest), "restored_as": name, "rows": rows})
        return
    print(f"restored backup {latest.number} of {collection} as {name}: {rows:,} records")


def _summary(manifest: Manifest) -> dict[str, object]:
    named = ("number", "base", "collection", "records", "rows", "size")
    return {name: getattr(manifest, name) for name in named} | {
        "parts": [dataclasses.asdict(part) for part in manifest.parts]
    }


def _print_checked(chain: list[Manifest], as_json: bool) -> None:
    if as_json:
        print_json({"sound": True, "backups": [_summary(manifest) for manifest in chain]})
        return
    numbers = ", ".join(str(manifest.number) for manifest in chain)
    size = sum(manifest.size for manifest in chain)
    print(f"verified: backup {numbers}, {size:,} bytes; {chain[-1].rows:,} records")
