"""Owns a batch job from files to an account of them: what is stored already, encode the rest, send, report.

The cluster is the job's memory: a record holds its file's signature, so a job that starts again, on this
machine or another, encodes what is missing or has changed and nothing else."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Callable, Sequence

import numpy as np

from encoder.ingest.dead_letters import DeadLetters
from encoder.ingest.pipeline import Result, encode_urls
from encoder.ingest.rate import SendRate
from encoder.ingest.sending import store
from encoder.ingest.sources import Source
from encoder.ingest.stats import Summary
from encoder.spec import EncoderSpec
from lookalike.client.sync_client import Client
from lookalike.model.errors import AlreadyExists, CodeSpaceMismatch, LookalikeError, NotFound
from lookalike.model.records import Collection, Record

CHECK_KEYS = 1_000


@dataclasses.dataclass(frozen=True, slots=True)
class Workers:
    """The pool that encodes: `count` actors, each with its share of a GPU and threads to decode in."""

    count: int
    gpus_each: float = 0.0
    decode_threads: int = 1


def open_collection(client: Client, name: str) -> Collection:
    """The collection; it is made now, in the encoder's code space, if there is none."""
    try:
        return client.get_collection(name)
    except NotFound:
        # Or another job makes it at this moment.
        with contextlib.suppress(AlreadyExists):
            client.create_collection(name)
        return client.get_collection(name)


def missing_sources(
    client: Client, collection: str, sources: Sequence[Source], progress: Callable[[int], None]
) -> list[Source]:
    """The sources without a record of their present signature. progress: gets each portion's size."""
    missing: list[Source] = []
    for start in range(0, len(sources), CHECK_KEYS):
        portion = sources[start : start + CHECK_KEYS]
        stored = {
            record.key: record.attributes.get("source")
            for record in client.get([source.key for source in portion], collection=collection)
        }
        missing += [source for source in portion if not _is_stored(source, stored.get(source.key))]
        progress(len(portion))
    return missing


def run(
    client: Client,
    target: Collection,
    sources: Sequence[Source],
    spec: EncoderSpec,
    workers: Workers,
    letters: DeadLetters,
    summary: Summary,
    progress: Callable[[int], None],
    patience_seconds: float,
    include_thumbnails: bool,
    bucket: SendRate,
) -> None:
    """Encode and store the sources on the running Ray, counting into `summary`. progress: gets the number
    of files done. A cluster that does not take records for `patience_seconds` ends the job with its error.
    Raises CodeSpaceMismatch, with nothing stored, when this job's codes do not belong in the collection."""
    if not sources:
        return
    by_key = {source.key: source for source in sources}
    first = last = time.monotonic()
    first_stored = 0
    urls = [source.url for source in sources]
    portions = encode_urls(
        urls,
        spec,
        workers=workers.count,
        gpus_per_worker=workers.gpus_each,
        decode_threads=workers.decode_threads,
        include_features=target.indexing.keeps_features,
        include_thumbnails=include_thumbnails,
    )

    def refused(record: Record, error: LookalikeError) -> None:
        source = by_key[record.key]
        letters.add(source.url, source.key, f"not stored: {error.message}", source.fields)
        summary.not_stored += 1

    # Closed before Ray is, whatever ends the job.
    with contextlib.closing(portions):
        for number, portion in enumerate(portions):
            _require_space(target, portion.fingerprint, spec)
            records = []
            for result in portion.results:
                source = sources[result.place]
                summary.bytes += result.image_bytes
                if result.error:
                    letters.add(source.url, source.key, result.error, source.fields)
                    summary.unreadable += 1
                else:
                    summary.encoded += 1
                    records.append(_record(source, result))
            bucket.take(len(records))
            summary.stored += store(client, target.name, records, patience_seconds, refused)
            last = time.monotonic()
            if number == 0:
                first, first_stored = last, summary.stored
            progress(len(portion.results))
    if last > first:
        summary.images_per_second = (summary.stored - first_stored) / (last - first)


def _record(source: Source, result: Result) -> Record:
    vector = np.frombuffer(result.features, "<f4") if result.features else None
    return Record(
        source.key,
        code=result.code,
        attributes=source.attributes,
        features=vector,
        thumbnail=result.thumbnail,
    )


def _is_stored(source: Source, stored: object) -> bool:
    return isinstance(stored, dict) and stored.get("signature") == source.signature


def _require_space(target: Collection, fingerprint: str, spec: EncoderSpec) -> None:
    space = target.code_space
    if space.fingerprint != fingerprint:
        raise CodeSpaceMismatch(
            f"collection {target.name!r} is in code space {space.fingerprint[:12]}… ({space.backbone},"
            f" {space.hash_method}, {space.bits} bits), this job makes {fingerprint[:12]}…"
            f" ({spec.model}, {spec.bits} bits); pass the cluster's own --config, or another collection"
        )
