"""Owns `lookalike evaluate`."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import re
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from encoder.options import CacheFolder, CodeFormat, DataFolder, Limit, Weights, require_folder
from encoder.progress import PhaseBar
from lab.evaluation.lists import among, integer, listed
from lookalike.cli.options import Json, print_json
from lookalike.model.codespace import MAX_BITS, MIN_BITS, CodeSpace
from lookalike.model.errors import InvalidRequest
from lookalike.model.records import DEFAULT_OVERSAMPLING, check_oversampling

if TYPE_CHECKING:
    from lab.evaluation.buckets import Layout
    from lab.evaluation.paper import Figure
    from lab.evaluation.plan import Averaged, Plan
    from lab.evaluation.preparation import Prepared
    from lab.evaluation.run import Outcome
    from lab.evaluation.tables import Table

_ONE_IN = "100000,10000,1000000"
_MODEL, _LAYER = "tf_efficientnet_lite0", "pooled"
_BITS, _METHODS = "16,32,64,128,256,512,1024,2048", "lsh,centred,pca,itq"
_OF_DUPLICATES = {"bits": "64,256,1024", "methods": "lsh,itq"}


def evaluate(
    dataset: Annotated[
        str,
        typer.Argument(
            help="cifar10, caltech101, flowers102 or coco2017 (downloaded if missing); a folder with a sub-folder"
            " for each class, or a .tar or .zip of such a folder; or a parquet or Arrow file of features or codes"
            " with labels. For duplicates, pictures without labels: a folder, a glob, a URL, or an archive."
        ),
    ],
    task: Annotated[
        Literal["classes", "duplicates"],
        typer.Option(
            help="classes: are the nearest images of the same class? duplicates: are edited copies found among all"
            " pictures, and by perceptual hashes too?"
        ),
    ] = "classes",
    models: Annotated[
        str,
        typer.Option(
            help="Networks, comma-separated; `paper` for the paper's eight (those without weights are skipped)."
        ),
    ] = _MODEL,
    layers: Annotated[str, typer.Option(help="Layers, comma-separated: map, pooled, classifier.")] = _LAYER,
    bits: Annotated[
        str | None,
        typer.Option(help=f"Code lengths, comma-separated; {_BITS}, or {_OF_DUPLICATES['bits']} for duplicates."),
    ] = None,
    methods: Annotated[
        str | None,
        typer.Option(
            help="Hash methods, comma-separated: lsh, centred, pca, itq, csq (learns from labels);"
            f" {_METHODS}, or {_OF_DUPLICATES['methods']} for duplicates."
        ),
    ] = None,
    seeds: Annotated[
        str, typer.Option(help="Seeds of the split and hash, comma-separated; several give standard deviations.")
    ] = "0",
    k: Annotated[int, typer.Option("-k", help="The k of mAP@k and P@k.", min=1, max=1_000)] = 5,
    tables: Annotated[
        str, typer.Option(help="Also search hash tables: their number x the bits of a key, such as 1x16,4x12.")
    ] = "",
    unseen: Annotated[
        float,
        typer.Option(help="Search only this share of the classes, and fit hashes to the others.", min=0, max=0.9),
    ] = 0.0,
    cluster: Annotated[
        bool, typer.Option("--cluster", help="Also search an ephemeral cluster, with each score and rerank.")
    ] = False,
    oversampling: Annotated[
        int, typer.Option(help="Candidates per result for the cluster's reranks.")
    ] = DEFAULT_OVERSAMPLING,
    raw_partitions: Annotated[
        int,
        typer.Option(help="Also time an index of raw features in N processes on Ray.", metavar="N", min=0, max=64),
    ] = 0,
    output: Annotated[
        Path | None,
        typer.Option(
            help="The folder for results, plots and report; a run in it with the same settings is resumed. By"
            " default nothing is written."
        ),
    ] = None,
    max_bits: Annotated[
        int | None,
        typer.Option(
            help="Recommend codes of at most N bits; any by default.", metavar="N", min=MIN_BITS, max=MAX_BITS
        ),
    ] = None,
    columns: Annotated[
        str,
        typer.Option(
            help="What a table's columns are, as in key=id,features=embedding,label=class.",
            metavar="ROLE=COLUMN,...",
        ),
    ] = "",
    code_format: CodeFormat = None,
    hashes: Annotated[
        list[Path] | None,
        typer.Option("--hash", help="Also evaluate a hash file from `lookalike fit` or `train`; can be repeated."),
    ] = None,
    weights: Weights = None,
    limit: Limit = None,
    originals: Annotated[
        int, typer.Option(help="Duplicates: edit N pictures; all others are only compared.", metavar="N", min=1)
    ] = 300,
    one_in: Annotated[
        str,
        typer.Option(
            help="Duplicates: measure recall at one false pair in each of these numbers, comma-separated; the"
            " table by edit uses the first."
        ),
    ] = _ONE_IN,
    same: Annotated[
        Path | None,
        typer.Option(
            help="Duplicates: a file that lists pictures that are copies of each other, one group per line. By"
            " default the second opinion finds them.",
            metavar="FILE",
        ),
    ] = None,
    data: DataFolder = None,
    cache: CacheFolder = None,
    as_json: Json = False,
) -> None:
    """Measure retrieval on labelled images: networks, layers, code lengths and methods side by side. With --task
    duplicates, measure on any pictures how well copies are found.

    Says what it will cost, prints each row when it is there, then the paper's tables (see
    docs/RETRIEVAL_QUALITY.md) with this run's figures, and recommends codes. With --output, writes results.csv,
    results.jsonl, plots and report.html.
    Features are cached on disk, so a second sweep over the same images encodes nothing. A parquet file of
    features or codes, with the columns key, features or code, and label, needs no encoding."""
    started = time.monotonic()
    chosen = _OF_DUPLICATES if task == "duplicates" else {"bits": _BITS, "methods": _METHODS}
    bits, methods = bits or chosen["bits"], methods or chosen["methods"]
    if output is not None:
        require_folder("output", output)
    if task == "duplicates":
        _refuse(
            "duplicates", k=k != 5, tables=bool(tables), unseen=bool(unseen), cluster=cluster,
            oversampling=oversampling != DEFAULT_OVERSAMPLING, raw_partitions=bool(raw_partitions),
            max_bits=max_bits is not None, columns=bool(columns), code_format=code_format is not None,
        )  # fmt: skip
        from lab.duplicates.command import evaluate_duplicates, given

        compared, asked = given(
            dataset, models, layers, bits, methods, seeds, originals, one_in, same, weights, limit, output,
            data, cache,
        )  # fmt: skip
        evaluate_duplicates(asked, compared, hashes or [], as_json)
        return
    _refuse("classes", originals=originals != 300, one_in=one_in != _ONE_IN, same=same is not None)
    with _evaluation_extra():
        from lab.evaluation.plan import averaged
        from lab.evaluation.preparation import Workspace
        from lab.evaluation.recommendation import recommend
        from lab.evaluation.run import run
        from lab.evaluation.tables import tables_of
        from lab.feature_cache import default_folder

    plan = _plan(
        dataset, models, layers, bits, methods, seeds, k, tables, unseen, limit, weights,
        check_oversampling(oversampling), hashes or [], cluster, raw_partitions, columns, code_format,
    )  # fmt: skip
    cache = require_folder("cache", cache or default_folder())
    if output is not None:
        _import_plots(cache)
    _check_options(plan, models, layers)
    workspace = Workspace(plan, data or cache / "datasets", cache, os.cpu_count() or 1)
    with PhaseBar(as_json) as progress:
        outcome = run(plan, workspace, output, progress, as_json, models == "paper")
        plan, first = outcome.plan, outcome.first
        means = averaged(outcome.rows)
        shown = tables_of(means, _published(first, plan))
        if plan.raw_partitions:
            progress("timing the raw index", 0, 0)
            shown.append(_time_raw_cluster(first, plan.k, plan.raw_partitions))
        advice = recommend(means, plan, max_bits)
        advised = advice.lines if advice else [f"recommendation: none; no codes have at most {max_bits} bits"]
        seconds = time.monotonic() - started
        facts = _facts(first, plan, seconds)
        page = None
        if output is not None:
            progress("writing the report", 0, 0)
            page = _write_report(output, outcome, means, shown, [*facts, _fact(advised)])
    if as_json:
        print_json({
            "report": None if page is None else str(page),
            "seconds": seconds,
            "recommendation": None if advice is None else dataclasses.asdict(advice),
            "results": [dataclasses.asdict(row) for row in outcome.rows],
        })  # fmt: skip
        return
    for table in shown:
        _print(table)
    print("; ".join(f"{name}: {value}" for name, value in facts))
    for line in advised:
        print(line)
    if page is not None:
        print(f"report: {page}")


def _write_report(
    output: Path, outcome: Outcome, means: Averaged, shown: Sequence[Table], facts: Sequence[tuple[str, str]]
) -> Path:
    from lab.evaluation import report

    return report.write(output, means, outcome.results, shown, outcome.first, facts)


def _fact(advised: Sequence[str]) -> tuple[str, str]:
    """The recommendation as a fact for the page."""
    name, _, value = "; ".join(advised).partition(": ")
    return name, value


def _refuse(task: str, **given: bool) -> None:
    """Raises InvalidRequest for the first option that is given, because it has no meaning for the task."""
    for name, is_given in given.items():
        if is_given:
            option = name.replace("_", "-")
            raise InvalidRequest(f"{option}: has no meaning for --task {task}; leave --{option} out")


def _check_options(plan: Plan, models: str, layers: str) -> None:
    """Raises InvalidRequest if an option about networks is given for a table, or one about tables for images."""
    from lab.datasets.tables import is_table

    of_images = (("models", models, _MODEL), ("layers", layers, _LAYER), ("weights", plan.weights, None))
    of_tables = (("columns", plan.columns, ""), ("code-format", plan.code_format, None))
    has_table = is_table(plan.dataset)
    for name, value, default in of_images if has_table else of_tables:
        if value != default:
            kind = "a table" if has_table else "not a table"
            raise InvalidRequest(f"{name}: {value} does not apply, {plan.dataset} is {kind}; leave --{name} out")


def _published(first: Prepared, plan: Plan) -> Sequence[Figure]:
    """The paper's figures, if its own data set was evaluated as a whole."""
    from lab.evaluation.paper import figures_for

    is_whole = first.images.is_well_known and plan.limit is None and not plan.unseen
    return figures_for(first.images.name, plan.k) if is_whole else ()


