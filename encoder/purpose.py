"""Owns what an encoder's purpose chooses where the config says nothing: code lengths, and the method that
`lookalike fit` uses. docs/RETRIEVAL_QUALITY.md has the measurements behind these choices."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Literal

from encoder.hashing import LSH
from lookalike.model.status import encoder_path

if TYPE_CHECKING:  # The config imports pydantic, which a benchmark of the model alone need not have.
    from lookalike.server.config import EncoderConfig

Fitted = Literal["centred", "pca", "itq"]


@dataclasses.dataclass(frozen=True, slots=True)
class Choice:
    """What to use. bits: the length of LSH codes, without a hash file. fit_method: the method of a hash file; None
    if no fitted hash is better than LSH."""

    bits: int
    fit_method: Fitted | None


CHOICES: Mapping[str | None, Choice] = MappingProxyType(
    {
        None: Choice(256, "itq"),
        # The longer, the better; hashes that are fitted to pictures find fewer copies.
        "duplicates": Choice(1_024, None),
        # These keep 98 % of what the features themselves reach.
        "category": Choice(512, "itq"),
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
        " for `purpose: duplicates`, leave the file out"
    )
