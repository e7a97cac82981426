"""Owns `lookalike ingest`: its options, which kind of job they ask for, and what it says of it. Torch and Ray load
only when images are encoded."""

from __future__ import annotations

import dataclasses
import os
import socket
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from encoder.ingest import precomputed as ready_job
from encoder.ingest.dead_letters import DeadLetters
from encoder.ingest.listing import list_images, split
from encoder.ingest.metrics import serving
from encoder.ingest.rate import SendRate
from encoder.ingest.rows import is_ready
from encoder.ingest.selection import Choice
from encoder.ingest.sources import Source
from encoder.ingest.stats import Summary
from encoder.ingest.tables import Table, columns_of
from encoder.options import Config, encoder_section
from encoder.progress import progress_bar
from lookalike.cli.options import (
    DEFAULT_COLLECTION,
    DEFAULT_SERVER,
    CollectionName,
    Json,
    Server,
    connect,
    print_json,
)
from lookalike.cli.records import json_filter
from lookalike.client.sync_client import Client
from lookalike.model import filters
from lookalike.model.errors import InvalidRequest, NotFound, PartitionUnavailable
from lookalike.server.config import EncoderConfig

if TYPE_CHECKING:
    from encoder.ingest.job import Workers

_REACH_SECONDS = 5.0
_MAX_CLIENT_SECONDS = 86_400.0

Paths = Annotated[
    list[str],
    typer.Argument(
        help="Folders, globs, image files, parquet, JSON lines, CSV, COCO annotations; paths or URLs such as"
        " s3://bucket/photos."
    ),
]


@dataclasses.dataclass(frozen=True, slots=True)
class _Job:
    """What every kind of job needs."""

    server: str
    collection: str
    letters: DeadLetters
    summary: Summary
    choice: Choice
    bucket: SendRate
    patience: float
    dry_run: bool
    as_json: bool


def ingest(
    paths: Paths,
    collection: CollectionName = DEFAULT_COLLECTION,
    config: Config = None,
    format: Annotated[
        Literal["images", "parquet", "jsonl", "csv", "coco"] | None,
        typer.Option(help="What the paths are; told by their endings by default."),
    ] = None,
    images: Annotated[
        str | None,
        typer.Option(help="The folder or URL that relative URIs count from; their table's folder by default."),
    ] = None,
    where: Annotated[
        str | None,
        typer.Option(help='Skip records whose attributes do not meet a JSON filter, e.g. \'{"label": "cat"}\'.'),
    ] = None,
    limit: Annotated[int | None, typer.Option(help="Take at most so many records.", min=1)] = None,
    rate: Annotated[float | None, typer.Option(help="Send at most so many records a second.", min=0.001)] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Read, decode and check everything, and write nothing.")
    ] = False,
    workers: Annotated[
        int | None,
        typer.Option(help="Encoding processes; one per processor, or per GPU share, by default.", min=1),
    ] = None,
    thumbnails: Annotated[
        bool, typer.Option(help="Store a small picture, at most 10 kB, with each image's record, to show.")
    ] = True,
    dead_letters: Annotated[
        Path,
        typer.Option(
            "--dead-letters",
            "--report",
            help="Where to list what has no record, a JSON line each: a manifest to ingest again.",
        ),
    ] = Path("ingest-report.jsonl"),
    metrics: Annotated[
        str | None,
        typer.Option(help="Serve Prometheus metrics of the job there, at /metrics.", metavar="HOST:PORT"),
    ] = None,
    patience: Annotated[
        float, typer.Option(help="Seconds to keep trying while the cluster does not take records.", min=0)
    ] = 300.0,
    server: Server = DEFAULT_SERVER,
    as_json: Json = False,
) -> None:
    """Store images, or records with ready codes, from folders and tables; see docs/INGESTION.md.

    Can be stopped at any time and started again: what is stored and unchanged is not encoded again. What cannot be
    read goes to the dead letters and never ends the job. Exit code 0 when every readable record is stored."""
    started = time.monotonic()
    condition = json_filter(where, "where")
    choice = Choice(None if condition is None else filters.parse(condition), limit)
    files, tables = split(paths, format)
    has_codes = is_ready(columns_of(tables))
    if has_codes and (files or not all(is_ready(table.columns) for table in tables)):
        raise InvalidRequest("path: some bring codes or features, some images to encode; ingest each on their own")
    if dead_letters.absolute().as_uri() in {table.url for table in tables}:
        raise InvalidRequest(
            f"dead-letters: {dead_letters} is what is ingested; name another file for what remains"
        )
    settings = encoder_section(config)
    summary = Summary()
    with DeadLetters(dead_letters) as letters, serving(metrics, summary):
        job = _Job(server, collection, letters, summary, choice, SendRate(rate), patience, dry_run, as_json)
        if has_codes:
            _ingest_ready(job, tables)
        else:
            sources = list_images(files, tables, images, choice, letters, summary)
            if dry_run:
                _try_images(job, sources)
            elif sources:
                _ingest_images(job, sources, settings, workers, thumbnails)
    summary.seconds = time.monotonic() - started
    _print_summary(job, "records" if has_codes else "images")
    if summary.not_stored:
        raise PartitionUnavailable(
            f"{summary.not_stored:,} records were refused by the cluster; see {letters.path}"
        )


