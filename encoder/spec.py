"""Owns an encoder's inputs and outputs as plain data, which is sent to Ray's workers. Imports neither torch nor
Ray."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from encoder.hashing import Features, read_hash
from encoder.purpose import CHOICES
from lookalike.model.codespace import CodeSpace
from lookalike.model.errors import CannotStart
from lookalike.model.status import encoder_path

if TYPE_CHECKING:  # The config imports pydantic, which a benchmark of the model alone need not have.
    from lookalike.server.config import EncoderConfig


@dataclasses.dataclass(frozen=True, slots=True)
class EncoderSpec:
    """All settings that decide how images become codes. hash_file: a hash, as `LinearHash.to_bytes` writes it;
    with it, `seed` is not used."""

    model: str
    bits: int
    seed: int
    weights: Path | None = None
    layer: str = "pooled"
    hash_file: bytes | None = None
    device: Literal["auto", "cpu", "cuda"] = "auto"
    precision: Literal["auto", "float32", "bfloat16"] = "auto"

    @classmethod
    def from_config(cls, config: EncoderConfig) -> EncoderSpec:
        """Makes the spec for a config's encoder section, and reads the hash file. Raises CannotStart."""
        found = None if config.hash is None else read_hash(config.hash)
        if found is not None and config.bits not in (None, found.bits):
            raise CannotStart(
                f"encoder.bits: {config.bits}, but {config.hash} gives codes of {found.bits} bits; leave bits out"
            )
        bits = (config.bits or CHOICES[config.purpose].bits) if found is None else found.bits
        weights = None if config.weights is None else Path(config.weights).absolute()
        return cls(
            config.model, bits, config.seed, weights, config.layer,
            None if found is None else found.to_bytes(), config.device, config.precision,
        )  # fmt: skip

    @classmethod
    def of_space(cls, space: CodeSpace, hash_file: bytes) -> EncoderSpec:
        """Makes the spec of an encoder without weights of its own, from a code space and its hash file. Whoever
        loads it must compare the code spaces: they differ if the encoder had other weights."""
        return cls(space.backbone, space.bits, 0, layer=space.layer, hash_file=hash_file)


@contextlib.contextmanager
def errors_of(name: str) -> Iterator[None]:
    """Makes a CannotStart that the block raises name the encoder's section of the config. The code of models knows
    it as `encoder`."""
    try:
        yield
    except CannotStart as error:
        path = encoder_path(name)
        if error.message.startswith("encoder."):
            raise CannotStart(path + error.message.removeprefix("encoder")) from None
        raise error if path == "encoder" else CannotStart(f"{path}: {error.message}") from None


@dataclasses.dataclass(frozen=True, slots=True)
class Encoded:
    """The result for one image: a code and, if requested, features, float32 (width,), and projections, float32
    (bits,); or an error."""

    code: bytes = b""
    features: Features | None = None
    projections: Features | None = None
    error: str = ""


@dataclasses.dataclass(frozen=True, slots=True)
class Description:
    """What an encoder computes, and on which device. width: the number of values in a feature vector. device:
    "cpu" or "cuda". hash_file: the hash, as `LinearHash.to_bytes` writes it."""

    space: CodeSpace
    width: int
    device: str
    hash_file: bytes
