"""Owns reading an image's bytes by its URL: a file that fsspec can read, or a row of a parquet file, whose URL
ends in "#row=" and the row's number."""

from __future__ import annotations

import dataclasses
import functools
import re
import threading
from typing import Any

import fsspec


@dataclasses.dataclass(frozen=True, slots=True)
class ReadOptions:
    """Which image files a job accepts: the most bytes and pixels of a file, and whether a file that lacks its end
    is decoded as far as it goes."""

    max_bytes: int
    max_pixels: int
    allow_truncated: bool = False


_reading = threading.Lock()
_ROW = re.compile(r"(?s)(.+)#row=(\d+)")


def row_url(table: str, row: int) -> str:
    """The URL of the image in a row of a parquet file. row: the row's number, from 0."""
    return f"{table}#row={row}"


def read(url: str, limit_bytes: int) -> bytes:
    """Reads an image file.

    Args:
        url: The image's URL.
        limit_bytes: The largest accepted size.

    Raises:
        OSError: If the file cannot be read.
        ValueError: If the row or the object in a store does not exist, or the image has more than `limit_bytes`.
    """
    if found := _ROW.fullmatch(url):
        data = _row(found[1], int(found[2]))
    else:
        try:
            with fsspec.open(url, "rb") as file:
                data = file.read(limit_bytes + 1)
        except FileNotFoundError as error:
            if error.strerror:
                raise
            # An object store's error has only the path; the error's cause tells whether the host did not answer.
            raise ValueError(f"does not exist ({error.__cause__ or 'no such object in the store'})") from None
    if len(data) > limit_bytes:
        raise ValueError(f"has over {limit_bytes:,} bytes, the maximum (limits.max_image_mb); scale it down")
    return data


def image_bytes(value: object) -> bytes:
    """The image in a cell with bytes, or with a struct that has a field `bytes`. Raises ValueError for another
    cell."""
    if isinstance(value, dict):
        value = value.get("bytes")
    if not isinstance(value, bytes):
        raise ValueError("the row has no image bytes")
    return value


def _row(table: str, row: int) -> bytes:
    # Rows are read roughly in order, so it suffices that `_group` keeps two row groups in memory.
    starts = _group_starts(table)
    group = next(number for number in reversed(range(len(starts))) if starts[number] <= row)
    with _reading:
        images = _group(table, group)
    if row - starts[group] >= len(images):
        raise ValueError(f"row {row:,} does not exist")
    return image_bytes(images[row - starts[group]].as_py())


@functools.lru_cache(maxsize=64)
def _group_starts(table: str) -> list[int]:
    import pyarrow.parquet as parquet

    with fsspec.open(table, "rb") as file:
        found = parquet.read_metadata(file)
    starts = [0]
    for group in range(found.num_row_groups - 1):
        starts.append(starts[-1] + found.row_group(group).num_rows)
    return starts


@functools.lru_cache(maxsize=2)
def _group(table: str, group: int) -> Any:
    import pyarrow.parquet as parquet

    with fsspec.open(table, "rb") as file:
        return parquet.ParquetFile(file).read_row_group(group, columns=["image"]).column("image")
