"""Owns reading an image's bytes by its URL: a file that fsspec can read, or a row of a parquet file, whose URL
ends in "#row=" and the row's number."""

from __future__ import annotations

import functools
import re
import threading
from typing import Any

import fsspec

_reading = threading.Lock()
_ROW = re.compile(r"(?s)(.+)#row=(\d+)")


def row_url(table: str, row: int) -> str:
    """The URL of a row of a table. row: counted from 0."""
    return f"{table}#row={row}"


def read(url: str, limit_bytes: int) -> bytes:
    """Reads an image file.

    Args:
        url: Where it is.
        limit_bytes: The most bytes that are read.

    Raises:
        OSError: If the file cannot be read.
        ValueError: If it does not exist, or has more than `limit_bytes`.
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
            # A store's error has only the path; its cause tells whether the host did not answer.
            raise ValueError(f"does not exist ({error.__cause__ or 'no such object in the store'})") from None
    if len(data) > limit_bytes:
        raise ValueError(f"has over {limit_bytes:,} bytes, the maximum; scale it down")
    return data


def image_bytes(value: object) -> bytes:
    """The image in a cell: bytes, or a struct with `bytes`. Raises ValueError if there is none."""
    if isinstance(value, dict):
        value = value.get("bytes")
    if not isinstance(value, bytes):
        raise ValueError("the row has no image bytes")
    return value


def _row(table: str, row: int) -> bytes:
    # Rows are read roughly in order, so one or two groups are in memory.
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