def _import_plots(cache: Path) -> None:
    """Imports matplotlib, before the work begins. It writes a list of fonts, which belongs in the cache folder."""
    with _evaluation_extra(), _environment("MPLCONFIGDIR", str(cache / "matplotlib")):
        import lab.evaluation.plots  # noqa: F401


@contextlib.contextmanager
def _environment(name: str, value: str) -> Iterator[None]:
    """Sets an environment variable for the block, unless it is set."""
    if name in os.environ:
        yield
        return
    os.environ[name] = value
    try:
        yield
    finally:
        del os.environ[name]


def _plan(
    dataset: str, models: str, layers: str, bits: str, methods: str, seeds: str, k: int, tables: str,
    unseen: float, limit: int | None, weights: Path | None, oversampling: int, hashes: Sequence[Path],
    has_cluster: bool, raw_partitions: int, columns: str, code_format: str | None,
) -> Plan:  # fmt: skip
    from encoder.backbones import LAYERS
    from lab.evaluation.paper import MODELS
    from lab.evaluation.plan import Plan
    from lab.evaluation.systems import METHODS

    lengths = [integer("bits", part) for part in listed("bits", bits)]
    for length in lengths:
        CodeSpace(length)
    layouts = [_layout(part) for part in listed("tables", tables, may_be_empty=True)]
    names = MODELS if models == "paper" else listed("models", models)
    return Plan(
        dataset, names, among("layers", layers, LAYERS), among("methods", methods, METHODS), lengths,
        [integer("seeds", part) for part in listed("seeds", seeds)], k, layouts, unseen, limit, weights,
        oversampling, hashes, has_cluster, raw_partitions, columns, code_format,
    )  # fmt: skip


