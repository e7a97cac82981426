"""Owns the calls to one encoder, which turns images into codes and reports the code space of these codes."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from lookalike import wire
from lookalike.model.codespace import CodeSpace
from lookalike.model.errors import (
    CodeSpaceMismatch,
    DeadlineExceeded,
    InvalidRequest,
    PartitionUnavailable,
)
from lookalike.model.query import Box
from lookalike.server.peer_channels import PeerChannels
from lookalike.transport import tracing
from lookalike.transport.rpc import call_by
from lookalike.v1 import encoder_pb2 as pb
from lookalike.v1.encoder_pb2_grpc import EncoderServiceStub

_IMAGES_PER_CALL = 64
_BYTES_PER_CALL = 48 * 1024 * 1024


@dataclasses.dataclass(frozen=True, slots=True)
class EncodedImage:
    """One image's code, and the arithmetic that it was computed in. features, (width,), and projections, (bits,),
    are None unless requested."""

    code: bytes
    arithmetic: str
    features: npt.NDArray[np.float32] | None
    projections: npt.NDArray[np.float32] | None


@dataclasses.dataclass(frozen=True, slots=True)
class Description:
    """What an encoder reports about itself. hash_file: empty unless requested."""

    space: CodeSpace
    feature_width: int
    hash_file: bytes


class EncoderLink:
    """Calls to one encoder. Deadlines are times of the running loop's clock."""

    def __init__(self, address: str, peer_channels: PeerChannels) -> None:
        self.address = address
        self._connection = peer_channels.connect(address)

    async def close(self) -> None:
        await self._connection.close()

    async def describe(self, deadline: float, include_hash: bool = False) -> Description:
        """Returns the encoder's current code space and feature width, and its hash file if requested."""
        answer = await self._call("Describe", pb.DescribeRequest(include_hash=include_hash), deadline)
        return Description(wire.space_from_wire(answer.code_space), answer.features, answer.hash_file)

    async def encode(
        self,
        images: Sequence[bytes],
        space: CodeSpace,
        deadline: float,
        *,
        feature_width: int = 0,
        include_projections: bool = False,
        boxes: Sequence[Box | None] = (),
    ) -> list[EncodedImage | InvalidRequest]:
        """Encodes images.

        Args:
            images: Encoded image files.
            space: The collection's code space.
            deadline: A time of the running loop's clock.
            feature_width: The width that features must have; 0 to request none.
            include_projections: Whether to request projections.
            boxes: The part of each image to encode, None for all of it; empty for whole images.

        Returns:
            One entry per image, in order: the encoded image, or the error that says why it could not be encoded.

        Raises:
            CodeSpaceMismatch: If the encoder uses another code space.
        """
        results: list[EncodedImage | InvalidRequest] = []
        for part in _batches(images):
            own = boxes[len(results) : len(results) + len(part)]
            request = pb.EncodeRequest(
                images=part, include_features=feature_width > 0, include_projections=include_projections,
                boxes=map(wire.box_to_wire, own) if any(own) else (),
            )  # fmt: skip
            answer = await self._call("Encode", request, deadline)
            if answer.fingerprint != space.fingerprint:
                raise CodeSpaceMismatch(
                    f"image: the encoder at {self.address} now uses code space {answer.fingerprint[:12]}…, the"
                    f" collection uses {space.fingerprint[:12]}…; retry"
                )
            if any(box and not image.cropped for image, box in zip(answer.images, own, strict=False)):
                raise InvalidRequest("box: this cluster's encoder is too old to encode parts of images; update it")
            results.extend(
                InvalidRequest(f"image: {image.error}")
                if image.error
                else _read(image, answer.arithmetic, feature_width)
                for image in answer.images
            )
        return results

    async def _call(self, name: str, request: Any, deadline: float) -> Any:
        try:
            with tracing.span(f"EncoderService/{name}", is_call=True):
                return await call_by(getattr(self._connection.stub(EncoderServiceStub), name), request, deadline)
        except PartitionUnavailable as error:
            if type(error) is not PartitionUnavailable:
                raise
            raise PartitionUnavailable(f"the encoder at {self.address} does not answer") from None
        except DeadlineExceeded:
            raise DeadlineExceeded(
                f"the encoder at {self.address} did not answer in time; retry, or allow more time"
            ) from None


def _read(image: pb.EncodedImage, arithmetic: str, feature_width: int) -> EncodedImage | InvalidRequest:
    features = _floats(image.features)
    if features is not None and len(features) != feature_width:
        return InvalidRequest(
            f"image: the encoder's features have {len(features):,} values, the collection stores"
            f" {feature_width:,}; create the collection with the encoder's width"
        )
    return EncodedImage(image.code, arithmetic, features, _floats(image.projections))


def _floats(data: bytes) -> npt.NDArray[np.float32] | None:
    return np.frombuffer(data, "<f4") if data else None


def _batches(images: Sequence[bytes]) -> list[list[bytes]]:
    batches: list[list[bytes]] = [[]]
    size = 0
    for image in images:
        if batches[-1] and (len(batches[-1]) == _IMAGES_PER_CALL or size + len(image) > _BYTES_PER_CALL):
            batches.append([])
            size = 0
        batches[-1].append(image)
        size += len(image)
    return batches
