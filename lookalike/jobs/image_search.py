"""Owns searches for many image files at once: which files paths name, and their queries in as few calls as limits
allow. The cluster's encoder encodes the images; nothing is stored."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from more_itertools import constrained_batches

from lookalike.client.sync_client import Client
from lookalike.files.walk import Entry, local_file, local_files
from lookalike.model.errors import InvalidRequest
from lookalike.model.query import Box
from lookalike.model.records import MAX_BATCH_HITS
from lookalike.model.results import SearchResult
from lookalike.model.search_options import SearchOptions
from lookalike.transport.rpc import MAX_IMAGE_BYTES

# A slow encoder takes seconds for these.
_BATCH_IMAGES = 256
# Well below the limit on a message.
_BATCH_BYTES = 32 * 1024 * 1024


@dataclasses.dataclass(frozen=True, slots=True)
class ImageFiles:
    """The files that paths name. files: images. skipped: how many files were left out, by reason."""

    files: list[Path]
    skipped: Counter[str]


@dataclasses.dataclass(frozen=True, slots=True)
class Answer:
    """The answer for one file: its bytes and the result, or the reason why it could not be searched for."""

    file: Path
    image: bytes = b""
    result: SearchResult | None = None
    error: str = ""


def find_images(paths: Sequence[Path]) -> ImageFiles:
    """Finds images: the files that are named, and those in folders by the rules of `lookalike ingest`.

    Raises:
        InvalidRequest: If a path does not exist, or no path leads to an image.
    """
    found = ImageFiles([], Counter())
    for path in paths:
        for entry in sorted(_entries(path), key=lambda entry: entry.path):
            if reason := entry.skipped or entry.error:
                found.skipped[reason] += 1
            else:
                found.files.append(Path(entry.path))
    if not found.files:
        counts = "; ".join(f"{count:,} skipped: {reason}" for reason, count in sorted(found.skipped.items()))
        raise InvalidRequest(f"image: {paths[0]} holds no image ({counts or 'no file'}); name files or folders")
    return found


def search_files(
    client: Client, collection: str, files: Iterable[Path], options: SearchOptions, box: Box | None = None
) -> Iterator[Answer]:
    """Searches for each file.

    Args:
        client: A client of the cluster.
        collection: The collection's name.
        files: The image files.
        options: How to search.
        box: The part of each image to use; None for all of it.

    Yields:
        One answer per file, in order.

    Raises:
        LookalikeError: If the cluster cannot search at all.
    """
    most = max(1, min(_BATCH_IMAGES, MAX_BATCH_HITS // options.k))
    read = map(_read, files)
    for batch in constrained_batches(
        read, _BATCH_BYTES, most, get_len=lambda answer: len(answer.image), strict=False
    ):
        images = [answer for answer in batch if not answer.error]
        results = iter(_search(client, collection, images, options, box))
        yield from (answer if answer.error else next(results) for answer in batch)


def _entries(path: Path) -> Iterator[Entry]:
    try:
        if path.is_dir():
            yield from local_files(str(path), include_hidden=False)
        else:
            path.stat()
            # A file that is named itself is taken, whatever its name.
            yield dataclasses.replace(local_file(str(path)), skipped="")
    except OSError as error:
        raise InvalidRequest(f"image: {path} cannot be read ({error.strerror}); name files or folders") from None


def _read(file: Path) -> Answer:
    try:
        if (size := file.stat().st_size) > MAX_IMAGE_BYTES:
            return Answer(file, error=f"has {size:,} bytes; use at most {MAX_IMAGE_BYTES:,}, or scale it down")
        return Answer(file, file.read_bytes())
    except OSError as error:
        return Answer(file, error=f"cannot be read: {error.strerror}")


def _search(
    client: Client, collection: str, images: Sequence[Answer], options: SearchOptions, box: Box | None
) -> list[Answer]:
    """Searches for images in one call. If the cluster refuses it, in halves: to find an image that cannot be
    decoded, or because its limit on a batch is lower than ours."""
    if not images:
        return []
    try:
        results = client.search_batch(
            collection=collection, images=[answer.image for answer in images], options=options,
            boxes=[box] * len(images) if box else (),
        )  # fmt: skip
    except InvalidRequest as error:
        if len(images) > 1:
            half = len(images) // 2
            parts = images[:half], images[half:]
            return [answer for part in parts for answer in _search(client, collection, part, options, box)]
        if not error.message.startswith("image"):
            raise
        return [dataclasses.replace(images[0], error=error.message.removeprefix("image: "))]
    return [dataclasses.replace(answer, result=result) for answer, result in zip(images, results, strict=True)]
