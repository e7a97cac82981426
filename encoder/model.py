"""Owns an encoder in one process: from image files to codes, by a network and its hash on a device."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Iterator, Sequence

import torch

from encoder.backbones import Backbone
from encoder.features import FeatureModel, stacked
from encoder.hashing import Features, LinearHash, drawn, from_bytes
from encoder.images import MAX_PIXELS, Pixels, UnreadableImage
from encoder.spec import Encoded, EncoderSpec
from lookalike.model.codespace import CodeSpace
from lookalike.model.errors import CannotStart
from lookalike.model.query import Box


class EncoderModel:
    """A loaded encoder. Thread-safe: while one thread computes, another's images are decoded."""

    def __init__(self, spec: EncoderSpec, decode_threads: int = 1, max_pixels: int = MAX_PIXELS) -> None:
        """Loads the network and the hash.

        Args:
            spec: The encoder.
            decode_threads: Threads that decode a batch.
            max_pixels: The most pixels that an image may have.

        Raises:
            CannotStart: If the model, its weights, its hash or the device is missing or does not fit.
        """
        self.network = FeatureModel(
            spec.model, spec.weights, spec.layer, spec.device, spec.precision, decode_threads, max_pixels
        )
        self.device, self.width = self.network.device, self.network.width
        self.hash = hash_of(spec, self.network.backbone)
        space = code_space(self.network.backbone, self.hash)
        self.space = dataclasses.replace(space, arithmetic=self.network.arithmetic)
        self._planes, self._offset = (
            torch.from_numpy(part).to(self.device) for part in (self.hash.planes, self.hash.offset)
        )
        self._powers = torch.tensor([128, 64, 32, 16, 8, 4, 2, 1], dtype=torch.uint8, device=self.device)
        self._computing = threading.Lock()

    def encode(
        self,
        images: Sequence[bytes],
        include_features: bool = False,
        include_projections: bool = False,
        boxes: Sequence[Box | None] = (),
    ) -> list[Encoded]:
        """Encodes image files in one forward pass. An unreadable file gets an error; the others are encoded.

        Args:
            images: The files.
            include_features: Whether to return features.
            include_projections: Whether to return projections.
            boxes: The part of each image to encode, None for all of it; empty for whole images.
        """
        decoded = self.network.decode(images, boxes)
        pixels = stacked(decoded)
        if pixels is None:
            return [Encoded(error=item.message) for item in decoded if isinstance(item, UnreadableImage)]
        with self._computing:
            features = self.network.features(pixels)
            projections = self.projections(features)
            codes = iter(self.codes(projections))
        feature_rows = _rows(features if include_features else None)
        projection_rows = _rows(projections if include_projections else None)
        return [
            Encoded(error=item.message)
            if isinstance(item, UnreadableImage)
            else Encoded(next(codes).tobytes(), next(feature_rows), next(projection_rows))
            for item in decoded
        ]

    def projections(self, features: torch.Tensor) -> torch.Tensor:
        """Computes projections, float32 (n, bits), from features, float32 (n, width), on the device."""
        with torch.inference_mode():
            if self.hash.is_normalised:
                features = torch.nn.functional.normalize(features)
            result: torch.Tensor = features @ self._planes.T + self._offset
            return result

    def codes(self, projections: torch.Tensor) -> Pixels:
        """Packs the signs of projections, float32 (n, bits), to codes, uint8 (n, bits/8). This is done on the
        device, so that only `bits` / 8 bytes per image cross the bus."""
        with torch.inference_mode():
            bits = (projections > 0).to(torch.uint8)
            packed = (bits.view(len(bits), -1, 8) * self._powers).sum(-1, dtype=torch.uint8)
            codes: Pixels = packed.cpu().numpy()
            return codes


def code_space(backbone: Backbone, hashing: LinearHash) -> CodeSpace:
    """The code space of the codes that this hash makes of this network's features."""
    return CodeSpace(
        bits=hashing.bits,
        backbone=backbone.name,
        weights_digest=backbone.weights_digest,
        layer=backbone.layer,
        preprocessing=str(backbone.preprocessing),
        hash_method=hashing.method,
        hash_digest=hashing.digest,
    )


def hash_of(spec: EncoderSpec, backbone: Backbone) -> LinearHash:
    """The hash that an encoder uses on this network's features. Raises CannotStart if it was fitted to others."""
    if spec.hash_file is None:
        return drawn(backbone.width, spec.bits, spec.seed)
    found = from_bytes(spec.hash_file, "encoder.hash")
    if found.width != backbone.width or found.features not in ("", str(backbone)):
        raise CannotStart(
            f"encoder.hash: was fitted to other features ({found.features[:60] or found.width}…) than this encoder"
            f" computes ({str(backbone)[:60]}…); fit it again for this model, its weights and layer"
        )
    return found


def _rows(values: torch.Tensor | None) -> Iterator[Features | None]:
    if values is None:
        while True:
            yield None
    yield from values.cpu().numpy()
