"""Owns the contact sheet: queries and their nearest images in one self-contained HTML file."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2

from encoder.thumbnails import data_url, thumbnail
from lab.demo.run import Answered


def write_sheet(output: Path, answers: Sequence[Answered], index: Path, facts: Sequence[tuple[str, str]]) -> None:
    """Writes the sheet. index: the folder that hits' keys are relative to. facts: (name, value) pairs to show."""
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    template = environment.from_string((resources.files("lab.demo") / "sheet.html").read_text(encoding="utf-8"))
    rows = [_row(answer, index) for answer in answers]
    output.write_text(template.render(rows=rows, facts=facts), encoding="utf-8")


def _row(answer: Answered, index: Path) -> dict[str, Any]:
    return {
        "name": answer.question.title,
        "label": answer.question.label,
        "image": data_url(thumbnail(answer.question.path)),
        "hits": [
            {
                "key": hit.key,
                "label": hit.attributes.get("label", ""),
                "distance": hit.distance,
                "right": answer.is_right(rank),
                "image": data_url(thumbnail(index / hit.key)),
            }
            for rank, hit in enumerate(answer.result.hits)
        ],
    }
