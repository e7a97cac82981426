"""Owns `lookalike evaluate --task duplicates`: loads the pictures, prints each row when it is measured, and writes
the rows where it is told to."""

from __future__ import annotations

import csv
import dataclasses
import json
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from joblib import cpu_count
from rich.console import Console
from rich.table import Table
from rich.text import Text

from encoder.backbones import LAYERS
from encoder.copies.edits import EDITS
from encoder.features import FeatureModel
from encoder.hashing import read_hash
from encoder.ingest.sources import find_sources, require_images
from encoder.progress import PhaseBar
from lab import fitting
from lab.datasets.archives import archive_suffix, extracted
from lab.duplicates import cost, opinion
from lab.duplicates.pictures import Pictures, chosen_rows, describe
from lab.duplicates.run import Plan, Row, compare
from lab.evaluation.lists import among, integer, listed
from lab.feature_cache import default_folder
from lookalike.cli.options import print_json
from lookalike.model.codespace import CodeSpace
from lookalike.model.errors import InvalidRequest

DEFAULT_PICTURES = 5_000


@dataclasses.dataclass(frozen=True, slots=True)
class Given:
    """What the command line gives.

    Attributes:
        images: A folder, a glob, a URL, or an archive.
        model: The network.
        layer: Its layer.
        weights: A file of weights; None for the pretrained ones.
        originals: How many pictures to edit.
        limit: How many pictures to compare; None for DEFAULT_PICTURES.
        same: A file that says which pictures are copies of each other; None to find out.
        output: The folder for results; None to write none.
        data: The folder that archives are extracted to.
    """

    images: str
    model: str
    layer: str
    weights: Path | None
    originals: int
    limit: int | None
    same: Path | None
    output: Path | None
    data: Path


def given(
    images: str, models: str, layers: str, bits: str, methods: str, seeds: str, originals: int, one_in: str,
    same: Path | None, weights: Path | None, limit: int | None, output: Path | None, data: Path | None,
    cache: Path | None,
) -> tuple[Plan, Given]:  # fmt: skip
    """Checks the options of the command line. Raises InvalidRequest."""
    for field, values in (("models", models), ("layers", layers), ("seeds", seeds)):
        if len(listed(field, values)) > 1:
            raise InvalidRequest(f"{field}: {values} are several; give one: --task duplicates compares methods")
    lengths = [integer("bits", part) for part in listed("bits", bits)]
    for length in lengths:
        CodeSpace(length)
    rates = [integer("one-in", part) for part in listed("one-in", one_in)]
    if not all(rates):
        raise InvalidRequest("one-in: 0 is not a rate; use a whole number such as 100000")
    plan = Plan(among("methods", methods, fitting.METHODS), lengths, rates, integer("seeds", seeds.strip()))
    (layer,) = among("layers", layers, LAYERS)
    folder = data or (cache or default_folder()) / "datasets"
    return plan, Given(images, models.strip(), layer, weights, originals, limit, same, output, folder)


def evaluate_duplicates(asked: Given, plan: Plan, hash_files: Sequence[Path], as_json: bool) -> None:
    """Measures, and prints as it goes.

    Raises:
        InvalidRequest: If there are too few pictures, or a file does not fit.
        CannotStart: If the network cannot be loaded.
    """
    started = time.monotonic()
    network = FeatureModel(asked.model, asked.weights, asked.layer, decode_threads=cpu_count())
    plan = dataclasses.replace(plan, hash_files=_hashes(hash_files, network))
    with PhaseBar(as_json) as progress:
        keys, urls, found = _pictures(asked)
        if not as_json:
            progress("estimating the cost", 0, 0)
            edited = min(asked.originals, len(urls))
            for line in cost.estimate(urls, edited, network, plan, asked.same is not None).lines(found):
                print(line, file=sys.stderr, flush=True)
        pictures = _described(asked, keys, urls, network, progress)
        facts = _facts(pictures, plan.one_in)
        if not as_json:
            progress.print("; ".join(facts))
            progress.print(_line("method", "bits", [_one_in(rate) for rate in plan.one_in], "below"))
        rows = []
        for row in compare(pictures, network, plan, progress):
            rows.append(row)
            if not as_json:
                progress.print(_line_of(row, plan.one_in))
    written = None if asked.output is None else _write(asked.output, rows, plan)
    if as_json:
        documents = [_document(row) for row in rows]
        print_json({"facts": facts, "seconds": time.monotonic() - started, "results": documents})
        return
    _print(rows, plan)
    if written is not None:
        print(f"results: {written}")


def _hashes(files: Sequence[Path], network: FeatureModel) -> dict[str, Any]:
    found = {path.name: read_hash(path) for path in files}
    for name, made in found.items():
        if made.width != network.width or made.features not in ("", str(network)):
            raise InvalidRequest(f"hash: {name} was fitted to other features; give the network of its --model")
    return found


