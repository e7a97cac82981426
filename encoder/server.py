"""Owns the encoder's gRPC surface: requests gathered into batches before they cross into Ray."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import Any

import grpc
import ray.exceptions

from encoder.deployment import ONGOING_BATCHES
from encoder.spec import Encoded
from lookalike import wire
from lookalike.batcher import Batcher
from lookalike.codespace import CodeSpace
from lookalike.errors import InvalidRequest, PartitionUnavailable
from lookalike.rpc import MAX_IMAGE_BYTES
from lookalike.v1 import encoder_pb2 as pb
from lookalike.v1 import encoder_pb2_grpc

log = logging.getLogger("encoder.server")
BATCH_IMAGES = 32
MAX_WAITING_IMAGES = 2_048
MAX_REQUEST_IMAGES = 1_024

Context = grpc.aio.ServicerContext[Any, Any]
Item = tuple[bytes, bool]


class EncoderServicer(encoder_pb2_grpc.EncoderServiceServicer):
    """Serves the deployment behind `handle`, whose replicas work in `space`."""

    def __init__(self, handle: Any, space: CodeSpace, width: int, device: str, max_replicas: int) -> None:
        self._handle = handle
        self._description = pb.DescribeResponse(
            code_space=wire.space_to_wire(space), features=width, device=device
        )
        self._batches: Batcher[Item, Encoded] = Batcher(
            self._run_batch,
            max_weight=BATCH_IMAGES,
            max_waiting=MAX_WAITING_IMAGES,
            concurrency=max_replicas * ONGOING_BATCHES,
        )

    async def close(self) -> None:
        await self._batches.close()

    async def Encode(self, request: pb.EncodeRequest, context: Context) -> pb.EncodeResponse:
        if not 1 <= len(request.images) <= MAX_REQUEST_IMAGES:
            raise InvalidRequest(f"images: are {len(request.images):,}; send 1..{MAX_REQUEST_IMAGES:,} a request")
        encoded = await asyncio.gather(
            *(self._encode(image, request.include_features) for image in request.images)
        )
        return pb.EncodeResponse(
            images=[
                pb.EncodedImage(
                    code=item.code,
                    features=b"" if item.features is None else item.features.astype("<f4").tobytes(),
                    error=item.error,
                )
                for item in encoded
            ],
            fingerprint=self._description.code_space.fingerprint,
        )

    async def Describe(self, request: pb.DescribeRequest, context: Context) -> pb.DescribeResponse:
        return self._description

    async def _encode(self, image: bytes, include_features: bool) -> Encoded:
        if len(image) > MAX_IMAGE_BYTES:
            return Encoded(error=f"has {len(image):,} bytes; at most {MAX_IMAGE_BYTES:,} are read")
        return await self._batches.submit((image, include_features))

    async def _run_batch(self, items: Sequence[Item]) -> Sequence[Encoded | Exception]:
        images = [image for image, _ in items]
        try:
            results: list[Encoded] = await self._handle.encode.remote(images, any(wish for _, wish in items))
        except ray.exceptions.RayError as error:
            log.error("a batch of %d images failed", len(images), exc_info=error)
            raise PartitionUnavailable("the encoder lost the batch; repeat it") from None
        return [
            item if wish else Encoded(item.code, None, item.error)
            for item, (_, wish) in zip(results, items, strict=True)
        ]
