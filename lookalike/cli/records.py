"""Owns `lookalike search`, `get`, `list`, `count`, `facets`, `set` and `delete`."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, cast

import typer

from lookalike.cli import examples as example_options
from lookalike.cli.confirm import Yes, confirm
from lookalike.cli.examples import examples, parse_box
from lookalike.cli.hits import coverage_as_json, print_hits, print_result, print_warnings, result_as_json
from lookalike.cli.options import (
    DEFAULT_COLLECTION,
    DEFAULT_SERVER,
    CollectionName,
    Json,
    Server,
    Timeout,
    connect,
    print_json,
)
from lookalike.cli.thumbnails import write_thumbnails
from lookalike.client.sync_client import Client
from lookalike.jobs.image_search import find_images, search_files
from lookalike.model.errors import InvalidRequest, NotFound
from lookalike.model.query import Box
from lookalike.model.records import DEFAULT_OVERSAMPLING, Coverage, StoredRecord
from lookalike.model.search_options import Rerank, Score, SearchOptions

_EXAMPLE = '{"label": "cat"}'
Keys = Annotated[list[str], typer.Argument(help="Keys of records.")]
IfVersion = Annotated[
    int | None,
    typer.Option(help="With one key: only if its record has this version (`lookalike get --json` shows it)."),
]
FilterText = Annotated[
    str | None, typer.Option("--filter", help='A JSON filter, e.g. \'{"label": "cat"}\'; see docs/FILTERS.md.')
]
Partial = Annotated[
    bool, typer.Option("--allow-partial", help="Accept a result without the partitions that do not answer.")
]


def search(
    images: Annotated[
        list[Path] | None,
        typer.Argument(help="Image files, or folders of images, to search for.", metavar="IMAGE..."),
    ] = None,
    more_images: Annotated[
        list[Path] | None, typer.Option("--image", help="Another image file or folder; may be repeated.")
    ] = None,
    key: example_options.Keys = None,
    code: example_options.Codes = None,
    together: example_options.Together = False,
    not_image: example_options.NotImages = None,
    not_key: example_options.NotKeys = None,
    not_code: example_options.NotCodes = None,
    box: example_options.BoxText = None,
    k: Annotated[int, typer.Option("-k", help="Number of hits, 1..10,000.")] = 10,
    max_distance: Annotated[int | None, typer.Option(help="Largest distance of a hit, in bits.")] = None,
    filter_: FilterText = None,
    score: Annotated[
        str, typer.Option(help="hamming, or asymmetric, which weights each bit by the query's confidence in it.")
    ] = "hamming",
    rerank: Annotated[
        str, typer.Option(help="none; or asymmetric or features, to reorder the candidates by that score.")
    ] = "none",
    oversampling: Annotated[int, typer.Option(help="Candidates per hit, with --rerank.")] = DEFAULT_OVERSAMPLING,
    find_all: Annotated[
        bool,
        typer.Option(
            "--all",
            help="All hits instead of k, nearest first; with --max-distance, all within it. With --json, one JSON"
            " document per line.",
        ),
    ] = False,
    offset: Annotated[int, typer.Option(help="Leave out this many of the nearest hits.")] = 0,
    after: Annotated[str, typer.Option(help="Continue after this cursor, which --json shows.")] = "",
    exclude_key: Annotated[
        list[str] | None, typer.Option(help="Leave out the record with this key; may be repeated.")
    ] = None,
    group_by: Annotated[
        str | None, typer.Option(help="Find the k nearest groups of records, by the values of this attribute.")
    ] = None,
    group_size: Annotated[int, typer.Option(help="Hits per group, with --group-by.")] = 1,
    allow_partial: Partial = False,
    collection: CollectionName = DEFAULT_COLLECTION,
    server: Server = DEFAULT_SERVER,
    timeout: Timeout = 30.0,
    as_json: Json = False,
) -> None:
    """Find the records that are most similar to images, a stored record or a code.

    Several images, or a folder, are searched for in few calls, and their results are printed one after the other;
    with --json, as one line of JSON for each. With --together, there is one search for what all of them have in
    common. A record's score is then the mean share of its bits that equal theirs, minus half the mean share that
    equal those of --not-image, --not-key and --not-code."""
    options = SearchOptions(
        k=k, max_distance=max_distance, filter=json_filter(filter_, "filter"), allow_partial=allow_partial,
        score=cast(Score, score), rerank=cast(Rerank, rerank), oversampling=oversampling, offset=offset,
        after=after, exclude_keys=exclude_key or (), group_by=group_by, group_size=group_size,
    )  # fmt: skip
    paths = [*(images or ()), *(more_images or ())]
    part = parse_box(box)
    avoided = examples(not_image or (), not_key, not_code)
    is_one_search = together or bool(avoided) or not paths or (len(paths) == 1 and not paths[0].is_dir())
    if not is_one_search and not key and not code:
        if find_all:
            raise InvalidRequest("all: takes one query; search for one image at a time")
        with connect(server, timeout) as client:
            _search_files(client, collection, paths, options, part, as_json)
        return
    wanted = examples(paths, key, code, part)
    if len(wanted) > 1 and not together:
        raise InvalidRequest(
            f"query: there are {len(wanted):,} images, keys and codes; add --together to search for what they have"
            " in common, or search for one at a time"
        )
    with connect(server, timeout) as client:
        if find_all:
            print_hits(
                client.search_all(collection=collection, examples=wanted, not_like=avoided, options=options),
                as_json,
            )
            return
        result = client.search(collection=collection, examples=wanted, not_like=avoided, options=options)
    if as_json:
        print_json(result_as_json(result))
    else:
        print_result(result, max_distance)


def get(
    keys: Keys,
    thumbnails: Annotated[
        Path | None,
        typer.Option(help="Write the thumbnails to this folder, each named by its record's id."),
    ] = None,
    collection: CollectionName = DEFAULT_COLLECTION,
    server: Server = DEFAULT_SERVER,
    as_json: Json = False,
) -> None:
    """Show records by key. The exit code is 1 if a key does not exist."""
    with connect(server) as client:
        records = client.get(keys, collection=collection, include_thumbnails=thumbnails is not None)
    files = write_thumbnails(thumbnails, records) if thumbnails is not None else {}
    if as_json:
        print_json([_as_json(record, files.get(record.key)) for record in records])
    else:
        for record in records:
            file = f"\t{files[record.key]}" if record.key in files else ""
            attributes = json.dumps(record.attributes, ensure_ascii=False)
            print(f"{record.key}\t{record.code.hex()}\t{attributes}{file}")
    missing = sorted(set(keys) - {record.key for record in records})
    if missing:
        raise NotFound(f"key: {', '.join(map(repr, missing))} not in collection {collection!r}")


def list_records(
    filter_: FilterText = None,
    limit: Annotated[int | None, typer.Option(help="Number of records; all by default.", min=1)] = None,
    codes: Annotated[bool, typer.Option("--codes", help="Include the codes, in hexadecimal.")] = False,
    collection: CollectionName = DEFAULT_COLLECTION,
    server: Server = DEFAULT_SERVER,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document per line.")] = False,
) -> None:
    """List the records that match a filter, in the order of the keys' hashes."""
    with connect(server) as client:
        found = client.scroll(
            collection=collection, filter=json_filter(filter_, "filter"), include_codes=codes, limit=limit
        )
        for record in found:
            if as_json:
                document = _as_json(record, None)
                kept = {name: document[name] for name in document if codes or name != "code"}
                print(json.dumps(kept, ensure_ascii=False))
                continue
            code = f"{record.code.hex()}\t" if codes else ""
            print(f"{record.key}\t{code}{json.dumps(record.attributes, ensure_ascii=False)}")


