"""Owns what an encoder's purpose chooses where the config says nothing: code lengths, and the method that
`lookalike fit` uses. docs/RETRIEVAL_QUALITY.md has the measurements behind these choices."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from types import MappingProxyType
from typing import Literal

from encoder.hashing import LSH
from lookalike.server.config import EncoderConfig, encoder_path

Fitted = Literal["centred", "pca", "itq"]


@dataclasses.dataclass(frozen=True, slots=True)
class Choice:
    """What to use. bits: the length of LSH codes, without a hash file. fit_method, fit_bits: of a hash file."""

    bits: int
    fit_method: Fitted
    fit_bits: int


CHOICES: Mapping[str | None, Choice] = MappingProxyType(
    {
        None: Choice(256, "itq", 128),
        # The longer, the better; a rotation that is fitted to classes gives different pictures the same code.
        "duplicates": Choice(1_024, "centred", 1_024),
        # Beyond 512 bits, LSH gains less than the noise between two seeds.
        "category": Choice(512, "itq", 128),
    }
)


def caution(name: str, config: EncoderConfig, method: str) -> str:
    """Says that an encoder's hash file does not suit its purpose; "" if it does. The file is used all the same.

    Args:
        name: The encoder's name.
        config: Its section of the config.
        method: The method of its hash.
    """
    if config.purpose != "duplicates" or method == LSH:
        return ""
    return (
        f"{encoder_path(name)}.hash: {method} codes find classes, and give many different pictures the same code;"
        " for `purpose: duplicates`, leave the file out, or make it with `lookalike fit --method centred`"
    )
