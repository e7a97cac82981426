"""Owns the searches of `Client`: one query, and batches of any size.

Generated from sync_search.py by scripts/unasync.py (`make client`): change that file, not this one."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Iterator, Sequence
from typing import Unpack

import numpy as np
import numpy.typing as npt

from lookalike.client.arguments import Floats, check_pages, has_codes_among, one_query, queries_of
from lookalike.client.batches import join_results, split_queries
from lookalike.client.keywords import shows_search_options
from lookalike.client.sync_management import Management
from lookalike.model.query import Box, Code, Example, Image
from lookalike.model.records import DEFAULT_PAGE, check_collection_name, check_limit
from lookalike.model.results import Hit, SearchResult
from lookalike.model.search_options import SearchKeywords, SearchOptions


class Search(Management):
    """The calls that search. Use `Client`, which has them."""

    @shows_search_options
    def search(
        self,
        *,
        collection: str,
        image: Image | None = None,
        code: Code | None = None,
        key: str | None = None,
        examples: Sequence[Example] = (),
        not_like: Sequence[Example] = (),
        box: Box | None = None,
        options: SearchOptions | None = None,
        projections: Floats | None = None,
        features: Floats | None = None,
        fingerprint: str | None = None,
        timeout: float | None = None,
        **keywords: Unpack[SearchKeywords],
    ) -> SearchResult:
        """Finds the k nearest records to an image, a code, a stored record or several examples. Give exactly one
        of the four.

        Args:
            collection: The collection's name.
            image: An image file's bytes or its path, a Pillow image, or pixels: uint8 (height, width, 3), or
                (height, width) for grey.
            code: A code of bits / 8 bytes, or uint8 (bits/8,).
            key: The key of a stored record, which is left out of its own hits.
            examples: Up to 100 images, codes and keys that hits are to be like. A record's score is the mean share
                of its bits that equal those of the examples, minus half the mean share that equal those of
                `not_like`; all records are compared, so the answer is exact.
            not_like: Up to 100 examples that hits are not to be like; also with an image, a code or a key.
            box: The part of the image to use: (x0, y0, x1, y1) as shares of its width and height from the upper
                left corner, after the rotation that its EXIF data requests.
            options: How to search.
            projections: float32 (bits,), the projections that the code was made from. Required with a code for an
                asymmetric score or rerank.
            features: float32 (width,), the features of the code's image. Required with a code for a rerank by
                features.
            fingerprint: Fingerprint of the codes' code space; the collection's by default.
            timeout: Seconds that the call may take, retries included; the client's by default.
            **keywords: The fields of `SearchOptions`, one by one. They override those of `options`.

        Returns:
            The hits, nearest first, and how much of the collection they cover.

        Raises:
            InvalidRequest: If an argument is malformed or out of range.
            NotFound: If the collection or the key does not exist.
            CodeSpaceMismatch: If the code is of another code space than the collection.
            PartitionUnavailable: If a partition does not answer and `allow_partial` is off.
            DeadlineExceeded: If there is no answer within the timeout.
        """
        deadline = self._calls.deadline(timeout)
        options = dataclasses.replace(options or SearchOptions(), **keywords)
        query = one_query(image, code, key, examples, not_like, box, projections, features)
        if has_codes_among(code, examples, not_like):
            fingerprint = fingerprint or self._fingerprint(collection, deadline)
        return self._run(self._calls.search(collection, query, fingerprint, options), deadline)

    @shows_search_options
    def search_all(
        self,
        *,
        collection: str,
        image: Image | None = None,
        code: Code | None = None,
        key: str | None = None,
        examples: Sequence[Example] = (),
        not_like: Sequence[Example] = (),
        box: Box | None = None,
        options: SearchOptions | None = None,
        projections: Floats | None = None,
        features: Floats | None = None,
        fingerprint: str | None = None,
        page_size: int = DEFAULT_PAGE,
        limit: int | None = None,
        timeout: float | None = None,
        **keywords: Unpack[SearchKeywords],
    ) -> Iterator[Hit]:
        """Finds all records, nearest first; with `max_distance`, all records within it. See `search`.

        Requests one page at a time, so memory does not grow with the number of hits. A record that exists and
        matches, and is not changed in the meantime, is returned exactly once. A record that is changed is returned
        at most once for each code that it has.

        Args:
            page_size: Records per request, 1..10,000. It replaces `k`.
            limit: Return at most this many records; all by default.
            timeout: Seconds that each request may take, retries included; the client's timeout by default.
        """
        if limit is not None:
            check_limit(limit, sys.maxsize)
        options = dataclasses.replace(options or SearchOptions(), **keywords)
        check_pages(options, keywords)
        query = one_query(image, code, key, examples, not_like, box, projections, features)
        needs_fingerprint = has_codes_among(code, examples, not_like)
        count = 0
        while limit is None or count < limit:
            size = page_size if limit is None else min(page_size, limit - count)
            options = dataclasses.replace(options, k=size)
            deadline = self._calls.deadline(timeout)
            if needs_fingerprint:
                fingerprint = fingerprint or self._fingerprint(collection, deadline)
            page = self._run(self._calls.search(collection, query, fingerprint, options), deadline)
            yield from page.hits
            count += len(page.hits)
            options = dataclasses.replace(options, after=page.cursor, offset=0)
            if not page.cursor:
                return

    @shows_search_options
    def search_batch(
        self,
        *,
        collection: str,
        images: Sequence[Image] = (),
        codes: Sequence[Code] | npt.NDArray[np.uint8] = (),
        keys: Sequence[str] = (),
        boxes: Sequence[Box | None] = (),
        options: SearchOptions | None = None,
        projections: Sequence[Floats] = (),
        features: Sequence[Floats] = (),
        fingerprint: str | None = None,
        timeout: float | None = None,
        **keywords: Unpack[SearchKeywords],
    ) -> list[SearchResult]:
        """Runs any number of queries with the same options. See `search`.

        Up to 1,024 queries with 200,000 hits and 48 MiB in all are one request, and one scan. More are sent one
        request after the other; images are read when their request is sent.

        Args:
            images: Images, as in `search`.
            codes: Codes of bits / 8 bytes each, or uint8 (n, bits/8).
            keys: Keys of stored records.
            boxes: The part of each image to use, None for all of it; or none.
            options: How to search.
            projections: One float32 (bits,) per code, or none.
            features: One float32 (width,) per code, or none.
            fingerprint: Fingerprint of the codes' code space; the collection's by default.
            timeout: Seconds that the whole call may take; by default, each request may take the client's timeout.
            **keywords: The fields of `SearchOptions`, one by one. They override those of `options`.

        Returns:
            One result per image, then per code, then per key. All of them have the coverage, `exact`, timings and
            warnings of the batch. Of several requests: the lowest coverage of any, the partitions missing in any,
            `exact` if all are, the sums of the timings, and all warnings.
        """
        limit = self._calls.limit(timeout)
        options = dataclasses.replace(options or SearchOptions(), **keywords)
        queries = queries_of(images, codes, keys, projections, features, boxes)
        if len(codes):
            fingerprint = fingerprint or self._fingerprint(collection, limit)
        parts = [
            self._run(self._calls.search_batch(collection, part, fingerprint, options), limit)
            for part in split_queries(queries, options)
        ]
        return join_results(parts)

    def _fingerprint(self, collection: str, deadline: float | None) -> str:
        if known := self._calls.fingerprint(check_collection_name(collection)):
            return known
        return (self._run(self._calls.get_collection(collection), deadline)).code_space.fingerprint
