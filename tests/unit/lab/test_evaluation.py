"""Evaluation: the judgement of rankings, what is ranked, and `lookalike evaluate` on real photographs."""

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
from encoder.hashing import drawn
from lab import feature_cache
from lab.datasets import LabelledImages
from lab.evaluation import rankings, sweep
from lab.evaluation.buckets import HashTables, Layout
from lab.evaluation.rankings import judge, judge_top
from lab.evaluation.raw_index import RawIndex
from lab.evaluation.systems import Split, hashed_distances, raw_distances
from tests.command import lookalike

MODEL = "tf_efficientnet_lite0"

# ---- rankings


def slow_quality(distances: Any, indexed: Any, queries: Any, k: int) -> dict[str, Any]:
    """`judge` in plain Python, a query and a rank at a time."""
    n, classes = indexed.shape
    sums: dict[str, list[float]] = {name: [] for name in ("ap", "ap_by_k", "ap_all", "precision", "recall")}
    top, curves, confusion = [], [], np.zeros((classes, classes), int)
    for query, row in enumerate(distances):
        order = sorted(range(n), key=lambda place: (row[place], place))
        shares = [any(indexed[place][c] and queries[query][c] for c in range(classes)) for place in order]
        precisions = [sum(shares[: i + 1]) / (i + 1) for i in range(n)]
        gains = [precision * share for precision, share in zip(precisions, shares, strict=True)]
        hits, total = sum(shares[:k]), sum(shares)
        sums["ap"].append(sum(gains[:k]) / hits if hits else 0)
        sums["ap_by_k"].append(sum(gains[:k]) / k)
        sums["ap_all"].append(sum(gains) / total if total else 0)
        sums["precision"].append(hits / k)
        sums["recall"].append(hits / total if total else 0)
        if total:
            recalled = [sum(shares[: i + 1]) * 100 for i in range(n)]
            curves.append(
                [
                    max(
                        [p for p, seen in zip(precisions, recalled, strict=True) if seen >= point * total],
                        default=0,
                    )
                    for point in range(101)
                ]
            )
        top.append(order[:k])
        votes = [list(indexed[place]).index(True) for place in order[:k]]
        winner = max(range(classes), key=lambda c: (votes.count(c), -votes.index(c) if c in votes else -n))
        confusion[list(queries[query]).index(True), winner] += 1
    own = [[sums["ap"][q] for q in range(len(queries)) if queries[q][c]] for c in range(classes)]
    by_class = [sum(values) / len(values) for values in own if values]
    means = {name: sum(values) / len(values) for name, values in sums.items()}
    macro = sum(by_class) / len(by_class)
    return means | {"macro": macro, "top": top, "curve": np.mean(curves, axis=0), "confusion": confusion}


@pytest.mark.parametrize("k", [1, 5, 40])
@pytest.mark.parametrize("ties", ["many ties", "all tied", "none tied"])
@pytest.mark.parametrize("block", [20_000_000, 70])
def test_a_judgement_is_that_of_its_slow_twin(
    k: int, ties: str, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rankings, "_BLOCK_DISTANCES", block)
    random = np.random.default_rng(k)
    indexed = np.eye(5, dtype=bool)[random.integers(4, size=30)]
    queries = np.eye(5, dtype=bool)[random.integers(5, size=13)]  # of the last class, nothing is indexed
    queries[0] = np.eye(5, dtype=bool)[4]
    distances = random.integers({"many ties": 4, "all tied": 1, "none tied": 10**9}[ties], size=(13, 30))
    found = judge(lambda rows: distances[rows], indexed, queries, k, is_multi_label=False)
    slow = slow_quality(distances.tolist(), indexed, queries, k)
    assert found.top.tolist() == slow["top"]
    assert np.array_equal(found.confusion, slow["confusion"])
    assert found.accuracy == pytest.approx(np.trace(slow["confusion"]) / 13)
    assert np.allclose(found.precisions, slow["curve"])
    assert (
        found.map_k, found.map_by_k, found.map_all, found.precision_k, found.recall_k, found.map_k_macro,
    ) == pytest.approx(
        (slow["ap"], slow["ap_by_k"], slow["ap_all"], slow["precision"], slow["recall"], slow["macro"])
    )  # fmt: skip


