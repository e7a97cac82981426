"""Owns the kinds of codes that known tools make: their names, and how many bits each has.

Two kinds are never comparable, even if they have the same width and nearly the same method: a kind's name stands
for the tool's bit order and polarity. OpenCV's bytes are mirrored, for example, and perception's dHash is the
complement of imagehash's."""

from __future__ import annotations

import dataclasses
import math

from lookalike.model.errors import InvalidRequest


@dataclasses.dataclass(frozen=True, slots=True)
class CodeKind:
    """A kind of code.

    Attributes:
        name: Its name, which becomes the code space's `hash_method`.
        bits: How many bits the tool makes; None if the user chooses.
        step: The number of bits is a multiple of this.
        is_square: Whether the number of bits is a square number (imagehash's `hash_size` squared).
    """

    name: str
    bits: int | None = None
    step: int = 1
    is_square: bool = False

    def can_have(self, bits: int) -> bool:
        """Whether the tool makes codes of this many bits."""
        if self.bits is not None:
            return bits == self.bits
        return bits % self.step == 0 and (not self.is_square or math.isqrt(bits) ** 2 == bits)

    def bits_of_digits(self, digits: int) -> int:
        """Returns how many bits are meant by this many hexadecimal digits. Tools that write the bits as one number
        put zero bits in front of it, at most 3."""
        most = 4 * digits
        bits = math.isqrt(most) ** 2 if self.is_square else most - most % self.step
        return bits if most - bits < 4 else most


KINDS = {
    kind.name: kind
    for kind in (
        CodeKind("pdq", 256),
        CodeKind("phash", is_square=True),
        CodeKind("dhash", is_square=True),
        CodeKind("ahash", is_square=True),
        CodeKind("whash", is_square=True),
        CodeKind("colorhash", step=14),
        CodeKind("blockhash"),
        CodeKind("imagededup-phash", 64),
        CodeKind("perception-phash"),
        CodeKind("perception-dhash"),
        CodeKind("opencv-phash", 64),
        CodeKind("opencv-blockmean"),
        CodeKind("sentence-transformers"),
        CodeKind("cohere"),
    )
}

# The names of columns that stand for one kind only.
_COLUMNS = {
    "pdq": "pdq", "pdqhash": "pdq", "phash": "phash", "dhash": "dhash", "ahash": "ahash", "whash": "whash",
    "colorhash": "colorhash", "blockhash": "blockhash",
}  # fmt: skip


def named_kind(name: str) -> CodeKind:
    """Returns the kind of this name. Raises InvalidRequest if there is none."""
    if name not in KINDS:
        raise InvalidRequest(f"code_kind: unknown value {name!r}; use one of {', '.join(KINDS)}")
    return KINDS[name]


def kind_of_column(column: str) -> CodeKind | None:
    """Returns the kind of code that a column's name stands for, such as `pdq_hash`; None if it is not certain."""
    name = _COLUMNS.get(column.lower().replace("_", "").replace("-", ""))
    return None if name is None else KINDS[name]
