"""Owns which images a job takes: from folders, globs and files, and from the rows of tables, by one list of
paths."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from fsspec.core import url_to_fs

from encoder.ingest.dead_letters import DeadLetters
from encoder.ingest.rows import absolute, check_columns, source_of
from encoder.ingest.selection import Choice
from encoder.ingest.sources import Source, find_sources
from encoder.ingest.stats import Summary
from encoder.ingest.tables import COCO, IMAGES, Table, Unreadable, find_tables, format_of
from lookalike.model.errors import InvalidRequest


def split(paths: Sequence[str], format: str | None) -> tuple[list[str], list[Table]]:
    """The paths that are images or hold them, and the tables of the others. format: of all; by their endings
    without. Raises InvalidRequest."""
    formats = [(path, format or format_of(path)) for path in paths]
    images = [path for path, found in formats if found == IMAGES]
    tables = [table for path, found in formats if found != IMAGES for table in find_tables(path, found)]
    for table in tables:
        check_columns(table)
    return images, tables


def list_images(
    paths: Sequence[str],
    tables: Sequence[Table],
    folder: str | None,
    choice: Choice,
    letters: DeadLetters,
    summary: Summary,
) -> list[Source]:
    """The images that are chosen, each key once; what has no record goes to the dead letters. folder: what
    relative URIs are relative to; the table's own by default. Raises InvalidRequest."""
    found, refused = find_sources(paths) if paths else ([], [])
    for url, reason in refused:
        letters.add(url, None, reason)
    summary.found += len(found) + len(refused)
    summary.unreadable += len(refused)
    sources = {source.key: source for source in choice.of(found)}
    for table in tables:
        base = _folder_of(table) if folder is None else absolute(folder, f"file://{Path.cwd().as_posix()}")
        for source in choice.of(_rows(table, base, letters, summary)):
            if sources.setdefault(source.key, source) is not source:
                summary.unreadable += 1
                letters.add(source.url, source.key, "key: occurs twice; the first is taken", source.fields)
        if choice.is_full:
            break
    summary.skipped = choice.skipped
    return list(sources.values())


def _rows(table: Table, base: str, letters: DeadLetters, summary: Summary) -> Iterator[Source]:
    number = 0
    for portion in table.portions():
        for row in portion:
            summary.found += 1
            try:
                if isinstance(row, Unreadable):
                    raise InvalidRequest(row)
                yield source_of(table, number, row, base)
            except InvalidRequest as error:
                summary.unreadable += 1
                key = row.get("key") if isinstance(row, dict) else None
                letters.add(f"{table.url}#row={number}", key if isinstance(key, str) else None, error.message)
            number += 1


def _folder_of(table: Table) -> str:
    """Where relative URIs begin. COCO's images lie beside its annotations, in a folder that is named as the
    file."""
    if table.format != COCO:
        return table.folder
    name = table.url.rpartition("/")[2].removesuffix(".json").removeprefix("instances_")
    beside = f"{table.folder.rpartition('/')[0]}/{name}"
    system, root = url_to_fs(beside)
    return beside if system.isdir(root) else table.folder
