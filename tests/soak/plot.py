"""Owns the plots of a run: each figure over time, one line for each process or folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib

from tests.soak.samples import Series
from tests.soak.slopes import FIGURES

_COLORS = matplotlib.color_sequences["tab20"]


def draw(series: Sequence[Series], begin: float, folder: Path) -> list[Path]:
    """Plots every figure to FOLDER/FIGURE.png.

    Args:
        series: The samples.
        begin: The end of the warm-up, in seconds from the start of the run.
        folder: Where to write.

    Returns:
        The files.
    """
    matplotlib.use("agg")
    from matplotlib import pyplot

    files = []
    for name, figure in FIGURES.items():
        canvas, axes = pyplot.subplots(figsize=(9, 4.6), dpi=120, layout="constrained")
        colors: dict[str, object] = {}
        for one in series:
            if name not in one.figures:
                continue
            # A process that was started several times is one line of the legend.
            label = one.name.partition(" ")[0]
            shown = f"_{label}" if label in colors else label
            color = colors.setdefault(label, _COLORS[len(colors) % len(_COLORS)])
            values = [value / figure.scale for value in one.figures[name]]
            axes.plot([seconds / 3_600 for seconds in one.seconds], values, lw=1.2, label=shown, color=color)
        axes.axvspan(0, begin / 3_600, color="0.93", label="warm-up")
        axes.set(xlabel="hours", ylabel=figure.unit, title=figure.title, xlim=(0, None), ylim=(0, None))
        canvas.legend(frameon=False, fontsize=7, loc="outside right center")
        files.append(folder / f"{name}.png")
        canvas.savefig(files[-1])
        pyplot.close(canvas)
    return files