def test_ties_go_by_place_in_the_index() -> None:
    indexed = np.array([[0, 1], [1, 0], [1, 0]], bool)
    found = judge(lambda rows: np.zeros((1, 3))[rows], indexed, np.array([[1, 0]], bool), 2, False)
    assert found.top.tolist() == [[0, 1]]
    assert found.map_k == pytest.approx(1 / 2)
    assert found.map_all == pytest.approx((1 / 2 + 2 / 3) / 2)


def test_with_several_labels_one_shared_class_is_relevant() -> None:
    indexed = np.array([[1, 1, 0], [0, 0, 1], [0, 0, 0]], bool)
    queries = np.array([[0, 1, 1], [1, 0, 0], [0, 0, 0]], bool)
    distances = np.tile([2, 1, 0], (3, 1))
    found = judge(lambda rows: distances[rows], indexed, queries, 3, is_multi_label=True)
    assert found.confusion is None
    assert found.accuracy is None
    # Relevant by rank: no yes yes, no no yes, no no no.
    assert found.map_k == pytest.approx(((1 / 2 + 2 / 3) / 2 + 1 / 3) / 3)
    assert found.precision_k == pytest.approx((2 / 3 + 1 / 3) / 3)


def test_results_ranked_elsewhere_are_judged_alike_and_gaps_are_no_hits() -> None:
    random = np.random.default_rng(3)
    indexed = np.eye(4, dtype=bool)[random.integers(4, size=30)]
    queries = np.eye(4, dtype=bool)[random.integers(4, size=13)]
    distances = random.integers(9, size=(13, 30))
    whole = judge(lambda rows: distances[rows], indexed, queries, 5, False)
    assert judge_top(whole.top, indexed, queries, 5) == pytest.approx((whole.map_k, whole.precision_k))
    # The last row of the index is what -1 would wrongly point to.
    assert judge_top(np.full((1, 5), -1), indexed, indexed[-1:], 5) == (0, 0)


# ---- systems


def test_distances_rank_as_their_definitions_do() -> None:
    random = np.random.default_rng(0)
    indexed, queries = random.standard_normal((40, 32)), random.standard_normal((6, 32))
    labels = np.ones((40, 1), bool)
    split = Split(
        indexed.astype(np.float32), queries.astype(np.float32), labels, labels[:6],
        indexed.astype(np.float32), labels, "",
    )  # fmt: skip
    found = drawn(32, 64, 0)
    computed = raw_distances(split) | hashed_distances(found, split)
    lengths = np.linalg.norm(indexed, axis=1) * np.linalg.norm(queries, axis=1)[:, None]
    signs = [np.where(found.projections(side.astype(np.float32)) > 0, 1, -1) for side in (indexed, queries)]
    differing = (signs[1][:, None] != signs[0][None]).sum(-1)
    assert np.array_equal(computed["hamming"](slice(0, 6)), differing)
    expected = {
        "cosine": 1 - queries @ indexed.T / lengths,
        "euclidean": np.linalg.norm(queries[:, None] - indexed[None], axis=-1),
        "asymmetric": -(queries @ found.planes.T.astype(np.float64)) @ signs[0].T,
    }
    for name, distances in expected.items():
        order = computed[name](slice(0, 6)).argsort(axis=1)
        assert np.array_equal(order, distances.argsort(axis=1)), name
        part, whole = computed[name](slice(2, 4)), computed[name](slice(0, 6))[2:4]
        assert np.allclose(part, whole, rtol=1e-5, atol=1e-6), name


# ---- the raw index


