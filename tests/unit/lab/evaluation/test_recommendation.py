"""The recommendation at the end of an evaluation."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import yaml

from lab.evaluation.plan import Plan, Row, averaged
from lab.evaluation.recommendation import recommend
from lookalike.server.config import EncoderConfig

MODEL = "tf_efficientnet_lite0"
PLAN = Plan("photos", [MODEL], ["pooled"], ["lsh", "itq"], [64, 128], [0, 1, 2], 5, [], 0.0, None, None)


def row(method: str, bits: int, map5: float, seed: int = 0, score: str = "hamming") -> Row:
    return Row("photos", "all", MODEL, "pooled", bits, method, score, seed, 5, map5, 0.5, 0.5, 1_000)


def rows(method: str, bits: int, *values: float) -> list[Row]:
    return [row(method, bits, value, seed) for seed, value in enumerate(values)]


def test_the_best_codes_by_hamming_are_recommended_in_the_words_of_a_config() -> None:
    found = recommend(
        averaged([row("raw", 0, 1.0, score="cosine"), row("lsh", 64, 0.8), row("itq", 64, 0.9),
                  row("lsh", 64, 0.99, score="asymmetric")]),
        dataclasses.replace(PLAN, seeds=[0]), None,
    )  # fmt: skip
    assert found is not None
    assert (found.model, found.layer, found.method, found.bits) == (MODEL, "pooled", "itq", 64)
    section = EncoderConfig.model_validate(yaml.safe_load(found.config)["encoder"])
    assert (section.model, section.layer, section.bits, section.hash) == (MODEL, "pooled", 64, Path("itq-64.npz"))
    assert found.command.endswith("--method itq --bits 64 --output itq-64.npz")
    assert found.reason == (
        "the best mAP@5 of all codes, 90.0 %; the next, lsh at 64 bits, has 80.0 %, and one seed does not show how"
        " large the noise is (several do, as in --seeds 0,1,2)"
    )


@pytest.mark.parametrize(
    ("values", "relation"), [((0.90, 0.93, 0.94), "is within"), ((0.85, 0.85, 0.86), "exceeds")]
)
def test_a_difference_within_the_spread_of_the_seeds_is_said_to_be_noise(
    values: tuple[float, ...], relation: str
) -> None:
    found = recommend(averaged([*rows("itq", 64, 0.92, 0.93, 0.94), *rows("lsh", 64, *values)]), PLAN, None)
    assert found is not None
    assert found.method == "itq"
    assert f"{relation} the noise, ±" in found.reason
    assert found.reason.endswith("over 3 seeds")


def test_longer_codes_than_the_budget_are_not_recommended() -> None:
    measured = averaged([*rows("lsh", 128, 0.9, 0.9, 0.9), *rows("lsh", 64, 0.8, 0.8, 0.8)])
    found = recommend(measured, PLAN, 64)
    assert found is not None
    assert found.bits == 64
    assert found.command == ""
    assert found.reason == "the best mAP@5 within 64 bits, 80.0 %; there are no others to compare with"
    assert recommend(measured, PLAN, 32) is None


def test_of_equal_codes_the_shortest_are_recommended() -> None:
    found = recommend(averaged([row("itq", 128, 0.9), row("lsh", 64, 0.9)]), PLAN, None)
    assert found is not None
    assert (found.method, found.bits) == ("lsh", 64)


def test_learned_codes_are_recommended_with_their_limit() -> None:
    found = recommend(averaged([row("csq", 64, 0.9)]), PLAN, None)
    assert found is not None
    assert found.command.startswith(
        "lookalike train photos --model tf_efficientnet_lite0 --layer pooled --bits 64"
    )
    assert "learned codes are good for the classes that they were trained on alone" in found.reason


def test_codes_of_a_hash_file_are_recommended_with_it() -> None:
    plan = dataclasses.replace(PLAN, hashes=[Path("made/own.npz")], weights=Path("tuned.pth"))
    found = recommend(averaged([row("itq own.npz", 64, 0.9)]), plan, None)
    assert found is not None
    section = EncoderConfig.model_validate(yaml.safe_load(found.config)["encoder"])
    assert (section.hash, section.weights) == (Path("made/own.npz"), "tuned.pth")
