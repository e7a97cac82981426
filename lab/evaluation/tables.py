"""Owns the tables of a sweep's results (`lab.evaluation.sweep`), as text cells for the terminal and the report."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from lab.evaluation.paper import Figure
from lab.evaluation.plan import Averaged, Row
from lab.evaluation.systems import ASYMMETRIC, COSINE, EUCLIDEAN, HAMMING, RAW


@dataclasses.dataclass(frozen=True, slots=True)
class Table:
    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]


def tables_of(rows: Averaged, published: Sequence[Figure]) -> list[Table]:
    """Returns the paper's tables with our figures, then tables of our own. Tables without rows are omitted.

    Args:
        rows: The results, averaged over the seeds.
        published: The paper's figures for this data set; empty for another set.
    """
    tables = [
        _raw(rows, published),
        *_by_bits(rows, published),
        _layers(rows),
        _raw_against_hashed(rows),
        _buckets(rows),
        _cluster(rows),
    ]
    return [table for table in tables if table.rows]


def _raw(rows: Averaged, published: Sequence[Figure]) -> Table:
    k = rows[0][0].k
    found = [(row, spread) for row, spread in rows if row.method == RAW]
    cells = [
        [
            row.model, row.layer, row.score, _map(row, spread), _percent(row.p5), _percent(row.map_all),
            _percent(row.recall5), _percent(row.accuracy), _percent(row.precision), _percent(row.recall),
            _size(row.index_bytes),
        ]
        for row, spread in found
    ]  # fmt: skip
    cells += [
        [f"{figure.model} (paper)", "", "", f"{figure.map5:.1f}", *[""] * 7]
        for figure in published
        if figure.method == RAW
    ]
    header = [
        "model", "layer", "distance", f"mAP@{k}", f"P@{k}", "mAP all", f"recall@{k}", "accuracy", "precision",
        "recall", "index",
    ]  # fmt: skip
    return Table("Raw features (the paper's Table 4)", header, cells)


def _by_bits(rows: Averaged, published: Sequence[Figure]) -> list[Table]:
    """Two tables for each model and layer: a line per code length, a column per method and score."""
    tables = []
    for model, layer in dict.fromkeys((row.model, row.layer) for row, _ in rows):
        own = [(row, spread) for row, spread in rows if (row.model, row.layer) == (model, layer)]
        hashed = [pair for pair in own if pair[0].score in (HAMMING, ASYMMETRIC)]
        columns = list(dict.fromkeys((row.method, row.score) for row, _ in hashed))
        by_place = {(row.bits, row.method, row.score): (row, spread) for row, spread in hashed}
        for figure, name, title in (
            ("map5", f"mAP@{rows[0][0].k}", "Tables 5 and 6"),
            ("map_all", "mAP over all", "over the whole ranking"),
        ):
            cells = []
            for bits in sorted({row.bits for row, _ in hashed}):
                line = [str(bits)]
                for column in columns:
                    pair = by_place.get((bits, *column))
                    line.append(_percent(getattr(pair[0], figure), pair[1].get(figure)) if pair else "")
                cells.append(line)
            if not cells:
                continue
            raw = next((row for row, _ in own if row.score == COSINE), None)
            if raw is not None:
                cells.append(["raw", _percent(getattr(raw, figure)), *[""] * (len(columns) - 1)])
            if figure == "map5":
                cells += [
                    [
                        f"{known.bits} (paper, {known.model})",
                        *(f"{known.map5:.1f}" if (known.method, HAMMING) == column else "" for column in columns),
                    ]
                    for known in published
                    if (known.method, HAMMING) in columns
                ]
            header = ["bits", *(f"{method} {score}" for method, score in columns)]
            tables.append(Table(f"{name}, {model}, {layer} ({title})", header, cells))
    return tables


def _layers(rows: Averaged) -> Table:
    layers = list(dict.fromkeys(row.layer for row, _ in rows))
    raw = {(row.model, row.layer): (row, spread) for row, spread in rows if row.score == COSINE}
    cells = [
        [model, *(_map(*raw[model, layer]) if (model, layer) in raw else "" for layer in layers)]
        for model in dict.fromkeys(row.model for row, _ in rows)
    ]  # fmt: skip
    title = "Layers: raw features by cosine (the paper's Table 7)"
    return Table(title, ["model", *layers], cells if len(layers) > 1 else [])


def _raw_against_hashed(rows: Averaged) -> Table:
    raw = {(row.model, row.layer): row for row, _ in rows if row.score == EUCLIDEAN}
    cosine = {(row.model, row.layer): row for row, _ in rows if row.score == COSINE}
    cells = []
    for row, _ in rows:
        base, best = raw.get((row.model, row.layer)), cosine.get((row.model, row.layer))
        if row.score != HAMMING or base is None or best is None or not row.search_ms or not base.search_ms:
            continue
        cells.append(
            [
                row.model, row.layer, row.method, str(row.bits), _size(base.index_bytes), _size(row.index_bytes),
                f"{base.index_bytes / row.index_bytes:.0f}",
                f"{100 * row.map5 / best.map5:.1f}" if best.map5 else "",
                f"{base.search_ms:.3f}", f"{row.search_ms:.3f}",
            ]
        )  # fmt: skip
    header = [
        "model", "layer", "method", "bits", "raw index", "codes", "times smaller", "% of raw mAP", "raw ms",
        "scan ms",
    ]  # fmt: skip
    return Table("Raw against hashed: size and search time of one query (Table 4)", header, cells)


def _buckets(rows: Averaged) -> Table:
    cells = [
        [
            row.model, row.method, str(row.bits), row.score.removeprefix("buckets "), _map(row, spread),
            _percent(row.candidates),
        ]
        for row, spread in rows
        if row.candidates is not None
    ]  # fmt: skip
    header = ["model", "method", "bits", "tables x key bits", f"mAP@{rows[0][0].k}", "% compared"]
    return Table("Hash tables: candidates from buckets, then Hamming", header, cells)


def _cluster(rows: Averaged) -> Table:
    cells = [
        [
            row.model, row.method, str(row.bits), row.score.removeprefix("cluster "),
            _map(row, spread), _percent(row.p5), f"{row.search_ms or 0:.2f}", _size(row.index_bytes),
        ]
        for row, spread in rows
        if row.score.startswith("cluster ")
    ]  # fmt: skip
    header = [
        "model",
        "method",
        "bits",
        "search",
        f"mAP@{rows[0][0].k}",
        f"P@{rows[0][0].k}",
        "ms a query",
        "index",
    ]
    return Table("Through a running cluster, by Search", header, cells)


def _map(row: Row, spread: dict[str, float]) -> str:
    return _percent(row.map5, spread.get("map5"))


def _percent(share: float | None, spread: float | None = None) -> str:
    if share is None:
        return ""
    return f"{100 * share:.1f}" + (f" ± {100 * spread:.1f}" if spread else "")


def _size(size: int) -> str:
    if size < 10_000_000:
        return f"{size / 1000:,.0f} kB"
    return f"{size / 1_000_000:,.0f} MB"
