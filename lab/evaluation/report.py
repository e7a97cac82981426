"""Owns the output of a sweep: results as CSV and JSON lines, plots, and one HTML page with all of these and a
contact sheet."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2
import numpy as np

from encoder.thumbnails import data_url, thumbnail
from lab.evaluation.plots import all_plots
from lab.evaluation.sweep import Prepared, Result, Row
from lab.evaluation.tables import Table

CSV_FILE, JSON_FILE, PAGE_FILE = "results.csv", "results.jsonl", "report.html"
_QUERIES_SHOWN = 12
_PLOT_TITLES = {
    "map_by_bits": "mAP against code length",
    "size_against_map": "Index size against mAP",
    "precision_recall": "Precision against recall",
    "confusion": "Confusion matrix of the best method",
}


def write(
    folder: Path,
    rows: Sequence[Row],
    averaged: Sequence[tuple[Row, dict[str, float]]],
    results: Sequence[Result],
    tables: Sequence[Table],
    prepared: Prepared,
    facts: Sequence[tuple[str, str]],
) -> Path:
    """Writes everything into a folder.

    Args:
        folder: The folder; created if it does not exist.
        rows: All results.
        averaged: The results, averaged over seeds.
        results: The results of the first prepared set, with the rankings that the plots need.
        tables: Tables for the page.
        prepared: The prepared set that `results` were computed from.
        facts: (name, value) pairs for the page.

    Returns:
        The path of the page.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lines = [_short(row) for row in rows]
    with (folder / CSV_FILE).open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, [field.name for field in dataclasses.fields(Row)])
        writer.writeheader()
        writer.writerows(lines)
    text = "".join(json.dumps({k: v for k, v in line.items() if v is not None}) + "\n" for line in lines)
    (folder / JSON_FILE).write_text(text, encoding="utf-8")
    plots = all_plots(averaged, results, prepared.images.classes)
    for name, content in plots.items():
        (folder / f"{name}.png").write_bytes(content)
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    template = environment.from_string(
        (resources.files("lab.evaluation") / "report.html").read_text(encoding="utf-8")
    )
    best = max((result for result in results if result.quality), key=_preference)
    page = folder / PAGE_FILE
    page.write_text(
        template.render(
            title=f"Retrieval on {prepared.images.name}",
            facts=facts,
            tables=tables,
            plots=[(_PLOT_TITLES[name], data_url(content, "image/png")) for name, content in plots.items()],
            sheet_title=f"{best.row.method}, {best.row.bits} bits, {best.row.score}, {best.row.model}",
            sheet=_sheet(prepared, best),
        ),
        encoding="utf-8",
    )
    return page


def _preference(result: Result) -> tuple[bool, float]:
    """A sort key: hashed codes come above raw features, then a higher mAP above a lower one."""
    return result.row.bits > 0, result.row.map5


def _sheet(prepared: Prepared, result: Result) -> list[dict[str, Any]]:
    """Returns some of the queries, evenly spread, with their nearest images."""
    assert result.quality is not None
    images = prepared.images
    chosen = np.linspace(0, len(prepared.query_rows) - 1, min(_QUERIES_SHOWN, len(prepared.query_rows))).astype(
        int
    )
    sheet = []
    for query in dict.fromkeys(chosen.tolist()):
        row = int(prepared.query_rows[query])
        hits = []
        for place in result.quality.top[query]:
            found = int(prepared.indexed_rows[place])
            right = bool((images.labels[row] & images.labels[found]).any())
            hits.append({"label": _label(prepared, found), "image": _image(prepared, found), "right": right})
        sheet.append({"label": _label(prepared, row), "image": _image(prepared, row), "hits": hits})
    return sheet


def _label(prepared: Prepared, row: int) -> str:
    return ", ".join(prepared.images.classes[place] for place in np.flatnonzero(prepared.images.labels[row]))


def _image(prepared: Prepared, row: int) -> str:
    return data_url(thumbnail(io.BytesIO(prepared.images.read(row))))


def _short(row: Row) -> dict[str, Any]:
    """Returns the row's fields, with floats rounded to six digits."""
    return {
        name: float(f"{value:.6g}") if isinstance(value, float) else value
        for name, value in dataclasses.asdict(row).items()
    }
