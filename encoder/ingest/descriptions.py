"""Owns what files beside images say of them: the table `metadata` of an image folder, as Hugging Face `datasets`
and others write it, and the JSON and text files that img2dataset writes beside each image."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import PurePosixPath
from typing import Any

import fsspec
from more_itertools import groupby_transform

from encoder.ingest.rows import attributes_of
from encoder.ingest.sources import Source
from encoder.ingest.tables.formats import find_tables, format_of
from encoder.ingest.tables.table import Table
from lookalike.model.errors import InvalidRequest
from lookalike.model.records import attributes_text

_TABLES = ("metadata.csv", "metadata.jsonl", "metadata.parquet")
_ENDINGS = (".txt", ".json")


def described(sources: Iterable[Source], refuse: Callable[[Source, str], None]) -> list[Source]:
    """Adds the attributes that files beside images give to the images.

    Files beside each image are looked for only in a folder whose first image has such files.

    Args:
        sources: Image files.
        refuse: Called with each image whose description is invalid, and the reason.

    Returns:
        The images that were not refused, in order.

    Raises:
        InvalidRequest: If a table of descriptions cannot be read.
    """
    result: list[Source] = []
    by_folder = groupby_transform(sources, lambda source: source.url.rpartition("/")[0], reducefunc=list)
    for folder, images in by_folder:
        describe = _describer(folder, images[0])
        for image in images:
            try:
                result.append(_with(image, describe(image)))
            except (ValueError, InvalidRequest) as error:
                refuse(image, f"the text beside it is invalid ({error})")
    return result


def _describer(folder: str, first: Source) -> Callable[[Source], Mapping[str, Any]]:
    """Returns a function that returns the description of an image in the folder, and may raise ValueError."""
    system, path = fsspec.core.url_to_fs(folder)
    for name in _TABLES:
        if system.exists(f"{path}/{name}"):
            (table,) = find_tables(f"{folder}/{name}", format_of(name))
            if table.naming.written("uri") == "file_name":
                by_name = _rows(table)
                return lambda image: by_name.get(image.url.rpartition("/")[2], {})
    if _is_of_img2dataset(system, path, first):
        return lambda image: _beside_image(system, path, image)
    return lambda image: {}


def _is_of_img2dataset(system: Any, folder: str, image: Source) -> bool:
    """Whether the JSON file beside an image has the image's name as its key, as img2dataset writes it."""
    beside = _beside(folder, image, ".json")
    if not system.exists(beside):
        return False
    try:
        found = json.loads(system.cat_file(beside))
    except ValueError:
        return False
    return isinstance(found, dict) and found.get("key") == PurePosixPath(beside).stem


def _rows(table: Table) -> dict[str, Mapping[str, Any]]:
    """The rows of a table of descriptions, by the image's file name."""
    return {
        str(row["uri"]).removeprefix("./"): attributes_of({name: row[name] for name in row if name != "uri"})
        for batch in table.batches()
        for row in batch
        if isinstance(row, dict) and "uri" in row
    }


def _beside(folder: str, image: Source, ending: str) -> str:
    name = image.url.rpartition("/")[2]
    return f"{folder}/{name.rpartition('.')[0] or name}{ending}"


def _beside_image(system: Any, folder: str, image: Source) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    for ending in _ENDINGS:
        try:
            data = system.cat_file(_beside(folder, image, ending))
        except FileNotFoundError:
            continue
        found = {"txt": data.decode("utf-8", "replace").strip()} if ending == ".txt" else json.loads(data)
        fields |= found if isinstance(found, dict) else {}
    return {name: value for name, value in fields.items() if name not in ("key", "uri") and value is not None}


def _with(image: Source, fields: Mapping[str, Any]) -> Source:
    if not fields:
        return image
    digest = hashlib.blake2b(attributes_text(fields).encode(), digest_size=8).hexdigest()
    return dataclasses.replace(image, fields={**image.fields, **fields}, signature=f"{image.signature}+{digest}")