def _ingest_images(
    job: _Job, sources: Sequence[Source], settings: EncoderConfig, workers: int | None, thumbnails: bool
) -> None:
    from encoder.ingest import job as image_job
    from encoder.ray_session import native_output_in_log, ray_session
    from encoder.spec import EncoderSpec

    spec = EncoderSpec.from_config(settings)
    _require_reachable(job.server)
    pool = _workers(settings, workers)
    # Ray first: it forks its processes off this one, and a fork beside gRPC's threads can hang.
    with (
        native_output_in_log(),
        ray_session(settings.ray_address, pool.count + 1),
        connect(job.server) as client,
        progress_bar(job.as_json) as progress,
    ):
        checking = progress.add_task("checking", total=len(sources))
        target = image_job.open_collection(client, job.collection)
        missing = image_job.missing_sources(
            client, job.collection, sources, lambda n: progress.advance(checking, n)
        )
        job.summary.already_stored = len(sources) - len(missing)
        encoding = progress.add_task("encoding", total=len(missing))
        image_job.run(
            client, target, missing, spec, pool, job.letters, job.summary,
            lambda n: progress.advance(encoding, n), job.patience, thumbnails, job.bucket,
        )  # fmt: skip


def _try_images(job: _Job, sources: Sequence[Source]) -> None:
    from encoder.ingest.dry_run import try_images

    with progress_bar(job.as_json) as progress:
        task = progress.add_task("reading", total=len(sources))
        try_images(
            sources, job.letters, job.summary, lambda n: progress.advance(task, n), 2 * (os.cpu_count() or 1)
        )


def _ingest_ready(job: _Job, tables: Sequence[Table]) -> None:
    portions: ready_job.Portions = ready_job.read_ready(tables, job.choice, job.letters, job.summary)
    _require_reachable(job.server)
    with (
        connect(job.server, min(_MAX_CLIENT_SECONDS, max(1.0, job.patience))) as client,
        progress_bar(job.as_json, "records") as progress,
    ):
        if job.dry_run:
            task = progress.add_task("checking", total=None)
            _try_ready(job, client, tables, portions, lambda n: progress.advance(task, n))
            return
        task = progress.add_task("storing", total=None)
        started = time.monotonic()
        target, portions = ready_job.open_collection(client, job.collection, tables, portions)
        ready_job.run(
            client, target, portions, job.letters, job.summary,
            lambda n: progress.advance(task, n), job.patience, job.bucket,
        )  # fmt: skip
        job.summary.images_per_second = job.summary.stored / max(1e-9, time.monotonic() - started)


def _try_ready(
    job: _Job,
    client: Client,
    tables: Sequence[Table],
    portions: ready_job.Portions,
    progress: ready_job.Progress,
) -> None:
    try:
        target = client.get_collection(job.collection)
    except NotFound:
        maker, portions = ready_job.maker_without(tables, portions)
    else:
        ready_job.require_space(target, ready_job.noted_space(tables))
        maker = ready_job.maker_for(client, target)
    ready_job.dry_run(portions, maker, job.letters, job.summary, progress)


def _require_reachable(server: str) -> None:
    """A wrong address is said at once, not after Ray has started. gRPC's other forms of address (dns:///,
    lists) are left to gRPC."""
    if any(mark in server for mark in "/,"):
        return
    host, _, port = server.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_REACH_SECONDS).close()
    except (OSError, ValueError) as error:
        raise PartitionUnavailable(f"server: {server} does not answer ({error}); is the cluster up?") from None


def _workers(settings: EncoderConfig, count: int | None) -> Workers:
    """One actor per processor that this process, or its container, may use; with GPUs as many as their shares
    allow, decoding in threads."""
    from joblib import cpu_count

    from encoder.ingest.job import Workers

    if not settings.gpus_per_replica:
        return Workers(count or cpu_count())
    import torch

    shares = max(1, int(torch.cuda.device_count() / settings.gpus_per_replica))
    own = count or shares
    return Workers(own, settings.gpus_per_replica, max(1, cpu_count() // own))


def _print_summary(job: _Job, kind: str) -> None:
    summary = job.summary
    if job.as_json:
        print_json({**dataclasses.asdict(summary), "report": str(job.letters.path), "dry_run": job.dry_run})
        return
    skipped = f" {summary.skipped:,} were left out," if summary.skipped else ""
    if job.dry_run:
        print(
            f"{summary.found:,} {kind}:{skipped} {summary.encoded:,} can be stored, {summary.unreadable:,} cannot;"
            f" {summary.bytes:,} bytes read in {summary.seconds:.1f} s; nothing was written"
        )
    else:
        print(
            f"{summary.found:,} {kind}:{skipped} {summary.stored:,} stored, {summary.already_stored:,} were stored"
            f" already, {summary.unreadable:,} could not be read, {summary.not_stored:,} refused;"
            f" {summary.seconds:.1f} s, {summary.images_per_second:,.0f} {kind}/s once running"
        )
    if job.letters.count:
        print(f"see {job.letters.path}")
