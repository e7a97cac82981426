"""Owns `lookalike ingest`: its options, the choice between a job that encodes images and a job that stores
precomputed codes, and the printed summary."""

from __future__ import annotations

import dataclasses
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from encoder.ingest import sync
from encoder.ingest.code_options import CodeOptions
from encoder.ingest.dead_letters import DeadLetters
from encoder.ingest.images import ReadOptions
from encoder.ingest.listing import list_images, split
from encoder.ingest.metrics import serving
from encoder.ingest.rate import SendRate
from encoder.ingest.rows import has_codes
from encoder.ingest.run_codes import ingest_codes
from encoder.ingest.run_images import count_gone, ingest_images, safely_followed, try_images
from encoder.ingest.selection import Selection
from encoder.ingest.settings import Job
from encoder.ingest.stats import Summary
from encoder.ingest.tables.formats import NAMES as FORMATS
from encoder.ingest.tables.naming import Choice
from encoder.ingest.tables.table import Table, columns_of
from encoder.ingest.tables.vectors import with_keys
from encoder.options import CodeFormat, NewCollectionsEncoder, encoder_sections, limits_section
from lookalike.cli.options import (
    DEFAULT_COLLECTION,
    DEFAULT_SERVER,
    CollectionName,
    Json,
    Server,
    print_json,
)
from lookalike.cli.records import json_filter
from lookalike.model import filter_language
from lookalike.model.code_kinds import KINDS, named_kind
from lookalike.model.errors import InvalidRequest, PartitionUnavailable

Paths = Annotated[
    list[str],
    typer.Argument(
        help="Folders, globs, images, archives, tables and files of codes: paths, or URLs such as"
        " s3://bucket/photos. docs/BRING.md has a command for each tool."
    ),
]


def ingest(
    paths: Paths,
    collection: CollectionName = DEFAULT_COLLECTION,
    config: Annotated[
        Path | None, typer.Option(help="The cluster's config; its encoders and limits sections are used.")
    ] = None,
    encoder: NewCollectionsEncoder = None,
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
            help="Which column has which role, as in key=id,image=jpg,code=phash. For column names that common"
            " tools write, the role is guessed.",
            metavar="ROLE=COLUMN,...",
        ),
    ] = "",
    drop: Annotated[
        str, typer.Option(help="Columns of a table that do not become attributes.", metavar="COLUMN,...")
    ] = "",
    code_format: CodeFormat = None,
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
            " default the keys are the ids in the file of vectors or, without ids, the positions.",
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
            "--allow-truncated", help="Encode the existing part of JPEG, PNG and other files that lack their end."
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
    selection = Selection(None if condition is None else filter_language.parse(condition), limit)
    files, tables = split(paths, format, Choice.parse(columns, drop))
    tables = with_keys(tables, keys)
    _remark(tables)
    is_precomputed = has_codes(columns_of(tables))
    if is_precomputed and (files or not all(has_codes(table.columns) for table in tables)):
        raise InvalidRequest(
            "path: some inputs have codes or features, others are images; ingest each kind in a separate job"
        )
    if is_precomputed and encoder is not None:
        raise InvalidRequest(
            f"encoder: {encoder} encodes images, and these records have codes; leave --encoder out"
        )
    if dead_letters.absolute().as_uri() in {table.url for table in tables}:
        raise InvalidRequest(f"dead-letters: {dead_letters} is one of the job's inputs; name another file")
    folders = sync.require_folders(paths, bool(tables or where or limit)) if prune else []
    kind = None if code_kind is None else named_kind(code_kind)
    code_options = CodeOptions(code_format, kind, say=lambda line: print(line, file=sys.stderr))
    settings, limits = {} if config is None else encoder_sections(config), limits_section(config)
    options = ReadOptions(limits.max_image_bytes, limits.max_image_pixels, allow_truncated)
    summary = Summary()
    with DeadLetters(dead_letters) as letters, serving(metrics, summary):
        job = Job(server, collection, letters, summary, selection, SendRate(rate), patience, dry_run, as_json)
        if is_precomputed:
            ingest_codes(job, tables, code_options)
        else:
            sources = list_images(files, tables, images, selection, letters, summary, hidden)
            followed = safely_followed(folders, sources, summary)
            if dry_run:
                try_images(job, sources, options)
                if followed:
                    count_gone(job, sources, followed)
            elif sources:
                ingest_images(job, sources, followed, settings, encoder, options, workers, thumbnails)
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
    """Prints what was guessed about the tables' columns, each remark once."""
    for remark in dict.fromkeys(remark for table in tables for remark in table.naming.remarks):
        print(remark, file=sys.stderr)


def _print_summary(job: Job, kind: str) -> None:
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
