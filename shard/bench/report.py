"""Owns the output of benchmark figures: a table for people, JSON lines for programs, plots for documentation."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from lookalike.model.errors import InvalidRequest
from shard.bench.timing import Figure


def line(figure: Figure) -> str:
    """Returns one JSON line; fields that were not measured are omitted."""
    fields = {name: value for name, value in dataclasses.asdict(figure).items() if value not in (None, "")}
    return json.dumps({name: _short(value) for name, value in fields.items()})


def table(figures: Sequence[Figure]) -> Table:
    columns = ("what", "bits", "rows", "k", "batch", "threads", "ms", "GB/s", "of memory", "speedup", "baseline")
    made = Table(*columns, title="lookalike bench")
    for column in made.columns[1:10]:
        column.justify = "right"
    for figure in figures:
        what = f"{figure.what} ({figure.note})" if figure.note else figure.what
        made.add_row(
            what, str(figure.bits), f"{figure.rows:,}", str(figure.k), str(figure.queries), str(figure.threads),
            f"{figure.milliseconds:.3f}", f"{figure.compared:.1f}" if figure.compared else "",
            "" if figure.memory_share is None else f"{figure.memory_share:.2f}",
            "" if figure.ratio is None else f"{figure.ratio:.2f}", figure.beside,
        )  # fmt: skip
    return made


def show(figures: Sequence[Figure]) -> None:
    Console(width=160).print(table(figures))


def plot(figures: Sequence[Figure], folder: Path, processor: str) -> list[Path]:
    """Plots latency by number of rows, throughput by batch size, and latency of bucket search by distance. Omits
    plots that would show no measurement.

    Args:
        figures: The measurements.
        folder: Where to write the PNG files; created if missing.
        processor: The processor's name, printed as the caption.

    Returns:
        The files written.

    Raises:
        InvalidRequest: If Matplotlib is not installed.
    """
    try:
        import matplotlib  # optional, not a dependency

        matplotlib.use("agg")
        from matplotlib import pyplot
    except ModuleNotFoundError:
        raise InvalidRequest("plots: matplotlib is not installed; run: pip install matplotlib") from None
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for name, draw in (("rows", _draw_rows), ("batch", _draw_batches), ("buckets", _draw_buckets)):
        matching = [figure for figure in figures if figure.what.startswith(name)]
        if not matching:
            continue
        canvas, axes = pyplot.subplots(figsize=(7, 4.2), dpi=130, layout="constrained")
        draw(axes, matching)
        axes.grid(visible=True, which="major", alpha=0.3)
        axes.legend(frameon=False)
        axes.text(0, -0.2, processor, transform=axes.transAxes, fontsize=7, alpha=0.6)
        path = folder / f"{name}.png"
        canvas.savefig(path)
        pyplot.close(canvas)
        paths.append(path)
    return paths


def _draw_rows(axes: Any, figures: Sequence[Figure]) -> None:
    last = figures[-1]
    rows = [figure.rows for figure in figures]
    axes.loglog(rows, [figure.milliseconds for figure in figures], "o-", label="one query, 256 bits, k = 10")
    axes.loglog(rows, [last.milliseconds * count / last.rows for count in rows], ":", label="proportional to rows")
    axes.set(xlabel="rows", ylabel="milliseconds", title="Latency by number of rows")


def _draw_batches(axes: Any, figures: Sequence[Figure]) -> None:
    batches = [figure.queries for figure in figures]
    rate = [figure.queries * figure.rows / figure.milliseconds / 1e6 for figure in figures]
    axes.semilogx(batches, rate, "o-", base=2, label="Lookalike")
    if all(figure.ratio for figure in figures):
        baseline = [each / (figure.ratio or 1) for each, figure in zip(rate, figures, strict=True)]
        axes.semilogx(batches, baseline, "s--", base=2, label=figures[0].beside)
    axes.set(xlabel="batch size", ylabel="256-bit codes compared per second, billions", ylim=(0, None))
    axes.set_title("Throughput of one thread by batch size")


def _draw_buckets(axes: Any, figures: Sequence[Figure]) -> None:
    near = [figure for figure in figures if "neighbour at" in figure.what]
    distances = [int(figure.what.rpartition(" ")[2]) for figure in near]
    axes.semilogy(distances, [figure.milliseconds for figure in near], "o-", label="buckets (mih)")
    scans = [figure.milliseconds * (figure.ratio or 0) for figure in near]
    axes.semilogy(distances, scans, "s--", label="scan")
    axes.set(xlabel="distance of the nearest row, bits", ylabel="milliseconds")
    axes.set_title(f"k = 1 among {near[0].rows:,} codes of {near[0].bits} bits")


def _short(value: object) -> object:
    return float(f"{value:.4g}") if isinstance(value, float) else value