def _pictures(asked: Given) -> tuple[list[str], list[str], int]:
    """The keys and URLs of the pictures to compare, evenly spread over all, and how many there are."""
    path = Path(asked.images)
    suffix = archive_suffix(path) if path.is_file() else None
    folder = asked.images if suffix is None else str(extracted(path, suffix, asked.data))
    found = find_sources([folder])
    require_images([asked.images], found)
    sources = found.sources
    chosen = chosen_rows(len(sources), asked.limit or DEFAULT_PICTURES)
    return [sources[row].key for row in chosen], [sources[row].url for row in chosen], len(sources)


def _described(
    asked: Given, keys: Sequence[str], urls: Sequence[str], network: FeatureModel, progress: PhaseBar
) -> Pictures:
    done = 0

    def report(more: int) -> None:
        nonlocal done
        done += more
        progress(phase, done, len(urls))

    phase = "editing, encoding and hashing"
    pictures = describe(keys, urls, asked.originals, network, report)
    if asked.same is not None:
        return dataclasses.replace(pictures, group=opinion.listed_groups(pictures.keys, asked.same))
    done, phase = 0, "finding copies among the originals"
    codes = opinion.candidate_codes(network, pictures.originals.features)
    return dataclasses.replace(pictures, group=opinion.groups_of(pictures, codes, report))


def _facts(pictures: Pictures, one_in: Sequence[int]) -> list[str]:
    count = len(pictures.keys)
    alike = count - len(set(pictures.group.tolist()))
    facts = [
        f"{count:,} pictures",
        f"{len(pictures.origin):,} copies by {len(EDITS)} edits",
        f"{pictures.false_pairs:,} pairs of different pictures",
        f"originals that are copies of others, and so count neither way: {alike:,}",
    ]
    if pictures.unreadable:
        facts.append(f"{pictures.unreadable:,} unreadable")
    if pictures.false_pairs < one_in[0]:
        facts.append(f"at {_one_in(one_in[0])} no false pair may pass, because there are so few pairs")
    return facts


def _one_in(rate: int) -> str:
    return f"1:{rate:,}"


def _line(method: str, bits: object, recalls: Sequence[str], below: str) -> str:
    return f"{method:<36} {bits:>5} " + " ".join(f"{recall:>11}" for recall in recalls) + f" {below:>8}"


def _line_of(row: Row, one_in: Sequence[int]) -> str:
    if row.note:
        return f"{row.method:<36} {row.bits or '':>5} {row.note}"
    below = f"{row.below[one_in[0]]:g}" if row.below else ""
    return _line(row.method, row.bits or "", [_percent(row.recall.get(rate)) for rate in one_in], below)


def _percent(share: float | None) -> str:
    return "" if share is None else f"{100 * share:.1f}"


def _count(number: int | None) -> str:
    return "" if number is None else f"{number:,}"


def _print(rows: Sequence[Row], plan: Plan) -> None:
    """The recall by edit."""
    title = f"Copies found, %, with one false pair in {plan.one_in[0]:,}; the second opinion as it is"
    table = Table(title=title, title_justify="left")
    for number, name in enumerate(("", *EDITS, "all", "false pairs", "same code")):
        table.add_column(name, justify="left" if number == 0 else "right")
    for row in rows:
        if not row.note:
            name = f"{row.method}, {row.bits}" if row.bits else row.method
            shares = [_percent(row.by_edit[edit]) for edit in EDITS]
            table.add_row(
                *map(Text, (name, *shares, _percent(row.share), f"{row.false_pairs:,}", _count(row.equal)))
            )
    Console(width=200).print(table)


def _document(row: Row) -> dict[str, Any]:
    return {**dataclasses.asdict(row), "found": row.share}


def _write(folder: Path, rows: Sequence[Row], plan: Plan) -> Path:
    """Writes duplicates.jsonl and duplicates.csv. Returns the path of the latter."""
    lines = [json.dumps(_document(row)) for row in rows]
    (folder / "duplicates.jsonl").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    target = folder / "duplicates.csv"
    with target.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        rates = [f"recall_1_in_{rate}" for rate in plan.one_in]
        table.writerow(["method", "bits", *rates, *EDITS, "all", "false_pairs", "equal", "note"])
        for row in rows:
            recalls = [_cell(row.recall, rate) for rate in plan.one_in]
            shares = [_cell(row.by_edit, edit) for edit in EDITS]
            found = "" if row.share is None else row.share
            table.writerow(
                [row.method, row.bits or "", *recalls, *shares, found, row.false_pairs, row.equal, row.note]
            )
    return target


def _cell(values: Mapping[Any, float], name: object) -> object:
    return values.get(name, "")
