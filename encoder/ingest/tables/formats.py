"""Owns which formats of tables there are, and finding the tables at a path."""

from __future__ import annotations

import dataclasses
from pathlib import PurePosixPath

import fsspec
from fsspec.core import url_to_fs

from encoder.ingest.sources import is_glob, signature
from encoder.ingest.tables.arrow_files import ARROW, PARQUET, classes_of
from encoder.ingest.tables.naming import Choice, choose
from encoder.ingest.tables.table import Format, Table, explained
from encoder.ingest.tables.text_files import COCO, CSV, JSON, JSONL, json_format

IMAGES = "images"
FORMATS = (PARQUET, ARROW, JSONL, JSON, CSV, COCO)
NAMES = (IMAGES, *(format.name for format in FORMATS))
_BY_NAME = {format.name: format for format in FORMATS}
_BY_ENDING = {ending: format for format in FORMATS for ending in format.endings}
_HEAD_BYTES = 64 * 1024
_MAGIC = ((b"PAR1", PARQUET), (b"ARROW1", ARROW))
_AS_WRITTEN = Choice()


def format_of(path: str) -> str:
    """A path's format by its ending, .gz aside; "images" if no table's file has this ending."""
    ending = _ending(path)
    return "json" if ending == ".json" else _BY_ENDING[ending].name if ending in _BY_ENDING else IMAGES


def _ending(path: str) -> str:
    # A question mark starts a query in a web address only.
    name = path.partition("?")[0] if path.startswith(("http://", "https://")) else path
    return PurePosixPath(name.lower().removesuffix(".gz")).suffix


def format_of_file(url: str) -> Format:
    """A table's format by its ending or, failing that, by its first bytes. Raises InvalidRequest."""
    found = _BY_ENDING.get(_ending(url))
    if found is not None:
        return found
    with explained(url), fsspec.open(url, "rb", compression="infer") as file:
        head = file.read(_HEAD_BYTES)
    for magic, format in _MAGIC:
        if head.startswith(magic):
            return format
    return json_format(head)


def find_tables(path: str, format: str, choice: Choice = _AS_WRITTEN) -> list[Table]:
    """Finds tables: the file at a path or URL, the files that a glob matches, or a folder's files of a format.

    Args:
        path: A path or URL.
        format: The name of a format.
        choice: What the user says of the columns.

    Raises:
        InvalidRequest: If there is no such file, one cannot be read, or a column does not exist.
    """
    with explained(path):
        system, root = url_to_fs(path)
        if "://" not in root and is_glob(system, root):
            files = system.glob(root, detail=True)
        elif (info := system.info(root))["type"] == "directory":
            found = system.find(root, detail=True)
            files = {name: found[name] for name in found if format_of(name) == format}
        else:
            files = {root: info}
        if not files:
            raise FileNotFoundError
        urls = [(system.unstrip_protocol(name), signature(files[name])) for name in sorted(files)]
        return [_open(url, format, mark, choice) for url, mark in urls]


def _open(url: str, name: str, mark: str, choice: Choice) -> Table:
    # An error must name the file, not the folder or glob.
    with explained(url):
        format = format_of_file(url) if name == JSON.name else _BY_NAME[name]
        table = format.open(url, mark)
        naming = choose(table.kinds, choice, classes_of(table))
        return dataclasses.replace(table, naming=naming)
