"""Owns features in one process: a backbone on a device, image files in, feature vectors out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch

from encoder.backbones import POOLED, load_backbone
from encoder.fusion import fuse
from encoder.hashing import Features
from encoder.images import MAX_PIXELS, Pixels, UnreadableImage, decode
from lookalike.model.errors import CannotStart

BATCH_IMAGES = 32


class FeatureModel:
    """A loaded backbone. `decode` may be called by several threads, `features` by one at a time."""

    def __init__(
        self,
        model: str,
        weights: Path | None = None,
        layer: str = POOLED,
        device: str = "auto",
        precision: str = "auto",
        decode_threads: int = 1,
        max_pixels: int = MAX_PIXELS,
    ) -> None:
        """Raises CannotStart when the model, its weights or the device are not there."""
        torch.set_num_threads(1)
        self.device = find_device(device)
        backbone = load_backbone(model, weights, layer)
        self.backbone = backbone.name
        self.weights_digest = backbone.weights_digest
        self.layer = layer
        self.width = backbone.width
        self.preprocessing = backbone.preprocessing
        self.dtype = find_precision(precision, self.device)
        module = backbone.module
        if self.device.type == "cpu":
            module = fuse(module, self.preprocessing.crop)
        self._module = module.to(self.device, self.dtype, memory_format=torch.channels_last)
        self._mean, self._std = (
            torch.tensor(values, device=self.device).view(1, 3, 1, 1)
            for values in (self.preprocessing.mean, self.preprocessing.std)
        )
        self._max_pixels = max_pixels
        self._decoders = ThreadPoolExecutor(decode_threads) if decode_threads > 1 else None

    def __str__(self) -> str:
        """Canonical text of what makes the features: a hash fitted to them fits no others."""
        return f"{self.backbone} {self.weights_digest} {self.layer} {self.preprocessing}"

    def decode(self, images: Sequence[bytes]) -> list[Pixels | UnreadableImage]:
        """Image files as uint8 (crop, crop, 3), or why they cannot be read."""
        return list((self._decoders.map if self._decoders else map)(self._decode, images))

    def features(self, pixels: Pixels) -> torch.Tensor:
        """uint8 (n, crop, crop, 3) to float32 (n, width), on the device."""
        with torch.inference_mode():
            batch = self.inputs(pixels).to(self.dtype, memory_format=torch.channels_last)
            features: torch.Tensor = self._module(batch)
            return features.float()

    def stream(self, files: Sequence[Callable[[], bytes]]) -> Iterator[tuple[list[bool], Features]]:
        """Many image files, each by how to read it, a batch at a time, the next one decoded meanwhile: which of
        the batch could be read, and the features of those, float32 (readable, width)."""
        starts = range(0, len(files), BATCH_IMAGES)

        def load(number: int) -> list[Pixels | UnreadableImage]:
            part = files[starts[number] : starts[number] + BATCH_IMAGES]
            return self.decode([read_or_nothing(read) for read in part])

        for decoded in ahead(load, len(starts)):
            pixels = stacked(decoded)
            features = (
                np.zeros((0, self.width), np.float32) if pixels is None else self.features(pixels).cpu().numpy()
            )
            yield [not isinstance(item, UnreadableImage) for item in decoded], features

    def inputs(self, pixels: Pixels) -> torch.Tensor:
        """uint8 (n, crop, crop, 3) to float32 (n, 3, crop, crop) as the network takes it, on the device."""
        batch: torch.Tensor = torch.from_numpy(pixels).to(self.device).permute(0, 3, 1, 2)
        return (batch / 255 - self._mean) / self._std

    def _decode(self, image: bytes) -> Pixels | UnreadableImage:
        try:
            return decode(image, self.preprocessing, self._max_pixels)
        except UnreadableImage as error:
            return error


def ahead(
    load: Callable[[int], list[Pixels | UnreadableImage]], count: int
) -> Iterator[list[Pixels | UnreadableImage]]:
    """load(0), load(1), ... load(count - 1), each begun while the one before is being worked on."""
    with ThreadPoolExecutor(1) as thread:
        following = thread.submit(load, 0) if count else None
        for number in range(1, count + 1):
            assert following is not None
            loaded = following.result()
            following = thread.submit(load, number) if number < count else None
            yield loaded


def read_or_nothing(read: Callable[[], bytes]) -> bytes:
    """A file's bytes, none if it cannot be read: then it counts as an image that cannot be."""
    try:
        return read()
    except (OSError, ValueError):
        return b""


def find_device(wish: str) -> torch.device:
    """The device for "auto", "cpu" or "cuda". Raises CannotStart when it is not there."""
    if wish == "cuda" and not torch.cuda.is_available():
        raise CannotStart("encoder.device: is cuda, but no GPU is usable here; set auto or cpu")
    return torch.device("cuda" if wish != "cpu" and torch.cuda.is_available() else "cpu")


def find_precision(wish: str, device: torch.device) -> torch.dtype:
    """bfloat16 where the hardware multiplies it: about twice as fast, and no visible loss of retrieval."""
    if wish != "auto":
        return torch.bfloat16 if wish == "bfloat16" else torch.float32
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float32
    capabilities = torch.cpu.get_capabilities()
    fast = capabilities.get("avx512_bf16") or capabilities.get("amx_bf16")
    return torch.bfloat16 if fast else torch.float32


def stacked(decoded: Sequence[Pixels | UnreadableImage]) -> Pixels | None:
    """The images that could be read, as one batch."""
    pixels = [item for item in decoded if not isinstance(item, UnreadableImage)]
    return np.stack(pixels) if pixels else None
