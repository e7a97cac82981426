"""`lookalike evaluate` on real photographs."""

from __future__ import annotations

import csv
import dataclasses
import json
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet
import pytest
from PIL import Image

from encoder import hashing
from encoder.features import FeatureModel
from lab import feature_cache
from lab.datasets import LabelledImages, load_dataset
from lab.evaluation import plan as plans
from lab.evaluation import preparation, sweep
from tests.command import lookalike

MODEL = "tf_efficientnet_lite0"


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


class Evaluated:
    """A successful sweep: what it printed, and what it wrote."""

    def __init__(self, folder: Path, cache: Path, dataset: Path, *options: object) -> None:
        code, self.printed, self.errors = lookalike(
            "evaluate", dataset, "--output", folder, "--cache", cache, "--data", cache, *options
        )
        assert code == 0, self.errors
        self.rows: list[dict[str, Any]] = [
            json.loads(line) for line in (folder / "results.jsonl").read_text().splitlines()
        ]
        self.page = (folder / "report.html").read_text()
        self.folder = folder

    def row(self, **wanted: Any) -> dict[str, Any]:
        found = [row for row in self.rows if all(row[name] == value for name, value in wanted.items())]
        assert len(found) == 1, (wanted, found)
        return found[0]


@pytest.fixture(scope="module")
def swept(photographs: Path, cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Evaluated:
    folder = tmp_path_factory.mktemp("evaluation")
    return Evaluated(
        folder, cache, photographs, "--bits", "16,64", "--methods", "lsh,centred,pca,itq,csq", "--tables",
        "4x4",
    )  # fmt: skip


def test_sweep_writes_a_row_for_each_comparison(swept: Evaluated) -> None:
    required = {
        "model", "layer", "bits", "method", "score", "seed", "map5", "p5", "map_all", "index_bytes",
    }  # fmt: skip
    compared = {(row["method"], row["bits"], row["score"]) for row in swept.rows}
    assert compared == {("raw", 0, "cosine"), ("raw", 0, "euclidean")} | {
        (method, bits, score)
        for method in ("lsh", "centred", "pca", "itq", "csq")
        for bits in (16, 64)
        for score in ("hamming", "asymmetric", "buckets 4x4")
    }
    assert len(swept.rows) == len(compared) == 32
    for row in swept.rows:
        # Buckets rank candidates only, so there is no figure over the whole ranking.
        missing = {"map_all"} if row["score"].startswith("buckets") else set()
        assert required - set(row) == missing
        assert (row["model"], row["layer"], row["seed"]) == ("tf_efficientnet_lite0", "pooled", 0)
        assert row["index_bytes"] == 30 * (1280 * 4 if row["method"] == "raw" else row["bits"] // 8)
        shares = [
            row[name] for name in ("map5", "p5", "map_all", "recall5", "accuracy", "candidates") if name in row
        ]
        assert all(0 <= share <= 1 for share in shares)
    with (swept.folder / "results.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    for line, row in zip(lines, swept.rows, strict=True):
        assert required <= set(line)
        assert {name: line[name] for name in line if line[name]} == {name: str(row[name]) for name in row}


def test_quality_on_real_photographs_is_plausible(swept: Evaluated) -> None:
    raw = swept.row(score="cosine")["map5"]
    assert raw > 0.9, "views of a photograph are similar"
    hamming = {
        (row["method"], row["bits"]): row["map5"] for row in swept.rows if row["score"] == "hamming"
    }  # fmt: skip
    assert hamming["lsh", 16] < hamming["lsh", 64] < raw + 0.05
    assert hamming["itq", 64] > 0.9
    assert hamming["csq", 64] > 0.9
    # Three views of each photograph are indexed, so five results have two wrong ones at least.
    assert max(row["p5"] for row in swept.rows) == pytest.approx(0.6)
    assert min(row["candidates"] for row in swept.rows if "candidates" in row) < 1


def test_report_is_complete_and_self_contained(swept: Evaluated) -> None:
    for name in ("map_by_bits", "size_against_map", "precision_recall", "confusion"):
        with Image.open(swept.folder / f"{name}.png") as plot:
            assert plot.format == "PNG"
            colours = plot.convert("RGB").getcolors(1_000_000)
        assert colours is not None
        assert len(colours) > 20, f"{name} is not blank"
    sources = re.findall(r"""(?:src|href|srcset|action|data)\s*=\s*["']?([^"'\s>]+)""", swept.page)
    assert len(sources) > 4 + 12
    assert all(source.startswith("data:image/") for source in sources)
    assert not re.search(r"url\(\s*['\"]?(?!data:)|@import|<script[^>]*src", swept.page)
    for title in ("Raw features", "mAP@5, tf_efficientnet_lite0", "Raw against hashed", "Hash tables"):
        assert title in swept.page
        assert title in swept.printed
    assert f"report: {swept.folder / 'report.html'}" in swept.printed


def test_a_second_sweep_encodes_nothing(
    swept: Evaluated, photographs: Path, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def encode(_images: object, _network: object, file: IO[bytes], _progress: object) -> None:
        file.write(b"half of the features")
        raise AssertionError("the images are encoded again")

    monkeypatch.setattr(feature_cache, "_encode", encode)
    again = Evaluated(tmp_path, cache, photographs, "--bits", "64", "--methods", "itq", "--json")
    document = json.loads(again.printed)
    assert set(document) == {"report", "seconds", "recommendation", "results"}
    assert len(document["results"]) == len(again.rows)
    wanted = {"method": "itq", "bits": 64, "score": "hamming"}
    assert again.row(**wanted)["map5"] == swept.row(**wanted)["map5"]
    with pytest.raises(AssertionError, match="the images are encoded again"):
        lookalike("evaluate", photographs, "--output", tmp_path, "--cache", tmp_path, "--bits", 64)
    assert list((tmp_path / "features").iterdir()) == [], "no partial file is left under its final name"


def test_unseen_classes_are_searched_alone(
    swept: Evaluated, photographs: Path, cache: Path, tmp_path: Path
) -> None:
    found = Evaluated(
        tmp_path, cache, photographs, "--unseen", "0.3", "--bits", "64", "--methods", "lsh,itq,csq",
    )  # fmt: skip
    assert {row["classes"] for row in found.rows} == {"unseen"}
    assert {row["classes"] for row in swept.rows} == {"all"}
    # Three of the ten photographs: nine views indexed, three to query with.
    assert found.row(score="cosine")["index_bytes"] == 9 * 1280 * 4
    assert "indexed: 9; queries: 3; classes: 10" in found.printed
    assert "unseen: 30 % of the classes: no hash was fitted to them" in found.printed
    assert found.row(method="csq", score="hamming")["map_all"] < 1, "it learned no code for these classes"


def test_several_seeds_give_means_with_standard_deviations(
    swept: Evaluated, photographs: Path, cache: Path, tmp_path: Path
) -> None:
    found = Evaluated(tmp_path, cache, photographs, "--seeds", "0,1,2", "--bits", "16", "--methods", "lsh")
    assert [row["seed"] for row in found.rows] == [seed for seed in (0, 1, 2) for _ in range(4)]
    values = [100 * row["map5"] for row in found.rows if row["score"] == "hamming"]
    assert np.std(values) > 0
    assert f"{np.mean(values):.1f} ± {np.std(values, ddof=1):.1f}" in found.page
    assert "seeds</dt><dd>0, 1, 2" in found.page
    assert "±" not in swept.printed
    assert f"{np.mean(values):.1f} ± {np.std(values, ddof=1):.1f}" in found.printed


def test_layers_are_compared_in_a_table(photographs: Path, cache: Path, tmp_path: Path) -> None:
    found = Evaluated(
        tmp_path, cache, photographs, "--layers", "pooled,classifier", "--bits", "32", "--methods", "lsh",
        "--limit", "20",
    )  # fmt: skip
    assert found.row(layer="classifier", score="cosine")["index_bytes"] % (1000 * 4) == 0
    assert found.row(layer="pooled", score="cosine")["index_bytes"] % (1280 * 4) == 0
    assert "Layers: raw features by cosine" in found.printed


BAD = {
    ("--bits", "33"): "bits: 33 is not a code width",
    ("--bits", "8"): "bits: 8 is not a code width",
    ("--bits", "64,many"): "bits: 'many' is not an integer",
    ("--bits=-64",): "bits: '-64' is not an integer",
    ("--bits", ","): "bits: is empty",
    ("--methods", "lsh,tsq"): "methods: unknown value 'tsq'; use lsh, centred, pca, itq, csq",
    ("--layers", "middle"): "layers: unknown value 'middle'; use map, pooled, classifier",
    ("--tables", "4"): "tables: '4' is not TABLESxBITS, such as 4x12",
    ("--tables", "0x12"): "tables: '0x12' is not TABLESxBITS",
    ("--tables", "4x"): "tables: '4x' is not TABLESxBITS",
    ("--seeds", "1.5"): "seeds: '1.5' is not an integer",
    ("--seeds", ""): "seeds: is empty",
    ("--models", ""): "models: is empty",
    ("--models", "reznet18"): "'reznet18' is unknown",
    ("--unseen", "0.05", "--limit", "2"): "leaves no images to index or to query with",
    ("--weights", "none.pth"): "none.pth does not exist",
    ("--columns", "key=id"): "columns: key=id does not apply, ",
    ("--code-format", "hex"): "code-format: hex does not apply, ",
}


@pytest.mark.parametrize("options", BAD, ids=" ".join)
def test_invalid_option_error_is_one_line(
    options: Sequence[str], photographs: Path, cache: Path, tmp_path: Path
) -> None:
    code, out, err = lookalike(
        "evaluate", photographs, "--output", tmp_path / "out", "--cache", cache, "--json", *options
    )
    assert (code, out) == (1, "")
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert BAD[tuple(options)] in err
    assert not list(tmp_path.glob("out/*"))


def test_unreadable_image_is_reported_and_excluded(photographs: Path, cache: Path, tmp_path: Path) -> None:
    folder = tmp_path / "views"
    for photograph in sorted(photographs.iterdir())[:4]:
        shutil.copytree(photograph, folder / photograph.name)
    path = sorted(folder.rglob("*.jpg"))[0]
    path.write_bytes(path.read_bytes()[:100])
    (path.parent / "notes.jpg").write_text("no photograph")
    found = Evaluated(
        tmp_path / "out", cache, folder, "--bits", "64", "--methods", "itq", "--tables", "1x8"
    )  # fmt: skip
    assert "left out: 2 images that cannot be read" in found.printed
    assert "2 images that cannot be read" in found.page
    counts = re.search(r"indexed: (\d+); queries: (\d+)", found.printed)
    assert counts is not None
    assert int(counts[1]) + int(counts[2]) == 15
    assert all(np.isfinite(row["map5"]) for row in found.rows)


def test_set_without_relevant_images_scores_zero(photographs: Path, cache: Path, tmp_path: Path) -> None:
    names = sorted(photographs.iterdir())
    for side, photograph in (("train", names[0]), ("train", names[1]), ("test", names[2]), ("test", names[3])):
        shutil.copytree(photograph, tmp_path / "views" / side / photograph.name)
    found = Evaluated(tmp_path / "out", cache, tmp_path / "views", "--bits", "64", "--methods", "lsh")
    assert {row["map5"] for row in found.rows} == {0.0}


def test_invalid_output_folder_is_refused_before_encoding(photographs: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    code, _, err = lookalike(
        "evaluate", photographs, "--output", tmp_path / "file", "--cache", tmp_path / "cache", "--json",
        "--bits", "64", "--methods", "lsh", "--limit", "4",
    )  # fmt: skip
    assert (code, err.count("\n")) == (1, 1)
    assert err.startswith("error: output: ")
    assert not list(tmp_path.rglob("*.npy"))


def test_trained_hash_is_judged_and_a_foreign_one_skipped(photographs: Path, cache: Path, tmp_path: Path) -> None:
    code, _, errors = lookalike(
        "train", photographs, "--output", tmp_path, "--bits", 32, "--epochs", 5, "--cache", cache, "--data", cache
    )
    assert code == 0, errors
    foreign = tmp_path / "foreign.npz"
    foreign.write_bytes(hashing.drawn(1280, 16, 0, np.zeros(1280, np.float32), "another network").to_bytes())
    found = Evaluated(
        tmp_path / "out", cache, photographs, "--bits", "64", "--methods", "lsh", "--hash", tmp_path / "hash.npz",
        "--hash", foreign,
    )  # fmt: skip
    assert found.row(method="csq hash.npz", score="hamming")["bits"] == 32
    assert "left out" in found.errors
    # A long path is wrapped, wherever the temporary folder is.
    assert "foreign.npz:wasfittedtootherfeatures" in "".join(found.errors.split())
    assert {row["method"] for row in found.rows} == {"raw", "lsh", "csq hash.npz"}


def test_method_that_cannot_be_fitted_is_skipped(photographs: Path, cache: Path, tmp_path: Path) -> None:
    found = Evaluated(
        tmp_path, cache, photographs, "--limit", "4", "--bits", "16", "--methods", "lsh,itq"
    )  # fmt: skip
    assert {row["method"] for row in found.rows} == {"raw", "lsh"}
    assert "left out: itq, 16 bits: sample: its 3 images span only" in " ".join(found.errors.split())


def test_multi_label_images_are_judged_by_the_searched_classes(
    photographs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Queries without a label are excluded; with held-out classes, an image's other classes do not count."""
    paths = sorted(photographs.rglob("*.jpg"))[:9]
    labels = np.array(
        [[1, 0, 0], [1, 1, 0], [0, 1, 0], [0, 0, 0], [1, 0, 1], [0, 0, 1], [1, 1, 1], [1, 0, 0], [0, 0, 0]], bool
    )
    several = LabelledImages(
        "several", ("person", "dog", "cat"), labels, tuple(path.name for path in paths), np.arange(6),
        np.array([6, 7, 8]), lambda row: paths[row].read_bytes(), is_multi_label=True,
    )  # fmt: skip
    monkeypatch.setattr(preparation, "load_dataset", lambda *_, **__: several)
    plan = plans.Plan("several", [MODEL], ["pooled"], ["lsh"], [16], [0], 2, [], 0.0, None, None)

    def prepared(plan: plans.Plan) -> preparation.Prepared:
        workspace = preparation.Workspace(plan, tmp_path, tmp_path, 1)
        return preparation.prepare(plan, MODEL, "pooled", 0, workspace, lambda *_: None)

    whole = prepared(plan)
    assert (len(whole.split.indexed), whole.query_rows.tolist(), whole.unlabelled) == (6, [6, 7], 1)
    # Of three classes one is held out by seed 0: cat.
    hidden = prepared(dataclasses.replace(plan, unseen=0.33))
    assert sorted(hidden.indexed_rows.tolist()) == [4, 5]
    assert hidden.query_rows.tolist() == [6]
    assert hidden.split.query_labels.tolist() == [[False, False, True]]
    assert not hidden.split.indexed_labels[:, :2].any()
    assert len(hidden.split.sample) == 4


def test_cost_and_progress_are_said_before_and_during_the_work(
    swept: Evaluated, photographs: Path, cache: Path, tmp_path: Path
) -> None:
    assert "30 images to index, 10 to query with, 10 classes; 1 network, 1 seed, 32 rows" in swept.errors
    code, _, errors = lookalike(
        "evaluate", photographs, "--cache", tmp_path, "--bits", "16", "--methods", "lsh", "--limit", 20
    )
    assert code == 0, errors
    assert re.search(r"estimated time: encoding 20 images about \d+ s; measuring about \d+ s", errors)
    assert re.search(rf"disk: 0\.1 MB of features in {tmp_path}/features, where [\d,.]+ [MG]B are free", errors)
    assert f"features of {MODEL}, pooled: 20 of 20 (100 %)" in errors
    assert f"measuring {MODEL}, pooled, seed 0, raw: 0 of 4 (0 %)" in errors
    assert [path.name for path in tmp_path.iterdir()] == ["features"], "without --output, nothing else is written"


def test_each_row_is_printed_above_the_tables(swept: Evaluated) -> None:
    rows = [line for line in swept.printed.partition("Raw features")[0].splitlines() if line.startswith(MODEL)]
    assert len(rows) == len(swept.rows)
    for line, row in zip(rows, swept.rows, strict=True):
        shown = [row["method"], *([str(row["bits"])] if row["bits"] else []), *row["score"].split()]
        assert line.split()[3 : 3 + len(shown)] == shown
        assert f"{100 * row['map5']:.1f}" in line


def test_an_evaluation_resumes_unless_a_setting_changed(
    photographs: Path, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = ("--bits", "16", "--methods", "lsh,itq", "--seeds", "0,1", "--tables", "2x8")
    first = Evaluated(tmp_path, cache, photographs, *options)
    written = (tmp_path / "results.csv").read_bytes(), (tmp_path / "results.jsonl").read_bytes()
    judged = []
    judge = sweep.judge

    def counted(*arguments: Any) -> Any:
        judged.append(arguments)
        return judge(*arguments)

    monkeypatch.setattr(sweep, "judge", counted)
    again = Evaluated(tmp_path, cache, photographs, *options)
    assert judged == []
    assert "measured by an earlier run: 16 rows; left: 0" in again.errors
    assert ((tmp_path / "results.csv").read_bytes(), (tmp_path / "results.jsonl").read_bytes()) == written
    assert re.sub(r"[\d.]+ s(econds)?|seconds</dt><dd>[\d.]+", "", again.page) == re.sub(
        r"[\d.]+ s(econds)?|seconds</dt><dd>[\d.]+", "", first.page
    )
    # Half of the last set is lost.
    lines = (tmp_path / "measured.jsonl").read_bytes().splitlines(keepends=True)
    (tmp_path / "measured.jsonl").write_bytes(b"".join(lines[:-4]))
    third = Evaluated(tmp_path, cache, photographs, *options)
    assert "measured by an earlier run: 13 rows; left: 3" in third.errors
    assert len(judged) == 2, "the third row is of hash tables"
    timeless = [
        [{name: value for name, value in row.items() if name not in ("fit_seconds", "search_ms")} for row in rows]
        for rows in (first.rows, third.rows)
    ]
    assert timeless[0] == timeless[1]
    changed = Evaluated(tmp_path, cache, photographs, *options, "-k", 3)
    assert f"output: {tmp_path} has results of other settings (k); starting anew" in changed.errors
    assert {row["k"] for row in changed.rows} == {3}
    assert len(changed.rows) == 16


def test_a_recommendation_is_printed_last(swept: Evaluated, photographs: Path, cache: Path) -> None:
    hamming = [row for row in swept.rows if row["score"] == "hamming"]
    # On some processors several codes are equally good; then the shortest is recommended.
    best = min(hamming, key=lambda row: (-row["map5"], row["bits"]))
    assert f"recommendation: {MODEL}, pooled, {best['method']}, {best['bits']} bits" in swept.printed
    assert f"config: encoder: {{model: {MODEL}, layer: pooled, bits: {best['bits']}" in swept.printed
    assert "reason: the best mAP@5 of all codes, " in swept.printed
    options = ("--cache", cache, "--bits", "16,64", "--methods", "lsh")
    code, printed, errors = lookalike("evaluate", photographs, *options, "--max-bits", 16, "--json")
    assert (code, errors) == (0, "")
    document = json.loads(printed)
    assert document["report"] is None
    assert document["recommendation"]["bits"] == 16
    assert "within 16 bits" in document["recommendation"]["reason"]
    code, printed, errors = lookalike("evaluate", photographs, *options, "--max-bits", 8)
    assert (code != 0, printed) == (True, "")
    assert "max-bits" in errors


@pytest.fixture(scope="module")
def table(swept: Evaluated, photographs: Path, cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The features of the photographs that were swept, codes of them, and labels."""
    images = load_dataset(str(photographs), data=cache)
    network = FeatureModel(MODEL)
    features = np.array(feature_cache.features_of(images, network, cache, lambda _: None), np.float32)
    codes = [code.tobytes() for code in hashing.drawn(1280, 64, 0).codes(features)]
    labels = [images.classes[place] for place in images.labels.argmax(axis=1)]
    path = tmp_path_factory.mktemp("table") / "views.parquet"
    columns = {"key": images.keys, "emb": list(features), "code": codes, "label": labels}
    parquet.write_table(pa.table(columns), path)
    return path


def test_features_of_a_table_give_the_figures_of_their_images(
    swept: Evaluated, table: Path, cache: Path, tmp_path: Path
) -> None:
    found = Evaluated(
        tmp_path, cache, table, "--columns", "features=emb", "--bits", "16,64", "--methods", "lsh,itq", "--tables",
        "4x4",
    )  # fmt: skip
    assert len(found.rows) == 2 + 4 * 3 + 2
    for row in found.rows:
        assert row["dataset"] == "views"
        if row["method"] != "given":
            assert (row["model"], row["layer"]) == ("emb", "column")
            same = swept.row(method=row["method"], bits=row["bits"], score=row["score"])
            assert row["map5"] == pytest.approx(same["map5"])
            assert row["map_all" if "map_all" in row else "p5"] == pytest.approx(
                same["map_all" if "map_all" in row else "p5"]
            )
    for score in ("hamming", "buckets 4x4"):
        given, drawn = found.row(method="given", score=score), found.row(method="lsh", bits=64, score=score)
        assert (given["model"], given["bits"], given["index_bytes"]) == ("code", 64, 30 * 8)
        assert given["map5"] == drawn["map5"], "the codes are those of LSH with seed 0"
    assert "nothing to encode" in found.errors
    assert "30 records to index" in found.errors
    assert "Queries and their nearest images" not in found.page
    assert "<section" not in found.page


def test_codes_alone_are_judged(table: Path, swept: Evaluated, tmp_path: Path) -> None:
    content = parquet.read_table(table).drop_columns("emb")
    codes = content["code"].to_pylist()
    broken = content.set_column(1, "code", pa.array([None, b"short", *codes[2:]]))
    for rows, name in ((content, "codes"), (broken, "broken")):
        parquet.write_table(rows, tmp_path / f"{name}.parquet")
        code, printed, errors = lookalike("evaluate", tmp_path / f"{name}.parquet", "--cache", tmp_path, "--json")
        assert (code, errors) == (0, "")
        (row,) = json.loads(printed)["results"]
        assert (row["method"], row["bits"], row["score"]) == ("given", 64, "hamming")
        if name == "codes":
            same = swept.row(method="lsh", bits=64, score="hamming")
            assert float(f"{row['map5']:.6g}") == same["map5"]
    code, printed, _ = lookalike("evaluate", tmp_path / "broken.parquet", "--cache", tmp_path)
    assert code == 0
    assert "left out: 2 records that cannot be read" in printed
    assert {path.name for path in tmp_path.iterdir()} == {"codes.parquet", "broken.parquet"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--models", "resnet18"), "models: resnet18 does not apply, "),
        (("--layers", "map"), "layers: map does not apply, "),
        (("--columns", "code=code"), ""),
        (("--columns", "picture=code"), "columns: 'picture=code' is not ROLE=COLUMN"),
        (("--cluster",), "cluster: "),
        (("--raw-partitions", 2), "raw-partitions: "),
    ],
)
def test_options_that_do_not_fit_a_table_of_codes(
    options: Sequence[object], message: str, table: Path, tmp_path: Path
) -> None:
    parquet.write_table(parquet.read_table(table).drop_columns("emb"), tmp_path / "codes.parquet")
    code, _, errors = lookalike("evaluate", tmp_path / "codes.parquet", "--cache", tmp_path, "--json", *options)
    assert code == bool(message)
    assert message in errors


def test_figures_of_the_paper_stand_beside_its_own_sets_alone(
    photographs: Path, cache: Path, tmp_path: Path
) -> None:
    options = ("--cache", cache, "--bits", "16", "--methods", "lsh")
    shutil.copytree(photographs, tmp_path / "caltech101" / "101_ObjectCategories")
    shutil.copytree(photographs, tmp_path / "own" / "caltech101")
    own = tmp_path / "own" / "caltech101"
    for arguments, is_shown in (
        (("caltech101", "--data", tmp_path), True),
        (("caltech101", "--data", tmp_path, "--limit", 20), False),
        (("caltech101", "--data", tmp_path, "-k", 3), False),
        ((own,), False),
    ):
        code, printed, errors = lookalike("evaluate", *arguments, *options)
        assert code == 0, errors
        assert ("resnet18 (paper)" in printed) == is_shown, arguments
        assert ("2048 (paper, resnet50)" in printed) == is_shown, arguments
        assert "data set: caltech101" in printed
