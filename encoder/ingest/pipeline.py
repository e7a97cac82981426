"""Owns the Ray Data pipeline: actors read, decode and encode the images at a list of URLs."""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
import ray.data

from encoder.file_facts import facts_and_picture
from encoder.hashing import Features
from encoder.ingest.images import ReadOptions, read
from encoder.spec import Encoded, EncoderSpec
from encoder.thumbnails import small_jpeg
from lookalike.files.stores import reason_of

BATCH_IMAGES = 32
READ_THREADS = 8
# Images per block. A task returns whole blocks, so a killed job encodes its unfinished blocks again.
BLOCK_IMAGES = 64

Batch = dict[str, Any]


class Result(NamedTuple):
    """One image's code or error. place: its index among the URLs. features: float32 little-endian; features and
    thumbnail are empty unless requested. facts: the file's facts as JSON; empty with an error. image_bytes: the
    file's size."""

    place: int
    code: bytes
    features: bytes
    thumbnail: bytes
    facts: str
    image_bytes: int
    error: str


@dataclasses.dataclass(frozen=True, slots=True)
class EncodedBatch:
    """Results of some images. fingerprint: the fingerprint of the codes' code space. arithmetic: what they were
    computed in."""

    fingerprint: str
    arithmetic: str
    results: list[Result]


class _EncodeActor:
    """A worker of the pool: one model, whole batches. One bad file never fails its batch."""

    def __init__(
        self,
        spec: EncoderSpec,
        options: ReadOptions,
        decode_threads: int,
        include_features: bool,
        include_thumbnails: bool,
    ) -> None:
        from PIL import ImageFile

        from encoder.model import EncoderModel

        # Pillow's setting holds for the whole process, and this process serves one job.
        ImageFile.LOAD_TRUNCATED_IMAGES = options.allow_truncated
        self._model = EncoderModel(spec, decode_threads, options.max_pixels)
        self._options = options
        self._fingerprint = self._model.space.fingerprint
        self._include_features = include_features
        self._include_thumbnails = include_thumbnails
        # A remote store answers concurrent reads as fast as a single one.
        self._readers = ThreadPoolExecutor(READ_THREADS)

    def __call__(self, batch: Batch) -> Batch:
        files = list(self._readers.map(self._read, batch["url"]))
        images = [data for data in files if isinstance(data, bytes)]
        encoded = iter(self._model.encode(images, self._include_features))
        results = [next(encoded) if isinstance(data, bytes) else Encoded(error=data.reason) for data in files]
        described = [self._describe(*pair) for pair in zip(files, results, strict=True)]
        return {
            "place": batch["place"],
            "code": np.array([result.code for result in results], object),
            "features": np.array([_to_bytes(result.features) for result in results], object),
            "thumbnail": np.array([thumbnail for _, thumbnail in described], object),
            "facts": np.array([facts for facts, _ in described], object),
            "image_bytes": np.array([len(data) if isinstance(data, bytes) else 0 for data in files]),
            "error": np.array([result.error for result in results], object),
            "fingerprint": np.array([self._fingerprint] * len(results), object),
            "arithmetic": np.array([self._model.space.arithmetic] * len(results), object),
        }

    def _describe(self, data: bytes | _ReadError, result: Encoded) -> tuple[str, bytes]:
        """The file's facts as JSON, and its thumbnail if requested."""
        if result.error or not isinstance(data, bytes):
            return "", b""
        facts, picture = facts_and_picture(data, self._options.max_pixels)
        thumbnail = small_jpeg(picture) if self._include_thumbnails else b""
        return json.dumps(dataclasses.asdict(facts)), thumbnail

    def _read(self, url: str) -> bytes | _ReadError:
        try:
            return read(url, self._options.max_bytes)
        except Exception as error:  # each store's library raises its own errors
            return _ReadError(f"cannot be read: {reason_of(error)}")


def _to_bytes(features: Features | None) -> bytes:
    return b"" if features is None else features.astype("<f4").tobytes()


class _ReadError:
    def __init__(self, reason: str) -> None:
        self.reason = reason


def encode_urls(
    urls: Sequence[str],
    spec: EncoderSpec,
    options: ReadOptions,
    *,
    workers: int,
    gpus_per_worker: float,
    decode_threads: int,
    include_features: bool = False,
    include_thumbnails: bool = False,
) -> Generator[EncodedBatch]:
    """Encodes images on the running Ray.

    Args:
        urls: The images.
        spec: The encoder.
        options: Which image files to accept.
        workers: The number of actors.
        gpus_per_worker: Each actor's share of a GPU.
        decode_threads: Threads that each actor decodes in.
        include_features: Return features too.
        include_thumbnails: Return thumbnails too.

    Yields:
        Batches, in any order. Each URL's result occurs once.
    """
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.execution_options.preserve_order = False
    logging.getLogger("ray.data").setLevel(logging.WARNING)
    rows = [{"place": place, "url": url} for place, url in enumerate(urls)]
    blocks = -(-len(rows) // BLOCK_IMAGES)
    dataset = ray.data.from_items(rows, override_num_blocks=blocks).map_batches(
        _EncodeActor,
        fn_constructor_kwargs={
            "spec": spec,
            "options": options,
            "decode_threads": decode_threads,
            "include_features": include_features,
            "include_thumbnails": include_thumbnails,
        },
        batch_size=BATCH_IMAGES,
        compute=ray.data.ActorPoolStrategy(size=min(workers, blocks)),
        num_cpus=1,
        num_gpus=gpus_per_worker,
    )
    for batch in dataset.iter_batches(batch_size=None, batch_format="numpy"):
        columns = (batch[name].tolist() for name in Result._fields)
        results = [Result(*values) for values in zip(*columns, strict=True)]
        yield EncodedBatch(batch["fingerprint"][0], batch["arithmetic"][0], results)
