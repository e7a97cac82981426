"""Owns what a collection keeps beside its records so that searches are answered faster."""

from __future__ import annotations

import dataclasses

from lookalike.errors import InvalidRequest
from lookalike.filters import check_field

SCAN, MIH = "scan", "mih"
MAX_ATTRIBUTES = 16


@dataclasses.dataclass(frozen=True, slots=True)
class Indexing:
    """kind: "scan" compares every code; "mih" also keeps buckets, with which close neighbours are found without
    that (exact as well). attributes: fields whose filters are looked up instead of read from every record."""

    kind: str = SCAN
    attributes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.kind not in (SCAN, MIH):
            raise InvalidRequest(f"index: {self.kind[:80]!r} is none; take {SCAN!r} or {MIH!r}")
        if len(self.attributes) > MAX_ATTRIBUTES:
            raise InvalidRequest(f"index attributes: are {len(self.attributes)}; name at most {MAX_ATTRIBUTES}")
        if len(set(self.attributes)) < len(self.attributes):
            raise InvalidRequest("index attributes: name one twice; name each once")
        for field in self.attributes:
            check_field(field, "index attributes")

    def require_bits(self, bits: int) -> Indexing:
        """Raise InvalidRequest unless codes of so many bits can be indexed this way."""
        if self.kind == MIH and not (64 <= bits <= 512 and bits % 64 == 0):
            raise InvalidRequest(
                f"index: {MIH!r} needs codes of a multiple of 64 bits from 64 to 512, these have {bits};"
                f" take {SCAN!r} or another width"
            )
        return self