def count(
    filter_: FilterText = None,
    allow_partial: Partial = False,
    collection: CollectionName = DEFAULT_COLLECTION,
    server: Server = DEFAULT_SERVER,
    as_json: Json = False,
) -> None:
    """Count the records that match a filter, exactly."""
    with connect(server) as client:
        found = client.count(
            collection=collection, filter=json_filter(filter_, "filter"), allow_partial=allow_partial
        )
    if as_json:
        print_json(
            {"count": found.count, "coverage": coverage_as_json(found.coverage), "warnings": found.warnings}
        )
        return
    print(found.count)
    _warn_if_partial(found.coverage)
    print_warnings(found.warnings)


def facets(
    attribute: Annotated[str, typer.Argument(help='An attribute; a dot selects a field ("camera.maker").')],
    filter_: FilterText = None,
    limit: Annotated[int, typer.Option(help="Values to show, 1..100,000: the most frequent ones.")] = 10,
    allow_partial: Partial = False,
    collection: CollectionName = DEFAULT_COLLECTION,
    server: Server = DEFAULT_SERVER,
    as_json: Json = False,
) -> None:
    """Count the records with each value of an attribute, exactly."""
    with connect(server) as client:
        found = client.facets(
            attribute, collection=collection, filter=json_filter(filter_, "filter"), limit=limit,
            allow_partial=allow_partial,
        )  # fmt: skip
    if as_json:
        print_json({**dataclasses.asdict(found), "coverage": coverage_as_json(found.coverage)})
        return
    for facet in found.facets:
        print(f"{facet.count}\t{json.dumps(facet.value, ensure_ascii=False)}")
    if found.other_values:
        print(f"{found.other_count}\tin {found.other_values:,} other values")
    _warn_if_partial(found.coverage)
    print_warnings(found.warnings)


