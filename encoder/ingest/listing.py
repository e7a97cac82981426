"""Owns which images a job reads: expands a list of paths, which may be folders, globs, image files and tables."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from fsspec.core import url_to_fs

from encoder.ingest.dead_letters import DeadLetters
from encoder.ingest.descriptions import described
from encoder.ingest.images import absolute
from encoder.ingest.rows import check_columns, source_of
from encoder.ingest.selection import Selection
from encoder.ingest.sources import Source, find_sources, require_images
from encoder.ingest.stats import LIMIT, WHERE, Summary
from encoder.ingest.tables.formats import IMAGES, find_tables, format_at
from encoder.ingest.tables.formats import NAMES as FORMATS
from encoder.ingest.tables.naming import Choice, Skipped
from encoder.ingest.tables.table import Table
from encoder.ingest.tables.text_files import COCO
from lookalike.model.errors import InvalidRequest


def split(paths: Sequence[str], format: str | None, choice: Choice) -> tuple[list[str], list[Table]]:
    """Separates the paths of images from the tables. format: the format of all paths; None to detect it from
    each path's ending. choice: what the user says of the tables' columns. Raises InvalidRequest."""
    if format is not None and format not in FORMATS:
        raise InvalidRequest(f"format: {format[:80]!r} is unknown; use one of {', '.join(FORMATS)}")
    formats = [(path, format or format_at(path)) for path in paths]
    images = [path for path, found in formats if found == IMAGES]
    tables = [table for path, found in formats if found != IMAGES for table in find_tables(path, found, choice)]
    for table in tables:
        check_columns(table)
    return images, tables


def list_images(
    paths: Sequence[str],
    tables: Sequence[Table],
    folder: str | None,
    selection: Selection,
    dead_letters: DeadLetters,
    summary: Summary,
    include_hidden: bool = False,
) -> list[Source]:
    """Returns the selected images, each key once.

    Args:
        paths: Folders, globs and image files.
        tables: Tables of images.
        folder: The folder that relative URIs in tables start from; None for the table's own folder.
        selection: Which images to take.
        dead_letters: Receives each file and table row that cannot become a record.
        summary: The job's counts, to which this adds.
        include_hidden: Take hidden files, hidden folders and folders of thumbnails too.

    Raises:
        InvalidRequest: If a path does not exist or cannot be read, or if the paths hold files, but no image.
    """
    found = find_sources(paths, include_hidden)
    for url, reason in found.refused:
        dead_letters.add(url, None, reason)
    summary.found += found.total
    summary.unreadable += len(found.refused)
    for reason, count in found.skipped.items():
        summary.set_skipped(reason, count)
    require_images(paths, found)

    def refuse(source: Source, reason: str) -> None:
        summary.unreadable += 1
        dead_letters.add(source.url, source.key, reason, source.fields)

    files = described(found.sources, refuse)
    sources = {source.key: source for source in selection.apply(files)}
    summary.set_skipped(LIMIT, len(files) - len(sources) - selection.skipped)
    for table in tables:
        base = None if folder is None else absolute(folder, f"file://{Path.cwd().as_posix()}")
        for source in selection.apply(_sources(table, base, dead_letters, summary)):
            if sources.setdefault(source.key, source) is not source:
                summary.unreadable += 1
                dead_letters.add(source.url, source.key, "key: occurs twice; the first is used", source.fields)
        if selection.is_full:
            break
    summary.set_skipped(WHERE, selection.skipped)
    return list(sources.values())


def _sources(table: Table, given: str | None, dead_letters: DeadLetters, summary: Summary) -> Iterator[Source]:
    """The images of a table. given: the folder that relative URIs start from, if the user names it."""
    number, base = 0, given or _folder_of(table)
    for batch in table.batches():
        for row in batch:
            summary.found += 1
            if isinstance(row, Skipped):
                summary.count_skipped(str(row))
                continue
            try:
                if not isinstance(row, dict):
                    raise InvalidRequest(row)
                if given is not None and table.format is COCO:
                    # LVIS has web addresses. They are not fetched if the user names the folder that has the files.
                    row = {**row, "uri": row["key"]}
                yield source_of(table, number, row, base)
            except InvalidRequest as error:
                summary.unreadable += 1
                key = row.get("key") if isinstance(row, dict) else None
                dead_letters.add(f"{table.url}#row={number}", key if isinstance(key, str) else None, error.message)
            number += 1


def _folder_of(table: Table) -> str:
    """Returns the folder that the table's relative URIs start from. COCO keeps the images of
    `annotations/instances_NAME.json` in the folder NAME, next to `annotations`."""
    if table.format is not COCO:
        return table.folder
    name = table.url.rpartition("/")[2].removesuffix(".json").removeprefix("instances_")
    folder = f"{table.folder.rpartition('/')[0]}/{name}"
    system, root = url_to_fs(folder)
    return folder if system.isdir(root) else table.folder
