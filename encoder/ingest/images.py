"""Owns the way from a source's URL to the image's bytes, wherever they are: a file that fsspec reaches, or a row
of a parquet file, whose URL ends in "#row=" and its number."""

from __future__ import annotations

import functools
import re
import threading
from typing import Any

import fsspec

_reading = threading.Lock()
_ROW = re.compile(r"(?s)(.+)#row=(\d+)")


def row_url(table: str, row: int) -> str:
    """The URL of the image in a row, counted from 0, of a parquet file."""
    return f"{table}#row={row}"


def read(url: str, limit_bytes: int) -> bytes:
    """An image's bytes. Raises OSError; ValueError when there are more than `limit_bytes`, or none."""
    if found := _ROW.fullmatch(url):
        data = _row(found[1], int(found[2]))
    else:
        try:
            with fsspec.open(url, "rb") as file:
                data = file.read(limit_bytes + 1)
        except FileNotFoundError as error:
            if error.strerror:
                raise
            # A store's says where alone; a host that does not answer differs by its cause.
            raise ValueError(f"does not exist ({error.__cause__ or 'the store has none there'})") from None
    if len(data) > limit_bytes:
        raise ValueError(f"has over {limit_bytes:,} bytes; at most that many are read; scale it down")
    return data


def image_bytes(value: object) -> bytes:
    """A cell's image: bytes, or a struct that has them. Raises ValueError when there are none."""
    if isinstance(value, dict):
        value = value.get("bytes")
    if not isinstance(value, bytes):
        raise ValueError("has no image bytes in its row")
    return value


def _row(table: str, row: int) -> bytes:
    # Rows are asked for about in their order: one group at a time is in memory.
    starts = _group_starts(table)
    group = next(number for number in reversed(range(len(starts))) if starts[number] <= row)
    with _reading:
        images = _group(table, group)
    if row - starts[group] >= len(images):
        raise ValueError(f"row {row:,} is not there")
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
