"""Owns the dry run of a job of images: each is read and decoded, and nothing is written."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

from encoder.images import Preprocessing, decode
from encoder.ingest.dead_letters import DeadLetters
from encoder.ingest.images import read
from encoder.ingest.sources import Source
from encoder.ingest.stats import Summary
from lookalike.transport.rpc import MAX_IMAGE_BYTES

# What becomes of the pixels does not matter here, but that there are any.
_ANY = Preprocessing(32, 32, "bilinear", (0, 0, 0), (1, 1, 1))
_AT_ONCE = 256


def try_images(
    sources: Sequence[Source],
    letters: DeadLetters,
    summary: Summary,
    progress: Callable[[int], None],
    threads: int,
) -> None:
    """Read and decode every image; the account says how many could be encoded."""
    with ThreadPoolExecutor(threads) as pool:
        for start in range(0, len(sources), _AT_ONCE):
            portion = sources[start : start + _AT_ONCE]
            for source, (size, reason) in zip(portion, pool.map(_try_image, portion), strict=True):
                summary.bytes += size
                if reason:
                    summary.unreadable += 1
                    letters.add(source.url, source.key, reason, source.fields)
                else:
                    summary.encoded += 1
            progress(len(portion))


def _try_image(source: Source) -> tuple[int, str]:
    try:
        data = read(source.url, MAX_IMAGE_BYTES)
        decode(data, _ANY)
        return len(data), ""
    except Exception as error:  # each store's library raises its own
        return 0, getattr(error, "message", "") or f"cannot be read: {getattr(error, 'strerror', None) or error}"
