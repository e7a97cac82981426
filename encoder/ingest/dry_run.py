"""Owns the dry run of an image job: each image is read and decoded, and nothing is written."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

from more_itertools import chunked

from encoder.images import Preprocessing, decode, truncated_images_allowed
from encoder.ingest.dead_letters import DeadLetters
from encoder.ingest.images import ReadOptions, read
from encoder.ingest.sources import Source
from encoder.ingest.stats import Summary
from lookalike.files.stores import reason_of

# The pixels are discarded, so any size would do.
_SMALL = Preprocessing(32, 32, "bilinear", (0, 0, 0), (1, 1, 1))
_BATCH_IMAGES = 256


def try_images(
    sources: Sequence[Source],
    options: ReadOptions,
    dead_letters: DeadLetters,
    summary: Summary,
    progress: Callable[[int], None],
    threads: int,
) -> None:
    """Reads and decodes every image, and counts in `summary` how many could be encoded.

    Args:
        sources: The images.
        options: Which image files to accept.
        dead_letters: Receives each image that cannot be read or decoded.
        summary: The job's counts; updated.
        progress: Called with the number of images that were tried since the last call.
        threads: How many threads read and decode.
    """
    attempt = functools.partial(_try_image, options)
    with truncated_images_allowed(options.allow_truncated), ThreadPoolExecutor(threads) as pool:
        for batch in chunked(sources, _BATCH_IMAGES):
            for source, (size, reason) in zip(batch, pool.map(attempt, batch), strict=True):
                summary.bytes += size
                if reason:
                    summary.unreadable += 1
                    dead_letters.add(source.url, source.key, reason, source.fields)
                else:
                    summary.encoded += 1
            progress(len(batch))


def _try_image(options: ReadOptions, source: Source) -> tuple[int, str]:
    try:
        data = read(source.url, options.max_bytes)
        decode(data, _SMALL, options.max_pixels)
        return len(data), ""
    except Exception as error:  # each store's library raises its own errors
        return 0, getattr(error, "message", "") or f"cannot be read: {reason_of(error)}"
