"""Owns how notebooks show hits and records: tiles in plain HTML. What comes from records is escaped, and
images are part of the HTML, so that showing it makes no request."""

from __future__ import annotations

import base64
import dataclasses
import html
import json
from collections.abc import Mapping, Sequence
from typing import Any

from lookalike.model.thumbnails import format_of

# More would make the notebook slow.
MAX_TILES = 100
_MAX_TEXT = 120

_GRID = "display:grid;grid-template-columns:repeat(auto-fill,minmax(9rem,1fr));gap:.75rem"
_TILE = "margin:0;overflow-wrap:anywhere;font-size:.85em;line-height:1.35"
_PICTURE = "width:100%;aspect-ratio:1;object-fit:contain;border-radius:6px;background:rgba(127,127,127,.15)"


@dataclasses.dataclass(frozen=True, slots=True)
class Tile:
    """One hit or record. thumbnail: an image file's bytes; empty if there is none."""

    key: str
    caption: str
    attributes: Mapping[str, Any]
    thumbnail: bytes


def page(title: str, tiles: Sequence[Tile], count: int) -> str:
    """Returns the HTML. count: how many there are, of which `tiles` are the first."""
    more = f"<p>and {count - len(tiles):,} more</p>" if count > len(tiles) else ""
    shown = "".join(map(_figure, tiles))
    return f'<div><p>{html.escape(title)}</p><div style="{_GRID}">{shown}</div>{more}</div>'


def _figure(tile: Tile) -> str:
    described = json.dumps(tile.attributes, ensure_ascii=False) if tile.attributes else ""
    lines = [f"<strong>{_text(tile.key)}</strong>", _text(tile.caption), _text(described)]
    caption = "<br>".join(filter(None, lines))
    return f'<figure style="{_TILE}">{_picture(tile)}<figcaption>{caption}</figcaption></figure>'


def _picture(tile: Tile) -> str:
    kind = format_of(tile.thumbnail)
    if kind is None:
        return f'<div style="{_PICTURE}"></div>'
    data = base64.b64encode(tile.thumbnail).decode()
    return f'<img style="{_PICTURE}" alt="{html.escape(tile.key)}" src="data:image/{kind};base64,{data}">'


def _text(text: str) -> str:
    """The beginning of a text, escaped."""
    return html.escape(text if len(text) <= _MAX_TEXT else f"{text[:_MAX_TEXT]}…")
