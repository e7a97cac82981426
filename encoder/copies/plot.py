"""Owns the plot of a calibration: recall by edit, and expected false pairs, at each distance."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from lookalike.jobs.dedup.calibration import Calibration
from lookalike.model.errors import InvalidRequest


def draw(calibration: Calibration, name: str, file: Path) -> None:
    """Plots a calibration to a PNG, PDF or SVG file.

    Args:
        calibration: What was measured.
        name: The collection's name.
        file: Where to write; its ending decides the format.

    Raises:
        InvalidRequest: If Matplotlib is not installed or cannot write the file.
    """
    try:
        import matplotlib  # optional, not a dependency

        matplotlib.use("agg")
        from matplotlib import pyplot
    except ModuleNotFoundError:
        raise InvalidRequest("plot: matplotlib is not installed; run: pip install matplotlib") from None
    distances = np.arange(len(calibration.strangers))
    canvas, axes = pyplot.subplots(figsize=(8, 4.6), dpi=130, layout="constrained")
    axes.set_prop_cycle(color=matplotlib.color_sequences["tab20"])
    for edit in calibration.copies:
        recalls = [100 * calibration.recall(int(each), edit) for each in distances]
        axes.plot(distances, recalls, lw=1.4, label=edit)
    axes.set(xlabel="distance, bits", ylabel="copies within the distance, %", ylim=(0, 101))
    axes.axvline(calibration.max_distance, color="black", ls=":", label=f"chosen: {calibration.max_distance} bits")
    axes.set_title(f"{name}: {calibration.records:,} records", parse_math=False)
    other = axes.twinx()
    other.semilogy(
        distances,
        [max(1e-2, calibration.false_pairs(int(each))) for each in distances],
        "k--",
        label="false pairs",
    )
    other.set(ylabel="expected pairs of different pictures (dashed)", ylim=(1e-2, None))
    canvas.legend(frameon=False, fontsize=8, loc="outside right center")
    try:
        canvas.savefig(file)
    except (OSError, ValueError) as error:
        raise InvalidRequest(f"plot: {file} cannot be written ({error}); name a PNG, PDF or SVG file") from None
    finally:
        pyplot.close(canvas)
