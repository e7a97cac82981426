"""Owns how the SDK checks, groups and encodes what a caller passes: keys, records and queries."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterable, AsyncIterator, Collection, Iterable, Iterator, Sequence
from typing import TypeVar, cast

import numpy as np
import numpy.typing as npt

from lookalike import wire
from lookalike.model.errors import InvalidRequest
from lookalike.model.query import Box, Code, Example, Image
from lookalike.model.records import MAX_BATCH_RECORDS, Record, check_key
from lookalike.model.search_options import SearchOptions
from lookalike.v1 import search_pb2 as pb

# Records per message of an ingest stream.
STREAM_RECORDS = 256

Value = TypeVar("Value")
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


def one_query(
    image: Image | None,
    code: Code | None,
    key: str | None,
    examples: Sequence[Example],
    not_like: Sequence[Example],
    box: Box | None,
    projections: Floats | None,
    features: Floats | None,
) -> pb.Query:
    """Encodes the query of one search; see `AsyncClient.search`. Raises InvalidRequest."""
    like, avoided = listed("examples", examples), listed("not_like", not_like)
    if not like and not avoided:
        return wire.query_to_wire(image, code, key, projections, features, box)
    if projections is not None or features is not None:
        raise InvalidRequest("projections, features: cannot be combined with several examples; leave them out")
    if any(part is not None for part in (image, code, key, box)):
        if like:
            raise InvalidRequest("query: give exactly one of image, code and key, or examples")
        like = [Example(image, code, key, box)]
    return wire.examples_to_wire(like, avoided)


def check_pages(options: SearchOptions, keywords: Collection[str]) -> None:
    """Raises InvalidRequest if a search with these options cannot be continued page by page."""
    if "k" in keywords:
        raise InvalidRequest("k: does not apply to all pages; use page_size, and limit for the number of hits")
    if options.rerank != "none" or options.group_by is not None:
        name = "rerank" if options.group_by is None else "group_by"
        raise InvalidRequest(f"{name}: such a search has no further pages; use search")
    if options.allow_partial:
        raise InvalidRequest("allow_partial: a page without some partitions has gaps; leave it out")


def has_codes_among(code: Code | None, examples: Sequence[Example], not_like: Sequence[Example]) -> bool:
    """Whether any part of a query is a code, so that the collection's fingerprint is needed."""
    return code is not None or any(one.code is not None for one in (*examples, *not_like))


def queries_of(
    images: Sequence[Image],
    codes: Sequence[Code] | npt.NDArray[np.uint8],
    keys: Sequence[str],
    projections: Sequence[Floats],
    features: Sequence[Floats],
    boxes: Sequence[Box | None] = (),
) -> Iterator[pb.Query]:
    """Encodes the queries of a batch, one at a time: the images, then the codes, then the keys.

    Raises:
        InvalidRequest: At once if the numbers of projections, features or boxes do not fit; later if a query is
            malformed.
    """
    given_images, given_codes, given_keys = listed("images", images), listed("codes", codes), listed("keys", keys)
    parts = _one_each("boxes", boxes, "images", len(given_images))
    own = _one_each("projections", projections, "codes", len(given_codes))
    vectors = _one_each("features", features, "codes", len(given_codes))
    return itertools.chain(
        (wire.query_to_wire(image, None, None, box=box) for image, box in zip(given_images, parts, strict=True)),
        (wire.query_to_wire(None, *row) for row in zip(given_codes, [None] * len(own), own, vectors, strict=True)),
        (wire.query_to_wire(None, None, key) for key in given_keys),
    )


def _one_each(field: str, values: Sequence[Value], of: str, count: int) -> Sequence[Value | None]:
    """Returns the values, None for each of the `count` things if there are none. Raises InvalidRequest."""
    if len(values) not in (0, count):
        raise InvalidRequest(f"{field}: there are {len(values)} for {count} {of}; give one for each, or none")
    return values if len(values) else [None] * count
