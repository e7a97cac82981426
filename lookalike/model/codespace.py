"""Owns code spaces: what makes two codes comparable, their fingerprints, and the limits on code width."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json

from lookalike.model.code_kinds import KINDS, CodeKind, named_kind
from lookalike.model.errors import CodeSpaceMismatch, InvalidRequest

MIN_BITS = 16
MAX_BITS = 8192
MAX_TEXT = 256


class UnlabelledCode(InvalidRequest):
    """A code without its code space's fingerprint, for a collection that requires one."""


@dataclasses.dataclass(frozen=True, slots=True)
class CodeSpace:
    """How codes are made. Distances between codes of different code spaces have no meaning.

    Args:
        bits: Code width, a multiple of 8 from 16 to 8,192.
        backbone: The model; "external" for codes that are made elsewhere.
        weights_digest: Digest of the model's weights.
        layer: The layer that the features come from.
        preprocessing: How images are prepared.
        hash_method: How features become bits.
        hash_digest: Digest of the hash's parameters.
        arithmetic: The arithmetic of the encoder. It moves a few bits of a code, so codes of one code space may
            differ in it: it is part of neither the fingerprint nor equality.

    Raises:
        InvalidRequest: If a value is out of range or not printable text.
    """

    bits: int
    backbone: str = "external"
    weights_digest: str = ""
    layer: str = ""
    preprocessing: str = ""
    hash_method: str = "external"
    hash_digest: str = ""
    arithmetic: str = dataclasses.field(default="", compare=False)

    def __post_init__(self) -> None:
        if isinstance(self.bits, bool) or not isinstance(self.bits, int):
            raise InvalidRequest(f"bits: is {type(self.bits).__name__}; use a whole number")
        if not MIN_BITS <= self.bits <= MAX_BITS or self.bits % 8:
            raise InvalidRequest(
                f"bits: {self.bits} is not a code width; use a multiple of 8 from {MIN_BITS} to {MAX_BITS}"
            )
        for field in dataclasses.fields(self)[1:]:
            text = getattr(self, field.name)
            if not isinstance(text, str) or len(text) > MAX_TEXT or not text.isprintable():
                raise InvalidRequest(
                    f"code_space: {field.name} is not printable text of at most {MAX_TEXT} characters"
                )

    @classmethod
    def of_kind(cls, kind: str, bits: int | None = None) -> CodeSpace:
        """Returns the code space of codes that a known tool makes, such as PDQ.

        Args:
            kind: pdq; phash, dhash, ahash, whash or colorhash (imagehash); blockhash; imagededup-phash;
                perception-phash or perception-dhash; opencv-phash or opencv-blockmean; sentence-transformers;
                cohere.
            bits: The number of bits, rounded up to a multiple of 8. Optional if the kind has only one width.

        Raises:
            InvalidRequest: If the kind is unknown, or `bits` is missing or another kind's width.
        """
        found = named_kind(kind)
        if bits is None and found.bits is None:
            raise InvalidRequest(f"bits: missing; {kind} codes have several widths, so give the number of bits")
        if bits is not None and found.bits not in (None, bits):
            raise InvalidRequest(f"bits: {bits} is not the width of {kind} codes; they have {found.bits} bits")
        made = bits or found.bits or 0
        return cls(made + -made % 8, hash_method=kind)

    @property
    def kind(self) -> CodeKind | None:
        """The kind of `of_kind`; None for the encoder's codes, and for codes of an unknown tool."""
        return KINDS.get(self.hash_method) if self.backbone == "external" else None

    @property
    def code_bytes(self) -> int:
        """The size of a code in bytes: bits / 8."""
        return self.bits // 8

    @property
    def fingerprint(self) -> str:
        """SHA-256 of all fields but `arithmetic`, as canonical JSON, in hex."""
        return _fingerprint(self)

    @property
    def is_bits_only(self) -> bool:
        """Whether nothing but the width of the codes is known, as in a collection created with `bits`."""
        return self == CodeSpace(self.bits)

    def require(self, fingerprint: str, subject: str) -> None:
        """Raises CodeSpaceMismatch, naming `subject`, if `fingerprint` is of another code space, and
        UnlabelledCode if it is missing.

        It may be missing if only the width of the codes is known: it would say no more than the code's length."""
        if not fingerprint and self.is_bits_only:
            return
        if not fingerprint:
            raise UnlabelledCode(
                f"fingerprint: {subject} has a code without its code space's fingerprint;"
                " take it from the encoder that made the code, or from GetCollection"
            )
        if fingerprint != self.fingerprint:
            raise CodeSpaceMismatch(
                f"fingerprint: {subject} is of code space {fingerprint[:12]}…, the collection is of"
                f" {self.fingerprint[:12]}… ({self.backbone}, {self.hash_method}, {self.bits} bits);"
                " encode again in the collection's code space"
            )


@functools.lru_cache
def _fingerprint(space: CodeSpace) -> str:
    fields = {field.name: getattr(space, field.name) for field in dataclasses.fields(space) if field.compare}
    canonical = json.dumps(fields, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()
