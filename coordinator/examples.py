"""Owns the score of a search with several examples, which one weighted scan computes exactly.

The score of a record is its mean share of bits that equal those of the examples, minus half its mean share of
bits that equal those of the examples to avoid. Multiplied by a whole number, the distances that it consists of
have whole weights:

    cost(record) = sum over examples e of weight(e) * Hamming(record, e)

Bit by bit, the record has one of two values, and each value costs the sum of the weights of the examples that
differ. So the cost is that of the cheapest code, plus a weight for each bit in which the record differs from this
code: a weighted Hamming distance, which the shards compute for asymmetric scores as well. It is a whole number, so
it is the same on every shard."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from lookalike.cluster.hits import HitTable
from lookalike.cluster.scan import Codes, Inputs
from lookalike.model.errors import InvalidRequest
from lookalike.model.query import Query
from lookalike.model.records import MAX_BATCH_HITS
from lookalike.model.search_options import SearchOptions

# Over all queries of a request.
MAX_REQUEST_EXAMPLES = 10_000


@dataclasses.dataclass(frozen=True, slots=True)
class Combined:
    """Queries with several examples as weighted queries; one row per query.

    Attributes:
        codes: uint8 (n, bits/8), the codes with the lowest cost.
        weights: uint16 (n, bits), what a bit costs that differs from the code.
        like: int64 (n,), the number of examples.
        avoided: int64 (n,), the number of examples to avoid.
    """

    codes: Codes
    weights: npt.NDArray[np.uint16]
    like: npt.NDArray[np.int64]
    avoided: npt.NDArray[np.int64]

    @property
    def floors(self) -> npt.NDArray[np.int64]:
        """int64 (n,): the cost of each code itself. The values of a bit cost as much together as all examples, and
        the cheaper one costs less by the bit's weight."""
        both = self.like * np.maximum(self.avoided, 1) * self.weights.shape[1]
        floors: npt.NDArray[np.int64] = (both - self._totals) // 2
        return floors

    @property
    def units(self) -> npt.NDArray[np.int64]:
        """int64 (n,): what a mean distance of one bit to the examples costs."""
        units: npt.NDArray[np.int64] = self.like * np.maximum(2 * self.avoided, 1)
        return units

    @property
    def _totals(self) -> npt.NDArray[np.int64]:
        totals: npt.NDArray[np.int64] = self.weights.sum(axis=1, dtype=np.int64)
        return totals

    def scored(self, hits: HitTable) -> HitTable:
        """Returns the hits of a weighted scan, with ranks that are 1 - score."""
        query = hits.query_of
        # A rank is a share of the total weight. The weighted distance itself is a whole number.
        costs = self.floors[query] + np.rint(hits.ranks * np.maximum(self._totals, 1)[query])
        distances = costs / self.units[query]
        ranks = distances / self.weights.shape[1] + 0.5 * (self.avoided[query] > 0)
        return hits.with_columns(ranks=ranks) if len(hits) else hits


def check(queries: Sequence[Query], options: SearchOptions) -> None:
    """Raises InvalidRequest if queries have examples that cannot be searched for with these options."""
    if not any(query.like for query in queries):
        return
    if options.score != "hamming":
        raise InvalidRequest(f"score: {options.score} cannot be combined with examples; use hamming")
    if options.rerank != "none":
        raise InvalidRequest(f"rerank: {options.rerank} cannot be combined with examples; use none")
    if options.group_by is not None:
        raise InvalidRequest("group_by: cannot be combined with several examples; search with one")
    asked = options.k + 1 + max(len(query.keys) for query in queries)
    if len(queries) * asked > 2 * MAX_BATCH_HITS:
        raise InvalidRequest(
            f"k: {options.k:,} hits for each of {len(queries):,} queries are too many; ask for fewer"
        )
    count = sum(len(query.parts) for query in queries)
    if count > MAX_REQUEST_EXAMPLES:
        raise InvalidRequest(
            f"examples: are {count:,} over all queries; send at most {MAX_REQUEST_EXAMPLES:,} in one request"
        )


def combine(queries: Sequence[Query], codes: Codes, inputs: Inputs | None = None) -> Combined:
    """Combines the examples of each query.

    Args:
        queries: The queries.
        codes: uint8, one row for each of the queries' parts, in order. With weights: one row for each query.
        inputs: The weights of queries that were combined before.
    """
    like = np.array([len(query.parts) - len(query.not_like) for query in queries], np.int64)
    avoided = np.array([len(query.not_like) for query in queries], np.int64)
    if inputs is not None:
        return Combined(codes, inputs.astype(np.uint16, copy=False), like, avoided)
    bits = np.unpackbits(codes, axis=1)
    bounds = itertools.pairwise(np.cumsum([0, *(like + avoided)]).tolist())
    combined = [_combine(bits[start:end], int(count)) for (start, end), count in zip(bounds, avoided, strict=True)]
    best, weights = zip(*combined, strict=True)
    return Combined(np.packbits(np.stack(best), axis=1), np.stack(weights), like, avoided)


def _combine(bits: npt.NDArray[np.uint8], avoided: int) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.uint16]]:
    """Combines the examples of one query.

    Args:
        bits: uint8 (examples, bits), the examples to avoid last.
        avoided: How many there are to avoid.

    Returns:
        The bits of the cheapest code, and the weight of each.
    """
    like = len(bits) - avoided
    # The smallest whole weights with which an example to avoid counts half.
    attract, repel = (2 * avoided, -like) if avoided else (1, 0)
    weights = np.array([attract] * like + [repel] * avoided, np.int64)
    cost_of_zero = weights @ bits
    cost_of_one = weights.sum() - cost_of_zero
    best = np.where(cost_of_one == cost_of_zero, bits[0] > 0, cost_of_one < cost_of_zero)
    return best, np.abs(cost_of_one - cost_of_zero).astype(np.uint16)
