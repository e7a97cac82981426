"""Owns files of keys for files of vectors that have none: a text file with a key on each line, a NumPy array of
text or integers (.npy), or a JSON list (.json)."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator

import fsspec

from encoder.ingest.sources import explained
from lookalike.model.errors import InvalidRequest

Keys = Iterator[list[str]]


def keys_of(path: str, count: int, rows: int) -> Keys:
    """Yields keys, at most `rows` at a time. Raises InvalidRequest unless the file has exactly `count` keys.

    Args:
        path: A path or URL.
        count: How many keys are needed.
        rows: The most keys to yield at a time.
    """
    with explained(path):
        found = sum(len(batch) for batch in _read(path, rows))
    if found != count:
        raise InvalidRequest(
            f"keys: {path} has {found:,} keys for {count:,} vectors; write one for each, in order"
        )
    return _read(path, rows)


def _read(path: str, rows: int) -> Keys:
    ending = path.lower().rpartition(".")[2]
    if ending == "npy":
        return _of_array(path, rows)
    return _batched(_of_json(path) if ending == "json" else _of_lines(path), rows)


def _of_lines(path: str) -> Iterator[str]:
    with fsspec.open(path, "r", compression="infer", encoding="utf-8-sig") as file:
        for line in file:
            yield line.rstrip("\r\n")


def _of_json(path: str) -> Iterator[str]:
    with fsspec.open(path, "rb", compression="infer") as file:
        content = json.load(file)
    if not isinstance(content, list):
        raise InvalidRequest(f"keys: {path} holds a JSON {type(content).__name__}; write a list of keys")
    for number, key in enumerate(content):
        if not isinstance(key, str | int) or isinstance(key, bool):
            raise InvalidRequest(
                f"keys: number {number:,} of {path} is {type(key).__name__}; use text or whole numbers"
            )
        yield str(key)


def _of_array(path: str, rows: int) -> Keys:
    import numpy as np

    from encoder.ingest.tables.vectors import npy_layout

    with fsspec.open(path, "rb") as file:
        layout = npy_layout(file, dimensions=1)
        if layout.dtype.kind not in "Uiu":
            raise InvalidRequest(f"keys: {path} holds {layout.dtype}; save an array of text or integers")
        for first in range(0, layout.count, rows):
            data = file.read(min(rows, layout.count - first) * layout.dtype.itemsize)
            yield [str(key) for key in np.frombuffer(data, layout.dtype).tolist()]


def _batched(keys: Iterator[str], rows: int) -> Keys:
    while batch := list(itertools.islice(keys, rows)):
        yield batch
