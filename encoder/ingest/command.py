"""Owns `lookalike ingest`: its options, the choice between a job that encodes images and a job that stores
precomputed codes, and the printed summary. Torch and Ray are imported only when images are encoded."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import socket
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import typer

from encoder.ingest import precomputed, sync
from encoder.ingest.code_options import CodeOptions
from encoder.ingest.dead_letters import DeadLetters
from encoder.ingest.images import ReadOptions
from encoder.ingest.listing import list_images, split
from encoder.ingest.metrics import serving
from encoder.ingest.rate import SendRate
from encoder.ingest.rows import has_codes
from encoder.ingest.selection import Selection
from encoder.ingest.sources import Source
from encoder.ingest.stats import Summary
from encoder.ingest.tables.formats import NAMES as FORMATS
from encoder.ingest.tables.naming import Choice
from encoder.ingest.tables.table import Table, columns_of
from encoder.ingest.tables.vectors import with_keys
from encoder.ingest.target import get_or_create, require_encoded_space, spec_for
from encoder.ingest.workers import workers_for
from encoder.options import encoder_section, limits_section
from encoder.progress import progress_bar
from encoder.spec import EncoderSpec
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
from lookalike.model.code_kinds import KINDS, named_kind
from lookalike.model.errors import InvalidRequest, NotFound, PartitionUnavailable
from lookalike.model.records import Collection
from lookalike.server.config import EncoderConfig

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
    """What both kinds of job need."""

    server: str
    collection: str
    dead_letters: DeadLetters
    summary: Summary
    selection: Selection
    bucket: SendRate
    patience: float
    dry_run: bool
    as_json: bool

    @property
    def client_timeout(self) -> float:
        """How long the client tries to reconnect a broken stream, in seconds."""
        return min(_MAX_CLIENT_SECONDS, max(1.0, self.patience))


def ingest(
    paths: Paths,
    collection: CollectionName = DEFAULT_COLLECTION,
    config: Annotated[
        Path | None, typer.Option(help="The cluster's config; its encoder and limits sections are used.")
    ] = None,
    format: Annotated[
        str | None,
        typer.Option(
            help=f"The format of the paths: {', '.join(FORMATS)}. By default each path's extension or content"
            " determines it.",
        ),
    ] = None,
    columns: Annotated[
        str,
        typer.Option(
            help="What a table's columns are, as in key=id,image=jpg,code=phash; names that common tools write are"
            " guessed.",
            metavar="ROLE=COLUMN,...",
        ),
    ] = "",
    drop: Annotated[
        str, typer.Option(help="Columns of a table that do not become attributes.", metavar="COLUMN,...")
    ] = "",
    code_format: Annotated[
        Literal["packed", "bits", "hex", "base64", "bit-text", "int8-offset"] | None,
        typer.Option(help="How codes are written; by default it is recognized, and refused if it is ambiguous."),
    ] = None,
    code_kind: Annotated[
        str | None,
        typer.Option(
            help=f"Which tool made the codes: {', '.join(KINDS)}. Only codes of one kind are comparable.",
            metavar="KIND",
        ),
    ] = None,
    keys: Annotated[
        str | None,
        typer.Option(
            help="A file with the keys of a file of vectors: text with a key on each line, .npy or .json. By"
            " default the ids in the file, or the positions.",
            metavar="FILE",
        ),
    ] = None,
    images: Annotated[
        str | None,
        typer.Option(
            help="The folder or URL that relative URIs in a table start from; by default the table's folder."
        ),
    ] = None,
    where: Annotated[
        str | None,
        typer.Option(help='Skip records whose attributes do not match a JSON filter, e.g. \'{"label": "cat"}\'.'),
    ] = None,
    hidden: Annotated[
        bool, typer.Option("--hidden", help="Take hidden files and folders, and folders of thumbnails, too.")
    ] = False,
    allow_truncated: Annotated[
        bool,
        typer.Option(
            "--allow-truncated", help="Encode what there is of JPEG, PNG and other files that lack their end."
        ),
    ] = False,
    limit: Annotated[int | None, typer.Option(help="Ingest at most N records.", metavar="N", min=1)] = None,
    rate: Annotated[
        float | None, typer.Option(help="Send at most N records per second.", metavar="N", min=0.001)
    ] = None,
    prune: Annotated[
        bool,
        typer.Option("--prune", help="Also remove the records of files that are no longer in the given folders."),
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Read, decode and check everything, and write nothing.")
    ] = False,
    workers: Annotated[
        int | None,
        typer.Option(
            help="Encoding processes; by default one per processor, or as many as fit on the GPUs.", min=1
        ),
    ] = None,
    thumbnails: Annotated[
        bool, typer.Option(help="Store a small image, at most 10 kB, with each image's record, for display.")
    ] = True,
    dead_letters: Annotated[
        Path,
        typer.Option(
            "--dead-letters",
            "--report",
            help="Where to list what was not stored, as JSON lines: a manifest that can be ingested again.",
        ),
    ] = Path("ingest-report.jsonl"),
    metrics: Annotated[
        str | None,
        typer.Option(
            help="Serve Prometheus metrics of the job at this address, at /metrics.", metavar="HOST:PORT"
        ),
    ] = None,
    patience: Annotated[
        float, typer.Option(help="Seconds to retry while the cluster accepts no records.", min=0)
    ] = 300.0,
    server: Server = DEFAULT_SERVER,
    as_json: Json = False,
) -> None:
    """Store images, or records with precomputed codes, from folders and tables; see docs/INGESTION.md.

    The job can be stopped at any time and started again: images that are stored and unchanged are not encoded
    again. Files and rows that cannot be read are listed in the dead-letter file and never end the job. The
    exit code is 0 when every readable record is stored."""
    started = time.monotonic()
    condition = json_filter(where, "where")
    selection = Selection(None if condition is None else filters.parse(condition), limit)
    files, tables = split(paths, format, Choice.parse(columns, drop))
    tables = with_keys(tables, keys)
    _remark(tables)
    is_precomputed = has_codes(columns_of(tables))
    if is_precomputed and (files or not all(has_codes(table.columns) for table in tables)):
        raise InvalidRequest(
            "path: some inputs have codes or features, others are images; ingest each kind in a separate job"
        )
    if dead_letters.absolute().as_uri() in {table.url for table in tables}:
        raise InvalidRequest(f"dead-letters: {dead_letters} is one of the job's inputs; name another file")
    folders = sync.require_folders(paths, bool(tables or where or limit)) if prune else []
    kind = None if code_kind is None else named_kind(code_kind)
    code_options = CodeOptions(code_format, kind, say=lambda line: print(line, file=sys.stderr))
    settings, limits = None if config is None else encoder_section(config), limits_section(config)
    options = ReadOptions(limits.max_image_bytes, limits.max_image_pixels, allow_truncated)
    summary = Summary()
    with DeadLetters(dead_letters) as letters, serving(metrics, summary):
        job = _Job(server, collection, letters, summary, selection, SendRate(rate), patience, dry_run, as_json)
        if is_precomputed:
            _ingest_precomputed(job, tables, code_options)
        else:
            sources = list_images(files, tables, images, selection, letters, summary, hidden)
            followed = _safely_followed(folders, sources, summary)
            if dry_run:
                _try_images(job, sources, options)
                if followed:
                    _count_gone(job, sources, followed)
            elif sources:
                _ingest_images(job, sources, followed, settings, options, workers, thumbnails)
    summary.seconds = time.monotonic() - started
    _print_summary(job, "records" if is_precomputed else "images")
    if letters.count and not (summary.stored or summary.already_stored or summary.encoded):
        outcome = "can be" if dry_run else "was"
        raise InvalidRequest(f"no record {outcome} stored: {letters.commonest()}; see {letters.path}")
    if summary.not_stored:
        raise PartitionUnavailable(
            f"the cluster refused {summary.not_stored:,} records ({letters.commonest()}); see {letters.path}"
        )


def _remark(tables: Sequence[Table]) -> None:
    """Says what was guessed of the tables' columns, once for all tables that are alike."""
    for remark in dict.fromkeys(remark for table in tables for remark in table.naming.remarks):
        print(remark, file=sys.stderr)


