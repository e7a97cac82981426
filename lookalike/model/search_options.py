"""Owns the options of a search: their names, types, defaults and limits.

The SDK and the coordinator use this class. A new option is declared here and encoded in
`lookalike.wire.public.requests`."""

from __future__ import annotations

import dataclasses
import operator
from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypedDict, get_args

from lookalike.model import filter_language
from lookalike.model.errors import InvalidRequest
from lookalike.model.filters import Filter, check_field
from lookalike.model.records import (
    DEFAULT_OVERSAMPLING,
    MAX_BATCH_RECORDS,
    MAX_K,
    check_k,
    check_key,
    check_oversampling,
)

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
        after: The `cursor` of an answer: return the hits that follow it, of the same query with the same options
            (k, include_attributes, include_thumbnails, allow_partial and consistency may differ). Pages have no
            gaps and no duplicates, to the last record. Not with a rerank, `offset` or `group_by`, and not in a
            batch.
        offset: Leave out this many of the nearest hits; offset + k is at most 10,000.
        exclude_keys: Leave out the records with these keys, at most 10,000. Others take their place.
        group_by: Return k `groups` instead of hits: records with equal values of this attribute, nearest first. A
            record without the attribute is in no group; one with an array is in the group of each value in it.
            Only with score "hamming", without a rerank, with consistency "one", and not in a batch.
        group_size: Largest number of hits per group; k * group_size is at most 10,000.
        include_thumbnails: Return each hit's thumbnail. The hits of all queries together may have at most 1,000
            different records.

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
    after: str = ""
    offset: int = 0
    exclude_keys: Sequence[str] = ()
    group_by: str | None = None
    group_size: int = 1
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
        if not isinstance(self.after, str):
            raise InvalidRequest(f"after: is {type(self.after).__name__}; give the cursor of an answer, a text")
        object.__setattr__(self, "offset", _whole("offset", self.offset, 0, MAX_K - 1))
        if self.offset + self.k > MAX_K:
            raise InvalidRequest(
                f"offset: {self.offset:,} and k {self.k:,} are over {MAX_K:,} together; to go on from there, send"
                " the answer's cursor as after"
            )
        object.__setattr__(self, "exclude_keys", _checked_keys(self.exclude_keys))
        if self.group_by is not None:
            check_field(self.group_by, "group_by")
        object.__setattr__(self, "group_size", _whole("group_size", self.group_size, 1, MAX_K))
        if self.k * self.group_size > MAX_K:
            raise InvalidRequest(
                f"group_size: {self.group_size:,} times k {self.k:,} is over {MAX_K:,}; ask for fewer groups or"
                " hits"
            )

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
    after: str
    offset: int
    exclude_keys: Sequence[str]
    group_by: str | None
    group_size: int
    include_thumbnails: bool


def check_consistency(value: object) -> None:
    """Raises InvalidRequest unless `value` is a consistency level."""
    _check_choice("consistency", value, Consistency)


def _whole(field: str, value: object, least: int, most: int) -> int:
    """Returns `value` as an int if it is in least..most. Raises InvalidRequest otherwise."""
    whole = operator.index(value) if hasattr(value, "__index__") and not isinstance(value, bool) else least - 1
    if not least <= whole <= most:
        raise InvalidRequest(f"{field}: is {value!r:.40}; use a whole number from {least} to {most:,}")
    return whole


def _checked_keys(keys: Sequence[str]) -> tuple[str, ...]:
    """Returns the different keys among those to exclude. Raises InvalidRequest."""
    if isinstance(keys, str | bytes):
        raise InvalidRequest(f"exclude_keys: is one {type(keys).__name__}; give a list of keys")
    if not keys:
        return ()
    different = tuple(dict.fromkeys(map(check_key, keys)))
    if len(different) > MAX_BATCH_RECORDS:
        raise InvalidRequest(
            f"exclude_keys: {len(different):,} in one request; send at most {MAX_BATCH_RECORDS:,}, or use a filter"
        )
    return different


def _check_choice(field: str, value: object, choices: Any) -> None:
    if value not in (known := get_args(choices)):
        raise InvalidRequest(f"{field}: unknown value {value!r:.80}; use {', '.join(known[:-1])} or {known[-1]}")
