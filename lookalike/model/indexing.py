"""Owns what a collection keeps beside its records so that searches are answered faster, or better."""

from __future__ import annotations

import dataclasses

from lookalike.model import features as stored_features
from lookalike.model.errors import CodeSpaceMismatch, InvalidRequest
from lookalike.model.filters import check_field

SCAN, MIH = "scan", "mih"
MAX_ATTRIBUTES = 16


@dataclasses.dataclass(frozen=True, slots=True)
class Indexing:
    """kind: "scan" compares every code; "mih" also keeps buckets, with which close neighbours are found without
    that (exact as well). attributes: fields whose filters are looked up instead of read from every record.
    features: "none", or "int8" or "float16" to keep each record's features too, `feature_width` of them, for
    reranking."""

    kind: str = SCAN
    attributes: tuple[str, ...] = ()
    features: str = stored_features.NONE
    feature_width: int = 0

    def __post_init__(self) -> None:
        if self.kind not in (SCAN, MIH):
            raise InvalidRequest(f"index: {self.kind[:80]!r} is none; take {SCAN!r} or {MIH!r}")
        if len(self.attributes) > MAX_ATTRIBUTES:
            raise InvalidRequest(f"index attributes: are {len(self.attributes)}; name at most {MAX_ATTRIBUTES}")
        if len(set(self.attributes)) < len(self.attributes):
            raise InvalidRequest("index attributes: name one twice; name each once")
        for field in self.attributes:
            check_field(field, "index attributes")
        if self.features not in stored_features.KINDS:
            raise InvalidRequest(
                f"features: {self.features[:80]!r} is none; take one of {', '.join(stored_features.KINDS)}"
            )
        if not 0 <= self.feature_width <= stored_features.MAX_WIDTH:
            raise InvalidRequest(f"feature_width: is {self.feature_width:,}; use 1..{stored_features.MAX_WIDTH:,}")
        if self.feature_width and not self.keeps_features:
            raise InvalidRequest("feature_width: is given, but features are not kept; say int8 or float16 too")

    @property
    def features_text(self) -> str:
        """What is kept of features, in words that both ends of a call can compare."""
        return f"{self.features} {self.feature_width}"

    def require_features(self, text: str, subject: str) -> None:
        """Raise CodeSpaceMismatch unless `subject` was made for a collection that keeps such features. No text is
        that of a collection without."""
        if (text or Indexing().features_text) != self.features_text:
            raise CodeSpaceMismatch(
                f"features: {subject} is for a collection that keeps {text or 'none'}, this one keeps"
                f" {self.features_text}; it was made anew: repeat"
            )

    def require_width(self) -> Indexing:
        """Raise InvalidRequest if features are kept but not how many."""
        if self.keeps_features and not self.feature_width:
            raise InvalidRequest(
                "feature_width: is missing; give the width of the features that records will bring"
            )
        return self

    @property
    def keeps_features(self) -> bool:
        return self.features != stored_features.NONE

    @property
    def feature_bytes(self) -> int:
        """What a record's features take on disk."""
        return stored_features.stored_bytes(self.features, self.feature_width)

    def require_bits(self, bits: int) -> Indexing:
        """Raise InvalidRequest unless codes of so many bits can be indexed this way."""
        if self.kind == MIH and not (64 <= bits <= 512 and bits % 64 == 0):
            raise InvalidRequest(
                f"index: {MIH!r} needs codes of a multiple of 64 bits from 64 to 512, these have {bits};"
                f" take {SCAN!r} or another width"
            )
        return self
