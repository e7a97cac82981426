"""Owns the run of a job of precomputed codes and features, which needs neither Ray nor torch."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Sequence

from encoder.ingest import precomputed
from encoder.ingest.code_options import CodeOptions
from encoder.ingest.settings import Job, require_reachable
from encoder.ingest.tables.table import Table
from encoder.progress import progress_bar
from lookalike.cli.options import connect
from lookalike.client.sync_client import Client
from lookalike.model.errors import NotFound


def ingest_codes(job: Job, tables: Sequence[Table], options: CodeOptions) -> None:
    """Stores the codes and features of tables, or only checks them in a dry run."""
    require_reachable(job.server)
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
            _try_codes(job, client, tables, batches, options, lambda n: progress.advance(task, n))
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


def _try_codes(
    job: Job,
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
