"""Owns the recommendation at the end of an evaluation: the codes with the best mAP@k, in the words of a config,
and how far the next ones are."""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Sequence

from encoder.hashing import LSH
from lab.evaluation.plan import Averaged, Plan, Row
from lab.evaluation.sweep import COLUMN
from lab.evaluation.systems import HAMMING
from lab.training.recipes import CSQ


@dataclasses.dataclass(frozen=True, slots=True)
class Recommendation:
    """What to use.

    Attributes:
        model: The network; of a table, the column.
        layer: The network's layer.
        method: The hash method.
        bits: The code length.
        config: The encoder section of a config, as YAML on one line; "" for vectors of a table.
        command: The command that makes the hash file of the config; "" if it needs none.
        reason: Why, in one sentence.
    """

    model: str
    layer: str
    method: str
    bits: int
    config: str
    command: str
    reason: str

    @property
    def lines(self) -> list[str]:
        """The recommendation as lines of text."""
        found = f"{self.model}, {self.layer}, {self.method}, {self.bits} bits"
        config = [f"config: {self.config}"] if self.config else []
        command = [f"made by: {self.command}"] if self.command else []
        return [f"recommendation: {found}", *config, *command, f"reason: {self.reason}"]


def recommend(rows: Averaged, plan: Plan, max_bits: int | None) -> Recommendation | None:
    """Recommends the codes with the best mAP@k by Hamming distance; of equals, the shortest.

    Args:
        rows: The results, averaged over the seeds.
        plan: What was evaluated.
        max_bits: The longest codes to recommend; None for any.

    Returns:
        The recommendation; None if no codes are as short.
    """
    found = [
        (row, spread.get("map5", 0.0))
        for row, spread in rows
        if row.score == HAMMING and (max_bits is None or row.bits <= max_bits)
    ]
    if not found:
        return None
    found.sort(key=lambda pair: (-pair[0].map5, pair[0].bits))
    best = found[0][0]
    config, command = ("", "") if best.layer == COLUMN else _config(best, plan)
    reason = f"{_best(best, found[0][1], max_bits)}; {_next(found, plan.seeds)}{_caution(best)}"
    return Recommendation(best.model, best.layer, best.method, best.bits, config, command, reason)


def _best(row: Row, spread: float, max_bits: int | None) -> str:
    within = "of all codes" if max_bits is None else f"within {max_bits:,} bits"
    return f"the best mAP@{row.k} {within}, {_percent(row.map5)}{_deviation(spread)} %"


def _next(found: Sequence[tuple[Row, float]], seeds: Sequence[int]) -> str:
    if len(found) < 2:
        return "there are no others to compare with"
    (best, best_spread), (other, other_spread) = found[:2]
    same = best.model == other.model and best.layer == other.layer
    network = "" if same else f" of {other.model}, {other.layer}"
    text = f"the next, {other.method} at {other.bits} bits{network}, has {_percent(other.map5)} %"
    if len(seeds) < 2:
        return f"{text}, and one seed does not show how large the noise is (several do, as in --seeds 0,1,2)"
    noise = max(best_spread, other_spread)
    gap = f"the difference of {_percent(best.map5 - other.map5)}"
    relation = "is within" if best.map5 - other.map5 <= noise else "exceeds"
    return f"{text}: {gap} {relation} the noise, ±{_percent(noise)} over {len(seeds)} seeds"


def _caution(row: Row) -> str:
    is_learned = row.method.partition(" ")[0] == CSQ and row.classes == "all"
    return "; learned codes are good for the classes that they were trained on alone" if is_learned else ""


def _config(row: Row, plan: Plan) -> tuple[str, str]:
    """The encoder section that gives these codes, and the command that makes its hash file."""
    weights = "" if plan.weights is None else f", weights: {plan.weights}"
    section = f"model: {row.model}{weights}, layer: {row.layer}, bits: {row.bits}"
    hash_file = next((path for path in plan.hashes if row.method.endswith(f" {path.name}")), None)
    if hash_file is not None:
        return f"encoder: {{{section}, hash: {hash_file}}}", ""
    if row.method == LSH:
        return f"encoder: {{{section}}}", ""
    if row.method == CSQ:
        options = f"--model {row.model} --layer {row.layer} --bits {row.bits}"
        own = "" if plan.weights is None else f" --weights {shlex.quote(str(plan.weights))}"
        command = f"lookalike train {shlex.quote(plan.dataset)} {options}{own} --output codes"
        return f"encoder: {{{section}, hash: codes/hash.npz}}", command
    name = f"{row.method}-{row.bits}.npz"
    command = f"lookalike fit IMAGES --config CONFIG --method {row.method} --bits {row.bits} --output {name}"
    return f"encoder: {{{section}, hash: {name}}}", command


def _deviation(spread: float) -> str:
    return f" ± {_percent(spread)}" if spread else ""


def _percent(share: float) -> str:
    return f"{100 * share:.1f}"
