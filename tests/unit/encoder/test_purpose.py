"""What an encoder's purpose decides, and what it leaves to the config."""

from __future__ import annotations

from pathlib import Path

import pytest

from encoder.hashing import drawn
from encoder.purpose import caution
from encoder.spec import EncoderSpec, errors_of
from lab.demo.photographs import bundled_photographs
from lookalike.model.errors import CannotStart
from lookalike.server.config import EncoderConfig
from tests.command import lookalike


def spec(**fields: object) -> EncoderSpec:
    return EncoderSpec.from_config(EncoderConfig.model_validate(fields))


def test_a_config_without_a_purpose_encodes_as_before() -> None:
    assert spec() == EncoderSpec("tf_efficientnet_lite0", 256, 0)


@pytest.mark.parametrize(("purpose", "bits"), [("duplicates", 1_024), ("category", 512)])
def test_a_purpose_chooses_the_code_length_and_only_that(purpose: str, bits: int) -> None:
    assert spec(purpose=purpose) == EncoderSpec("tf_efficientnet_lite0", bits, 0)
    assert spec(purpose=purpose, bits=64, seed=3) == EncoderSpec("tf_efficientnet_lite0", 64, 3)


def test_a_hash_file_wins_over_the_purpose(tmp_path: Path) -> None:
    made = drawn(1_280, 96, 5)
    (tmp_path / "hash.npz").write_bytes(made.to_bytes())
    assert spec(purpose="duplicates", hash=tmp_path / "hash.npz").bits == 96


def test_a_hash_that_does_not_suit_copies_is_a_warning_that_names_the_section() -> None:
    config = EncoderConfig(purpose="duplicates")
    assert caution("default", config, "lsh") == ""
    assert caution("shoes", config, "itq").startswith("encoders.shoes.hash: itq codes")
    assert caution("default", EncoderConfig(purpose="category"), "itq") == ""
    assert caution("default", EncoderConfig(), "itq") == ""


def test_an_unknown_purpose_is_refused() -> None:
    with pytest.raises(ValueError, match="purpose"):
        EncoderConfig.model_validate({"purpose": "copies"})


def fitted(purpose: str, tmp_path: Path, *options: object) -> tuple[int, str, str]:
    config = tmp_path / "config.yaml"
    config.write_text(f"encoders: {{mine: {{address: 'h:1', purpose: {purpose}}}}}")
    images = [photograph.path for photograph in bundled_photographs()[:12]]
    output = tmp_path / "hash.npz"
    return lookalike("fit", *images, "--config", config, "--encoder", "mine", "--output", output, *options)


def test_fit_makes_itq_unless_the_purpose_needs_no_hash_file(tmp_path: Path) -> None:
    code, said, errors = fitted("category", tmp_path)
    assert code == 0, errors
    assert "itq, 128 bits, fitted to 12 images" in said
    code, _, errors = fitted("duplicates", tmp_path)
    assert code == 1
    assert "method: `purpose: duplicates` finds most without a hash file" in errors
    code, said, errors = fitted("duplicates", tmp_path, "--method", "centred", "--bits", 64)
    assert code == 0, errors
    assert "centred, 64 bits" in said


def test_errors_of_a_model_name_its_section() -> None:
    with pytest.raises(CannotStart, match=r"^encoders\.shoes\.bits: too many"), errors_of("shoes"):
        raise CannotStart("encoder.bits: too many")
    with pytest.raises(CannotStart, match=r"^encoders\.shoes: no weights"), errors_of("shoes"):
        raise CannotStart("no weights")
    with pytest.raises(CannotStart, match=r"^no weights"), errors_of("default"):
        raise CannotStart("no weights")
