"""Owns a batch job from files to an account of them: what is stored already, encode the rest, send, report.

The cluster is the job's memory: a record holds its file's signature, so a job that starts again, on this
machine or another, encodes what is missing or has changed and nothing else."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import random
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np

from encoder.ingest.pipeline import encode_urls
from encoder.ingest.sources import Source
from encoder.spec import EncoderSpec
from lookalike.client import Client
from lookalike.errors import (
    Cancelled,
    CodeSpaceMismatch,
    DeadlineExceeded,
    Internal,
    LookalikeError,
    NotFound,
    Overloaded,
    PartitionUnavailable,
)
from lookalike.records import Collection, Record

CHECK_KEYS = 1_000
STREAM_TIMEOUT_SECONDS = 120.0
_BACKOFF_MAX_SECONDS = 5.0
_TRANSIENT = (PartitionUnavailable, Overloaded, DeadlineExceeded, Cancelled, Internal)


@dataclasses.dataclass(slots=True)
class Summary:
    """What became of a job's files. seconds: the whole job, Ray's start included. images_per_second: stored
    between the first portion and the last, so without the start."""

    found: int = 0
    already_stored: int = 0
    stored: int = 0
    unreadable: int = 0
    not_stored: int = 0
    seconds: float = 0.0
    images_per_second: float = 0.0


@dataclasses.dataclass(frozen=True, slots=True)
class Workers:
    """The pool that encodes: `count` actors, each with its share of a GPU and threads to decode in."""

    count: int
    gpus_each: float = 0.0
    decode_threads: int = 1


class Report:
    """A JSON line {"url", "key", "reason"} for every file that has no record."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("w", encoding="utf-8")

    def __enter__(self) -> Report:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def add(self, url: str, key: str | None, reason: str) -> None:
        line = {"url": url, "key": key, "reason": reason}
        self._file.write(json.dumps(line, ensure_ascii=False) + "\n")
        self._file.flush()


def open_collection(client: Client, name: str) -> Collection:
    """The collection; it is made now, in the encoder's code space, if there is none."""
    try:
        return client.get_collection(name)
    except NotFound:
        return client.create_collection(name)


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
    report: Report,
    summary: Summary,
    progress: Callable[[int], None],
    patience_seconds: float,
    include_thumbnails: bool,
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
    # Closed before Ray is, whatever ends the job.
    with contextlib.closing(portions):
        for number, portion in enumerate(portions):
            _require_space(target, portion.fingerprint, spec)
            records = []
            for index, code, features, picture, reason in portion.results:
                source = sources[index]
                if reason:
                    report.add(source.url, source.key, reason)
                    summary.unreadable += 1
                else:
                    vector = np.frombuffer(features, "<f4") if features else None
                    records.append(
                        Record(
                            source.key, code=code, attributes=source.attributes, features=vector, thumbnail=picture
                        )
                    )
            refused = _store(client, target.name, records, patience_seconds)
            for key, error in refused:
                report.add(by_key[key].url, key, f"not stored: {error.message}")
            summary.not_stored += len(refused)
            summary.stored += len(records) - len(refused)
            last = time.monotonic()
            if number == 0:
                first, first_stored = last, summary.stored
            progress(len(portion.results))
    if last > first:
        summary.images_per_second = (summary.stored - first_stored) / (last - first)


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


def _store(
    client: Client, collection: str, records: Iterable[Record], patience_seconds: float
) -> list[tuple[str, LookalikeError]]:
    """Send records over an ingest stream until each is stored or refused for good. Returns the refused
    ones. Raises the cluster's error once it has lasted `patience_seconds`."""
    waiting = {record.key: record for record in records}
    refused: list[tuple[str, LookalikeError]] = []
    deadline = time.monotonic() + patience_seconds
    attempt = 0
    while waiting:
        trouble: LookalikeError | None = None
        try:
            stream = client.ingest(list(waiting.values()), collection=collection, timeout=STREAM_TIMEOUT_SECONDS)
            for outcome in stream:
                if isinstance(outcome.error, _TRANSIENT):
                    trouble = outcome.error
                    continue
                del waiting[outcome.key]
                if isinstance(outcome.error, LookalikeError):
                    refused.append((outcome.key, outcome.error))
        except _TRANSIENT as error:
            trouble = error
        if trouble is not None:
            attempt += 1
            if time.monotonic() > deadline:
                raise trouble
            pause = min(_BACKOFF_MAX_SECONDS, 0.1 * 2**attempt) * random.uniform(0.5, 1.0)
            time.sleep(max(pause, (trouble.retry_after_ms or 0) / 1000))
    return refused
