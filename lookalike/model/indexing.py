"""Owns the description of the indexes and features that a collection stores besides its records, to speed up or
refine searches."""

from __future__ import annotations

import dataclasses

from lookalike.model import features as stored_features
from lookalike.model.errors import CodeSpaceMismatch, InvalidRequest
from lookalike.model.filters import check_field

SCAN, MIH = "scan", "mih"
MAX_ATTRIBUTES = 16


@dataclasses.dataclass(frozen=True, slots=True)
class Indexing:
    """A collection's indexes and stored features.

    Args:
        kind: "scan" compares every code. "mih" (multi-index hashing) also keeps buckets, which find close
            neighbours without a full scan and with the same results.
        attributes: Fields to index, so that filters on them need not read every record.
        features: "none", or "int8" or "float16" to store each record's features for reranking.
        feature_width: Values per feature vector.

    Raises:
        InvalidRequest: If a value is unknown or out of range.
    """

    kind: str = SCAN
    attributes: tuple[str, ...] = ()
    features: str = stored_features.NONE
    feature_width: int = 0

    def __post_init__(self) -> None:
        if self.kind not in (SCAN, MIH):
            raise InvalidRequest(f"index: unknown value {self.kind[:80]!r}; use {SCAN!r} or {MIH!r}")
        if len(self.attributes) > MAX_ATTRIBUTES:
            raise InvalidRequest(
                f"index attributes: {len(self.attributes)} are named; name at most {MAX_ATTRIBUTES}"
            )
        if len(set(self.attributes)) < len(self.attributes):
            raise InvalidRequest("index attributes: one is named twice; name each once")
        for field in self.attributes:
            check_field(field, "index attributes")
        if self.features not in stored_features.KINDS:
            raise InvalidRequest(
                f"features: unknown value {self.features[:80]!r}; use one of {', '.join(stored_features.KINDS)}"
            )
        if not 0 <= self.feature_width <= stored_features.MAX_WIDTH:
            raise InvalidRequest(f"feature_width: is {self.feature_width:,}; use 1..{stored_features.MAX_WIDTH:,}")
        if self.feature_width and not self.keeps_features:
            raise InvalidRequest("feature_width: is set without features; set them to int8 or float16")

    @property
    def features_text(self) -> str:
        """How features are stored, as text that both ends of a call can compare."""
        return f"{self.features} {self.feature_width}"

    def require_features(self, text: str, subject: str) -> None:
        """Raises CodeSpaceMismatch unless `subject` was made for a collection that stores the same features. An
        empty text stands for a collection without features."""
        if (text or Indexing().features_text) != self.features_text:
            raise CodeSpaceMismatch(
                f"features: {subject} is for a collection that stores {text or 'none'}, this one stores"
                f" {self.features_text}; the collection was recreated: retry"
            )

    def require_width(self) -> Indexing:
        """Raises InvalidRequest if features are stored but their width is not set."""
        if self.keeps_features and not self.feature_width:
            raise InvalidRequest("feature_width: is missing; give the width of the records' features")
        return self

    @property
    def keeps_features(self) -> bool:
        return self.features != stored_features.NONE

    @property
    def feature_bytes(self) -> int:
        """Bytes of a record's features on disk."""
        return stored_features.stored_bytes(self.features, self.feature_width)

    def require_bits(self, bits: int) -> Indexing:
        """Raises InvalidRequest unless this kind of index supports codes of this width."""
        if self.kind == MIH and not (64 <= bits <= 512 and bits % 64 == 0):
            raise InvalidRequest(
                f"index: {MIH!r} needs codes of a multiple of 64 bits from 64 to 512, these have {bits};"
                f" use {SCAN!r} or another width"
            )
        return self