def _ingest_images(
    job: _Job,
    sources: Sequence[Source],
    followed: Sequence[str],
    given: EncoderConfig | None,
    options: ReadOptions,
    workers: int | None,
    thumbnails: bool,
) -> None:
    """followed: the folders whose missing files' records are removed. given: the encoder that the user names; None
    for the one that made the collection's code space."""
    settings = given or EncoderConfig()
    _require_reachable(job.server)
    # This client is closed before Ray starts: Ray forks, and a fork while gRPC's threads run can hang.
    with connect(job.server) as client, progress_bar(job.as_json) as progress:
        from encoder.ingest.job import missing_sources

        task = progress.add_task("checking", total=len(sources))
        target = get_or_create(client, job.collection)
        spec = spec_for(client, target) if given is None else EncoderSpec.from_config(given)
        missing, stored = missing_sources(client, job.collection, sources, lambda n: progress.advance(task, n))
        job.summary.already_stored = len(sources) - len(missing)
        lost = sync.gone(sync.files_of(client, target, followed, job.patience), sources)
        missing = sync.keeping(missing, stored, lost)
    if missing:
        if settings.ray_address is None:
            _require_encoder(target, spec)
        _encode_missing(job, target, missing, spec, settings, options, workers, thumbnails)
    if lost and not job.summary.not_stored:
        with connect(job.server, job.client_timeout) as client:
            job.summary.removed = sync.remove(client, job.collection, lost)