def vectors_with_ties(n: int, width: int = 6) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Vectors of small whole numbers, so that distances are exact and often equal; ids in no order."""
    random = np.random.default_rng(n)
    vectors = random.integers(-1, 2, size=(n, width)).astype(np.float32)
    return vectors, random.permutation(10 * n).astype(np.uint64)[:n] + np.uint64(2**63)


@pytest.mark.parametrize("k", [1, 3, 10, 199, 200, 500])
def test_the_raw_index_answers_as_a_sorted_brute_force_does(k: int) -> None:
    vectors, ids = vectors_with_ties(200)
    queries = vectors_with_ties(17)[0]
    once, in_parts = RawIndex(6), RawIndex(6)
    once.append(vectors, ids)
    for start, stop in ((0, 0), (0, 70), (70, 71), (71, 200)):
        in_parts.append(vectors[start:stop], ids[start:stop])
    assert len(once) == len(in_parts) == 200
    assert once.index_bytes == in_parts.index_bytes == vectors.nbytes
    distances, found = once.search(queries, k)
    assert found.shape == distances.shape == (17, min(k, 200))
    for part, whole in zip(in_parts.search(queries, k), (distances, found), strict=True):
        assert np.array_equal(part, whole)
    for query, row, values in zip(queries, found.tolist(), distances, strict=True):
        exact = {int(i): float(((query - vector) ** 2).sum()) for vector, i in zip(vectors, ids, strict=True)}
        expected = sorted(exact, key=lambda i: (exact[i], i))[:k]
        assert row == expected
        assert np.allclose(values, np.sqrt([exact[i] for i in expected]), atol=1e-6)


def test_an_empty_raw_index_finds_nothing() -> None:
    distances, ids = RawIndex(6).search(np.ones((3, 6), np.float32), 5)
    assert distances.shape == ids.shape == (3, 0)


# ---- hash tables


def codes_near_each_other(n: int, bits: int = 32) -> np.ndarray[Any, np.dtype[np.uint8]]:
    random = np.random.default_rng(n)
    bases = random.random((5, bits)) < 0.5
    flipped = random.random((n, bits)) < 0.1
    return np.packbits(bases[random.integers(5, size=n)] ^ flipped, axis=1)


@pytest.mark.parametrize("layout", [Layout(1, 4), Layout(3, 8), Layout(2, 13)], ids=str)
def test_candidates_are_all_that_share_a_bucket_and_no_others(layout: Layout) -> None:
    codes, queries = np.split(codes_near_each_other(175), [150])
    tables = HashTables(codes, layout, seed=4)
    random = np.random.RandomState(4)
    keys = [random.permutation(32)[: layout.key_bits] for _ in range(layout.tables)]
    stored = np.unpackbits(codes, axis=1)
    counts = set()
    for query in queries:
        bits = np.unpackbits(query)
        candidates = [
            row for row in range(150) if any(np.array_equal(stored[row][key], bits[key]) for key in keys)
        ]
        found, count = tables.search(query, 200)
        counts.add(count)
        distances = (stored != bits).sum(axis=1)
        expected = sorted(candidates, key=lambda row: (distances[row], row))
        assert count == len(candidates)
        assert found.tolist() == expected + [-1] * (200 - count)
        assert tables.search(query, 3)[0].tolist() == (expected + [-1] * 3)[:3]
    assert len(counts) > 3, "queries have few and many candidates"


@pytest.mark.parametrize("key_bits", [32, 99])
def test_one_table_keyed_by_all_bits_finds_exactly_the_equal_codes(key_bits: int) -> None:
    codes = np.repeat(codes_near_each_other(20), 3, axis=0)
    tables = HashTables(codes, Layout(1, key_bits))
    for query in (codes[0], codes[30], ~codes[0]):
        equal = np.flatnonzero((codes == query).all(axis=1)).tolist()
        found, count = tables.search(query, 10)
        assert count == len(equal)
        assert found.tolist() == (equal + [-1] * 10)[:10]
    assert tables.search(~codes[0], 10)[1] == 0


# ---- the command


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


class Evaluated:
    """A sweep that succeeded: what it printed, and what it left in its folder."""

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
        folder, cache, photographs, "--bits", "16,64,256", "--methods", "lsh,centred,pca,itq,csq", "--tables",
        "4x4",
    )  # fmt: skip


def test_a_sweep_leaves_a_row_for_everything_it_compared(swept: Evaluated) -> None:
    required = {
        "model", "layer", "bits", "method", "score", "seed", "map5", "p5", "map_all", "index_bytes",
    }  # fmt: skip
    compared = {(row["method"], row["bits"], row["score"]) for row in swept.rows}
    assert compared == {("raw", 0, "cosine"), ("raw", 0, "euclidean")} | {
        (method, bits, score)
        for method in ("lsh", "centred", "pca", "itq", "csq")
        for bits in (16, 64, 256)
        for score in ("hamming", "asymmetric", "buckets 4x4")
    }
    assert len(swept.rows) == len(compared) == 47
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


def test_quality_is_that_of_real_photographs(swept: Evaluated) -> None:
    raw = swept.row(score="cosine")["map5"]
    assert raw > 0.9, "the views of a photograph are alike"
    hamming = {
        (row["method"], row["bits"]): row["map5"] for row in swept.rows if row["score"] == "hamming"
    }  # fmt: skip
    assert hamming["lsh", 16] < hamming["lsh", 64] < raw + 0.05
    assert hamming["itq", 256] > 0.9
    assert hamming["csq", 64] > 0.9
    # Three views of each photograph are indexed, so five results have two wrong ones at least.
    assert max(row["p5"] for row in swept.rows) == pytest.approx(0.6)
    assert min(row["candidates"] for row in swept.rows if "candidates" in row) < 1


def test_the_report_shows_all_and_asks_the_network_for_nothing(swept: Evaluated) -> None:
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
        raise AssertionError("it encodes again")

    monkeypatch.setattr(feature_cache, "_encode", encode)
    again = Evaluated(tmp_path, cache, photographs, "--bits", "64", "--methods", "itq")
    wanted = {"method": "itq", "bits": 64, "score": "hamming"}
    assert again.row(**wanted)["map5"] == swept.row(**wanted)["map5"]
    with pytest.raises(AssertionError, match="it encodes again"):
        lookalike("evaluate", photographs, "--output", tmp_path, "--cache", tmp_path, "--bits", 64)
    assert list((tmp_path / "features").iterdir()) == [], "nothing that looks done is left"


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
    assert found.row(method="csq", score="hamming")["map_all"] < 1, "it has learned no code for these classes"


def test_several_seeds_give_means_with_standard_deviations(
    swept: Evaluated, photographs: Path, cache: Path, tmp_path: Path
) -> None:
    found = Evaluated(
        tmp_path, cache, photographs, "--seeds", "0,1,2", "--bits", "16", "--methods", "lsh", "--json"
    )  # fmt: skip
    assert [row["seed"] for row in found.rows] == [seed for seed in (0, 1, 2) for _ in range(4)]
    document = json.loads(found.printed)
    assert set(document) == {"report", "seconds", "results"}
    assert len(document["results"]) == len(found.rows)
    values = [100 * row["map5"] for row in found.rows if row["score"] == "hamming"]
    assert np.std(values) > 0
    assert f"{np.mean(values):.1f} ± {np.std(values, ddof=1):.1f}" in found.page
    assert "seeds</dt><dd>0, 1, 2" in found.page
    assert "±" not in swept.printed
    shown = Evaluated(tmp_path, cache, photographs, "--seeds", "0,1,2", "--bits", "16", "--methods", "lsh")
    assert f"{np.mean(values):.1f} ± {np.std(values, ddof=1):.1f}" in shown.printed


def test_several_layers_stand_side_by_side(photographs: Path, cache: Path, tmp_path: Path) -> None:
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
    ("--bits", "64,many"): "bits: 'many' is not a whole number",
    ("--bits=-64",): "bits: '-64' is not a whole number",
    ("--bits", ","): "bits: is empty",
    ("--methods", "lsh,tsq"): "methods: 'tsq' is not known; use lsh, centred, pca, itq, csq",
    ("--layers", "middle"): "layers: 'middle' is not known; use map, pooled, classifier",
    ("--tables", "4"): "tables: '4' is not TABLESxBITS, such as 4x12",
    ("--tables", "0x12"): "tables: '0x12' is not TABLESxBITS",
    ("--tables", "4x"): "tables: '4x' is not TABLESxBITS",
    ("--seeds", "1.5"): "seeds: '1.5' is not a whole number",
    ("--seeds", ""): "seeds: is empty",
    ("--models", ""): "models: is empty",
    ("--models", "reznet18"): "'reznet18' is not known",
    ("--unseen", "0.05", "--limit", "2"): "leaves no images to index or to query with",
    ("--weights", "none.pth"): "none.pth does not exist",
}


@pytest.mark.parametrize("options", BAD, ids=" ".join)
def test_a_bad_option_is_one_clear_line(
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


def test_an_image_that_cannot_be_read_is_reported_and_left_out(
    photographs: Path, cache: Path, tmp_path: Path
) -> None:
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


def test_a_data_set_without_one_lookalike_scores_nought(photographs: Path, cache: Path, tmp_path: Path) -> None:
    names = sorted(photographs.iterdir())
    for side, photograph in (("train", names[0]), ("train", names[1]), ("test", names[2]), ("test", names[3])):
        shutil.copytree(photograph, tmp_path / "views" / side / photograph.name)
    found = Evaluated(tmp_path / "out", cache, tmp_path / "views", "--bits", "64", "--methods", "lsh")
    assert {row["map5"] for row in found.rows} == {0.0}


def test_an_output_that_is_no_folder_is_one_line_before_anything_is_encoded(
    photographs: Path, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    code, _, err = lookalike(
        "evaluate", photographs, "--output", tmp_path / "file", "--cache", tmp_path / "cache", "--json",
        "--bits", "64", "--methods", "lsh", "--limit", "4",
    )  # fmt: skip
    assert (code, err.count("\n")) == (1, 1)
    assert err.startswith("error: output: ")
    assert not list(tmp_path.rglob("*.npy"))


def test_a_trained_hash_is_judged_and_a_foreign_one_is_left_out(
    photographs: Path, cache: Path, tmp_path: Path
) -> None:
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


def test_a_damaged_cache_is_encoded_again(photographs: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    first = Evaluated(tmp_path / "a", cache, photographs, "--limit", "10", "--bits", "16", "--methods", "lsh")
    (path,) = (cache / "features").iterdir()
    whole = path.read_bytes()
    for damaged in (b"", whole[: len(whole) // 2], b"no array"):
        path.write_bytes(damaged)
        again = Evaluated(tmp_path / "b", cache, photographs, "--limit", "10", "--bits", "16", "--methods", "lsh")
        assert [row["map5"] for row in again.rows] == [row["map5"] for row in first.rows]
        assert path.read_bytes() == whole


def test_a_method_that_cannot_be_fitted_is_left_out_and_the_others_are_judged(
    photographs: Path, cache: Path, tmp_path: Path
) -> None:
    found = Evaluated(
        tmp_path, cache, photographs, "--limit", "4", "--bits", "16", "--methods", "lsh,itq"
    )  # fmt: skip
    assert {row["method"] for row in found.rows} == {"raw", "lsh"}
    assert "left out: itq, 16 bits: sample: its 3 images span" in " ".join(found.errors.split())


def test_pictures_of_several_labels_are_judged_by_those_that_count(
    photographs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Queries without a label are left out; of held-out classes, what else is in a picture does not count."""
    paths = sorted(photographs.rglob("*.jpg"))[:9]
    labels = np.array(
        [[1, 0, 0], [1, 1, 0], [0, 1, 0], [0, 0, 0], [1, 0, 1], [0, 0, 1], [1, 1, 1], [1, 0, 0], [0, 0, 0]], bool
    )
    several = LabelledImages(
        "several", ("person", "dog", "cat"), labels, tuple(path.name for path in paths), np.arange(6),
        np.array([6, 7, 8]), lambda row: paths[row].read_bytes(), is_multi_label=True,
    )  # fmt: skip
    monkeypatch.setattr(sweep, "load_dataset", lambda *_, **__: several)
    plan = sweep.Plan("several", [MODEL], ["pooled"], ["lsh"], [16], [0], 2, [], 0.0, None, None)

    def prepared(plan: sweep.Plan) -> sweep.Prepared:
        return sweep.prepare(plan, MODEL, "pooled", 0, tmp_path, tmp_path, 1, lambda *_: None)

    whole = prepared(plan)
    assert (len(whole.split.indexed), whole.query_rows.tolist(), whole.unlabelled) == (6, [6, 7], 1)
    # Of three classes one is held out by seed 0: cat.
    hidden = prepared(dataclasses.replace(plan, unseen=0.33))
    assert sorted(hidden.indexed_rows.tolist()) == [4, 5]
    assert hidden.query_rows.tolist() == [6]
    assert hidden.split.query_labels.tolist() == [[False, False, True]]
    assert not hidden.split.indexed_labels[:, :2].any()
    assert len(hidden.split.sample) == 4
