"""Owns the encoder's gRPC service. Images of several requests are joined into one batch for Ray."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import time
from collections.abc import Iterator, Sequence
from typing import Any

import grpc
import ray.exceptions

from encoder.deployment import ONGOING_BATCHES
from encoder.hashing import Features
from encoder.spec import Description, Encoded
from lookalike import wire
from lookalike.model.errors import InvalidRequest, PartitionUnavailable
from lookalike.model.query import Box
from lookalike.model.status import DEFAULT_ENCODER
from lookalike.server.batcher import Batcher
from lookalike.server.observe import metrics
from lookalike.transport import tracing
from lookalike.v1 import encoder_pb2 as pb
from lookalike.v1 import encoder_pb2_grpc

log = logging.getLogger("encoder.server")
BATCH_IMAGES = 32
MAX_WAITING_IMAGES = 2_048
MAX_REQUEST_IMAGES = 1_024

Context = grpc.aio.ServicerContext[Any, Any]


@dataclasses.dataclass(frozen=True, slots=True)
class _Item:
    image: bytes
    include_features: bool
    include_projections: bool
    box: Box | None


class EncoderServicer(encoder_pb2_grpc.EncoderServiceServicer):
    """Serves the Ray Serve deployment behind `handle`. name: the encoder's name. own: what its replicas report
    about their model."""

    def __init__(self, handle: Any, name: str, own: Description, max_replicas: int, max_image_bytes: int) -> None:
        self._handle = handle
        self._name = name
        self._description = pb.DescribeResponse(
            code_space=wire.space_to_wire(own.space), features=own.width, device=own.device
        )
        self._hash_file = own.hash_file
        # So that these metrics are 0, not absent, before the first image.
        metrics.BATCH_IMAGES.labels(name)
        metrics.BATCH_SECONDS.labels(name)
        for outcome in ("encoded", "unreadable", "failed"):
            metrics.IMAGES.labels(name, outcome)
        self._max_image_bytes = max_image_bytes
        self._batches: Batcher[_Item, Encoded] = Batcher(
            self._run_batch,
            max_weight=BATCH_IMAGES,
            max_waiting=MAX_WAITING_IMAGES,
            concurrency=max_replicas * ONGOING_BATCHES,
        )

    def gauges(self) -> Iterator[metrics.Sample]:
        """Yields the number of waiting images, as a metric."""
        queue = "encode" if self._name == DEFAULT_ENCODER else f"encode {self._name}"
        yield metrics.QUEUE_WAITING, (queue,), self._batches.waiting

    async def close(self) -> None:
        await self._batches.close()

    async def Encode(self, request: pb.EncodeRequest, context: Context) -> pb.EncodeResponse:
        if not 1 <= len(request.images) <= MAX_REQUEST_IMAGES:
            raise InvalidRequest(f"images: {len(request.images):,} in one request; send 1..{MAX_REQUEST_IMAGES:,}")
        boxes = _boxes(request)
        encoded = await asyncio.gather(
            *(
                self._encode(_Item(image, request.include_features, request.include_projections, box))
                for image, box in zip(request.images, boxes, strict=True)
            )
        )
        return pb.EncodeResponse(
            images=[
                pb.EncodedImage(
                    code=item.code,
                    features=_floats(item.features),
                    error=item.error,
                    projections=_floats(item.projections),
                    cropped=box is not None,
                )
                for item, box in zip(encoded, boxes, strict=True)
            ],
            fingerprint=self._description.code_space.fingerprint,
            arithmetic=self._description.code_space.arithmetic,
        )

    async def Describe(self, request: pb.DescribeRequest, context: Context) -> pb.DescribeResponse:
        if not request.include_hash:
            return self._description
        answer = pb.DescribeResponse(hash_file=self._hash_file)
        answer.MergeFrom(self._description)
        return answer

    async def _encode(self, item: _Item) -> Encoded:
        if len(item.image) > self._max_image_bytes:
            return Encoded(error=f"has {len(item.image):,} bytes; the maximum is {self._max_image_bytes:,}")
        return await self._batches.submit(item)

    async def _run_batch(self, items: Sequence[_Item]) -> Sequence[Encoded | Exception]:
        images = [item.image for item in items]
        metrics.BATCH_IMAGES.labels(self._name).observe(len(images))
        started = time.perf_counter()
        try:
            with tracing.span("batch", images=len(images)):
                results: list[Encoded] = await self._handle.encode.remote(
                    images,
                    any(item.include_features for item in items),
                    any(item.include_projections for item in items),
                    [item.box for item in items] if any(item.box for item in items) else (),
                )
        except ray.exceptions.RayError as error:
            metrics.IMAGES.labels(self._name, "failed").inc(len(images))
            log.error("a batch of %d images failed", len(images), exc_info=error)
            raise PartitionUnavailable("an encoder replica failed during the request; retry it") from None
        metrics.BATCH_SECONDS.labels(self._name).observe(time.perf_counter() - started)
        unreadable = sum(bool(result.error) for result in results)
        metrics.IMAGES.labels(self._name, "unreadable").inc(unreadable)
        metrics.IMAGES.labels(self._name, "encoded").inc(len(results) - unreadable)
        return [
            dataclasses.replace(
                result,
                features=result.features if item.include_features else None,
                projections=result.projections if item.include_projections else None,
            )
            for result, item in zip(results, items, strict=True)
        ]


def _boxes(request: pb.EncodeRequest) -> list[Box | None]:
    """The part of each image to encode; None for the whole image. Raises InvalidRequest."""
    if len(request.boxes) not in (0, len(request.images)):
        raise InvalidRequest(
            f"boxes: are {len(request.boxes):,} for {len(request.images):,} images; send one for each, or none"
        )
    if not request.boxes:
        return [None] * len(request.images)
    return [wire.box_from_wire(box) if box.ByteSize() else None for box in request.boxes]


def _floats(values: Features | None) -> bytes:
    return b"" if values is None else values.astype("<f4").tobytes()
