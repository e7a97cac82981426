"""Owns reading an image's bytes by its URL: a file that fsspec can read, a file in an archive, or a table's cell.

The URL of a cell is the table's URL, "#row=" and the row's number. "&image=" and the column's name follow unless
the column is `image`; "&folder=" and a URL follow unless relative paths in the column start from the table's
folder."""

from __future__ import annotations

import dataclasses
import re
from typing import Any
from urllib.parse import quote, unquote

import fsspec

_ROW = re.compile(r"(?s)(.+)#row=(\d+)(?:&image=([^&#]+))?(?:&folder=([^&#]+))?")


@dataclasses.dataclass(frozen=True, slots=True)
class ReadOptions:
    """Which image files a job accepts: the most bytes and pixels of a file, and whether a file that lacks its end
    is decoded as far as it goes."""

    max_bytes: int
    max_pixels: int
    allow_truncated: bool = False


def row_url(table: str, row: int, column: str = "image", folder: str = "") -> str:
    """The URL of the image in a row of a table.

    Args:
        table: The table's URL.
        row: The row's number, from 0.
        column: The column that holds the images, by its name in the file.
        folder: The URL that relative paths in the column start from; empty for the table's own folder.
    """
    url = f"{table}#row={row}" + ("" if column == "image" else f"&image={quote(column, safe='')}")
    return url + (f"&folder={quote(folder, safe='')}" if folder else "")


def absolute(uri: str, folder: str) -> str:
    """Returns an absolute URI unchanged, and a relative URI with the folder in front of it."""
    if "://" in uri:
        return uri
    if uri.startswith("/"):
        return f"file://{uri}"
    return f"{folder.rstrip('/')}/{uri.removeprefix('./')}"


def read(url: str, limit_bytes: int) -> bytes:
    """Reads an image file.

    Args:
        url: The image's URL.
        limit_bytes: The largest accepted size.

    Raises:
        OSError: If the file cannot be read.
        ValueError: If the row or the object in a store does not exist, or the image has more than `limit_bytes`.
    """
    from encoder.ingest.tables.archives import read_inside

    if found := _ROW.fullmatch(url):
        column, folder = unquote(found[3] or "image"), unquote(found[4] or found[1].rpartition("/")[0])
        data = _cell(found[1], int(found[2]), column, folder, limit_bytes)
    else:
        inside = read_inside(url, limit_bytes)
        data = _file(url, limit_bytes) if inside is None else inside
    if len(data) > limit_bytes:
        raise ValueError(f"has over {limit_bytes:,} bytes, the maximum (limits.max_image_mb); scale it down")
    return data


def _file(url: str, limit_bytes: int) -> bytes:
    try:
        with fsspec.open(url, "rb") as file:
            data: bytes = file.read(limit_bytes + 1)
            return data
    except FileNotFoundError as error:
        if error.strerror:
            raise
        # An object store's error has only the path; the error's cause tells whether the host did not answer.
        raise ValueError(f"does not exist ({error.__cause__ or 'no such object in the store'})") from None


def _cell(table: str, row: int, column: str, folder: str, limit_bytes: int) -> bytes:
    from encoder.ingest.tables.arrow_files import ARROW, arrow_cell, parquet_cell
    from encoder.ingest.tables.formats import format_of_file

    read_cell = arrow_cell if format_of_file(table) is ARROW else parquet_cell
    value: Any = read_cell(table, row, column)
    if isinstance(value, dict):
        # Hugging Face `datasets` stores a file's bytes, or only its path.
        if value.get("bytes") is None and isinstance(value.get("path"), str):
            return _file(absolute(value["path"], folder), limit_bytes)
        value = value.get("bytes")
    if not isinstance(value, bytes):
        raise ValueError("the row has no image bytes")
    return value
