"""Owns the conversion of queries to input for the shards' scans: a code, and the projections or features that the
scoring needs."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from coordinator import scoring
from coordinator.catalog import Layout, NotInLayout
from coordinator.encoder_link import EncodedImage
from coordinator.encoders import Encoders
from coordinator.reader import Reader
from coordinator.scoring import ScoringPlan
from lookalike.cluster.scan import Codes, Inputs
from lookalike.model import features as stored_features
from lookalike.model.errors import InvalidRequest, NotFound
from lookalike.model.query import Query
from lookalike.model.records import VersionedRecord, check_code, check_key
from lookalike.model.search_options import Consistency
from lookalike.server.observe import metrics
from lookalike.transport import tracing

Floats = npt.NDArray[np.float32]


@dataclasses.dataclass(frozen=True, slots=True)
class _Encoded:
    code: bytes
    projections: Floats | None
    features: Floats | None


class QueryEncoder:
    """Encodes queries. An encoder encodes images; for a key, the stored record has the code."""

    def __init__(self, encoders: Encoders, reader: Reader) -> None:
        self._encoders = encoders
        self._reader = reader

    async def encode(
        self,
        collection: str,
        layout: Layout,
        queries: Sequence[Query],
        fingerprint: str,
        plan: ScoringPlan,
        consistency: Consistency,
        deadline: float,
    ) -> tuple[Codes, Inputs | None, Sequence[str]]:
        """Encodes the queries of one request.

        Args:
            collection: The collection's name.
            layout: The collection's layout.
            queries: The queries.
            fingerprint: The code space of the queries that are codes.
            plan: What the scoring needs.
            consistency: How to read the stored records of the queries that are keys.
            deadline: When to give up.

        Returns:
            Codes, uint8 (n, bits/8), and the inputs that the scoring needs (None if it needs
            none); one row per query. And warnings about the codes.

        Raises:
            CodeSpaceMismatch: If a code, or every encoder, is in another code space than the collection.
            InvalidRequest: If a query is invalid, or lacks what the scoring needs.
            NotFound: If the collection has no record with a query's key.
        """
        if not plan.needs_projections and not plan.needs_features:
            given = [query.code for query in queries if query.code is not None]
            if len(given) == len(queries):
                layout.space.require(fingerprint, "the query")
                return _joined([check_code(code, layout.space, "the query") for code in given], layout), None, ()
        for query in queries:
            if query.image is not None:
                self._encoders.check_image(query.image)
            elif query.key is not None:
                check_key(query.key)
        if any(query.code is not None for query in queries):
            layout.space.require(fingerprint, "the query")
        encoded_images = await self._encode_images(layout, queries, plan, deadline)
        images = iter(encoded_images)
        stored = await self._read_records(collection, layout, queries, plan, consistency, deadline)
        encoded = [_encoded(query, images, stored, collection, layout, plan) for query in queries]
        codes = _joined([one.code for one in encoded], layout)
        inputs = scoring.inputs(
            plan, codes, [one.projections for one in encoded], [one.features for one in encoded]
        )
        return codes, inputs, _warnings(encoded_images, layout)

    async def _encode_images(
        self, layout: Layout, queries: Sequence[Query], plan: ScoringPlan, deadline: float
    ) -> list[EncodedImage | InvalidRequest]:
        images, boxes = [], []
        for query in queries:
            if query.image is not None:
                images.append(query.image)
                boxes.append(query.box)
        if not images:
            return []
        began = time.perf_counter()
        with tracing.span("encode", images=len(images)):
            encoded = await self._encoders.encode(
                images, layout.space, deadline,
                feature_width=layout.indexing.feature_width if plan.needs_features else 0,
                include_projections=plan.needs_projections,
                boxes=boxes if any(boxes) else (),
            )  # fmt: skip
        metrics.STAGE_SECONDS.labels("encode").observe(time.perf_counter() - began)
        return encoded

    async def _read_records(
        self,
        collection: str,
        layout: Layout,
        queries: Sequence[Query],
        plan: ScoringPlan,
        consistency: Consistency,
        deadline: float,
    ) -> dict[str, VersionedRecord]:
        """Returns the stored record of each query that is a key, by that key. Keys without a record are absent."""
        keys = list(dict.fromkeys(query.key for query in queries if query.key is not None))
        if not keys:
            return {}
        features = layout.indexing.features_text if plan.needs_features else ""
        found = await self._reader.fetch(collection, keys, consistency, deadline, features)
        return {record.key: record for record in found}


def _joined(codes: Sequence[bytes], layout: Layout) -> Codes:
    return np.frombuffer(b"".join(codes), np.uint8).reshape(-1, layout.space.code_bytes)


def _warnings(images: Sequence[EncodedImage | InvalidRequest], layout: Layout) -> list[str]:
    """Warns if images were encoded in another arithmetic than that of the collection's code space."""
    own = layout.space.arithmetic
    others = {image.arithmetic for image in images if isinstance(image, EncodedImage)} - {own, ""}
    if not own or not others:
        return []
    return [
        f"image: the encoder computes in {min(others)}, the collection's codes were made in {own}; distances may"
        " be a few bits off (docs/RETRIEVAL_QUALITY.md, Arithmetic)"
    ]


def _encoded(
    query: Query,
    images: Iterator[EncodedImage | InvalidRequest],
    stored: dict[str, VersionedRecord],
    collection: str,
    layout: Layout,
    plan: ScoringPlan,
) -> _Encoded:
    """Encodes one query. images: the encoder's answers for the images that are not used yet, in query order."""
    indexing = layout.indexing
    if query.code is not None:
        code = check_code(query.code, layout.space, "the query")
        return _Encoded(code, *_supplied(query, layout.space.bits, indexing.feature_width, plan))
    if query.key is not None:
        if query.key not in stored:
            raise NotFound(f"key: {query.key!r} is not in collection {collection!r}")
        record = stored[query.key]
        kept = stored_features.unpack(indexing.features, [record.features])[0] if record.features else None
        return _Encoded(record.code or b"", None, kept)
    image = next(images)
    if isinstance(image, InvalidRequest):
        raise image
    return _Encoded(image.code, image.projections, image.features)


def _supplied(query: Query, bits: int, width: int, plan: ScoringPlan) -> tuple[Floats | None, Floats | None]:
    """Returns the projections and features that the caller sent with a code; None where the plan needs none."""
    projections = features = None
    if plan.needs_projections and query.projections:
        projections = stored_features.read("projections", query.projections, bits)
    if plan.needs_features and query.features:
        try:
            features = stored_features.read("features", query.features, width)
        except InvalidRequest as error:
            raise NotInLayout(error.message) from None
    return projections, features
