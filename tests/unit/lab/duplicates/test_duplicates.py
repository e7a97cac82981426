"""`lookalike evaluate --task duplicates` on real photographs, and its figures against all pairs in plain NumPy."""

from __future__ import annotations

import csv
import dataclasses
import json
from importlib import util
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from encoder.copies.edits import EDITS
from encoder.features import FeatureModel
from encoder.hashing import drawn
from lab.demo.photographs import bundled_photographs
from lab.duplicates import hashes, opinion
from lab.duplicates.pictures import Pictures, describe
from lab.duplicates.run import OPINION, OPINION_MIRRORED, Plan, Row, compare
from lab.duplicates.separation import COSINE_STEP, by_codes, by_cosine, hamming
from tests.command import lookalike

# The broken file is one of the pictures that are to be edited.
CHOSEN = 4
EDITED = CHOSEN - 1


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve photographs, one of them also turned upside down, a broken file, and a text."""
    folder = tmp_path_factory.mktemp("pictures")
    for photograph in bundled_photographs()[:12]:
        with Image.open(photograph.path) as file:
            image = file.convert("RGB")
        image.thumbnail((480, 480))
        image.save(folder / f"{photograph.name}.jpg", quality=95)
        if photograph.name == "coffee":
            image.rotate(180).save(folder / "turned.jpg")
    assert (folder / "turned.jpg").exists()
    (folder / "broken.jpg").write_bytes((folder / "coffee.jpg").read_bytes()[:2_000])
    (folder / "notes.txt").write_text("no picture")
    return folder


@pytest.fixture(scope="module")
def network() -> FeatureModel:
    return FeatureModel("tf_efficientnet_lite0")


@pytest.fixture(scope="module")
def pictures(folder: Path, network: FeatureModel) -> Pictures:
    paths = sorted(folder.glob("*.jpg"))
    done: list[int] = []
    found = describe(
        [path.name for path in paths], [path.as_uri() for path in paths], CHOSEN, network, done.append
    )
    assert sum(done) == len(paths)
    return found


def test_copies_are_made_of_some_pictures_and_what_cannot_be_read_is_counted(pictures: Pictures) -> None:
    assert pictures.unreadable == 1
    assert "broken.jpg" not in pictures.keys
    assert len(pictures.keys) == len(pictures.originals.features) == len(pictures.originals.details) == 13
    copies = EDITED * len(EDITS)
    described = pictures.copies
    assert len(pictures.origin) == len(described.features) == len(described.hashes["pHash"]) == copies
    assert pictures.edit.tolist() == [*range(len(EDITS))] * EDITED
    assert len(set(pictures.origin.tolist())) == EDITED
    compressed = list(EDITS).index("compression")
    apart = hamming(pictures.copies.hashes["pHash"], pictures.originals.hashes["pHash"])
    assert (
        apart[pictures.edit == compressed].argmin(axis=1) == pictures.origin[pictures.edit == compressed]
    ).all()


def test_originals_that_are_copies_of_each_other_form_a_group(pictures: Pictures, network: FeatureModel) -> None:
    done: list[int] = []
    groups = opinion.groups_of(
        pictures, opinion.candidate_codes(network, pictures.originals.features), done.append
    )
    assert sum(done) == len(pictures.keys)
    turned, coffee = (pictures.keys.index(name) for name in ("turned.jpg", "coffee.jpg"))
    assert groups[turned] == groups[coffee]
    assert len(set(groups.tolist())) == len(pictures.keys) - 1


def test_a_file_may_say_which_pictures_show_the_same(tmp_path: Path) -> None:
    file = tmp_path / "same.txt"
    file.write_text("# by hand\ncats/tom.jpg b.jpg\nc.jpg d.jpg\n")
    groups = opinion.listed_groups(["x/cats/tom.jpg", "tom.jpg", "b.jpg", "d.jpg", "e.jpg"], file)
    assert groups[0] == groups[2]
    assert len(set(groups.tolist())) == 4


def test_recall_is_that_of_all_pairs(pictures: Pictures, network: FeatureModel) -> None:
    """Against distances of all pairs, sorted."""
    grouped = dataclasses.replace(pictures, group=np.arange(len(pictures.keys)) // 2)
    is_false = grouped.group[grouped.origin][:, None] != grouped.group
    assert grouped.false_pairs == is_false.sum()
    hashing = drawn(network.width, 128, 0)
    first, second = (hashing.codes(side.features) for side in (pictures.originals, pictures.copies))
    unpacked = [np.unpackbits(codes, axis=1).astype(int) for codes in (second, first)]
    apart = np.abs(unpacked[0][:, None] - unpacked[1]).sum(axis=2)
    found = by_codes(grouped, first, second)
    assert (found.own == apart[np.arange(len(apart)), grouped.origin]).all()
    for one_in in (1_000_000, 100, 10):
        limit = np.sort(apart[is_false])[is_false.sum() // one_in]
        assert found.limit(one_in) == limit
        assert found.is_found(one_in).tolist() == (found.own < limit).tolist()
        assert found.false[: found.limit(one_in)].sum() <= is_false.sum() / one_in


def test_cosine_distances_are_those_of_the_features(pictures: Pictures) -> None:
    first, second = pictures.originals.features, pictures.copies.features
    found = by_cosine(pictures, first, second)
    for copy in range(0, len(second), 7):
        one, other = second[copy], first[pictures.origin[copy]]
        expected = 1 - one @ other / np.linalg.norm(one) / np.linalg.norm(other)
        assert found.own[copy] * COSINE_STEP == pytest.approx(expected, abs=COSINE_STEP)


def test_a_hash_that_may_not_be_compared_finds_nothing_and_counts_no_false_pair(pictures: Pictures) -> None:
    codes = np.zeros((len(pictures.keys), 8), np.uint8)
    copies = np.zeros((len(pictures.origin), 8), np.uint8)
    never = np.zeros(len(codes), np.bool_), np.zeros(len(copies), np.bool_)
    found = by_codes(pictures, codes, copies, never)
    assert set(found.own.tolist()) == {64}
    assert found.false[:64].sum() == 0
    assert not found.is_found(100).any()


def rows_of(pictures: Pictures, network: FeatureModel) -> dict[str, Row]:
    plan = Plan(["lsh", "itq"], [64], [100_000, 100])
    return {row.method: row for row in compare(pictures, network, plan, lambda *_: None)}


def test_each_method_has_a_row_and_the_second_opinion_finds_most(
    pictures: Pictures, network: FeatureModel
) -> None:
    rows = rows_of(pictures, network)
    assert list(rows) == ["pHash", "dHash", "PDQ", "lsh", "itq", "cosine of features", OPINION, OPINION_MIRRORED]
    for name in ("pHash", "dHash"):
        assert rows[name].by_edit["compression"] == 1
        assert rows[name].recall[100] >= rows[name].recall[100_000] > 0
    assert rows[OPINION].by_edit["mirror"] == 0
    assert rows[OPINION_MIRRORED].by_edit["mirror"] == 1
    assert (rows[OPINION].share or 0) > 0.75
    # Thirteen pictures span too few directions for 64 bits of ITQ, or enough: then equal codes are counted.
    assert rows["itq"].note or rows["itq"].equal is not None


def test_without_pdq_the_row_says_what_to_install(
    pictures: Pictures, network: FeatureModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(util, "find_spec", lambda name: None)
    assert list(hashes.available()) == ["pHash", "dHash"]
    without = [
        dataclasses.replace(side, hashes={name: side.hashes[name] for name in ("pHash", "dHash")})
        for side in (pictures.originals, pictures.copies)
    ]
    lacking = dataclasses.replace(pictures, originals=without[0], copies=without[1])
    assert rows_of(lacking, network)["PDQ"].note == "not measured; run: pip install pdqhash"


@pytest.mark.skipif(util.find_spec("pdqhash") is None, reason="pdqhash is optional; it needs a C++ compiler")
def test_pdq_is_measured_if_it_is_installed(pictures: Pictures, network: FeatureModel) -> None:
    assert pictures.originals.hashes["PDQ"].shape == (13, 32)
    row = rows_of(pictures, network)["PDQ"]
    assert (row.bits, row.by_edit["compression"]) == (256, 1)


def test_the_command_says_the_cost_first_prints_each_row_and_writes_only_where_told(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    options = ("--originals", 2, "--bits", "64", "--methods", "lsh", "--cache", tmp_path / "cache")
    code, said, errors = lookalike("evaluate", folder, "--task", "duplicates", *options)
    assert code == 0, errors
    cost, _, progress = errors.partition("editing, encoding and hashing:")
    assert "14 pictures, 2 of them edited in 12 ways: 24 copies" in cost
    assert "estimated time: editing, encoding and hashing about" in cost
    assert progress
    assert "13 pictures; 12 copies by 12 edits; " in said
    assert "1 unreadable" in said
    lines = [line.split()[0] for line in said.splitlines()[:6]]
    assert lines[2:5] == ["pHash", "dHash", "PDQ"]
    assert "at 1:100,000 no false pair may pass, because there are so few pairs" in said
    assert not list(work.iterdir())
    output = tmp_path / "out"
    code, said, errors = lookalike(
        "evaluate", folder, "--task", "duplicates", *options, "--json", "--output", output
    )
    assert (code, errors) == (0, "")
    results = json.loads(said)["results"]
    assert {row["method"] for row in results} > {"lsh", OPINION}
    with (output / "duplicates.csv").open() as file:
        table = list(csv.DictReader(file))
    assert [row["method"] for row in table] == [row["method"] for row in results]
    assert (output / "duplicates.jsonl").read_text().count("\n") == len(results)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--task", "duplicates", "-k", "3"), "k: has no meaning for --task duplicates; leave --k out"),
        (
            ("--task", "duplicates", "--raw-partitions", "2"),
            "raw-partitions: has no meaning for --task duplicates",
        ),
        (("--originals", "20"), "originals: has no meaning for --task classes"),
        (("--task", "duplicates", "--methods", "csq"), "methods: unknown value 'csq'; use lsh, centred"),
        (("--task", "duplicates", "--seeds", "0,1"), "seeds: 0,1 are several"),
        (("--task", "duplicates", "--one-in", "0"), "one-in: 0 is not a rate"),
        (("--task", "duplicates", "--bits", "63"), "bits: 63 is not a code width"),
    ],
)
def test_an_option_that_does_not_fit_the_task_is_one_error(
    folder: Path, options: tuple[str, ...], words: str
) -> None:
    code, _, errors = lookalike("evaluate", folder, *options)
    assert code == 1
    assert words in errors


def test_a_folder_without_pictures_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("text")
    code, _, errors = lookalike("evaluate", tmp_path, "--task", "duplicates")
    assert code == 1
    assert "holds no image that can be read" in errors
    for number in range(2):
        (tmp_path / f"{number}.jpg").write_bytes(b"\xff\xd8\xff\xe0 cut")
    code, _, errors = lookalike("evaluate", tmp_path, "--task", "duplicates")
    assert code == 1
    assert "of 2 pictures 0 can be read" in errors or "holds no image that can be read" in errors