def _time_raw_cluster(prepared: Prepared, k: int, partitions: int) -> Table:
    """Times the raw index in one process, and divided among several processes."""
    import numpy as np

    from encoder.ray_session import native_output_in_log, ray_session
    from lab.evaluation.raw_index import RawCluster, RawIndex
    from lab.evaluation.tables import Table
    from lookalike.model.records import record_id

    split = prepared.split
    ids = np.array([record_id(key) for key in prepared.indexed_keys], np.uint64)
    single = RawIndex(split.indexed.shape[1])
    half = len(ids) // 2
    with native_output_in_log(), ray_session(None, partitions):
        several = RawCluster(split.indexed.shape[1], partitions)
        times = []
        for index in (single, several):
            index.append(split.indexed[:half], ids[:half])
            index.append(split.indexed[half:], ids[half:])
            index.search(split.queries[:1], k)
            started = time.perf_counter()
            answers = index.search(split.queries, k)
            times.append((time.perf_counter() - started, answers[1]))
    equal = float((times[0][1] == times[1][1]).all(axis=1).mean())
    cells = [
        [name, f"{1000 * seconds / len(split.queries):.3f}"]
        for name, (seconds, _) in zip(("1 process", f"{partitions} on Ray"), times, strict=True)
    ]
    title = f"Raw index, all queries in one batch; both give the same answer to {100 * equal:.1f} % of the queries"
    return Table(title, ["index", "ms a query"], cells)


