"""The score of several examples on arbitrary codes: the weighted scan's cost equals the sum of the distances."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from coordinator import examples
from lookalike.cluster.hits import HitTable
from lookalike.model.query import MAX_EXAMPLES, Query
from tests.oracle import random_codes

seeds = st.integers(0, 2**32 - 1)
widths = st.sampled_from([16, 24, 64, 256, 8192])
counts = st.integers(1, 6) | st.just(MAX_EXAMPLES)


def query(like: int, avoided: int) -> Query:
    return Query(like=(Query(key="a"),) * like, not_like=(Query(key="b"),) * avoided)


def distances(codes: np.ndarray, to: np.ndarray) -> np.ndarray:
    return np.bitwise_count(codes[:, None] ^ to[None]).sum(axis=2, dtype=np.int64)


@settings(max_examples=60, deadline=None)
@given(
    seeds, widths, st.lists(st.tuples(counts, st.integers(0, 5) | st.just(MAX_EXAMPLES)), min_size=1, max_size=3)
)
def test_weighted_distances_give_the_mean_shares(seed: int, bits: int, shapes: list[tuple[int, int]]) -> None:
    rng = np.random.default_rng(seed)
    given_codes = [random_codes(rng, like + avoided, bits) for like, avoided in shapes]
    combined = examples.combine([query(*shape) for shape in shapes], np.concatenate(given_codes))
    rows = random_codes(rng, 20, bits)
    for place, ((like, avoided), own) in enumerate(zip(shapes, given_codes, strict=True)):
        weights = combined.weights[place].astype(np.int64)
        differing = np.unpackbits(rows ^ combined.codes[place], axis=1)
        # What a shard returns: the share of the total weight.
        ranks = (differing * weights).sum(axis=1) / max(1, int(weights.sum()))
        table = HitTable(len(shapes), query_of=np.full(20, place), ranks=ranks)
        found = 1 - combined.scored(table).ranks
        equal = 1 - distances(rows, own) / bits
        expected = equal[:, :like].mean(axis=1)
        if avoided:
            expected = expected - equal[:, like:].mean(axis=1) / 2
        assert np.allclose(found, expected, rtol=0, atol=1e-12)


@settings(max_examples=40, deadline=None)
@given(seeds, widths, st.integers(1, 5), st.integers(0, 5))
def test_no_code_scores_better_than_the_combined_one(seed: int, bits: int, like: int, avoided: int) -> None:
    rng = np.random.default_rng(seed)
    own = random_codes(rng, like + avoided, bits)
    combined = examples.combine([query(like, avoided)], own)

    def cost(codes: np.ndarray) -> np.ndarray:
        apart = distances(codes, own)
        total = apart[:, :like].sum(axis=1) * max(1, 2 * avoided)
        return total - apart[:, like:].sum(axis=1) * like

    best = cost(combined.codes)[0]
    assert best == combined.floors[0]
    again = examples.combine([query(like, avoided)], combined.codes, combined.weights)
    assert (again.floors[0], again.units[0]) == (combined.floors[0], combined.units[0])
    flipped = combined.codes ^ np.packbits(np.eye(bits, dtype=np.uint8)[: min(bits, 64)], axis=1)
    assert (cost(flipped) >= best).all()
    assert (cost(random_codes(rng, 20, bits)) >= best).all()


def test_one_example_keeps_its_code() -> None:
    own = random_codes(np.random.default_rng(0), 1, 64)
    combined = examples.combine([query(1, 0)], own)
    assert (combined.codes == own).all()
    assert (combined.weights == 1).all()
    assert (combined.floors[0], combined.units[0]) == (0, 1)
