"""Owns the batch job that ingests images: finds the images that are stored already, encodes the others on Ray,
sends their records to the cluster, and counts them.

The job keeps no state of its own: each record stores its image's signature, so a job that starts again, on this
machine or another, encodes only images that are missing or have changed."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from more_itertools import chunked

from encoder.ingest.dead_letters import DeadLetters
from encoder.ingest.images import ReadOptions
from encoder.ingest.pipeline import BLOCK_IMAGES, EncodedBatch, Result, encode_urls
from encoder.ingest.rate import SendRate
from encoder.ingest.sending import Batch, in_background, send
from encoder.ingest.sources import Source
from encoder.ingest.stats import Summary
from encoder.ingest.target import require_encoded_space
from encoder.ingest.workers import Workers
from encoder.spec import EncoderSpec
from lookalike.client.sync_client import Client
from lookalike.model.errors import LookalikeError
from lookalike.model.records import Collection, Record

CHECK_KEYS = 1_000


@dataclasses.dataclass(frozen=True, slots=True)
class ImageJob:
    """The settings of a run over images.

    Attributes:
        target: The collection that stores the records.
        options: Which image files to accept.
        progress: Called with the number of images that were stored or given up since the last call.
        patience_seconds: How long to retry while the cluster accepts no record.
        bucket: Limits how fast records are sent.
    """

    client: Client
    target: Collection
    spec: EncoderSpec
    options: ReadOptions
    workers: Workers
    dead_letters: DeadLetters
    summary: Summary
    progress: Callable[[int], None]
    patience_seconds: float
    include_thumbnails: bool
    bucket: SendRate


def missing_sources(
    client: Client, collection: str, sources: Sequence[Source], progress: Callable[[int], None]
) -> tuple[list[Source], dict[str, Mapping[str, Any]]]:
    """Compares sources with their records.

    Args:
        client: A client of the cluster.
        collection: The collection's name.
        sources: The sources.
        progress: Called with the number of sources that were compared since the last call.

    Returns:
        The sources that have no record with their current signature; and, by key, the attributes of the records
        that some of them have.
    """
    missing: list[Source] = []
    changed: dict[str, Mapping[str, Any]] = {}
    for batch in chunked(sources, CHECK_KEYS):
        keys = [source.key for source in batch]
        stored = {record.key: record.attributes for record in client.get(keys, collection=collection)}
        for source in batch:
            attributes = stored.get(source.key, {})
            if not _is_stored(source, attributes.get("source")):
                missing.append(source)
                if attributes:
                    changed[source.key] = attributes
        progress(len(batch))
    return missing, changed


def run(job: ImageJob, sources: Sequence[Source]) -> None:
    """Encodes the sources on the running Ray cluster, stores their records over one stream, and counts them in the
    job's summary.

    Raises:
        CodeSpaceMismatch: If the job's codes do not belong in the collection; nothing is stored then.
        LookalikeError: The cluster's error, if the cluster accepted no record for `patience_seconds`.
    """
    if not sources:
        return
    encoded = encode_urls(
        [source.url for source in sources],
        job.spec,
        job.options,
        workers=job.workers.count,
        gpus_per_worker=job.workers.gpus_each,
        decode_threads=job.workers.decode_threads,
        include_features=job.target.indexing.keeps_features,
        include_thumbnails=job.include_thumbnails,
    )
    by_key = {source.key: source for source in sources}
    # However the job ends, the pipeline is closed before Ray shuts down.
    with (
        contextlib.closing(encoded),
        in_background(lambda batches: _send(job, by_key, batches)) as put,
    ):
        for batch in encoded:
            require_encoded_space(job.target, batch.fingerprint, job.spec)
            _note_arithmetic(job, batch.arithmetic)
            if records := _records(job, sources, batch):
                job.bucket.take(len(records))
                put(records)


def _note_arithmetic(job: ImageJob, arithmetic: str) -> None:
    own = job.target.code_space.arithmetic
    warning = (
        f"this job encodes in {arithmetic}, the collection's encoder in {own}; distances may be a few bits off"
        " (docs/RETRIEVAL_QUALITY.md, Arithmetic)"
    )
    if own not in ("", arithmetic) and warning not in job.summary.warnings:
        job.summary.warnings.append(warning)


def _send(job: ImageJob, by_key: dict[str, Source], batches: Iterator[Batch]) -> None:
    def refused(record: Record, error: LookalikeError) -> None:
        source = by_key[record.key]
        job.dead_letters.add(source.url, source.key, f"not stored: {error.message}", source.fields)
        job.summary.not_stored += 1
        job.progress(1)

    began: float | None = None
    stored_first = 0
    # Encoding took long, so failed records are sent again as soon as there are BLOCK_IMAGES of them.
    for count in send(job.client, job.target.name, batches, job.patience_seconds, refused, BLOCK_IMAGES):
        if not count:
            continue
        job.summary.stored += count
        job.progress(count)
        now = time.monotonic()
        if began is None:
            began, stored_first = now, count
        elif now > began:
            job.summary.images_per_second = (job.summary.stored - stored_first) / (now - began)


def _records(job: ImageJob, sources: Sequence[Source], batch: EncodedBatch) -> list[Record]:
    """Returns the records of the images that were encoded, and adds the other images to the dead letters."""
    records = []
    for result in batch.results:
        source = sources[result.place]
        job.summary.bytes += result.image_bytes
        if result.error:
            job.dead_letters.add(source.url, source.key, result.error, source.fields)
            job.summary.unreadable += 1
            job.progress(1)
        else:
            job.summary.encoded += 1
            records.append(_record(source, result))
    return records


def _record(source: Source, result: Result) -> Record:
    return Record(
        source.key,
        code=result.code,
        attributes=source.attributes_with(json.loads(result.facts)),
        features=np.frombuffer(result.features, "<f4") if result.features else None,
        thumbnail=result.thumbnail,
    )


def _is_stored(source: Source, stored: object) -> bool:
    return isinstance(stored, dict) and stored.get("signature") == source.signature