def set_attributes(
    keys: Annotated[list[str] | None, typer.Argument(help="Keys of records.")] = None,
    attributes: Annotated[
        str, typer.Option("--attributes", "-a", help="The attributes to set, as a JSON object.")
    ] = "{}",
    remove: Annotated[list[str] | None, typer.Option(help="An attribute to remove. May be repeated.")] = None,
    filter_: FilterText = None,
    if_version: IfVersion = None,
    collection: CollectionName = DEFAULT_COLLECTION,
    server: Server = DEFAULT_SERVER,
    as_json: Json = False,
) -> None:
    """Set or remove some attributes of records, by key or by filter. Everything else of the records stays."""
    condition, values = json_filter(filter_, "filter"), json_filter(attributes, "attributes") or {}
    _require_one(keys, condition)
    with connect(server) as client:
        changed = client.change_attributes(
            values, remove or [], collection=collection, keys=keys or [], filter=condition,
            if_versions=_if_versions(keys, if_version),
        )  # fmt: skip
    if as_json:
        print_json({"changed": changed})
    else:
        print(f"changed {changed}")


def delete(
    keys: Annotated[list[str] | None, typer.Argument(help="Keys of records.")] = None,
    filter_: FilterText = None,
    yes: Yes = False,
    if_version: IfVersion = None,
    collection: CollectionName = DEFAULT_COLLECTION,
    server: Server = DEFAULT_SERVER,
    as_json: Json = False,
) -> None:
    """Delete records by key, or by filter. With a filter, asks first. A missing key is not an error."""
    condition = json_filter(filter_, "filter")
    _require_one(keys, condition)
    with connect(server) as client:
        if condition is None:
            deleted = client.delete(keys or [], collection=collection, if_versions=_if_versions(keys, if_version))
        else:
            if not yes:
                count = client.count(collection=collection, filter=condition).count
                confirm(f"delete {count:,} records of {collection!r}", yes)
            deleted = client.delete_by_filter(condition, collection=collection)
    if as_json:
        print_json({"deleted": deleted})
    else:
        print(f"deleted {deleted}" + (f" of {len(set(keys))}" if keys else ""))


def _require_one(keys: list[str] | None, condition: dict[str, Any] | None) -> None:
    if bool(keys) == (condition is not None):
        raise InvalidRequest("keys: give keys or --filter, one of the two")


def _if_versions(keys: list[str] | None, if_version: int | None) -> list[int]:
    if if_version is None:
        return []
    if not keys or len(keys) != 1:
        raise InvalidRequest("if-version: needs exactly one key; give one key, or leave --if-version out")
    return [if_version]


def _warn_if_partial(coverage: Coverage) -> None:
    for partition, reason in sorted(coverage.missing.items()):
        print(f"PARTIAL: missing partition {partition}: {reason}", file=sys.stderr)


def _search_files(
    client: Client,
    collection: str,
    paths: Sequence[Path],
    options: SearchOptions,
    box: Box | None,
    as_json: bool,
) -> None:
    """Searches for files and prints each result as soon as it is there.

    Raises:
        InvalidRequest: After the results, if none of the files could be searched for.
    """
    found = find_images(paths)
    errors = []
    for answer in search_files(client, collection, found.files, options, box):
        name = str(answer.file)
        if answer.result is None:
            errors.append(answer.error)
        if as_json:
            document = {"error": answer.error} if answer.result is None else result_as_json(answer.result)
            print(json.dumps({"image": name, **document}, ensure_ascii=False))
        elif answer.result is None:
            print(f"{json.dumps(name)}: {answer.error}")
        else:
            # As JSON, because a name may contain terminal control sequences.
            print(json.dumps(name))
            print_result(answer.result, options.max_distance)
    for reason, count in sorted(found.skipped.items()):
        print(f"{count:,} skipped: {reason}", file=sys.stderr)
    if len(errors) == len(found.files):
        raise InvalidRequest(f"image: none of {len(errors):,} files can be searched for ({errors[0]})")


def _as_json(record: StoredRecord, file: Path | None) -> dict[str, Any]:
    document = {**dataclasses.asdict(record), "code": record.code.hex()}
    del document["thumbnail"]
    return document if file is None else {**document, "thumbnail": str(file)}


def json_filter(text: str | None, field: str) -> dict[str, Any] | None:
    """Parses an option's JSON filter. Raises InvalidRequest, naming the option."""
    if text is None:
        return None
    try:
        document = json.loads(text)
    except json.JSONDecodeError as error:
        raise InvalidRequest(
            f"{field}: is not JSON ({error.msg} at character {error.pos}); write it as in '{_EXAMPLE}'"
        ) from None
    except (ValueError, RecursionError):
        raise InvalidRequest(
            f"{field}: cannot be parsed (a number is too long, or the nesting is too deep); use a smaller filter"
        ) from None
    if not isinstance(document, dict):
        raise InvalidRequest(f"{field}: is not a JSON object; write it as in '{_EXAMPLE}'")
    return document
