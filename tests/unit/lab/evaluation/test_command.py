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
import pytest
from PIL import Image

from encoder import hashing
from lab import feature_cache
from lab.datasets import LabelledImages
from lab.evaluation import plan as plans
from lab.evaluation import preparation
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
