"""Image folders: which images are found, how they are split and limited, and what is refused."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from lab.datasets import LabelledImages, load_dataset
from lookalike.model.errors import InvalidRequest
from tests.unit.lab.datasets.photographs import classes_of, keys_of, write_classes, write_photograph


def test_a_folder_of_class_folders_is_split_8_to_2_per_class(tmp_path: Path, data: Path) -> None:
    folder = write_classes(tmp_path / "pets", cats=10, dogs=5, lone=1)
    images = load_dataset(str(folder), data=data)
    assert (images.name, images.classes, images.is_multi_label) == ("pets", ("cats", "dogs", "lone"), False)
    assert list(images.keys) == sorted(images.keys)
    assert images.keys[0] == "cats/00.jpg"
    assert classes_of(images, images.indexed) == {"cats": 8, "dogs": 4, "lone": 1}
    assert classes_of(images, images.queries) == {"cats": 2, "dogs": 1}
    assert not set(images.indexed) & set(images.queries)
    for row, key in enumerate(images.keys):
        assert images.read(row) == (folder / key).read_bytes()
        assert images.classes[int(images.labels[row].argmax())] == key.split("/")[0]
    assert not data.exists()


def test_images_are_found_at_any_depth_and_hidden_or_other_files_are_not(tmp_path: Path, data: Path) -> None:
    folder = write_classes(tmp_path / "pets", cats=2, dogs=2)
    write_photograph(folder / "cats" / "2020" / "May" / "deep.PNG", 3)
    for skipped in ("cats/.hidden.jpg", ".thumbs/a.jpg", "cats/.thumbs/a.jpg", "loose.jpg", "__MACOSX/cats/a.jpg"):
        write_photograph(folder / skipped, 1)
    (folder / "cats" / "notes.txt").write_text("not an image")
    (folder / "cats" / "gone.jpg").symlink_to(tmp_path / "nowhere")
    (folder / "empty").mkdir()
    images = load_dataset(str(folder), data=data)
    assert images.classes == ("cats", "dogs")
    assert images.keys == ("cats/00.jpg", "cats/01.jpg", "cats/2020/May/deep.PNG", "dogs/00.jpg", "dogs/01.jpg")


def test_wrapping_folders_are_descended_into(tmp_path: Path, data: Path) -> None:
    write_classes(tmp_path / "pets" / "v1" / "images", cats=2, dogs=2)
    (tmp_path / "pets" / "README.txt").write_text("about")
    images = load_dataset(str(tmp_path / "pets"), data=data)
    assert (images.name, images.classes) == ("pets", ("cats", "dogs"))
    assert images.keys[0] == "cats/00.jpg"


@pytest.mark.parametrize("side", ["test", "val"])
def test_train_is_indexed_and_test_or_val_are_queries(tmp_path: Path, data: Path, side: str) -> None:
    write_classes(tmp_path / "pets" / "train", cats=3, dogs=1)
    write_classes(tmp_path / "pets" / side, cats=1, birds=2)
    images = load_dataset(str(tmp_path / "pets"), data=data)
    assert images.classes == ("birds", "cats", "dogs")
    assert set(keys_of(images, images.indexed)) == {
        "train/cats/00.jpg",
        "train/cats/01.jpg",
        "train/cats/02.jpg",
        "train/dogs/00.jpg",
    }
    assert set(keys_of(images, images.queries)) == {
        f"{side}/birds/00.jpg",
        f"{side}/birds/01.jpg",
        f"{side}/cats/00.jpg",
    }
    assert classes_of(images, images.queries) == {"birds": 2, "cats": 1}


def test_classes_named_train_and_car_are_classes(tmp_path: Path, data: Path) -> None:
    images = load_dataset(str(write_classes(tmp_path / "vehicles", train=2, car=2)), data=data)
    assert images.classes == ("car", "train")


def test_digest_depends_on_the_images_not_the_split(tmp_path: Path, data: Path) -> None:
    folder = write_classes(tmp_path / "pets", cats=10, dogs=10)

    def load(seed: int = 0, limit: int | None = None) -> LabelledImages:
        return load_dataset(str(folder), data=data, seed=seed, limit=limit)

    first, other_split = load(), load(seed=1)
    assert other_split.queries.tolist() != first.queries.tolist()
    assert other_split.digest == first.digest
    assert len(first.digest) == 64
    digests = [first.digest, load(limit=6).digest]
    write_photograph(folder / "cats" / "00.jpg", 5)
    digests.append(load().digest)
    (folder / "cats" / "00.jpg").rename(folder / "cats" / "renamed.jpg")
    digests.append(load().digest)
    folder.rename(tmp_path / "animals")
    digests.append(load_dataset(str(tmp_path / "animals"), data=data).digest)
    assert len(set(digests)) == 5


def test_a_limit_takes_evenly_over_the_classes_of_both_sides(tmp_path: Path, data: Path) -> None:
    folder = write_classes(tmp_path / "pets", ants=9, bees=9, cats=3)
    images = load_dataset(str(folder), data=data, limit=12)
    assert len(images.keys) == len(images.indexed) + len(images.queries) == 12
    # 10 of 16 images to index and 2 of 5 queries, which are of the first classes.
    assert classes_of(images, images.indexed) == {"ants": 4, "bees": 4, "cats": 2}
    assert classes_of(images, images.queries) == {"ants": 1, "bees": 1}
    whole = load_dataset(str(folder), data=data)
    assert set(keys_of(images, images.queries)) <= set(keys_of(whole, whole.queries))
    assert set(keys_of(images, images.indexed)) <= set(keys_of(whole, whole.indexed))
    assert images.read(11) == (folder / images.keys[11]).read_bytes()
    again = load_dataset(str(folder), data=data, limit=12)
    assert (again.keys, again.queries.tolist()) == (images.keys, images.queries.tolist())
    assert load_dataset(str(folder), data=data, limit=12, seed=1).keys != images.keys
    assert len(load_dataset(str(folder), data=data, limit=100).keys) == 21


def test_a_limit_below_the_number_of_classes_still_leaves_queries(tmp_path: Path, data: Path) -> None:
    folder = write_classes(tmp_path / "pets", ants=1, bees=3, cats=3, dogs=3)
    images = load_dataset(str(folder), data=data, limit=2)
    assert classes_of(images, images.indexed) == classes_of(images, images.queries) == {"bees": 1}


def test_a_limit_on_two_sides_keeps_their_proportion(tmp_path: Path, data: Path) -> None:
    write_classes(tmp_path / "pets" / "train", cats=6, dogs=6)
    write_classes(tmp_path / "pets" / "val", cats=2, dogs=2)
    whole = load_dataset(str(tmp_path / "pets"), data=data)
    images = load_dataset(str(tmp_path / "pets"), data=data, limit=8)
    assert classes_of(images, images.indexed) == {"cats": 3, "dogs": 3}
    assert classes_of(images, images.queries) == {"cats": 1, "dogs": 1}
    assert len(images.keys) == 8
    assert all(key.startswith("train/") for key in keys_of(images, images.indexed))
    assert all(key.startswith("val/") for key in keys_of(images, images.queries))
    by_key = {key: row for row, key in enumerate(whole.keys)}
    for row, key in enumerate(images.keys):
        assert images.read(row) == whole.read(by_key[key])
        assert images.marks[row] == whole.marks[by_key[key]]
    least = load_dataset(str(tmp_path / "pets"), data=data, limit=2)
    assert (len(least.indexed), len(least.queries)) == (1, 1)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ([], "no class with two images"),
        (["a.jpg", "b.jpg"], "no class with two images; use one sub-folder per class"),
        (["cats/a.jpg", "dogs/a.jpg"], "no class with two images"),
        (
            ["train/a/1.jpg", "val/a/1.jpg", "test/a/1.jpg"],
            "has train, val and test; only one can be the queries, so move",
        ),
        (["train/1.jpg", "val/a/1.jpg"], "no images in class folders below train"),
        (["train/a/1.jpg", "test/1.jpg"], "no images in class folders below test or val"),
    ],
)
def test_a_folder_without_usable_classes_is_refused(
    tmp_path: Path, data: Path, files: list[str], message: str
) -> None:
    (tmp_path / "pets").mkdir()
    for name in files:
        write_photograph(tmp_path / "pets" / name, 0)
    with pytest.raises(InvalidRequest, match=message):
        load_dataset(str(tmp_path / "pets"), data=data)


def test_image_changed_at_equal_size_changes_the_digest(tmp_path: Path, data: Path) -> None:
    folder = write_classes(tmp_path / "pets", cats=4)
    before = load_dataset(str(folder), data=data)
    assert load_dataset(str(folder), data=data, seed=1).digest == before.digest
    assert load_dataset(str(folder), data=data, seed=1).lesson != before.lesson
    path = folder / before.keys[0]
    path.write_bytes(path.read_bytes()[::-1])
    assert load_dataset(str(folder), data=data).digest != before.digest


def test_a_limit_of_one_image_is_refused(tmp_path: Path, data: Path) -> None:
    folder = write_classes(tmp_path / "pets", ants=1, bees=1, cats=4)
    with pytest.raises(InvalidRequest, match="limit: 1 leaves no images to index or to query with; use 2 or more"):
        load_dataset(str(folder), data=data, limit=1)


def test_unreadable_folder_is_an_error(tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_classes(tmp_path / "pets", cats=3, dogs=3)
    scandir = os.scandir

    # Not by chmod: the tests may run as root, who may read everything.
    def refuse(path: Any) -> Any:
        if str(path).endswith("dogs"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(InvalidRequest, match=r"pets cannot be read \(PermissionError: .*dogs"):
        load_dataset(str(folder), data=data)
