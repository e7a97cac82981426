"""Owns the course of an evaluation: says what it costs, resumes an earlier run, measures set by set (a model, a
layer and a seed), prints and writes each row when it is there, and returns the outcome."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from encoder.features import find_device, find_precision
from encoder.hashing import read_hash
from encoder.progress import PhaseBar
from lab.datasets.labelled import mark_of
from lab.evaluation import cost, sweep, through_cluster
from lab.evaluation.measured import Measured, SetKey
from lab.evaluation.plan import Plan, Result, Row
from lab.evaluation.preparation import Prepared, Workspace, prepare
from lookalike.client.sync_client import Client
from lookalike.model.errors import CannotStart, InvalidRequest

_LINE = "{:<24} {:<10} {:>4}  {:<10} {:>5}  {:<24} {:>6} {:>6} {:>7} {:>9}"


@dataclasses.dataclass(frozen=True, slots=True)
class Outcome:
    """What a run measured.

    Attributes:
        plan: The plan; of a table, with its column as the only model.
        rows: All rows, in the order of the plan.
        first: The first set.
        results: The results of the first set, with what plots need.
    """

    plan: Plan
    rows: list[Row]
    first: Prepared
    results: list[Result]


def run(
    plan: Plan,
    workspace: Workspace,
    output: Path | None,
    progress: PhaseBar,
    as_json: bool,
    may_lack_weights: bool,
) -> Outcome:
    """Measures what the plan asks for, without what an earlier run has measured.

    Args:
        plan: What to evaluate.
        workspace: Loads data sets and networks.
        output: The folder of results; None to write none.
        progress: Shows progress, and prints rows.
        as_json: Print nothing.
        may_lack_weights: Skip networks without weights.

    Raises:
        InvalidRequest: If the data set is invalid, or does not fit the plan.
        CannotStart: If the data set or a network is missing, or another process writes to the folder.
    """
    progress("loading the data set", 0, 0)
    images = workspace.dataset(plan.seeds[0])
    if images.vectors is not None:
        for remark in () if as_json else images.vectors.remarks:
            _say(remark)
        plan = _for_table(plan, images.vectors.feature_column, images.vectors.code_column)
    with Measured(output, settings_of(plan, images.digest, images.vectors is None)) as measured:
        if measured.changed:
            _say(f"output: {output} has results of other settings ({', '.join(measured.changed)}); starting anew")
        if not as_json:
            progress("estimating the cost", 0, 0)
            found = cost.estimate(plan, workspace, may_lack_weights)
            for line in cost.lines_of(found, plan, images, workspace.cache, measured.earlier):
                _say(line)
            progress.print(_LINE.format(
                "model", "layer", "seed", "method", "bits", "score", f"mAP@{plan.k}", f"P@{plan.k}", "mAP all",
                "ms a query",
            ))  # fmt: skip
        outcome = _Run(plan, workspace, measured, progress, as_json).measure(may_lack_weights)
        measured.write_results(outcome.rows)
        return outcome


class _Run:
    """A run in work."""

    def __init__(
        self, plan: Plan, workspace: Workspace, measured: Measured, progress: PhaseBar, as_json: bool
    ) -> None:
        self._plan, self._workspace, self._measured = plan, workspace, measured
        self._progress, self._as_json = progress, as_json

    def measure(self, may_lack_weights: bool) -> Outcome:
        """Measures set by set: features take much memory, so only one set is there at a time."""
        plan, rows = self._plan, list[Row]()
        first: Prepared | None = None
        results: list[Result] = []
        with contextlib.ExitStack() as stack:
            connect = functools.cache(lambda: stack.enter_context(through_cluster.cluster()))
            for of in self._sets():
                # The report needs the first set itself.
                if first is not None and (finished := self._measured.take_finished(of)) is not None:
                    rows += [result.row for result in finished[0]]
                    for reason in finished[1]:
                        report_skipped(reason)
                    continue
                try:
                    prepared = prepare(plan, *of, self._workspace, self._progress)
                except CannotStart as error:
                    if not may_lack_weights or "pretrained weights" not in error.message:
                        raise
                    report_skipped(f"{of[0]}: {error.message}")
                    continue
                found = self._measure_set(prepared, of, connect)
                rows += [result.row for result in found]
                if first is None:
                    first, results = prepared, found
        if first is None:
            raise CannotStart("models: no weights of the paper's networks are available; see the lines above")
        return Outcome(plan, rows, first, results)

    def _sets(self) -> Iterator[SetKey]:
        for model in self._plan.models:
            for layer in self._plan.layers:
                for seed in self._plan.seeds:
                    yield model, layer, seed

    def _measure_set(self, prepared: Prepared, of: SetKey, connect: Callable[[], Client]) -> list[Result]:
        plan, left_out = self._plan, list[str]()

        def known(model: str, method: str, bits: int, score: str) -> Result | None:
            return self._measured.take(of, (model, method, bits, score))

        def leave_out(reason: str) -> None:
            left_out.append(reason)
            report_skipped(reason)

        def measured() -> Iterator[Result]:
            yield from sweep.evaluate(prepared, plan, known, self._progress, leave_out)
            if plan.has_cluster:
                yield from through_cluster.evaluate(connect, prepared, plan, known, self._progress)

        found = []
        for result in measured():
            found.append(result)
            if not result.is_earlier:
                self._measured.add(of, result)
                if not self._as_json:
                    self._progress.print(line_of(result.row))
        self._measured.finish(of, left_out)
        return found


def settings_of(plan: Plan, digest: str, has_images: bool) -> dict[str, Any]:
    """All that decides the rows of a plan, as JSON values by the names of the options.

    Args:
        plan: The plan.
        digest: The digest of the data set; see `lab.datasets.LabelledImages`.
        has_images: Whether the data set has images, so that the device matters.
    """
    device = find_device("auto")
    return {
        "version": 1,
        "data set": digest,
        "models": plan.models,
        "layers": plan.layers,
        "methods": plan.methods,
        "bits": plan.bits,
        "seeds": plan.seeds,
        "k": plan.k,
        "tables": [str(layout) for layout in plan.tables],
        "unseen": plan.unseen,
        "limit": plan.limit,
        "weights": None if plan.weights is None else _file_mark(plan.weights),
        "oversampling": plan.oversampling,
        "hash": [[path.name, read_hash(path).digest] for path in plan.hashes],
        "cluster": plan.has_cluster,
        "columns": plan.columns,
        "code_format": plan.code_format,
        "device": [device.type, str(find_precision("auto", device))] if has_images else None,
    }


def line_of(row: Row) -> str:
    """A row as a line of text."""
    shares = ["" if share is None else f"{100 * share:.1f}" for share in (row.map5, row.p5, row.map_all)]
    search = "" if row.search_ms is None else f"{row.search_ms:.3f}"
    return _LINE.format(
        row.model, row.layer, row.seed, row.method, row.bits or "", row.score, *shares, search
    ).rstrip()


def report_skipped(what: str) -> None:
    """Says on standard error what is left out, and why."""
    _say(f"left out: {what}")


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _for_table(plan: Plan, feature_column: str, code_column: str) -> Plan:
    """The plan for a table: its column of features, or else of codes, is the only model."""
    asked = {"cluster": plan.has_cluster, "hash": plan.hashes, "raw-partitions": plan.raw_partitions}
    for option, value in asked.items():
        if value and not feature_column:
            raise InvalidRequest(f"{option}: needs features, but {plan.dataset} has codes alone; leave it out")
    return dataclasses.replace(plan, models=[feature_column or code_column], layers=[sweep.COLUMN])


def _file_mark(path: Path) -> str:
    return f"{path} {mark_of(path) if path.is_file() else ''}"
