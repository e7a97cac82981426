"""Owns the comparison of methods: perceptual hashes, codes, the cosine of features, and the second opinion, each
at fixed rates of false pairs."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Iterator, Mapping, Sequence

from encoder.features import FeatureModel
from encoder.hashing import LinearHash, drawn
from encoder.model import code_space
from lab import fitting
from lab.duplicates import hashes, opinion
from lab.duplicates.pictures import Pictures
from lab.duplicates.separation import COSINE_STEP, Separation, by_codes, by_cosine, shares
from lab.evaluation.preparation import Progress
from lookalike.model.errors import CannotStart, InvalidRequest

OPINION, OPINION_MIRRORED = "second opinion", "second opinion, with orientations"


@dataclasses.dataclass(frozen=True, slots=True)
class Plan:
    """What to compare.

    Attributes:
        methods: Hash methods that need no labels.
        bits: Code lengths.
        one_in: The rates of false pairs: one in so many. The first decides `by_edit`.
        seed: Seed of the hashes.
        hash_files: Hashes from files, by name.
    """

    methods: Sequence[str]
    bits: Sequence[int]
    one_in: Sequence[int]
    seed: int = 0
    hash_files: Mapping[str, LinearHash] = dataclasses.field(default_factory=dict)

    @property
    def codes(self) -> int:
        """How many kinds of codes are compared."""
        return len(self.methods) * len(self.bits) + len(self.hash_files)


@dataclasses.dataclass(frozen=True, slots=True)
class Row:
    """One method's result. Shares are 0..1.

    Attributes:
        method: The method.
        bits: The length of its codes; 0 if it has none.
        below: The largest distance that lets one in so many false pairs pass, by rate. Empty for the second
            opinion, which accepts or refuses.
        recall: The share of copies found, by rate; for the second opinion, at the rates that it keeps within.
        by_edit: The share of copies found at the first rate, or by the second opinion, by edit.
        false_pairs: How many pairs of different pictures pass with that.
        equal: How many pairs of different pictures have the same code; None without codes.
        note: Why there is no result; "" if there is one.
    """

    method: str
    bits: int = 0
    below: Mapping[int, float] = dataclasses.field(default_factory=dict)
    recall: Mapping[int, float] = dataclasses.field(default_factory=dict)
    by_edit: Mapping[str, float] = dataclasses.field(default_factory=dict)
    false_pairs: int = 0
    equal: int | None = None
    note: str = ""

    @property
    def share(self) -> float | None:
        """The share of copies found; None without a result."""
        return statistics.fmean(self.by_edit.values()) if self.by_edit else None


def compare(pictures: Pictures, network: FeatureModel, plan: Plan, progress: Progress) -> Iterator[Row]:
    """Yields each method's result as soon as it is measured; the second opinion, which takes longest, is last."""
    originals, copies = pictures.originals, pictures.copies
    for name in ("pHash", "dHash", hashes.PDQ):
        if name not in originals.hashes:
            yield Row(name, note=f"not measured; run: pip install {hashes.PDQ_PACKAGE}")
            continue
        usable = originals.is_comparable[name], copies.is_comparable[name]
        found = by_codes(pictures, originals.hashes[name], copies.hashes[name], usable)
        yield row_of(pictures, found, plan.one_in, name, 8 * originals.hashes[name].shape[1])
    for done, (name, bits) in enumerate((method, bits) for method in plan.methods for bits in plan.bits):
        progress("comparing codes", done, plan.codes, f"{name} {bits}")
        try:
            made = fitting.fit(name, originals.features, bits, plan.seed, str(network))
        except (CannotStart, InvalidRequest) as error:
            yield Row(name, bits, note=error.message)
            continue
        yield _of_hash(pictures, made, plan.one_in, name)
    for name, made in plan.hash_files.items():
        yield _of_hash(pictures, made, plan.one_in, name)
    cosine = by_cosine(pictures, originals.features, copies.features)
    yield row_of(pictures, cosine, plan.one_in, "cosine of features", 0, COSINE_STEP)
    yield from second_opinion(pictures, network, plan.one_in, progress)


def _of_hash(pictures: Pictures, made: LinearHash, one_in: Sequence[int], name: str) -> Row:
    codes = made.codes(pictures.originals.features), made.codes(pictures.copies.features)
    return row_of(pictures, by_codes(pictures, *codes), one_in, name, made.bits)


def row_of(
    pictures: Pictures, found: Separation, one_in: Sequence[int], method: str, bits: int, step: float = 1
) -> Row:
    """Makes a row of distances. step: the size of a distance's unit."""
    limits = {rate: found.limit(rate) for rate in one_in}
    first = found.is_found(one_in[0])
    return Row(
        method, bits, {rate: round(limit * step, 4) for rate, limit in limits.items()},
        {rate: float(found.is_found(rate).mean()) for rate in one_in}, shares(pictures, first),
        int(found.false[: limits[one_in[0]]].sum()), int(found.false[0]) if bits else None,
    )  # fmt: skip


def second_opinion(
    pictures: Pictures, network: FeatureModel, one_in: Sequence[int], progress: Progress
) -> Iterator[Row]:
    """Yields the results of what `lookalike dedup` does without options, and with `--orientations`."""
    hashing = drawn(network.width, opinion.CANDIDATE_BITS, 0)
    codes = hashing.codes(pictures.originals.features), hashing.codes(pictures.copies.features)
    own = by_codes(pictures, *codes).own
    progress("calibrating", 0, 0)
    wide = opinion.calibrate(pictures, codes[0], own, code_space(network.backbone, hashing)).wide_distance
    done, total = 0, len(own)

    def report(more: int) -> None:
        nonlocal done
        done += more
        progress("second opinion", done, total)

    judged = opinion.judge(pictures, *codes, wide, report)
    names = OPINION, OPINION_MIRRORED
    for name, is_found, false in zip(names, judged.is_found, judged.false_pairs, strict=True):
        share = float(is_found.mean())
        recall = {rate: share for rate in one_in if false * rate <= pictures.false_pairs}
        yield Row(name, 0, {}, recall, shares(pictures, is_found), false)
