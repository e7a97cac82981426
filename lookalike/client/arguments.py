"""Owns how the SDK checks, groups and encodes what a caller passes: keys, records and queries."""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar, cast

import numpy as np
import numpy.typing as npt

from lookalike import wire
from lookalike.model.errors import InvalidRequest
from lookalike.model.records import MAX_BATCH_RECORDS, Record, check_key
from lookalike.model.search_options import SearchOptions
from lookalike.v1 import search_pb2 as pb

# Records per message of an ingest stream.
STREAM_RECORDS = 256

Value = TypeVar("Value")
Image = bytes | str | Path
Floats = npt.NDArray[np.float32]


def listed(field: str, values: Iterable[Value]) -> list[Value]:
    """Returns the values as a list. Raises InvalidRequest for text and single objects."""
    if isinstance(values, str | bytes) or not isinstance(values, Iterable):
        raise InvalidRequest(f"{field}: is one {type(values).__name__}; give a list")
    return list(values)


def checked_keys(keys: Iterable[str]) -> list[str]:
    return [check_key(key) for key in listed("keys", keys)]


def checked_names(names: Iterable[str]) -> list[str]:
    """Returns the names of attributes as a list. Raises InvalidRequest if they are not text."""
    given = listed("names", names)
    for name in given:
        if not isinstance(name, str):
            raise InvalidRequest(
                f"names: {name!r:.80} is {type(name).__name__}; give names of attributes, as text"
            )
    return given


def key_batches(keys: Iterable[str]) -> list[list[str]]:
    """Checks keys and splits them into lists that fit into one request each; one empty list if there are no
    keys."""
    checked = checked_keys(keys)
    return [
        checked[start : start + MAX_BATCH_RECORDS] for start in range(0, max(1, len(checked)), MAX_BATCH_RECORDS)
    ]


def one_fingerprint(records: Sequence[Record]) -> str | None:
    """Returns the fingerprint that the records name; None if no record names one. Raises InvalidRequest if they
    name several."""
    given = {record.fingerprint for record in records if isinstance(record, Record) and record.fingerprint}
    if len(given) > 1:
        raise InvalidRequest("fingerprint: the records are of several code spaces; send each space separately")
    return given.pop() if given else None


def has_codes(records: Sequence[Record]) -> bool:
    """Whether any record has a code, so that the collection's fingerprint is needed."""
    return any(isinstance(record, Record) and record.code is not None for record in records)


def batches(records: Iterable[Record] | Iterable[Sequence[Record]]) -> Iterator[Sequence[Record]]:
    """Yields lists of records: the caller's lists as they are, and single records joined into lists of up to
    `STREAM_RECORDS`."""
    pending: list[Record] = []
    for item in records:
        if not isinstance(item, list | tuple):
            pending.append(cast(Record, item))
            if len(pending) < STREAM_RECORDS:
                continue
        if pending:
            yield pending
            pending = []
        if isinstance(item, list | tuple):
            yield item
    if pending:
        yield pending


async def async_batches(
    records: Iterable[Record] | Iterable[Sequence[Record]] | AsyncIterable[Sequence[Record]],
) -> AsyncIterator[Sequence[Record]]:
    """Like `batches`, but also accepts an asynchronous iterator of lists."""
    if isinstance(records, AsyncIterable):
        async for batch in records:
            yield batch
    else:
        for batch in batches(records):
            yield batch


def check_pages(options: SearchOptions, keywords: Collection[str]) -> None:
    """Raises InvalidRequest if a search with these options cannot be continued page by page."""
    if "k" in keywords:
        raise InvalidRequest("k: does not apply to all pages; use page_size, and limit for the number of hits")
    if options.rerank != "none" or options.group_by is not None:
        name = "rerank" if options.group_by is None else "group_by"
        raise InvalidRequest(f"{name}: such a search has no further pages; use search")
    if options.allow_partial:
        raise InvalidRequest("allow_partial: a page without some partitions has gaps; leave it out")


def queries_of(
    images: Sequence[Image],
    codes: Sequence[bytes],
    keys: Sequence[str],
    projections: Sequence[Floats],
    features: Sequence[Floats],
) -> list[pb.Query]:
    """Encodes the queries of a batch: the images, then the codes, then the keys.

    Raises:
        InvalidRequest: If a query is malformed, or the number of projections or features is not that of the codes.
    """
    for field, rows in (("projections", projections), ("features", features)):
        if len(rows) not in (0, len(codes)):
            raise InvalidRequest(
                f"{field}: there are {len(rows)} for {len(codes)} codes; give one for each code, or none"
            )
    absent = [None] * len(codes)
    given = zip(
        listed("codes", codes),
        projections if len(projections) else absent,
        features if len(features) else absent,
        strict=True,
    )
    return [
        *(wire.query_to_wire(image, None, None) for image in listed("images", images)),
        *(wire.query_to_wire(None, code, None, own, vector) for code, own, vector in given),
        *(wire.query_to_wire(None, None, key) for key in listed("keys", keys)),
    ]
