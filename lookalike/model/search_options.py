"""Owns the options of a search: their names, types, defaults and limits.

The SDK and the coordinator use this class. A new option is declared here and encoded in
`lookalike.wire.public.requests`."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal, TypedDict, get_args

from lookalike.model import filter_language
from lookalike.model.errors import InvalidRequest
from lookalike.model.filters import Filter
from lookalike.model.records import DEFAULT_OVERSAMPLING, check_k, check_oversampling

Rerank = Literal["none", "asymmetric", "features"]
Consistency = Literal["one", "quorum"]
Score = Literal["hamming", "asymmetric"]

_MAX_UINT32 = 2**32 - 1


@dataclasses.dataclass(frozen=True, slots=True)
class SearchOptions:
    """How to search. Checked when created.

    Args:
        k: Hits to return per query, 1..10,000. A smaller collection returns all its records.
        max_distance: Leave out hits that differ from the query in more bits than this.
        filter: Search only records whose attributes match: a JSON document such as `{"label": "cat"}`, or a filter
            of `lookalike.filters`. Parsed when the object is created.
        include_attributes: Return each hit's attributes.
        allow_partial: Return hits from the partitions that answered, and name the others in `coverage`. By
            default, a missing partition raises PartitionUnavailable.
        rerank: Reorder the nearest `k * oversampling` candidates by "asymmetric" score, or by the cosine of the
            "features" that the collection stores.
        consistency: "one" reads one replica of each partition, "quorum" a majority.
        score: "hamming", or "asymmetric", which weights each bit by the magnitude of the query's projection.
        oversampling: Candidates per hit for a rerank, 1..1,000; at most 10,000 candidates in total.
        include_thumbnails: Return each hit's thumbnail. At most 1,000 different records over all queries.

    Raises:
        InvalidRequest: If a value is out of range or unknown.
    """

    k: int = 10
    max_distance: int | None = None
    filter: Filter | Mapping[str, Any] | None = None
    include_attributes: bool = True
    allow_partial: bool = False
    rerank: Rerank = "none"
    consistency: Consistency = "one"
    score: Score = "hamming"
    oversampling: int = DEFAULT_OVERSAMPLING
    include_thumbnails: bool = False

    def __post_init__(self) -> None:
        distance = self.max_distance
        if distance is not None and not (isinstance(distance, int) and 0 <= distance <= _MAX_UINT32):
            raise InvalidRequest(f"max_distance: is {distance!r}; use a number of bits, 0 or above")
        object.__setattr__(self, "oversampling", check_oversampling(self.oversampling))
        object.__setattr__(self, "k", check_k(self.k))
        object.__setattr__(self, "filter", filter_language.given(self.filter))
        _check_choice("rerank", self.rerank, Rerank)
        check_consistency(self.consistency)
        _check_choice("score", self.score, Score)

    @property
    def condition(self) -> Filter | None:
        """The parsed filter."""
        assert not isinstance(self.filter, Mapping), "parsed when created"
        return self.filter


class SearchKeywords(TypedDict, total=False):
    """The same options as keyword arguments, for type checkers and editors. A unit test checks that both
    classes agree."""

    k: int
    max_distance: int | None
    filter: Filter | Mapping[str, Any] | None
    include_attributes: bool
    allow_partial: bool
    rerank: Rerank
    consistency: Consistency
    score: Score
    oversampling: int
    include_thumbnails: bool


def check_consistency(value: object) -> None:
    """Raises InvalidRequest unless `value` is a consistency level."""
    _check_choice("consistency", value, Consistency)


def _check_choice(field: str, value: object, choices: Any) -> None:
    if value not in (known := get_args(choices)):
        raise InvalidRequest(f"{field}: unknown value {value!r:.80}; use {', '.join(known[:-1])} or {known[-1]}")