def _safely_followed(folders: Sequence[str], sources: Sequence[Source], summary: Summary) -> Sequence[str]:
    """The folders whose missing files' records may be removed; none if a file that exists may seem missing."""
    if folders and summary.unreadable:
        print(
            f"prune: no record is removed, because {summary.unreadable:,} files or folders could not be read",
            file=sys.stderr,
        )
        return ()
    if folders and not sources:
        raise InvalidRequest(
            f"prune: {folders[0]} holds no images; nothing was removed. If that is right, drop the collection, or"
            " delete its records"
        )
    return folders


def _count_gone(job: _Job, sources: Sequence[Source], followed: Sequence[str]) -> None:
    """Counts what `--prune` would remove."""
    with connect(job.server) as client, contextlib.suppress(NotFound):
        target = client.get_collection(job.collection)
        stored = sync.files_of(client, target, followed, job.patience)
        job.summary.removed = len(sync.gone(stored, sources))


def _require_encoder(target: Collection, spec: EncoderSpec) -> None:
    """Raises an error before Ray starts if the weights are missing or the code space is wrong. Called only for a
    local Ray: a remote Ray cluster may have weights and GPUs that this machine lacks."""
    from encoder.preflight import space_of

    require_encoded_space(target, space_of(spec).fingerprint, spec)


def _encode_missing(
    job: _Job,
    target: Collection,
    missing: Sequence[Source],
    spec: EncoderSpec,
    settings: EncoderConfig,
    options: ReadOptions,
    workers: int | None,
    thumbnails: bool,
) -> None:
    from encoder.ingest.job import ImageJob, run
    from encoder.ray_session import native_output_in_log, ray_session

    pool = workers_for(settings, workers)
    with (
        native_output_in_log(),
        ray_session(settings.ray_address, pool.count + 1),
        connect(job.server, job.client_timeout) as client,
        progress_bar(job.as_json) as progress,
    ):
        task = progress.add_task("encoding", total=len(missing))
        image_job = ImageJob(
            client, target, spec, options, pool, job.dead_letters, job.summary,
            lambda n: progress.advance(task, n), job.patience, thumbnails, job.bucket,
        )  # fmt: skip
        run(image_job, missing)


