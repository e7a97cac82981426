"""COCO 2017 in its format on disk: its classes, its parts and their download."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lab.datasets import load_dataset
from lookalike.model.errors import CannotStart
from tests.unit.lab.datasets.photographs import write_photograph


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


def test_coco2017_stays_multi_label_when_a_limit_leaves_one_class_an_image(data: Path) -> None:
    write_coco(data)
    for side, files in {"train2017": {9: 1, 25: 1, 30: 90}, "val2017": {139: 1}}.items():
        path = data / "coco2017" / "annotations" / f"instances_{side}.json"
        annotations = [{"image_id": image, "category_id": category} for image, category in files.items()]
        path.write_text(json.dumps({**json.loads(path.read_text()), "annotations": annotations}))
    images = load_dataset("coco2017", data=data, download=False, limit=2)
    assert images.labels.sum(axis=1).tolist() == [1, 1]
    assert images.is_multi_label


def test_coco2017_downloads_missing_parts(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_incomplete_coco2017_error_names_what_to_delete(data: Path) -> None:
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
