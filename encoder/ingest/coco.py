"""Owns COCO's annotations as rows: an image is a row, with what its objects are as attributes."""

from __future__ import annotations

import collections
import json
from typing import IO, Any


def rows(file: IO[bytes]) -> list[dict[str, Any]]:
    """The images of an instances file, by file name: key and uri, `labels` (the names of the categories in it),
    `boxes` (its objects), width, height and coco_id. Raises ValueError for another file."""
    content = json.load(file, object_hook=without_outline)
    try:
        return _rows(content)
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"is no COCO file of instances ({type(error).__name__}: {error}); for JSON lines use --format jsonl"
        ) from None


def _rows(content: Any) -> list[dict[str, Any]]:
    # Test sets have images and categories alone.
    names = {category["id"]: category["name"] for category in content["categories"]}
    found: dict[int, list[str]] = collections.defaultdict(list)
    for annotation in content.get("annotations", ()):
        found[annotation["image_id"]].append(names[annotation["category_id"]])
    return [
        {
            "key": image["file_name"],
            "uri": image["file_name"],
            "labels": sorted(set(found[image["id"]])),
            "boxes": len(found[image["id"]]),
            "coco_id": image["id"],
            **{name: image[name] for name in ("width", "height") if name in image},
        }
        for image in sorted(content["images"], key=lambda image: str(image["file_name"]))
    ]


def without_outline(entry: dict[str, Any]) -> dict[str, Any]:
    """Outlines are nearly all of the file: kept until its end, their points would take gigabytes."""
    entry.pop("segmentation", None)
    return entry
