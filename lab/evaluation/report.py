"""Owns the report of an evaluation: plots, and one HTML page with the tables, the plots and a contact sheet."""

from __future__ import annotations

import io
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2
import numpy as np

from encoder.thumbnails import data_url, thumbnail
from lab.evaluation.plan import Averaged, Result
from lab.evaluation.plots import all_plots
from lab.evaluation.preparation import Prepared
from lab.evaluation.tables import Table

PAGE_FILE = "report.html"
_PLOT_TITLES = {
    "map_by_bits": "mAP against code length",
    "size_against_map": "Index size against mAP",
    "precision_recall": "Precision against recall",
    "confusion": "Confusion matrix of the best method",
}


def write(
    folder: Path,
    averaged: Averaged,
    results: Sequence[Result],
    tables: Sequence[Table],
    prepared: Prepared,
    facts: Sequence[tuple[str, str]],
) -> Path:
    """Writes the plots and the page into a folder.

    Args:
        folder: The folder.
        averaged: The results, averaged over seeds.
        results: The results of the first prepared set, with the rankings that the plots need.
        tables: Tables for the page.
        prepared: The prepared set that `results` were computed from.
        facts: (name, value) pairs for the page.

    Returns:
        The path of the page.
    """
    plots = all_plots(averaged, results, prepared.images.classes)
    for name, content in plots.items():
        (folder / f"{name}.png").write_bytes(content)
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    template = environment.from_string(
        (resources.files("lab.evaluation") / "report.html").read_text(encoding="utf-8")
    )
    best = max((result for result in results if result.details), key=_preference)
    page = folder / PAGE_FILE
    page.write_text(
        template.render(
            title=f"Retrieval on {prepared.images.name}",
            facts=facts,
            tables=tables,
            plots=[(_PLOT_TITLES[name], data_url(content, "image/png")) for name, content in plots.items()],
            sheet_title=f"{best.row.method}, {best.row.bits} bits, {best.row.score}, {best.row.model}",
            sheet=_sheet(prepared, best) if prepared.images.vectors is None else [],
        ),
        encoding="utf-8",
    )
    return page


def _preference(result: Result) -> tuple[bool, float]:
    """A sort key: hashed codes come above raw features, then a higher mAP above a lower one."""
    return result.row.bits > 0, result.row.map5


def _sheet(prepared: Prepared, result: Result) -> list[dict[str, Any]]:
    """Returns some of the queries with their nearest images."""
    assert result.details is not None
    images = prepared.images
    sheet = []
    for query, nearest in zip(prepared.shown_queries, result.details.nearest, strict=True):
        row = int(prepared.query_rows[query])
        hits = []
        for place in nearest:
            found = int(prepared.indexed_rows[place])
            right = bool((images.labels[row] & images.labels[found]).any())
            hits.append({"label": _label(prepared, found), "image": _image(prepared, found), "right": right})
        sheet.append({"label": _label(prepared, row), "image": _image(prepared, row), "hits": hits})
    return sheet


def _label(prepared: Prepared, row: int) -> str:
    return ", ".join(prepared.images.classes[place] for place in np.flatnonzero(prepared.images.labels[row]))


def _image(prepared: Prepared, row: int) -> str:
    return data_url(thumbnail(io.BytesIO(prepared.images.read(row))))
