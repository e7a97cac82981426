"""Edits of real photographs, and the second opinion about the copies."""

from __future__ import annotations

import io
from itertools import combinations

import numpy as np
import pytest
from PIL import Image

from encoder.copies import checks
from encoder.copies.checks import Details
from encoder.copies.edits import EDITS, edited, saved
from encoder.copies.pictures import opened
from encoder.thumbnails import thumbnail
from lab.demo.photographs import bundled_photographs

Photographs = dict[str, Image.Image]


def details(image: Image.Image) -> Details:
    """The details of a picture's thumbnail, as it is stored."""
    return checks.describe_file(thumbnail(io.BytesIO(saved(image))))


@pytest.fixture(scope="module")
def originals() -> Photographs:
    return {photograph.name: opened(photograph.path.read_bytes()) for photograph in bundled_photographs()}


@pytest.fixture(scope="module")
def described(originals: Photographs) -> dict[str, Details]:
    return {name: details(image) for name, image in originals.items()}


@pytest.mark.parametrize("edit", EDITS)
def test_copies_are_recognised(edit: str, originals: Photographs, described: dict[str, Details]) -> None:
    """Nearly all: a blurred clock and cells under a microscope have few details."""
    copies = {name: details(edited(edit, image, seed)) for seed, (name, image) in enumerate(originals.items())}
    missed = [
        name for name, copy in copies.items() if not checks.is_copy(copy, described[name], any_orientation=True)
    ]
    assert len(missed) <= 2, missed


def test_different_photographs_are_not_copies(described: dict[str, Details]) -> None:
    pairs = list(combinations(described, 2))
    assert len(pairs) > 100
    assert [
        pair for pair in pairs if checks.is_copy(*(described[name] for name in pair), any_orientation=True)
    ] == []


def test_a_mirror_image_is_a_copy_only_on_request(originals: Photographs, described: dict[str, Details]) -> None:
    mirrored = details(edited("mirror", originals["chelsea"], 0))
    assert not checks.is_copy(mirrored, described["chelsea"])
    assert checks.is_copy(mirrored, described["chelsea"], any_orientation=True)


def test_a_turned_picture_is_a_copy(originals: Photographs, described: dict[str, Details]) -> None:
    assert checks.is_copy(details(originals["coffee"].rotate(90, expand=True)), described["coffee"])


@pytest.mark.parametrize("turn", Image.Transpose)
def test_a_blurred_copy_is_found_in_any_orientation(
    turn: Image.Transpose, originals: Photographs, described: dict[str, Details]
) -> None:
    """Blurred pictures have few details, so the wholes must be compared in each orientation."""
    turned = details(edited("blur", originals["astronaut"], 0).transpose(turn))
    assert checks.is_copy(turned, described["astronaut"], any_orientation=True)
    assert checks.is_copy(described["astronaut"], turned, any_orientation=True)


def test_the_order_of_the_pictures_does_not_matter_for_a_crop(
    originals: Photographs, described: dict[str, Details]
) -> None:
    crop = details(edited("crop close", originals["astronaut"], 1))
    assert checks.is_copy(crop, described["astronaut"])
    assert checks.is_copy(described["astronaut"], crop)


def test_pictures_without_details_are_not_copies_of_others(described: dict[str, Details]) -> None:
    plain = [details(Image.new("RGB", size, "gray")) for size in ((1, 1), (300, 2), (200, 200))]
    for blank in plain:
        assert len(blank.points) == 0
        assert not checks.is_copy(blank, described["coffee"], any_orientation=True)
        assert checks.is_copy(blank, blank)
    white = details(Image.new("RGB", (200, 200), "white"))
    assert not checks.is_copy(white, plain[2])


def test_mirroring_details_gives_those_of_the_mirror_image(originals: Photographs) -> None:
    image = originals["chelsea"]
    twice = details(image).mirrored().mirrored()
    for one, other in ((twice.descriptors, details(image).descriptors), (twice.small, details(image).small)):
        np.testing.assert_array_equal(one, other)
    assert checks.is_copy(details(edited("mirror", image, 0)), details(image).mirrored())


@pytest.mark.parametrize("edit", EDITS)
def test_an_edit_is_repeatable_and_changes_the_picture(edit: str, originals: Photographs) -> None:
    image = originals["coffee"]
    copy = edited(edit, image, 3)
    assert copy.mode == "RGB"
    assert saved(copy) == saved(edited(edit, image, 3))
    assert saved(copy) != saved(image)
    assert edited(edit, image.resize((3, 2)), 3).width > 0
