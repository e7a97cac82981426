"""Owns an encoder in one process: backbone and hash on a device, image files in, codes out."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch

from encoder.backbones import LAYER, load_backbone
from encoder.fusion import fuse
from encoder.hashing import METHOD, Hyperplanes
from encoder.images import Pixels, UnreadableImage, decode
from encoder.spec import Encoded, EncoderSpec
from lookalike.codespace import CodeSpace
from lookalike.errors import CannotStart


class EncoderModel:
    """A loaded encoder. Not for several threads at once."""

    def __init__(self, spec: EncoderSpec, decode_threads: int = 1) -> None:
        """Load everything. Raises CannotStart when the model, its weights or the device are not there."""
        torch.set_num_threads(1)
        self.device = _device(spec.device)
        backbone = load_backbone(spec.model, spec.weights)
        hyperplanes = Hyperplanes(backbone.width, spec.bits, spec.seed, spec.mean)
        self.preprocessing = backbone.preprocessing
        self.width = backbone.width
        self.space = CodeSpace(
            bits=spec.bits,
            backbone=backbone.name,
            weights_digest=backbone.weights_digest,
            layer=LAYER,
            preprocessing=str(backbone.preprocessing),
            hash_method=METHOD,
            hash_digest=hyperplanes.digest,
        )
        self._dtype = precision(spec.precision, self.device)
        module = backbone.module
        if self.device.type == "cpu":
            module = fuse(module, self.preprocessing.crop)
        self._module = module.to(self.device, self._dtype, memory_format=torch.channels_last)
        self._planes = torch.from_numpy(hyperplanes.planes).to(self.device)
        self._centre = None if spec.mean is None else torch.from_numpy(spec.mean).to(self.device)
        self._mean, self._std = (
            torch.tensor(values, device=self.device).view(1, 3, 1, 1)
            for values in (self.preprocessing.mean, self.preprocessing.std)
        )
        self._powers = torch.tensor([128, 64, 32, 16, 8, 4, 2, 1], dtype=torch.uint8, device=self.device)
        self._decoders = ThreadPoolExecutor(decode_threads) if decode_threads > 1 else None

    def encode(self, images: Sequence[bytes], include_features: bool = False) -> list[Encoded]:
        """Encode image files in one forward pass. An unreadable one has an error, the others are encoded."""
        decoded = list((self._decoders.map if self._decoders else map)(self._decode, images))
        pixels = [item for item in decoded if not isinstance(item, UnreadableImage)]
        if not pixels:
            return [Encoded(error=item.message) for item in decoded if isinstance(item, UnreadableImage)]
        features = self.features(np.stack(pixels))
        codes = iter(self.codes(features))
        rows = iter(features.cpu().numpy() if include_features else [None] * len(pixels))
        return [
            Encoded(error=item.message)
            if isinstance(item, UnreadableImage)
            else Encoded(next(codes).tobytes(), next(rows))
            for item in decoded
        ]

    def features(self, pixels: Pixels) -> torch.Tensor:
        """uint8 (n, crop, crop, 3) to float32 (n, width), on the device."""
        with torch.inference_mode():
            batch = torch.from_numpy(pixels).to(self.device).permute(0, 3, 1, 2)
            batch = (batch / 255 - self._mean) / self._std
            features: torch.Tensor = self._module(batch.to(self._dtype, memory_format=torch.channels_last))
            return features.float()

    def codes(self, features: torch.Tensor) -> Pixels:
        """float32 (n, width) on the device to packed codes, uint8 (n, bits/8). Packed before it leaves the
        device: `bits` / 8 bytes an image cross the bus."""
        with torch.inference_mode():
            centred = features if self._centre is None else features - self._centre
            bits = (centred @ self._planes.T > 0).to(torch.uint8)
            packed = (bits.view(len(bits), -1, 8) * self._powers).sum(-1, dtype=torch.uint8)
            codes: Pixels = packed.cpu().numpy()
            return codes

    def _decode(self, image: bytes) -> Pixels | UnreadableImage:
        try:
            return decode(image, self.preprocessing)
        except UnreadableImage as error:
            return error


def _device(wish: str) -> torch.device:
    if wish == "cuda" and not torch.cuda.is_available():
        raise CannotStart("encoder.device: is cuda, but no GPU is usable here; set auto or cpu")
    return torch.device("cuda" if wish != "cpu" and torch.cuda.is_available() else "cpu")


def precision(wish: str, device: torch.device) -> torch.dtype:
    """bfloat16 where the hardware multiplies it: about twice as fast, and no visible loss of retrieval."""
    if wish != "auto":
        return torch.bfloat16 if wish == "bfloat16" else torch.float32
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float32
    capabilities = torch.cpu.get_capabilities()
    fast = capabilities.get("avx512_bf16") or capabilities.get("amx_bf16")
    return torch.bfloat16 if fast else torch.float32
