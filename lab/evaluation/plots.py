"""Owns the plots of an evaluation (see `lab.evaluation.sweep`), as PNG images."""

from __future__ import annotations

import io
import warnings
from collections.abc import Mapping, Sequence

import matplotlib as mpl
import numpy as np
import numpy.typing as npt

from lab.evaluation.plan import Averaged, Result, Row
from lab.evaluation.systems import ASYMMETRIC, COSINE, HAMMING, RAW

mpl.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

_CURVES_SHOWN = 8


def map_by_bits(rows: Averaged) -> bytes:
    """Plots mAP@k against the code length: a line for each method and score, and a horizontal line for the raw
    features."""
    figure, axes = _figure()
    first = rows[0][0]
    own = [(row, spread) for row, spread in rows if (row.model, row.layer) == (first.model, first.layer)]
    methods = list(dict.fromkeys(row.method for row, _ in own))
    for method, score in dict.fromkeys((row.method, row.score) for row, _ in own):
        line = sorted(
            (row.bits, 100 * row.map5, 100 * spread.get("map5", 0.0))
            for row, spread in own
            if (row.method, row.score) == (method, score)
        )
        bits, values, spreads = (list(part) for part in zip(*line, strict=True))
        if method == RAW:
            if score == COSINE:
                axes.axhline(values[0], color="black", linestyle=":", label=f"raw {score}")
        elif score in (HAMMING, ASYMMETRIC):
            style = f"C{methods.index(method)}{'-' if score == HAMMING else '--'}"
            axes.errorbar(
                bits, values, yerr=spreads, fmt=style, marker="o", ms=3, capsize=2, label=f"{method} {score}"
            )
    axes.set_xscale("log", base=2)
    axes.set(xlabel="bits", ylabel=f"mAP@{first.k}, %")
    axes.set_title(f"{first.dataset}, {first.model}, {first.layer}", parse_math=False)
    return _png(figure, axes)


def size_against_map(rows: Averaged) -> bytes:
    """Plots mAP@k against the size of the index."""
    figure, axes = _figure()
    for method in dict.fromkeys(row.method for row, _ in rows):
        own = [row for row, _ in rows if row.method == method and row.score in (HAMMING, COSINE)]
        axes.plot(
            [row.index_bytes / 1000 for row in own], [100 * row.map5 for row in own], "o-" if method != RAW else
            "k*", ms=4, label=method,
        )  # fmt: skip
    axes.set_xscale("log")
    axes.set(xlabel="index, kB", ylabel=f"mAP@{rows[0][0].k}, %", title="Index size against mAP")
    return _png(figure, axes)


def precision_recall(results: Sequence[Result], bits: int) -> bytes:
    """Plots precision against recall for raw features and for each method's codes of `bits` bits, ranked by
    Hamming distance."""
    figure, axes = _figure()
    seed = results[0].row.seed
    shown = [
        result
        for result in results
        if result.details and result.row.seed == seed
        and (result.row.score == COSINE or (result.row.bits == bits and result.row.score == HAMMING))
    ][:_CURVES_SHOWN]  # fmt: skip
    for result in shown:
        assert result.details is not None
        precisions = result.details.precisions
        axes.plot(np.linspace(0, 1, len(precisions)), precisions, label=_name(result.row))
    axes.set(xlabel="recall", ylabel="precision", ylim=(0, 1.02), title="Precision against recall")
    return _png(figure, axes)


def confusion(matrix: npt.NDArray[np.int64], classes: Sequence[str], title: str) -> bytes:
    """Plots, for each true class, the share of its queries that a vote of the k nearest images assigns to each
    class."""
    side = min(14.0, 3 + 0.22 * len(classes))
    figure, axes = plt.subplots(figsize=(side, side), layout="constrained")
    shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    if len(classes) <= 60:
        axes.set_xticks(range(len(classes)), classes, rotation=90, fontsize=6, parse_math=False)
        axes.set_yticks(range(len(classes)), classes, fontsize=6, parse_math=False)
    axes.set(xlabel="voted", ylabel="true")
    axes.set_title(title, parse_math=False)
    return _png(figure, None)


def all_plots(rows: Averaged, results: Sequence[Result], classes: Sequence[str]) -> Mapping[str, bytes]:
    """Returns every plot that the results have data for, as PNG, by file name without ending."""
    hashed = sorted({row.bits for row, _ in rows if row.score == HAMMING})
    plots = {"map_by_bits": map_by_bits(rows), "size_against_map": size_against_map(rows)}
    plots["precision_recall"] = precision_recall(results, hashed[len(hashed) // 2] if hashed else 0)
    best = max((result for result in results if result.details), key=lambda result: result.row.map5)
    if best.details is not None and best.details.confusion is not None:
        plots["confusion"] = confusion(best.details.confusion, classes, f"Confusion, {_name(best.row)}")
    return plots


def _name(row: Row) -> str:
    bits = f", {row.bits} bits" if row.bits else ""
    return f"{row.model} {row.layer}: {row.method} {row.score}{bits}"


def _figure() -> tuple[Figure, Axes]:
    figure, axes = plt.subplots(figsize=(7.5, 4.5), layout="constrained")
    return figure, axes


def _png(figure: Figure, axes: Axes | None) -> bytes:
    if axes is not None:
        axes.grid(alpha=0.3)
        axes.legend(fontsize=7)
    file = io.BytesIO()
    with warnings.catch_warnings():
        # If the font lacks letters of a class name, they are drawn as boxes; suppress the warning for each letter.
        warnings.filterwarnings("ignore", "Glyph", UserWarning)
        figure.savefig(file, format="png", dpi=110)
    plt.close(figure)
    return file.getvalue()
