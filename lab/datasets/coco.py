"""Owns COCO 2017: the sources of its parts, and its format, in which an image has the classes of its objects.

`lab.datasets.named` decides when to download a part."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray

from encoder.ingest.tables.coco import without_outline
from lab.datasets.labelled import LabelledImages, mark_of, reason
from lookalike.model.errors import CannotStart

_HOST = "http://images.cocodataset.org"
# The MD5s are those that object detection projects commonly check; the host serves plain HTTP.
PARTS = {
    "train2017": (f"{_HOST}/zips/train2017.zip", "cced6f7f71b7629ddf16f17bbcfab6b2"),
    "val2017": (f"{_HOST}/zips/val2017.zip", "442b8da7639aecaf257c1dceb8ba8c80"),
    "annotations": (f"{_HOST}/annotations/annotations_trainval2017.zip", "f4bbac642086de4f52a3fdda2de5fa2c"),
}


def fetch(part: str, folder: Path) -> None:
    """Downloads one of PARTS and extracts it into a folder. Raises torchvision's errors."""
    from torchvision.datasets.utils import download_and_extract_archive

    url, md5 = PARTS[part]
    download_and_extract_archive(url, str(folder), md5=md5, remove_finished=True)


def coco_images(folder: Path) -> LabelledImages:
    """Returns COCO 2017 with the training images as indexed images and the validation images as queries. folder:
    contains the PARTS. Raises CannotStart if a part is incomplete."""
    train, val = (_read_side(folder, side) for side in ("train2017", "val2017"))
    if train.classes != val.classes:
        raise CannotStart(
            f"dataset coco2017: the categories in {folder / 'annotations'} differ between train and val;"
            " delete that folder to download it again"
        )
    paths = train.paths + val.paths
    return LabelledImages(
        name="coco2017",
        classes=train.classes,
        labels=np.concatenate([train.labels, val.labels]),
        keys=tuple(path.relative_to(folder).as_posix() for path in paths),
        indexed=np.arange(len(train.paths)),
        queries=np.arange(len(train.paths), len(paths)),
        read=lambda row: paths[row].read_bytes(),
        marks=train.marks + val.marks,
        is_multi_label=True,
    )


@dataclasses.dataclass(frozen=True, slots=True)
class _Side:
    classes: tuple[str, ...]
    labels: NDArray[np.bool_]
    paths: tuple[Path, ...]
    marks: tuple[str, ...]


def _read_side(folder: Path, side: str) -> _Side:
    """Reads one side of the set, train2017 or val2017: its images, ordered by file name, and the classes of their
    annotated objects, ordered by category id."""
    annotations = folder / "annotations" / f"instances_{side}.json"
    try:
        with annotations.open(encoding="utf-8") as file:
            content = json.load(file, object_hook=without_outline)
        categories = sorted(content["categories"], key=lambda category: category["id"])
        images = sorted(content["images"], key=lambda image: image["file_name"])
        column = {category["id"]: number for number, category in enumerate(categories)}
        row = {image["id"]: number for number, image in enumerate(images)}
        labels = np.zeros((len(images), len(categories)), bool)
        for annotation in content["annotations"]:
            labels[row[annotation["image_id"]], column[annotation["category_id"]]] = True
        paths = tuple(folder / side / PurePosixPath(image["file_name"]).name for image in images)
        marks = tuple(mark_of(path) for path in paths)
        return _Side(tuple(category["name"] for category in categories), labels, paths, marks)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CannotStart(
            f"dataset coco2017: {annotations} and {folder / side} are incomplete ({reason(error)});"
            f" delete annotations and {side} below {folder} to download them again"
        ) from None
