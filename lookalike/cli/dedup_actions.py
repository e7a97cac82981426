"""Owns how `lookalike dedup` says what it does to duplicates, what it takes back, and which files of a folder a
collection has already."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import itertools
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lookalike.cli.dedup_search import FilesChecker
from lookalike.cli.options import print_json
from lookalike.cli.progress import Bar, records_bar
from lookalike.client.sync_client import Client
from lookalike.jobs.dedup.apply import Action, Applied, Judged, apply, require_local
from lookalike.jobs.dedup.candidates import NEAREST
from lookalike.jobs.dedup.facts import FileFacts
from lookalike.jobs.dedup.undo import undo
from lookalike.jobs.dedup.undo_list import Run, UndoList, free_path, read_run
from lookalike.jobs.image_search import Answer, find_images, search_files
from lookalike.model.errors import InvalidRequest
from lookalike.model.records import Collection
from lookalike.model.results import Hit
from lookalike.model.search_options import SearchOptions

UNDO_LIST = "dedup-undo.jsonl"
# A file with as many duplicates may have more.
_HITS = 100
_DELETED = "deleted files do not come back: --undo returns only records whose files still exist"


def act(
    client: Client,
    collection: Collection,
    judged: Judged,
    facts: FileFacts,
    action: Action,
    undo_list: Path | None,
    is_confirmed: bool,
    timeout: float,
    bar: Bar,
) -> dict[str, Any]:
    """Acts on duplicates, or only says what would happen unless it is confirmed. Returns the outcome as JSON."""
    bar.start("applying" if is_confirmed else "checking", sum(len(group) - 1 for group in judged))
    if not is_confirmed:
        done = apply(client, collection, judged, facts, action, None, timeout, bar.completed)
        return _outcome(action, done, None)
    undo = UndoList(free_path(undo_list, UNDO_LIST), Run.of(action.kind, collection))
    try:
        done = apply(client, collection, judged, facts, action, undo, timeout, bar.completed)
    finally:
        undo.close()
    return _outcome(action, done, undo.path)


def show_review(
    client: Client,
    collection: Collection,
    judged: Judged,
    facts: FileFacts,
    action: Action,
    timeout: float,
    port: int,
) -> None:
    """Serves the page of a review until Ctrl-C."""
    try:
        from lookalike.jobs.dedup.review.server import serve
    except ModuleNotFoundError as error:
        raise InvalidRequest(
            f"review: needs {error.name}; run pip install '.[coordinator]' in the checkout"
        ) from None
    from lookalike.jobs.dedup.review.state import Review

    if action.kind != "tag":
        require_local(client, collection, judged, action)
    state = Review(client, collection, judged, facts, action, UNDO_LIST, timeout)

    def started(address: str) -> None:
        print(f"{len(judged):,} groups to review at {address}\nPress Ctrl-C to end.", flush=True)

    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(serve(state, port, started))


def print_outcome(outcome: Mapping[str, Any]) -> None:
    """Prints what `act` returned."""
    would = "would be " if outcome["dry_run"] else ""
    size = f"{outcome['bytes']:,} bytes freed"
    match outcome["action"]:
        case "move":
            print(f"{outcome['done']:,} files {would}moved to {outcome['folder']}, {size}")
        case "delete":
            print(f"{outcome['done']:,} files {would}deleted, {size}")
            print(_DELETED)
        case _:
            print(f"{outcome['done']:,} records {would}tagged")
    _print_skipped(outcome["skipped_by_reason"])
    if outcome["dry_run"]:
        print("nothing was done; add --yes to do it")
    elif outcome["done"]:
        print(f"to take it back: lookalike dedup --undo {outcome['undo_list']}")


def take_back(client: Client, path: Path, timeout: float, as_json: bool) -> None:
    """Takes back a run by its undo list, and prints what came back."""
    run = read_run(path)
    if run.kind == "delete" and not as_json:
        print(_DELETED)
    with records_bar("undoing") as bar:
        undone = undo(client, path, timeout, bar.completed)
    if as_json:
        print_json(
            {
                "action": run.kind,
                "collection": run.collection,
                "files": undone.files,
                "records": undone.records,
                "unchanged": undone.unchanged,
                "skipped_by_reason": dict(undone.skipped),
            }
        )
        return
    moved = f"{undone.files:,} files moved back, " if run.kind == "move" else ""
    again = "without the tag again" if run.kind == "tag" else "stored again"
    print(f"{moved}{undone.records:,} records of {run.collection} {again}, {undone.unchanged:,} unchanged")
    _print_skipped(undone.skipped)


def compare(
    client: Client,
    collection: Collection,
    paths: Sequence[Path],
    max_distance: int,
    as_json: bool,
    checker: FilesChecker | None = None,
) -> None:
    """Prints which files have near-duplicates in a collection. Stores nothing.

    Args:
        client: A client of the cluster.
        collection: The collection.
        paths: Image files and folders.
        max_distance: The largest distance of a file and a record, in bits.
        as_json: Whether to print JSON.
        checker: Tells which near records are copies; None if all are.
    """
    found = find_images(paths)
    k = _HITS if checker is None else NEAREST
    options = SearchOptions(k=k, max_distance=max_distance)
    answers = []
    with records_bar("searching", len(found.files)) as bar:
        for answer in search_files(client, collection.name, found.files, options):
            answers.append(_compared(answer, k))
            bar.completed(len(answers))
        if checker is not None:
            bar.start("checking pairs", len(answers))
            _keep_copies(answers, checker, bar)
    errors = [answer["error"] for answer in answers if "error" in answer]
    if len(errors) == len(answers):
        raise InvalidRequest(f"image: none of {len(answers):,} files can be searched for ({errors[0]})")
    known = [answer for answer in answers if answer.get("duplicates")]
    summary = {
        "files": len(answers),
        "known": len(known),
        "known_exact": sum(answer["duplicates"][0]["exact"] for answer in known),
        "unreadable": len(errors),
        "skipped_by_reason": dict(found.skipped),
        "max_distance": max_distance,
    }
    if as_json:
        print_json({**summary, "found": answers})
        return
    for compared in answers:
        _print_compared(compared)
    print(
        f"{summary['known']:,} of {summary['files']:,} files have a near-duplicate within {max_distance} bits in"
        f" {collection.name}, {summary['known_exact']:,} of them a copy with the same bytes;"
        f" {summary['unreadable']:,} unreadable"
    )
    _print_skipped(found.skipped)


def _outcome(action: Action, done: Applied, undo_list: Path | None) -> dict[str, Any]:
    return {
        "action": action.kind,
        "folder": None if action.folder is None else str(action.folder),
        "dry_run": undo_list is None,
        "done": done.done,
        "bytes": done.bytes,
        "skipped": done.skipped.total(),
        "skipped_by_reason": dict(done.skipped),
        "undo_list": None if undo_list is None or not undo_list.exists() else str(undo_list),
    }


def _print_skipped(skipped: Counter[str] | Mapping[str, int]) -> None:
    for reason, count in sorted(skipped.items()):
        print(f"{count:,} skipped: {reason}")


def _keep_copies(answers: Sequence[dict[str, Any]], checker: FilesChecker, bar: Bar) -> None:
    """Removes the records that are not copies of the answers' files."""
    found = [answer for answer in answers if "duplicates" in answer]
    files = [Path(answer["file"]) for answer in found]
    verdicts = checker(files, [answer["duplicates"] for answer in found], bar.completed)
    for answer, is_copy in zip(found, verdicts, strict=True):
        answer["duplicates"] = list(itertools.compress(answer["duplicates"], is_copy))
        answer["more"] = answer["more"] and all(is_copy)


def _compared(answer: Answer, k: int) -> dict[str, Any]:
    """The records near to a file, as JSON. k: how many were asked for."""
    if answer.result is None:
        return {"file": str(answer.file), "error": answer.error}
    digest = hashlib.sha256(answer.image).hexdigest()
    hits = [
        {"key": hit.key, "distance": hit.distance, "exact": _digest(hit) == digest} for hit in answer.result.hits
    ]
    hits.sort(key=lambda hit: not hit["exact"])
    return {"file": str(answer.file), "duplicates": hits, "more": len(hits) == k}


def _digest(hit: Hit) -> object:
    source = hit.attributes.get("source")
    return source.get("sha256") if isinstance(source, dict) else None


def _print_compared(answer: Mapping[str, Any]) -> None:
    # As JSON, because names and keys may contain terminal control sequences.
    name = json.dumps(answer["file"])
    if "error" in answer:
        print(f"{name}: unreadable: {json.dumps(answer['error'])}")
    for hit in answer.get("duplicates", ()):
        print(f"{name}  {'exact' if hit['exact'] else str(hit['distance']) + ' bits'}  {json.dumps(hit['key'])}")
    if answer.get("more"):
        print(f"{name}  and perhaps more")
