"""Owns the computation of features in one process: decodes image files and runs a backbone on a device to compute
their feature vectors."""

from __future__ import annotations

import dataclasses
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
from lookalike.model.query import Box

BATCH_IMAGES = 32


class FeatureModel:
    """A loaded backbone. Several threads may call `decode`; only one at a time may call `features`.

    backbone: the network, as it runs on `device` in `dtype`. width: the width of the features."""

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
        """Loads the backbone.

        Args:
            model: The network's name; see `encoder.backbones`.
            weights: A file of weights; None for the pretrained weights.
            layer: The layer that gives the features.
            device: "auto", "cpu" or "cuda".
            precision: "auto", "float32" or "bfloat16".
            decode_threads: The number of threads that decode a batch.
            max_pixels: The largest number of pixels that an image may have.

        Raises:
            CannotStart: If the model, its weights or the device is missing.
        """
        torch.set_num_threads(1)
        self.device = find_device(device)
        backbone = load_backbone(model, weights, layer)
        self.layer = layer
        self.width = backbone.width
        self.preprocessing = backbone.preprocessing
        self.dtype = find_precision(precision, self.device)
        module = backbone.module
        if self.device.type == "cpu":
            module = fuse(module, self.preprocessing.crop)
        is_fused = module is not backbone.module
        self.arithmetic = f"{str(self.dtype).removeprefix('torch.')}, {'fused' if is_fused else 'layer by layer'}"
        module = module.to(self.device, self.dtype, memory_format=torch.channels_last)
        self.backbone = dataclasses.replace(backbone, module=module)
        self._mean, self._std = (
            torch.tensor(values, device=self.device).view(1, 3, 1, 1)
            for values in (self.preprocessing.mean, self.preprocessing.std)
        )
        self._max_pixels = max_pixels
        self._decoders = ThreadPoolExecutor(decode_threads) if decode_threads > 1 else None

    def __str__(self) -> str:
        """A text that identifies what computes the features; see `Backbone`."""
        return str(self.backbone)

    def decode(self, images: Sequence[bytes], boxes: Sequence[Box | None] = ()) -> list[Pixels | UnreadableImage]:
        """Decodes image files to uint8 (crop, crop, 3). A file that cannot be read gives an `UnreadableImage`.

        Args:
            images: The files.
            boxes: The part of each image to use, None for all of it; empty for whole images.
        """
        parts = boxes or [None] * len(images)
        return list((self._decoders.map if self._decoders else map)(self._decode, images, parts))

    def features(self, pixels: Pixels) -> torch.Tensor:
        """Computes features, float32 (n, width), from pixels, uint8 (n, crop, crop, 3), on the device."""
        with torch.inference_mode():
            batch = self.inputs(pixels).to(self.dtype, memory_format=torch.channels_last)
            features: torch.Tensor = self.backbone.module(batch)
            return features.float()

    def stream(self, files: Sequence[Callable[[], bytes]]) -> Iterator[tuple[list[bool], Features]]:
        """Encodes many image files, a batch at a time. While one batch is encoded, the next is decoded.

        Args:
            files: For each file, a function that reads it.

        Yields:
            For each batch, whether each file could be read, and the features of the readable files, float32
            (readable, width).
        """
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
        """Converts pixels, uint8 (n, crop, crop, 3), to the network's input, float32 (n, 3, crop, crop), on the
        device."""
        batch: torch.Tensor = torch.from_numpy(pixels).to(self.device).permute(0, 3, 1, 2)
        return (batch / 255 - self._mean) / self._std

    def _decode(self, image: bytes, box: Box | None) -> Pixels | UnreadableImage:
        try:
            return decode(image, self.preprocessing, self._max_pixels, box)
        except UnreadableImage as error:
            return error


def ahead(
    load: Callable[[int], list[Pixels | UnreadableImage]], count: int
) -> Iterator[list[Pixels | UnreadableImage]]:
    """Yields load(0) to load(count - 1). A thread loads each one while the caller works on the previous one."""
    with ThreadPoolExecutor(1) as thread:
        following = thread.submit(load, 0) if count else None
        for number in range(1, count + 1):
            assert following is not None
            loaded = following.result()
            following = thread.submit(load, number) if number < count else None
            yield loaded


def read_or_nothing(read: Callable[[], bytes]) -> bytes:
    """A file's bytes; b"" if it cannot be read, so that it counts as an unreadable image."""
    try:
        return read()
    except (OSError, ValueError):
        return b""


def find_device(name: str) -> torch.device:
    """Returns the device for "auto", "cpu" or "cuda". Raises CannotStart if there is no such device."""
    if name == "cuda" and not torch.cuda.is_available():
        raise CannotStart("encoder.device: cuda, but no GPU is usable here; use auto or cpu")
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")


def find_precision(name: str, device: torch.device) -> torch.dtype:
    """The type to compute in. "auto" is bfloat16 if the hardware supports it: about twice as fast, without visible
    loss of retrieval quality."""
    if name != "auto":
        return torch.bfloat16 if name == "bfloat16" else torch.float32
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float32
    capabilities = torch.cpu.get_capabilities()
    fast = capabilities.get("avx512_bf16") or capabilities.get("amx_bf16")
    return torch.bfloat16 if fast else torch.float32


def stacked(decoded: Sequence[Pixels | UnreadableImage]) -> Pixels | None:
    """The images that could be read, uint8 (readable, crop, crop, 3); None if there are none."""
    pixels = [item for item in decoded if not isinstance(item, UnreadableImage)]
    return np.stack(pixels) if pixels else None
