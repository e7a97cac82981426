"""Owns which formats of tables there are, and finding the tables at a path."""

from __future__ import annotations

import dataclasses
from pathlib import PurePosixPath

import fsspec
from fsspec.core import url_to_fs

from encoder.ingest.sources import explained, is_glob, signature
from encoder.ingest.tables.archives import TAR, ZIP
from encoder.ingest.tables.arrow_files import ARROW, PARQUET, classes_of
from encoder.ingest.tables.naming import Choice, choose
from encoder.ingest.tables.table import Format, Table
from encoder.ingest.tables.text_files import COCO, CSV, JSON, JSONL, json_format
from encoder.ingest.tables.vectors import FAISS, HDF5, NPY, VECTORS
from lookalike.files.kinds import EXTENSIONS

IMAGES = "images"
FORMATS = (TAR, ZIP, PARQUET, ARROW, JSONL, CSV, JSON, COCO, *VECTORS)
NAMES = (IMAGES, *(format.name for format in FORMATS))
_BY_NAME = {format.name: format for format in FORMATS}
_BY_ENDING = {ending: format for format in FORMATS for ending in format.endings}
_HEAD_BYTES = 64 * 1024
# Files that only a data set has that Hugging Face `datasets` saved to disk.
_SAVED = ("dataset_dict.json", "state.json")
# The bytes that tell a format, after their offset in the file.
_MAGIC = (
    (0, b"PAR1", PARQUET), (0, b"ARROW1", ARROW), (0, b"PK\x03\x04", ZIP), (257, b"ustar", TAR),
    (0, b"\x93NUMPY", NPY), (0, b"\x89HDF\r\n", HDF5), (0, b"IBxF", FAISS), (0, b"IBMp", FAISS),
    (0, b"IBM2", FAISS),
)  # fmt: skip
_AS_WRITTEN = Choice()


def format_of(path: str) -> str:
    """A path's format by its ending; "images" if no table's file has this ending."""
    found = _by_ending(path)
    return IMAGES if found is None else found.name


def _by_ending(path: str) -> Format | None:
    # A question mark starts a query in a web address only.
    name = (path.partition("?")[0] if path.startswith(("http://", "https://")) else path).lower()
    plain = PurePosixPath(name.removesuffix(".gz")).suffix
    endings = [ending for ending in _BY_ENDING if name.endswith(ending) or plain == ending]
    return _BY_ENDING[max(endings, key=len)] if endings else None


def format_at(path: str) -> str:
    """The name of the format at a path, by its ending or its content. A folder has a table's format if it holds
    such tables and no images."""
    found = format_of(path)
    if found != IMAGES:
        return found
    with explained(path):
        system, root = url_to_fs(path)
        if path.startswith(("http://", "https://")):
            return IMAGES
        if not system.isdir(root):
            has_other_ending = PurePosixPath(root.lower()).suffix not in EXTENSIONS
            found_inside = _by_content(_head(path)) if has_other_ending and system.isfile(root) else None
            return IMAGES if found_inside is None else found_inside.name
        if any(system.exists(f"{root}/{name}") for name in _SAVED):
            return ARROW.name
        formats: set[str] = set()
        for _, _, names in system.walk(root):
            if any(PurePosixPath(name.lower()).suffix in EXTENSIONS for name in names):
                return IMAGES
            formats |= {format_of(name) for name in names if not name.startswith(".")}
    # FORMATS has the order of precedence: a folder of tar files may also hold their texts as JSON.
    return next((format.name for format in FORMATS if format.name in formats), IMAGES)


def format_of_file(url: str) -> Format:
    """A table's format by its ending or, failing that, by its first bytes. Raises InvalidRequest."""
    found = _by_ending(url)
    if found is not None and found is not JSON:
        return found
    with explained(url):
        head = _head(url)
    return _by_content(head) or json_format(head)


def _head(url: str) -> bytes:
    with fsspec.open(url, "rb", compression="infer") as file:
        head: bytes = file.read(_HEAD_BYTES)
        return head


def _by_content(head: bytes) -> Format | None:
    """The format of a file with these first bytes; None if they are of no table."""
    return next((format for place, magic, format in _MAGIC if head.startswith(magic, place)), None)


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
            files = {name: found[name] for name in found if _is_of(name, format)}
        else:
            files = {root: info}
        if not files:
            raise FileNotFoundError
        urls = [(system.unstrip_protocol(name), signature(files[name])) for name in sorted(files)]
        return [_open(url, format, mark, choice) for url, mark in urls]


def _is_of(path: str, format: str) -> bool:
    # Hugging Face `datasets` caches its results beside the data that it saved.
    return format_of(path) == format and not PurePosixPath(path).name.startswith("cache-")


def _open(url: str, name: str, mark: str, choice: Choice) -> Table:
    # An error must name the file, not the folder or glob.
    with explained(url):
        format = format_of_file(url) if name == JSON.name else _BY_NAME[name]
        table = format.open(url, mark)
        naming = choose(table.kinds, choice, classes_of(table))
        return dataclasses.replace(table, naming=naming)
