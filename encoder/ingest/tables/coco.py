"""Owns COCO annotations as rows: one row per image, with its objects' categories as attributes."""

from __future__ import annotations

import collections
import json
from typing import IO, Any
from urllib.parse import urlsplit

# The outermost names in a file of COCO annotations.
NAMES = ("images", "annotations", "categories")


def rows(file: IO[bytes]) -> list[dict[str, Any]]:
    """The images of an instances file, ordered by file name.

    Returns:
        Rows with key, uri (in LVIS an address), `labels` (the names of the categories in the image), `boxes` (the
        number of objects), width, height and coco_id.

    Raises:
        ValueError: If the file is not a COCO instances file.
    """
    content = json.load(file, object_hook=without_outline)
    try:
        return _rows(content)
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"not a COCO instances file ({type(error).__name__}: {error}); for JSON lines use --format jsonl"
        ) from None


def _rows(content: Any) -> list[dict[str, Any]]:
    # Test sets have images and categories, and no annotations.
    names = {category["id"]: category["name"] for category in content["categories"]}
    found: dict[int, list[str]] = collections.defaultdict(list)
    for annotation in content.get("annotations", ()):
        found[annotation["image_id"]].append(names[annotation["category_id"]])
    images = sorted(((_file_name(image), image) for image in content["images"]), key=lambda pair: pair[0])
    return [
        {
            "key": name,
            "uri": name if "file_name" in image else image["coco_url"],
            "labels": sorted(set(found[image["id"]])),
            "boxes": len(found[image["id"]]),
            "coco_id": image["id"],
            **{other: image[other] for other in ("width", "height") if other in image},
        }
        for name, image in images
    ]


def _file_name(image: dict[str, Any]) -> str:
    """An image's path. LVIS has only the image's address at COCO, which ends in the folder and the file's name."""
    if "file_name" in image:
        return str(image["file_name"])
    return "/".join(urlsplit(image["coco_url"]).path.split("/")[-2:])


def without_outline(entry: dict[str, Any]) -> dict[str, Any]:
    """Drops an annotation's outline while the file is parsed. Outlines are nearly all of the file; their points
    would take gigabytes."""
    entry.pop("segmentation", None)
    return entry