def _facts(prepared: Prepared, plan: Plan, seconds: float) -> list[tuple[str, str]]:
    from lab.evaluation.rankings import chance_of

    split = prepared.split
    facts = [
        ("data set", prepared.images.name),
        ("indexed", f"{len(split.indexed):,}"),
        ("queries", f"{len(split.queries):,}"),
        ("classes", f"{len(prepared.images.classes):,}"),
        ("chance", f"mAP@{plan.k} {100 * chance_of(split.indexed_labels, split.query_labels, plan.k):.1f} %"),
        ("seeds", ", ".join(map(str, plan.seeds))),
        ("seconds", f"{seconds:.1f}"),
    ]
    if plan.unseen:
        known = "no hash was fitted to them" + (", but the weights may be trained on them" if plan.weights else "")
        facts.append(("unseen", f"{100 * plan.unseen:.0f} % of the classes: {known}"))
    if prepared.unlabelled:
        facts.append(("unlabelled", f"{prepared.unlabelled:,} queries without a label, excluded"))
    if prepared.dropped:
        kind = "images" if prepared.images.vectors is None else "records"
        facts.append(("left out", f"{prepared.dropped:,} {kind} that cannot be read"))
    return facts


def _print(table: Table) -> None:
    made = RichTable(title=table.title, title_justify="left")
    for number, name in enumerate(table.header):
        made.add_column(name, justify="left" if number == 0 else "right")
    for row in table.rows:
        made.add_row(*map(Text, row))
    out = Console(width=160)
    out.print(made)


@contextlib.contextmanager
def _evaluation_extra() -> Iterator[None]:
    try:
        yield
    except ModuleNotFoundError as error:
        raise InvalidRequest(
            f"evaluate: needs {error.name}, which is not installed; run pip install '.[evaluate]' in the checkout"
        ) from None


def _layout(text: str) -> Layout:
    from lab.evaluation.buckets import Layout

    found = re.fullmatch(r"(\d{1,3})x(\d{1,3})", text)
    if not found or not all(int(part) for part in found.groups()):
        raise InvalidRequest(f"tables: {text!r} is not TABLESxBITS, such as 4x12")
    return Layout(int(found[1]), int(found[2]))
