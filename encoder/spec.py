"""Owns what goes into an encoder and what comes out, as plain data that travels to Ray's workers. Light: no
torch, no Ray."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Literal

import numpy as np

from encoder.hashing import Features, read_hash
from lookalike.model.codespace import CodeSpace
from lookalike.model.errors import CannotStart
from lookalike.server.config import DEFAULT_BITS, EncoderConfig


@dataclasses.dataclass(frozen=True, slots=True)
class EncoderSpec:
    """All that decides how images become codes. Travels to Ray's workers. hash_file: what `LinearHash.to_bytes`
    gave; then seed and mean count for nothing."""

    model: str
    bits: int
    seed: int
    weights: Path | None = None
    mean: Features | None = None
    layer: str = "pooled"
    hash_file: bytes | None = None
    device: Literal["auto", "cpu", "cuda"] = "auto"
    precision: Literal["auto", "float32", "bfloat16"] = "auto"

    @classmethod
    def from_config(cls, config: EncoderConfig) -> EncoderSpec:
        """Reads the files of hash and mean. Raises CannotStart."""
        found = None if config.hash is None else read_hash(config.hash)
        if found is not None and config.bits not in (None, found.bits):
            raise CannotStart(
                f"encoder.bits: is {config.bits}, but {config.hash} gives codes of {found.bits} bits;"
                " leave bits out"
            )
        bits = (config.bits or DEFAULT_BITS) if found is None else found.bits
        weights = None if config.weights is None else Path(config.weights).absolute()
        return cls(
            config.model, bits, config.seed, weights, _read_mean(config.mean), config.layer,
            None if found is None else found.to_bytes(), config.device, config.precision,
        )  # fmt: skip


@dataclasses.dataclass(frozen=True, slots=True)
class Encoded:
    """One image's outcome: a code and, when asked for, float32 features (width,) and projections (bits,); or the
    reason why not."""

    code: bytes = b""
    features: Features | None = None
    projections: Features | None = None
    error: str = ""


@dataclasses.dataclass(frozen=True, slots=True)
class Description:
    """What an encoder makes. width: of its features; device: "cpu" or "cuda"; hash_file: its hash's."""

    space: CodeSpace
    width: int
    device: str
    hash_file: bytes


def _read_mean(path: Path | None) -> Features | None:
    if path is None:
        return None
    try:
        mean = np.load(path, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise CannotStart(
            f"encoder.mean: {path} cannot be read ({error}); make it with `lookalike fit-mean`"
        ) from None
    if (
        not isinstance(mean, np.ndarray)
        or mean.ndim != 1
        or mean.dtype != np.float32
        or not np.isfinite(mean).all()
    ):
        raise CannotStart(f"encoder.mean: {path} is not a float32 vector; make it with `lookalike fit-mean`")
    return mean
