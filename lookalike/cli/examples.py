"""Owns the options of `lookalike search` that say what hits are to be like: images, keys, codes and a part of the
images."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from lookalike.jobs.image_search import find_images
from lookalike.model.errors import InvalidRequest
from lookalike.model.query import Box, Example, check_box

Keys = Annotated[list[str] | None, typer.Option("--key", help="Search for the stored record with this key.")]
Codes = Annotated[list[str] | None, typer.Option("--code", help="Search for a code, given in hexadecimal.")]
NotImages = Annotated[
    list[Path] | None, typer.Option("--not-image", help="An image that hits are not to be like; may be repeated.")
]
NotKeys = Annotated[
    list[str] | None,
    typer.Option("--not-key", help="The key of a record that hits are not to be like; may be repeated."),
]
NotCodes = Annotated[
    list[str] | None,
    typer.Option("--not-code", help="A code, in hexadecimal, that hits are not to be like; may be repeated."),
]
Together = Annotated[
    bool, typer.Option("--together", help="Search once, for records that are like all the images, keys and codes.")
]
BoxText = Annotated[
    str | None,
    typer.Option(
        "--box",
        metavar="X0,Y0,X1,Y1",
        help="Use this part of the images only, as shares of width and height from the upper left corner: the"
        " right half is 0.5,0,1,1.",
    ),
]


def examples(
    images: Sequence[Path], keys: Sequence[str] | None, codes: Sequence[str] | None, box: Box | None = None
) -> list[Example]:
    """Returns the examples that options name; folders stand for the images in them. Raises InvalidRequest."""
    files = find_images(images).files if images else []
    return [
        *(Example(image=file, box=box) for file in files),
        *(Example(key=key) for key in keys or ()),
        *(Example(code=_hexadecimal(code)) for code in codes or ()),
    ]


def parse_box(text: str | None) -> Box | None:
    """Returns the box of an option. Raises InvalidRequest."""
    if text is None:
        return None
    try:
        return check_box([float(part) for part in text.split(",")])
    except ValueError:
        raise InvalidRequest(f"box: is {text!r:.80}; write X0,Y0,X1,Y1, four numbers from 0 to 1") from None


def _hexadecimal(code: str) -> bytes:
    try:
        return bytes.fromhex(code)
    except ValueError:
        raise InvalidRequest("code: is not hexadecimal; write two digits per byte") from None
