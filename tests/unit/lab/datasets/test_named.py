"""Well-known sets, in torchvision's formats on disk, and invalid names."""

from __future__ import annotations

import io
import pickle
import sys
import urllib.error
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from lab.datasets import LabelledImages, load_dataset, named
from lookalike.model.errors import CannotStart, InvalidRequest
from tests.unit.lab.datasets.photographs import classes_of, keys_of, photograph, write_photograph


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise urllib.error.URLError("no route to host")

    monkeypatch.setattr("urllib.request.urlopen", refuse)


def decoded(data: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(data))
    image.load()
    return image


@pytest.mark.parametrize("seed", [-1, 2**32])
def test_seed_out_of_range_is_refused(tmp_path: Path, data: Path, seed: int) -> None:
    with pytest.raises(InvalidRequest, match=f"seed: {seed}; use 0 to 4294967295"):
        load_dataset(str(tmp_path), data=data, seed=seed)


def test_an_unknown_name_lists_the_names(tmp_path: Path, data: Path) -> None:
    with pytest.raises(
        InvalidRequest, match=r"cifar100 .*use cifar10, caltech101, flowers102, coco2017, or a folder"
    ):
        load_dataset("cifar100", data=data)
    (tmp_path / "photo.jpg").touch()
    with pytest.raises(InvalidRequest, match=r"photo.jpg is not an archive \(.tar, .tar.gz, .tgz, .zip\)"):
        load_dataset(str(tmp_path / "photo.jpg"), data=data)


def file_exists(path: Any, md5: str | None = None) -> bool:
    """Replaces torchvision's check of MD5s, which a miniature set cannot pass."""
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
    monkeypatch.setattr("torchvision.datasets.cifar.check_integrity", file_exists)
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

    images = named.cifar10_images(side(5000), side(1000), seed=0)
    assert (len(images.indexed), len(images.queries)) == (40_000, 10_000)
    assert np.array_equal(images.labels[images.indexed].sum(axis=0), np.full(10, 4000))


def test_cifar10_digest_changes_with_a_pixel() -> None:
    def images(value: int) -> LabelledImages:
        pixels = np.zeros((2, 32, 32, 3), np.uint8)
        pixels[1, 5, 5, 0] = value
        side = SimpleNamespace(data=pixels, targets=[0, 1], classes=["a", "b"])
        return named.cifar10_images(side, side, seed=0)

    assert images(0).digest == images(0).digest != images(1).digest


def test_caltech101_excludes_the_background(data: Path) -> None:
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


def test_empty_caltech101_error_says_to_delete_it(data: Path) -> None:
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
    monkeypatch.setattr("torchvision.datasets.flowers102.check_integrity", file_exists)
    folder = write_flowers102(data, labels=[77] * 10 + [1] * 20)
    images = load_dataset("flowers102", data=data)
    assert (images.name, len(images.classes), len(images.keys)) == ("flowers102", 102, 30)
    assert classes_of(images, images.indexed) == {"passion flower": 8, "pink primrose": 16}
    assert classes_of(images, images.queries) == {"passion flower": 1, "pink primrose": 2}
    assert not set(images.indexed) & set(images.queries)
    assert images.keys[29] == "image_00030.jpg"
    assert images.read(29) == (folder / "jpg" / "image_00030.jpg").read_bytes()


def test_flowers102_with_a_missing_image_is_incomplete(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torchvision.datasets.flowers102.check_integrity", file_exists)
    folder = write_flowers102(data, labels=[1] * 10)
    (folder / "jpg" / "image_00004.jpg").unlink()
    with pytest.raises(CannotStart, match=r"flowers102: incomplete in .*flowers-102 .*image_00004.jpg"):
        load_dataset("flowers102", data=data)


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
def test_missing_set_error_names_set_folder_and_remedy(data: Path, name: str, download: bool, remedy: str) -> None:
    with pytest.raises(
        CannotStart, match=f"dataset {name}: .*{data / PLACES[name]} .*{remedy}, or copy"
    ) as caught:
        load_dataset(name, data=data, download=download)
    assert "\n" not in caught.value.message


def test_unwritable_data_folder_is_an_error(data: Path) -> None:
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
def test_missing_package_is_named(
    data: Path, monkeypatch: pytest.MonkeyPatch, name: str, module: str, package: str
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(CannotStart, match=f"dataset {name}: needs the package {package}; pip install {package}"):
        load_dataset(name, data=data)