def _try_images(job: _Job, sources: Sequence[Source], options: ReadOptions) -> None:
    from encoder.ingest.dry_run import try_images

    with progress_bar(job.as_json) as progress:
        task = progress.add_task("reading", total=len(sources))
        threads = 2 * (os.cpu_count() or 1)
        try_images(sources, options, job.dead_letters, job.summary, lambda n: progress.advance(task, n), threads)


def _ingest_precomputed(job: _Job, tables: Sequence[Table], options: CodeOptions) -> None:
    _require_reachable(job.server)
    with (
        connect(job.server, job.client_timeout) as client,
        progress_bar(job.as_json, "records") as progress,
    ):
        with contextlib.suppress(NotFound):  # a new collection gets the code space of the job's codes
            options = dataclasses.replace(options, target=client.get_collection(job.collection).code_space)
        batches: precomputed.Batches = precomputed.read_precomputed(
            tables, job.selection, job.dead_letters, job.summary, options
        )
        if job.dry_run:
            task = progress.add_task("checking", total=None)
            _try_precomputed(job, client, tables, batches, options, lambda n: progress.advance(task, n))
            return
        task = progress.add_task("storing", total=None)
        started = time.monotonic()
        target, batches = precomputed.open_collection(
            client, job.collection, tables, batches, job.dead_letters, options
        )
        precomputed.run(
            client, target, batches, job.dead_letters, job.summary,
            lambda n: progress.advance(task, n), job.patience, job.bucket,
        )  # fmt: skip
        job.summary.images_per_second = job.summary.stored / max(1e-9, time.monotonic() - started)


def _try_precomputed(
    job: _Job,
    client: Client,
    tables: Sequence[Table],
    batches: precomputed.Batches,
    options: CodeOptions,
    progress: precomputed.Progress,
) -> None:
    if options.target is None:
        builder, batches = precomputed.builder_for_new(tables, batches, options, job.dead_letters)
    else:
        target = client.get_collection(job.collection)
        precomputed.require_space(target, tables, options)
        builder = precomputed.builder_for(client, target)
    precomputed.dry_run(batches, builder, job.dead_letters, job.summary, progress)


def _require_reachable(server: str) -> None:
    """Raises PartitionUnavailable if nothing answers at HOST:PORT, before Ray starts. Other forms of address
    (dns:///, lists) are not checked here, but when gRPC connects."""
    if any(mark in server for mark in "/,"):
        return
    host, _, port = server.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_REACH_SECONDS).close()
    except (OSError, ValueError) as error:
        raise PartitionUnavailable(f"server: {server} does not answer ({error}); is the cluster up?") from None


def _print_summary(job: _Job, kind: str) -> None:
    summary = job.summary
    if job.as_json:
        print_json({**dataclasses.asdict(summary), "report": str(job.dead_letters.path), "dry_run": job.dry_run})
        return
    taken = summary.found - summary.skipped
    if job.dry_run:
        print(
            f"{taken:,} {kind}: {summary.encoded:,} can be stored, {summary.unreadable:,} cannot;"
            f" {summary.bytes:,} bytes read in {summary.seconds:.1f} s; nothing was written"
        )
    else:
        print(
            f"{taken:,} {kind}: {summary.stored:,} stored, {summary.already_stored:,} already"
            f" stored, {summary.unreadable:,} unreadable, {summary.not_stored:,} refused;"
            f" {summary.seconds:.1f} s, {summary.images_per_second:,.0f} {kind}/s once running"
        )
    if summary.removed:
        print(f"{summary.removed:,} {'would be removed' if job.dry_run else 'removed'}: their files are gone")
    for reason, count in sorted(summary.skipped_by_reason.items()):
        print(f"{count:,} skipped: {reason}")
    for warning in summary.warnings:
        print(f"warning: {warning}", file=sys.stderr)
    if job.dead_letters.count:
        print(f"see {job.dead_letters.path}")
