"""Owns `lookalike dedup`: groups of near-duplicates, as text, JSON lines, or a contact sheet, and the choice of
what is done to them (`dedup_actions`)."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated

import typer
from more_itertools import chunked

from lookalike.cli.dedup_actions import UNDO_LIST, act, compare, print_outcome, show_review, take_back
from lookalike.cli.dedup_search import by_codes, by_pictures, code_distance, files_checker
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
from lookalike.jobs.dedup.apply import Action
from lookalike.jobs.dedup.groups import check_max_distance, read_snapshot
from lookalike.jobs.dedup.keep import Member, counts, exact_groups, members
from lookalike.jobs.dedup.sheet import page
from lookalike.model.errors import InvalidRequest
from lookalike.model.records import StoredRecord

# A response with this many records fits into a message, whatever their attributes and thumbnails.
_KEYS_PER_CALL = 300
_KEYS_PRINTED = 5
# Files with the same bytes have equal codes, except where encoders compute with other arithmetic.
_EXACT_DISTANCE = 4


def dedup(
    max_distance: Annotated[
        int | None,
        typer.Option(
            help="Largest distance of near-duplicates, in bits, by their codes alone. By default, the pictures are"
            " compared, too, and the collection's calibration decides.",
            min=0,
        ),
    ] = None,
    collection: CollectionName = DEFAULT_COLLECTION,
    check: Annotated[
        bool | None,
        typer.Option(
            "--check/--no-check",
            help="Compare the pictures of each pair of near codes. By default, unless --max-distance is given.",
            show_default=False,
        ),
    ] = None,
    orientations: Annotated[bool, typer.Option("--orientations", help="Find mirrored and turned copies.")] = False,
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
    paths: Annotated[
        list[Path] | None,
        typer.Argument(help="With --against: image files and folders to compare with the collection."),
    ] = None,
    against: Annotated[
        bool,
        typer.Option(
            "--against", help="List which of the given files the collection has already. Stores nothing."
        ),
    ] = False,
    exact_only: Annotated[
        bool, typer.Option("--exact-only", help="Group only records whose files have the same bytes.")
    ] = False,
    action: Annotated[
        str | None,
        typer.Option(
            "--apply",
            help="What to do to all records of a group except the best: move:DIR moves their files and removes the"
            " records, delete deletes both, tag sets the attribute duplicate_of. Only says what would happen,"
            " without --yes.",
            metavar="move:DIR|delete|tag",
        ),
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do what --apply says.")] = False,
    review: Annotated[
        bool,
        typer.Option(
            "--review",
            help="Serve a page on this machine where you choose which pictures go; they go as --apply says, by"
            " default as with tag. Ends with Ctrl-C.",
        ),
    ] = False,
    port: Annotated[int, typer.Option(help="The port of --review; 0 for a free one.", min=0, max=65_535)] = 0,
    undo_list: Annotated[
        Path | None,
        typer.Option(
            help=f"Where --apply writes what it does, for --undo; by default {UNDO_LIST}, or the first free of"
            f" {Path(UNDO_LIST).stem}-2.jsonl, -3, ...",
            metavar="FILE",
        ),
    ] = None,
    undo: Annotated[
        Path | None, typer.Option(help="Take back what --apply did, by its undo list.", metavar="FILE")
    ] = None,
    server: Server = DEFAULT_SERVER,
    timeout: Annotated[float, typer.Option(help="Timeout of a call in seconds.", min=0.001)] = 120.0,
    as_json: Json = False,
) -> None:
    """List groups of near-duplicates in a collection.

    Without options, the pictures of each pair of near codes are compared, so that copies are told from pictures
    that only look alike. The first run calibrates the collection, as `lookalike calibrate` does. With
    --max-distance alone, codes decide, and the result is exact: no near pair is missed.

    A group is a connected component: each record is a near-duplicate of another record of the group, but two
    records of a group may be further apart. Each group keeps the record with the most pixels, then the most bytes,
    then the oldest."""
    if (undo is not None) + against + (action is not None) > 1:
        raise InvalidRequest("apply: cannot be combined with --undo or --against; give one of the three")
    if undo is not None:
        with connect(server, timeout) as client:
            take_back(client, undo, timeout, as_json)
        return
    if against != bool(paths):
        raise InvalidRequest(
            "against: name the files to compare, as in `lookalike dedup FOLDER --against -c NAME`"
        )
    if yes and action is None:
        raise InvalidRequest("yes: does nothing without --apply; add --apply move:DIR, delete or tag")
    if review and (yes or against):
        raise InvalidRequest("review: the page asks what goes; leave out --yes and --against")
    is_checked = (max_distance is None and not exact_only) or orientations if check is None else check
    if orientations and not is_checked:
        raise InvalidRequest("orientations: needs the pictures; leave --no-check out")
    chosen = None if action is None else Action.parse(action)
    # Fail now, not after hours of searching, if a file cannot be written.
    for path, field in ((output, "output"), (sheet, "html")):
        if path is not None:
            _write(path, field, (), "a")
    with connect(server, timeout) as client, records_bar("reading") as bar:
        found = client.get_collection(collection)
        if max_distance is not None:
            check_max_distance(max_distance, found.code_space.bits)
        if against and not is_checked and max_distance is not None:
            compare(client, found, paths or (), max_distance, as_json)
            return
        snapshot = read_snapshot(client, found, timeout, bar.completed)
        if against:
            checker = None
            if is_checked:
                wide, checker = files_checker(client, found, snapshot, orientations, bar)
            else:
                wide = code_distance(client, found, snapshot, bar)
            bar.close()
            compare(client, found, paths or (), wide if max_distance is None else max_distance, as_json, checker)
            return
        if is_checked:
            result = by_pictures(client, found, snapshot, max_distance, orientations, bar)
        else:
            distance = _EXACT_DISTANCE if exact_only and max_distance is None else max_distance
            result = by_codes(client, found, snapshot, distance, bar)
        groups = result.groups
        if exact_only:
            groups = exact_groups(groups, snapshot.facts)
        judged = [members(group, snapshot.facts) for group in groups]
        if sheet is not None:
            title = f"Near-duplicates in {collection}: {len(groups):,} groups within {result.distance} bits"
            shown = [_kept_first(group) for group in judged[:groups_shown]]
            records = _records(client, collection, shown, each_shown)
            _write(sheet, "html", page(title, shown, records, each_shown))
        # Written before anything is done, so that the list is there whatever happens.
        if output is not None:
            _write(output, "output", (json.dumps(_as_json(group), ensure_ascii=False) + "\n" for group in judged))
        if review:
            bar.close()
            show_review(client, found, judged, snapshot.facts, chosen or Action("tag"), timeout, port)
            return
        outcome = None
        if chosen is not None:
            outcome = act(client, found, judged, snapshot.facts, chosen, undo_list, yes, timeout, bar)
    exact, near = counts(judged)
    summary = {"records": len(snapshot.keys), "groups": len(groups), "duplicates": exact + near}
    if as_json:
        listed = {} if output is not None else {"found": [_as_json(group) for group in judged]}
        applied = {} if outcome is None else {"apply": outcome}
        print_json({**summary, "exact": exact, "near": near, **result.as_json(), **applied, **listed})
        return
    if output is None:
        _print(judged)
    print(
        f"{summary['groups']:,} groups within {result.distance} bits among {summary['records']:,} records;"
        f" {exact + near:,} records are not the one to keep ({exact:,} exact duplicates, {near:,} near ones)"
    )
    if about_pairs := str(result):
        print(about_pairs)
    if outcome is not None:
        print_outcome(outcome)


def _as_json(group: Sequence[Member]) -> dict[str, object]:
    return {"size": len(group), "records": [_member_as_json(member) for member in group]}


def _member_as_json(member: Member) -> dict[str, object]:
    facts = {"width": member.width, "height": member.height, "bytes": member.bytes}
    return {
        "key": member.key,
        "distance": member.distance,
        **{name: value or None for name, value in facts.items()},
        **({"keep": True} if member.is_kept else {"exact": member.is_exact}),
    }


def _print(judged: Sequence[Sequence[Member]]) -> None:
    for group in judged:
        ordered = _kept_first(group)
        more = f" and {len(group) - _KEYS_PRINTED:,} more" if len(group) > _KEYS_PRINTED else ""
        # As JSON, because a key may contain terminal control sequences.
        keys = ", ".join(json.dumps(member.key, ensure_ascii=False) for member in ordered[:_KEYS_PRINTED])
        print(f"{len(group):>6}  keep {keys}{more}")


def _records(
    client: Client, collection: str, groups: Sequence[Sequence[Member]], each: int
) -> dict[str, StoredRecord]:
    keys = [member.key for group in groups for member in group[:each]]
    records: dict[str, StoredRecord] = {}
    for part in chunked(keys, _KEYS_PER_CALL):
        found = client.get(part, collection=collection, include_thumbnails=True)
        records |= {record.key: record for record in found}
    return records


def _kept_first(group: Sequence[Member]) -> list[Member]:
    return sorted(group, key=lambda member: not member.is_kept)


def _write(path: Path, field: str, parts: Iterable[str], mode: str = "w") -> None:
    try:
        with path.open(mode, encoding="utf-8") as file:
            file.writelines(parts)
    except OSError as error:
        raise InvalidRequest(f"{field}: {path} cannot be written to ({error.strerror}); name a file") from None
