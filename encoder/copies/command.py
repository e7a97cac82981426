"""Owns `lookalike calibrate`: its options, its table and its plot."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from encoder.copies.measuring import DEFAULT_SAMPLE, calibrate_collection
from encoder.copies.plot import draw
from lookalike.cli.options import (
    DEFAULT_COLLECTION,
    DEFAULT_SERVER,
    CollectionName,
    Json,
    Server,
    connect,
    print_json,
)
from lookalike.cli.progress import records_bar
from lookalike.jobs.dedup import calibration as calibrations
from lookalike.jobs.dedup.calibration import DEFAULT_PRECISION, DEFAULT_SHARE, Calibration, expected_precision
from lookalike.jobs.dedup.groups import read_snapshot

_ROWS = 10


def calibrate(
    collection: CollectionName = DEFAULT_COLLECTION,
    sample: Annotated[int, typer.Option(help="Pictures to edit.", min=10, max=5_000)] = DEFAULT_SAMPLE,
    target_precision: Annotated[
        float, typer.Option(help="The share of the pairs found that should be copies.", min=0.5, max=0.99999)
    ] = DEFAULT_PRECISION,
    copies: Annotated[
        float, typer.Option(help="The assumed share of records that are a copy of another.", min=0.0001, max=1.0)
    ] = DEFAULT_SHARE,
    plot: Annotated[Path | None, typer.Option(help="Write a plot to this file.", metavar="FILE")] = None,
    server: Server = DEFAULT_SERVER,
    timeout: Annotated[float, typer.Option(help="Timeout of a call in seconds.", min=0.001)] = 120.0,
    as_json: Json = False,
) -> None:
    """Measure how far copies and different pictures lie in a collection, and store it for `lookalike dedup`.

    Pictures of the collection are edited as people edit them (cropped, mirrored, compressed, marked, ...) and
    encoded here. For codes that were made elsewhere, the distances between the codes give an estimate."""
    with connect(server, timeout) as client, records_bar("reading") as bar:
        found = client.get_collection(collection)
        snapshot = read_snapshot(client, found, timeout, bar.completed)
        bar.start("editing and encoding", min(sample, len(snapshot.keys)))
        made = calibrate_collection(client, found, snapshot, sample, target_precision, copies, bar.completed)
        calibrations.save(client, found, made)
    if plot is not None:
        draw(made, collection, plot)
    if as_json:
        print_json(_as_json(made))
    else:
        _print(made)


def _shown(made: Calibration) -> list[int]:
    """Some distances, the chosen one among them."""
    most = max(made.wide_distance, made.max_distance)
    return sorted({round(most * step / _ROWS) for step in range(1, _ROWS + 1)} | {made.max_distance})


def _as_json(made: Calibration) -> dict[str, object]:
    return {
        "records": made.records, "pictures": made.pictures, "max_distance": made.max_distance,
        "wide_distance": made.wide_distance, "source": made.source, "target_precision": made.precision,
        "assumed_copies": made.share, "second_opinion_recall": dict(made.checked),
        "distances": [
            {
                "distance": each, "recall": made.mean_recall(each) if made.copies else None,
                "false_pairs": made.false_pairs(each),
                "by_edit": {edit: made.recall(each, edit) for edit in made.copies},
            }
            for each in range(len(made.strangers))
        ],
    }  # fmt: skip


def _print(made: Calibration) -> None:
    table = Table("within", *made.copies, "all", "false pairs", "precision", title="copies found, %")
    for column in table.columns:
        column.justify = "right"
    for each in _shown(made):
        by_edit = [f"{100 * made.recall(each, edit):.0f}" for edit in made.copies]
        mean = f"{100 * made.mean_recall(each):.0f}" if made.copies else "?"
        precision = f"{100 * expected_precision(made, each):.1f} %"
        chosen = "*" if each == made.max_distance else ""
        table.add_row(f"{chosen}{each}", *by_edit, mean, f"{made.false_pairs(each):,.3g}", precision)
    if made.checked:
        by_edit = [f"{100 * made.checked[edit]:.0f}" for edit in made.copies]
        mean = f"{100 * sum(made.checked.values()) / len(made.checked):.0f}"
        table.add_row("second opinion", *by_edit, mean, "", "")
    Console(width=200).print(table)
    if not made.max_distance:
        print("Codes alone reach the target at no distance: let dedup compare the pictures.")
    print(
        f"{made.max_distance} bits: {made.source}; for a precision of {made.precision:.1%}"
        f" if {made.share:.1%} of {made.records:,} records are copies. Stored with the collection."
    )
