"""Labelled image sets: what is read from the on-disk formats, how it is split, and what is refused."""

from __future__ import annotations

import functools
import gzip
import io
import json
import os
import pickle
import sys
import tarfile
import urllib.error
import zipfile
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from encoder.demo.photographs import bundled_photographs
from encoder.evaluation import datasets
from encoder.evaluation.datasets import LabelledImages, load_dataset
from lookalike.errors import CannotStart, InvalidRequest


@functools.cache
def photograph(number: int) -> Image.Image:
    paths = [each.path for each in bundled_photographs()]
    with Image.open(paths[number % len(paths)]) as image:
        small = image.convert("RGB")
    small.thumbnail((48 + number, 48 + number))
    return small


def write_photograph(path: Path, number: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    photograph(number).save(path)


def write_classes(folder: Path, **counts: int) -> Path:
    for name, count in counts.items():
        for number in range(count):
            write_photograph(folder / name / f"{number:02d}.jpg", number)
    return folder


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return tmp_path / "data"


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise urllib.error.URLError("no route to host")

    monkeypatch.setattr("urllib.request.urlopen", refuse)


def classes_of(images: LabelledImages, rows: Any) -> Counter[str]:
    return Counter(images.classes[label] for row in rows for label in np.flatnonzero(images.labels[row]))


def keys_of(images: LabelledImages, rows: Any) -> list[str]:
    return [images.keys[row] for row in rows]


def decoded(data: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(data))
    image.load()
    return image


# Splits


def test_a_split_takes_80_percent_of_each_class_by_the_frozen_stream() -> None:
    # RandomState(0).permutation(10) is 2 8 4 9 1 6 7 3 0 5: the last two are the queries.
    indexed, queries = datasets.split_per_class(np.zeros(10, np.int64), 0)
    assert queries.tolist() == [0, 5]
    assert indexed.tolist() == [1, 2, 3, 4, 6, 7, 8, 9]


@pytest.mark.parametrize(
    ("images", "indexed", "queries"), [(50, 40, 10), (3, 2, 1), (2, 1, 1), (1, 1, 0), (4, 3, 1), (31, 25, 6)]
)
def test_a_class_of_so_many_images_is_split_so(images: int, indexed: int, queries: int) -> None:
    groups = np.repeat([0, 1], [images, 7])[np.random.RandomState(1).permutation(images + 7)]
    rows = datasets.split_per_class(groups, 3)
    assert [int((groups[side] == 0).sum()) for side in rows] == [indexed, queries]
    assert sorted([*rows[0], *rows[1]]) == list(range(images + 7))


def test_another_seed_gives_another_split_and_the_same_seed_the_same() -> None:
    groups = np.arange(200) % 4
    first, again, other = (datasets.split_per_class(groups, seed)[1].tolist() for seed in (0, 0, 1))
    assert first == again != other


def test_the_pool_of_flowers102_gives_6552_and_818_in_the_classes_proportions() -> None:
    sizes = np.full(102, 78)
    sizes[:3] = 40, 258, 8189 - 99 * 78 - 40 - 258
    groups = np.repeat(np.arange(102), sizes)
    indexed, queries = datasets.split_pool(groups, 0)
    assert (len(groups), len(indexed), len(queries)) == (8189, 6552, 818)
    assert not set(indexed) & set(queries)
    assert np.abs(np.bincount(groups[indexed]) - 0.8 * sizes).max() <= 1
    assert np.abs(np.bincount(groups[queries]) - 0.1 * sizes).max() < 2  # rounded at both of its ends


# Folders


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


def test_folders_that_wrap_the_class_folders_are_gone_into(tmp_path: Path, data: Path) -> None:
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


def test_the_digest_follows_the_images_and_not_the_split(tmp_path: Path, data: Path) -> None:
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


def test_a_limit_takes_evenly_over_the_classes_before_the_split(tmp_path: Path, data: Path) -> None:
    folder = write_classes(tmp_path / "pets", ants=9, bees=9, cats=3)
    images = load_dataset(str(folder), data=data, limit=12)
    assert len(images.keys) == len(images.indexed) + len(images.queries) == 12
    # In turns: 3, 3 and 3, when cats are used up, then ants, bees, ants.
    assert classes_of(images, range(12)) == {"ants": 5, "bees": 4, "cats": 3}
    assert classes_of(images, images.queries) == {"ants": 1, "bees": 1, "cats": 1}
    assert images.read(11) == (folder / images.keys[11]).read_bytes()
    again = load_dataset(str(folder), data=data, limit=12)
    assert (again.keys, again.queries.tolist()) == (images.keys, images.queries.tolist())
    assert load_dataset(str(folder), data=data, limit=12, seed=1).keys != images.keys
    assert len(load_dataset(str(folder), data=data, limit=100).keys) == 21


def test_a_limit_below_the_number_of_classes_still_leaves_queries(tmp_path: Path, data: Path) -> None:
    folder = write_classes(tmp_path / "pets", ants=3, bees=3, cats=3, dogs=3)
    images = load_dataset(str(folder), data=data, limit=4)
    assert classes_of(images, images.indexed) == classes_of(images, images.queries) == {"ants": 1, "bees": 1}


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
        assert images.sizes[row] == whole.sizes[by_key[key]] == len(images.read(row))
    least = load_dataset(str(tmp_path / "pets"), data=data, limit=2)
    assert (len(least.indexed), len(least.queries)) == (1, 1)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ([], "no class with two images"),
        (["a.jpg", "b.jpg"], "no class with two images; give it one sub-folder a class"),
        (["cats/a.jpg", "dogs/a.jpg"], "no class with two images"),
        (["train/a/1.jpg", "val/a/1.jpg", "test/a/1.jpg"], "has train, val and test.*; move val or test away"),
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


def test_a_limit_that_leaves_no_pair_is_refused(tmp_path: Path, data: Path) -> None:
    folder = write_classes(tmp_path / "pets", ants=1, bees=1, cats=4)
    with pytest.raises(InvalidRequest, match="limit: 2 takes no two images of one class"):
        load_dataset(str(folder), data=data, limit=2)
    with pytest.raises(InvalidRequest, match="limit: 1 leaves nothing to index or to query with; use 2 or more"):
        load_dataset(str(folder), data=data, limit=1)


@pytest.mark.parametrize("seed", [-1, 2**32])
def test_a_seed_outside_the_stream_is_refused(tmp_path: Path, data: Path, seed: int) -> None:
    with pytest.raises(InvalidRequest, match=f"seed: {seed}; use 0 to 4294967295"):
        load_dataset(str(tmp_path), data=data, seed=seed)


def test_a_folder_that_cannot_be_read_is_not_an_empty_class(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_classes(tmp_path / "pets", cats=3, dogs=3)
    scandir = os.scandir

    # Not by chmod: the tests may run as root, who reads all.
    def refuse(path: Any) -> Any:
        if str(path).endswith("dogs"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(InvalidRequest, match=r"pets cannot be read \(PermissionError: .*dogs"):
        load_dataset(str(folder), data=data)


def test_an_unknown_name_lists_the_names(tmp_path: Path, data: Path) -> None:
    with pytest.raises(
        InvalidRequest, match=r"cifar100 .*use cifar10, caltech101, flowers102, coco2017, or a folder"
    ):
        load_dataset("cifar100", data=data)
    (tmp_path / "photo.jpg").touch()
    with pytest.raises(InvalidRequest, match=r"photo.jpg is not an archive \(.tar, .tar.gz, .tgz, .zip\)"):
        load_dataset(str(tmp_path / "photo.jpg"), data=data)


# Archives


def pack(folder: Path, archive: Path) -> Path:
    if archive.suffix == ".zip":
        with zipfile.ZipFile(archive, "w") as file:
            for path in sorted(folder.rglob("*")):
                file.write(path, path.relative_to(folder.parent))
    else:
        with tarfile.open(archive, "w" if archive.suffix == ".tar" else "w:gz") as file:
            file.add(folder, folder.name)
    return archive


@pytest.mark.parametrize("suffix", [".tar", ".tar.gz", ".tgz", ".zip"])
def test_an_archive_equals_its_folder_and_is_extracted_once(
    tmp_path: Path, data: Path, suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_classes(tmp_path / "pets", cats=5, dogs=5)
    archive = pack(folder, tmp_path / f"pets{suffix}")
    expected = load_dataset(str(folder), data=data)
    images = load_dataset(str(archive), data=data)
    assert (images.name, images.keys, images.digest) == ("pets", expected.keys, expected.digest)
    assert images.queries.tolist() == expected.queries.tolist()
    assert [images.read(row) for row in range(10)] == [expected.read(row) for row in range(10)]
    (extracted,) = (data / "extracted").iterdir()
    assert extracted.name.startswith("pets-")

    with monkeypatch.context() as patch:
        patch.setattr(datasets, "_extract", lambda *_: pytest.fail("extracted a second time"))
        assert load_dataset(str(archive), data=data).digest == images.digest
    os.utime(archive, (1, 1))
    assert load_dataset(str(archive), data=data).digest == images.digest
    assert len(list((data / "extracted").iterdir())) == 2, "a changed archive was not extracted"


def test_of_two_that_extract_at_once_the_second_takes_what_the_first_has(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = pack(write_classes(tmp_path / "pets", cats=2), tmp_path / "pets.zip")
    extract, reentered = datasets._extract, []

    def extract_after_another(*arguments: Any) -> None:
        if not reentered:
            reentered.append(True)
            load_dataset(str(archive), data=data)
        extract(*arguments)

    monkeypatch.setattr(datasets, "_extract", extract_after_another)
    assert load_dataset(str(archive), data=data).keys == ("cats/00.jpg", "cats/01.jpg")
    assert reentered
    assert len(list((data / "extracted").iterdir())) == 1


@pytest.mark.parametrize("member", ["../escaped.jpg", "pets/../../escaped.jpg", "/escaped.jpg", "..\\escaped.jpg"])
def test_a_zip_member_that_escapes_is_refused_before_anything_is_written(
    tmp_path: Path, data: Path, member: str
) -> None:
    with zipfile.ZipFile(tmp_path / "bad.zip", "w") as file:
        file.writestr("pets/cats/a.jpg", b"")
        file.writestr(member, b"")
    with pytest.raises(InvalidRequest, match=r"bad.zip is not safe to extract .*escaped.jpg.*; pack it anew"):
        load_dataset(str(tmp_path / "bad.zip"), data=data)
    assert list((data / "extracted").iterdir()) == []
    assert not list(tmp_path.rglob("escaped.jpg"))


def test_a_tar_member_that_escapes_is_refused(tmp_path: Path, data: Path) -> None:
    link = tarfile.TarInfo("pets/link")
    link.type, link.linkname = tarfile.SYMTYPE, "../../../escaped"
    for number, member in enumerate([tarfile.TarInfo("../escaped.jpg"), link]):
        archive = tmp_path / f"bad{number}.tar"
        with tarfile.open(archive, "w") as file:
            file.addfile(member)
        with pytest.raises(InvalidRequest, match=rf"bad{number}.tar is not safe to extract \(Outside|LinkOutside"):
            load_dataset(str(archive), data=data)
    assert list((data / "extracted").iterdir()) == []
    assert not list(tmp_path.rglob("escaped*"))


def test_a_damaged_archive_is_refused_and_leaves_nothing(tmp_path: Path, data: Path) -> None:
    folder = write_classes(tmp_path / "pets", cats=5, dogs=5)
    damaged = []
    for suffix in (".tar", ".tar.gz", ".zip"):
        archive = pack(folder, tmp_path / f"short{suffix}")
        archive.write_bytes(archive.read_bytes()[:2000])
        damaged.append(archive)
    # After the third of the images, where another header should be: tarfile takes that for the end.
    with tarfile.open(pack(folder, tmp_path / "whole.tar")) as whole:
        end = [member for member in whole.getmembers() if member.isfile()][3].offset
    (tmp_path / "cut.tar").write_bytes((tmp_path / "whole.tar").read_bytes()[:end])
    damaged.append(tmp_path / "cut.tar")
    for name in ("text.tar", "text.zip"):
        (tmp_path / name).write_text("not an archive")
        damaged.append(tmp_path / name)
    flipped = tmp_path / "flipped.tar.gz"
    content = bytearray(gzip.compress(pack(folder, tmp_path / "pets.tar").read_bytes()))
    content[-8] ^= 1  # the checksum of the content
    flipped.write_bytes(content)
    for archive in [*damaged, flipped]:
        with pytest.raises(InvalidRequest, match=f"{archive.name} is damaged or locked"):
            load_dataset(str(archive), data=data)
    assert list((data / "extracted").iterdir()) == []


def test_an_archive_that_cannot_be_extracted_names_the_folder(tmp_path: Path, data: Path) -> None:
    archive = pack(write_classes(tmp_path / "pets", cats=2), tmp_path / "pets.zip")
    data.write_text("a file where the data folder should be")
    with pytest.raises(
        CannotStart, match=r"pets.zip cannot be extracted to .*data/extracted/pets-.*; make room and let"
    ):
        load_dataset(str(archive), data=data)


# Named sets, in the formats on disk that torchvision reads


def only_existence(path: Any, md5: str | None = None) -> bool:
    """For torchvision's check of MD5s, which no miniature can pass."""
    return Path(path).is_file()


def write_cifar10(data: Path, a_class_and_batch: int) -> list[bytes]:
    """The five batches and the test batch; returns each image's pixels, training images first."""
    folder = data / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    pixels = []
    for batch, name in enumerate([*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"]):
        labels = [label for label in range(10) for _ in range(a_class_and_batch)]
        images = [
            np.asarray(photograph(batch * len(labels) + number).resize((32, 32))) for number in range(len(labels))
        ]
        pixels += [image.tobytes() for image in images]
        rows = np.stack([image.transpose(2, 0, 1).ravel() for image in images])
        (folder / name).write_bytes(pickle.dumps({"data": rows, "labels": labels}, protocol=2))
    names = "airplane automobile bird cat deer dog frog horse ship truck".split()
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": names}, protocol=2))
    return pixels


def test_cifar10_indexes_80_percent_of_training_and_queries_with_the_test_images(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torchvision.datasets.cifar.check_integrity", only_existence)
    pixels = write_cifar10(data, a_class_and_batch=2)
    images = load_dataset("cifar10", data=data)
    assert (images.name, len(images.keys), images.is_multi_label) == ("cifar10", 120, False)
    assert (images.keys[0], images.keys[100]) == ("train/00000.png", "test/00000.png")
    assert classes_of(images, images.indexed) == dict.fromkeys(images.classes, 8)
    assert classes_of(images, images.queries) == dict.fromkeys(images.classes, 2)
    assert all(key.startswith("train/") for key in keys_of(images, images.indexed))
    assert images.queries.tolist() == list(range(100, 120))
    for row in range(120):
        image = decoded(images.read(row))
        assert image.format == "PNG"
        assert image.tobytes() == pixels[row]
        assert images.labels[row].tolist() == [label == row % 20 // 2 for label in range(10)]
    other = load_dataset("cifar10", data=data, seed=1)
    assert other.indexed.tolist() != images.indexed.tolist()
    assert other.digest == images.digest
    few = load_dataset("cifar10", data=data, limit=30)
    assert (len(few.indexed), len(few.queries), len(few.keys)) == (24, 6, 30)


def test_cifar10_in_full_size_indexes_4000_a_class() -> None:
    def side(a_class: int) -> Any:
        targets = np.arange(a_class * 10) % 10
        # Four pixels suffice to tell the images apart.
        pixels = np.zeros((len(targets), 2, 2, 3), np.uint8)
        return SimpleNamespace(data=pixels, targets=targets.tolist(), classes=[str(label) for label in range(10)])

    images = datasets.cifar10_images(side(5000), side(1000), seed=0)
    assert (len(images.indexed), len(images.queries)) == (40_000, 10_000)
    assert np.array_equal(images.labels[images.indexed].sum(axis=0), np.full(10, 4000))


def test_cifar10s_digest_sees_a_changed_pixel() -> None:
    def images(value: int) -> LabelledImages:
        pixels = np.zeros((2, 32, 32, 3), np.uint8)
        pixels[1, 5, 5, 0] = value
        side = SimpleNamespace(data=pixels, targets=[0, 1], classes=["a", "b"])
        return datasets.cifar10_images(side, side, seed=0)

    assert images(0).digest == images(0).digest != images(1).digest


def test_caltech101_leaves_out_the_background(data: Path) -> None:
    folder = data / "caltech101" / "101_ObjectCategories"
    for name, count in {"accordion": 10, "anchor": 5, "BACKGROUND_Google": 5}.items():
        for number in range(1, count + 1):
            write_photograph(folder / name / f"image_{number:04d}.jpg", number)
    images = load_dataset("caltech101", data=data)
    assert (images.name, images.classes) == ("caltech101", ("accordion", "anchor"))
    assert images.keys[0] == "accordion/image_0001.jpg"
    assert images.read(0) == (folder / "accordion" / "image_0001.jpg").read_bytes()
    assert classes_of(images, images.indexed) == {"accordion": 8, "anchor": 4}
    assert classes_of(images, images.queries) == {"accordion": 2, "anchor": 1}


def test_an_empty_caltech101_says_to_delete_it(data: Path) -> None:
    (data / "caltech101" / "101_ObjectCategories" / "BACKGROUND_Google").mkdir(parents=True)
    with pytest.raises(CannotStart, match=r"caltech101: .*101_ObjectCategories has no class folders; delete it"):
        load_dataset("caltech101", data=data)


def write_flowers102(data: Path, labels: list[int]) -> Path:
    """labels: from 1, as the file has them."""
    from scipy.io import savemat

    folder = data / "flowers-102"
    for number in range(1, len(labels) + 1):
        write_photograph(folder / "jpg" / f"image_{number:05d}.jpg", number)
    savemat(folder / "imagelabels.mat", {"labels": np.array([labels], np.uint8)})
    ids = np.arange(1, len(labels) + 1)
    splits = {"trnid": ids[:2][None], "valid": ids[2:4][None], "tstid": ids[4:][None]}
    savemat(folder / "setid.mat", splits)
    return folder


def test_flowers102_pools_its_splits_and_leaves_a_tenth_unused(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torchvision.datasets.flowers102.check_integrity", only_existence)
    folder = write_flowers102(data, labels=[77] * 10 + [1] * 20)
    images = load_dataset("flowers102", data=data)
    assert (images.name, len(images.classes), len(images.keys)) == ("flowers102", 102, 30)
    assert classes_of(images, images.indexed) == {"passion flower": 8, "pink primrose": 16}
    assert classes_of(images, images.queries) == {"passion flower": 1, "pink primrose": 2}
    assert not set(images.indexed) & set(images.queries)
    assert images.keys[29] == "image_00030.jpg"
    assert images.read(29) == (folder / "jpg" / "image_00030.jpg").read_bytes()


def test_flowers102_with_an_image_missing_is_not_whole(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torchvision.datasets.flowers102.check_integrity", only_existence)
    folder = write_flowers102(data, labels=[1] * 10)
    (folder / "jpg" / "image_00004.jpg").unlink()
    with pytest.raises(CannotStart, match=r"flowers102: is not whole in .*flowers-102 .*image_00004.jpg"):
        load_dataset("flowers102", data=data)


def write_coco(data: Path) -> Path:
    folder = data / "coco2017"
    categories = [{"id": 18, "name": "dog"}, {"id": 1, "name": "person"}, {"id": 90, "name": "toothbrush"}]
    objects = {
        "train2017": {"000000000009.jpg": [18, 1, 1], "000000000025.jpg": [], "000000000030.jpg": [90]},
        "val2017": {"000000000139.jpg": [1, 90]},
    }
    for side, files in objects.items():
        images = [{"id": int(name[:-4]), "file_name": name, "width": 48, "height": 48} for name in files]
        annotations = [
            {"image_id": int(name[:-4]), "category_id": category, "segmentation": [[1.5, 2.5, 3.5]], "iscrowd": 0}
            for name, found in files.items()
            for category in found
        ]
        content = {"images": images[::-1], "annotations": annotations, "categories": categories}
        path = folder / "annotations" / f"instances_{side}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content))
        for number, name in enumerate(files):
            write_photograph(folder / side / name, number)
    return folder


def test_coco2017_has_the_classes_of_the_objects_in_an_image(data: Path) -> None:
    folder = write_coco(data)
    images = load_dataset("coco2017", data=data, download=False)
    assert (images.name, images.classes, images.is_multi_label) == (
        "coco2017",
        ("person", "dog", "toothbrush"),
        True,
    )
    assert images.keys == (
        "train2017/000000000009.jpg",
        "train2017/000000000025.jpg",
        "train2017/000000000030.jpg",
        "val2017/000000000139.jpg",
    )
    assert images.labels.astype(int).tolist() == [[1, 1, 0], [0, 0, 0], [0, 0, 1], [1, 0, 1]]
    assert (images.indexed.tolist(), images.queries.tolist()) == ([0, 1, 2], [3])
    assert [images.read(row) for row in range(4)] == [(folder / key).read_bytes() for key in images.keys]
    few = load_dataset("coco2017", data=data, download=False, limit=3)
    assert (len(few.indexed), len(few.queries)) == (2, 1)


def test_coco2017_downloads_the_parts_that_are_not_there(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_coco(data)
    (folder / "annotations").rename(data / "annotations")
    fetched = []

    def fetch(url: str, root: str, *, md5: str, remove_finished: bool) -> None:
        fetched.append((url, root, md5, remove_finished))
        (data / "annotations").rename(folder / "annotations")

    monkeypatch.setattr("torchvision.datasets.utils.download_and_extract_archive", fetch)
    assert len(load_dataset("coco2017", data=data).keys) == 4
    url = "http://images.cocodataset.org/annotations/annotations_trainval2017.zip"
    assert fetched == [(url, str(folder), "f4bbac642086de4f52a3fdda2de5fa2c", True)]


def test_coco2017_that_is_not_whole_names_what_to_delete(data: Path) -> None:
    folder = write_coco(data)
    annotations = folder / "annotations" / "instances_val2017.json"
    good = json.loads(annotations.read_text())
    stray = [{"image_id": 139, "category_id": 7}]
    for bad in (
        "{",
        "[]",
        json.dumps({**good, "annotations": stray}),
        json.dumps({"images": []}),
        json.dumps({**good, "images": [*good["images"], {"id": 1, "file_name": "missing.jpg"}]}),
    ):
        annotations.write_text(bad)
        with pytest.raises(
            CannotStart, match=r"coco2017: .*instances_val2017.json .* delete annotations and val2017"
        ):
            load_dataset("coco2017", data=data)
    fewer = [each for each in good["categories"] if each["id"] != 18]
    annotations.write_text(json.dumps({**good, "categories": fewer}))
    with pytest.raises(CannotStart, match=r"categories in .*annotations differ between train and val"):
        load_dataset("coco2017", data=data)


PLACES = {
    "cifar10": "cifar-10-batches-py",
    "caltech101": "caltech101/101_ObjectCategories",
    "flowers102": "flowers-102",
    "coco2017": "coco2017/train2017",
}


@pytest.mark.usefixtures("offline")
@pytest.mark.parametrize("name", PLACES)
@pytest.mark.parametrize(
    ("download", "remedy"),
    [(True, r"no route to host.*connect this machine to the network"), (False, r"allow downloads")],
)
def test_a_set_that_is_not_there_names_itself_its_folder_and_the_remedy(
    data: Path, name: str, download: bool, remedy: str
) -> None:
    with pytest.raises(CannotStart, match=f"dataset {name}: .*{data / PLACES[name]} .*{remedy}, or put") as caught:
        load_dataset(name, data=data, download=download)
    assert "\n" not in caught.value.message


def test_a_data_folder_that_cannot_be_written_is_said(data: Path) -> None:
    data.write_text("a file where the data folder should be")
    with pytest.raises(CannotStart, match=r"dataset caltech101: .*(NotADirectoryError|FileExistsError)"):
        load_dataset("caltech101", data=data)


@pytest.mark.parametrize(
    ("name", "module", "package"),
    [
        ("flowers102", "scipy.io", "scipy"),
        ("cifar10", "torchvision.datasets", "torchvision"),
        ("caltech101", "torchvision.datasets", "torchvision"),
    ],
)
def test_a_package_that_is_missing_is_named(
    data: Path, monkeypatch: pytest.MonkeyPatch, name: str, module: str, package: str
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(CannotStart, match=f"dataset {name}: needs the package {package}; pip install {package}"):
        load_dataset(name, data=data)
