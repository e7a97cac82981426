"""Owns the run of a job of images: what the cluster has is compared with the files, what is missing is encoded,
and with `--prune` the records of missing files are removed. Torch and Ray are imported only to encode images."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Mapping, Sequence

from encoder.ingest import sync
from encoder.ingest.images import ReadOptions
from encoder.ingest.settings import Job, require_reachable
from encoder.ingest.sources import Source
from encoder.ingest.stats import Summary
from encoder.ingest.target import get_or_create_encoded, require_encoded_space, section_of, spec_for
from encoder.ingest.workers import workers_for
from encoder.progress import progress_bar
from encoder.spec import EncoderSpec
from lookalike.cli.options import connect
from lookalike.model.errors import InvalidRequest, NotFound
from lookalike.model.records import Collection
from lookalike.server.config import EncoderConfig


def ingest_images(
    job: Job,
    sources: Sequence[Source],
    followed: Sequence[str],
    given: Mapping[str, EncoderConfig],
    encoder: str | None,
    options: ReadOptions,
    workers: int | None,
    thumbnails: bool,
) -> None:
    """Stores the images that are new or changed, and removes the records of files that are gone.

    Args:
        job: The job.
        sources: The images.
        followed: The folders whose missing files' records are removed.
        given: The encoders of the config that the user names, by name. Without any, the collection's code space
            says how to encode.
        encoder: The cluster's encoder that the collection gets if it is new; None for the default one.
        options: Which image files to accept.
        workers: Encoding processes; None for the default.
        thumbnails: Whether to store thumbnails.
    """
    require_reachable(job.server)
    # This client is closed before Ray starts: Ray forks, and a fork while gRPC's threads run can hang.
    with connect(job.server) as client, progress_bar(job.as_json) as progress:
        from encoder.ingest.job import missing_sources

        task = progress.add_task("checking", total=len(sources))
        target = get_or_create_encoded(client, job.collection, encoder)
        settings = section_of(target, given) if given else EncoderConfig()
        spec = EncoderSpec.from_config(settings) if given else spec_for(client, target)
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


def safely_followed(folders: Sequence[str], sources: Sequence[Source], summary: Summary) -> Sequence[str]:
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


def count_gone(job: Job, sources: Sequence[Source], followed: Sequence[str]) -> None:
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
    job: Job,
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


def try_images(job: Job, sources: Sequence[Source], options: ReadOptions) -> None:
    """Reads and decodes the images, and stores nothing."""
    from encoder.ingest import dry_run

    with progress_bar(job.as_json) as progress:
        task = progress.add_task("reading", total=len(sources))
        threads = 2 * (os.cpu_count() or 1)
        dry_run.try_images(
            sources, options, job.dead_letters, job.summary, lambda n: progress.advance(task, n), threads
        )
