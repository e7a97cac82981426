"""Owns the sets that these tests load: small real photographs in class folders; and the classes and keys of a
set."""

from __future__ import annotations

import functools
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from lab.datasets import LabelledImages
from lab.demo.photographs import bundled_photographs


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


def classes_of(images: LabelledImages, rows: Any) -> Counter[str]:
    return Counter(images.classes[label] for row in rows for label in np.flatnonzero(images.labels[row]))


def keys_of(images: LabelledImages, rows: Any) -> list[str]:
    return [images.keys[row] for row in rows]
