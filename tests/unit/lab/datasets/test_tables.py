"""Labelled features and codes in parquet and Arrow files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.feather as feather
import pyarrow.parquet as parquet
import pytest

from lab.datasets import LabelledImages
from lab.datasets.labelled import Vectors
from lab.datasets.tables import is_table, load_table
from lookalike.model.errors import InvalidRequest

KEYS = [f"photo-{number:02}" for number in range(10)]
LABELS = ["cat"] * 5 + ["dog"] * 5
FEATURES = np.random.default_rng(0).standard_normal((10, 80)).astype(np.float32)
CODES = np.random.default_rng(1).integers(0, 256, (10, 8), np.uint8)


def write(path: Path, **columns: Any) -> str:
    parquet.write_table(pa.table(columns), path)
    return str(path)


def loaded(
    path: str, columns: str = "", seed: int = 0, limit: int | None = None
) -> tuple[LabelledImages, Vectors]:
    images = load_table(path, columns, None, seed, limit)
    assert images.vectors is not None
    return images, images.vectors


@pytest.mark.parametrize("path", ["a.parquet", "s3://bucket/a.parquet", "a.feather", "b.csv", "c.npy"])
def test_a_table_is_known_by_its_name(path: str) -> None:
    assert is_table(path)


@pytest.mark.parametrize("path", ["cifar10", "photos", "photos.tar", "photos.tar.gz", "photos.zip", "photo.jpg"])
def test_sets_folders_and_archives_are_no_tables(path: str) -> None:
    assert not is_table(path)


def test_features_with_labels_are_split_as_images_are(tmp_path: Path) -> None:
    images, vectors = loaded(write(tmp_path / "mine.parquet", key=KEYS, features=list(FEATURES), label=LABELS))
    assert (images.name, images.keys, images.classes) == ("mine", tuple(KEYS), ("cat", "dog"))
    assert images.labels.tolist() == [[True, False]] * 5 + [[False, True]] * 5
    assert (len(images.indexed), len(images.queries)) == (8, 2)
    assert not set(images.indexed) & set(images.queries)
    assert np.array_equal(vectors.features, FEATURES)
    assert vectors.codes is None
    with pytest.raises(ValueError, match="has no image"):
        images.read(0)


def test_an_arrow_file_and_several_files_are_read(tmp_path: Path) -> None:
    table = pa.table({"key": KEYS, "features": list(FEATURES), "label": LABELS})
    feather.write_feather(table, tmp_path / "whole.feather", compression="uncompressed")
    assert np.array_equal(loaded(str(tmp_path / "whole.feather"))[1].features, FEATURES)
    for part in range(2):
        parquet.write_table(table.slice(5 * part, 5), tmp_path / f"part-{part}.parquet")
    images, vectors = loaded(str(tmp_path / "part-*.parquet"))
    assert images.keys == tuple(KEYS)
    assert np.array_equal(vectors.features, FEATURES)


def test_named_columns_and_numbered_classes(tmp_path: Path) -> None:
    path = write(
        tmp_path / "a.parquet", id=list(range(10)), emb=list(FEATURES), phash=[code.tobytes() for code in CODES],
        breed=[0] * 5 + [1] * 5, label=["unused"] * 10,
    )  # fmt: skip
    images, vectors = loaded(path, "key=id,features=emb,code=phash,label=breed")
    assert (images.keys[3], images.classes) == ("3", ("0", "1"))
    assert (vectors.feature_column, vectors.code_column) == ("emb", "phash")
    assert np.array_equal(vectors.features, FEATURES)
    assert np.array_equal(vectors.codes, CODES)
    images, vectors = loaded(path, "label=breed")
    assert (vectors.feature_column, vectors.code_column) == ("", "phash")
    assert "using column 'phash' as the code" in vectors.remarks


def test_class_names_of_hugging_face_are_used(tmp_path: Path) -> None:
    notes = '{"info": {"features": {"label": {"_type": "ClassLabel", "names": ["cat", "dog"]}}}}'
    table = pa.table({"key": KEYS, "features": list(FEATURES), "label": [0] * 5 + [1] * 4 + [-1]})
    parquet.write_table(table.replace_schema_metadata({"huggingface": notes}), tmp_path / "a.parquet")
    images, _ = loaded(str(tmp_path / "a.parquet"))
    assert images.classes == ("cat", "dog")
    assert images.labels.sum(axis=1).tolist() == [1] * 9 + [0]


def test_lists_are_several_labels(tmp_path: Path) -> None:
    labels = [["cat", "dog"], ["dog"], [], ["cat"], None, *[["cat"]] * 5]
    images, _ = loaded(write(tmp_path / "a.parquet", key=KEYS, features=list(FEATURES), label=labels))
    assert images.is_multi_label
    assert images.labels[:5].tolist() == [
        [True, True],
        [False, True],
        [False, False],
        [True, False],
        [False, False],
    ]


def test_rows_without_valid_vectors_are_marked(tmp_path: Path) -> None:
    features: list[Any] = list(FEATURES)
    features[1], features[2], features[3] = None, FEATURES[2][:40], np.full(80, np.inf, np.float32)
    codes: list[bytes | None] = [code.tobytes() for code in CODES]
    codes[4], codes[5] = None, b"short"
    path = write(tmp_path / "a.parquet", key=KEYS, features=features, code=codes, label=LABELS)
    _, vectors = loaded(path)
    assert np.flatnonzero(np.isnan(vectors.features).any(axis=1)).tolist() == [1, 2, 3]
    assert vectors.code_is_valid is not None
    assert np.flatnonzero(~vectors.code_is_valid).tolist() == [4, 5]
    assert vectors.codes is not None
    assert np.array_equal(vectors.codes[[0, 6]], CODES[[0, 6]])


def test_a_limit_takes_vectors_with_their_keys(tmp_path: Path) -> None:
    path = write(tmp_path / "a.parquet", key=KEYS, features=list(FEATURES), label=LABELS)
    images, vectors = loaded(path, limit=6)
    assert len(images.keys) == len(vectors.features) == len(images.marks) == 6
    for key, features in zip(images.keys, vectors.features, strict=True):
        assert np.array_equal(features, FEATURES[KEYS.index(key)])


GOOD = {"key": KEYS, "features": list(FEATURES), "label": LABELS}
BAD: dict[str, tuple[dict[str, Any], str]] = {
    "no key": ({"key": None}, "has no key; its columns are 'features', 'label'; name one, as in --columns key="),
    "no label": ({"label": None}, "has no label; its columns are 'key', 'features'"),
    "no vectors": ({"features": None}, "has neither features nor a code"),
    "text": ({"features": KEYS}, "column 'features' does not hold lists of numbers"),
    "nothing": ({"features": pa.array([None] * 10, pa.list_(pa.float32()))}, "features: no row has any"),
    "same keys": ({"key": ["one"] * 10}, "key: row 1 of .* has 'one', which is not the first"),
    "missing key": ({"key": [None, *KEYS[1:]]}, "key: row 0 of .* has none"),
    "a class each": ({"label": KEYS}, "has no class with two records"),
    "wrong codes": ({"features": None, "code": ["?"] * 10}, "code: no row has a valid one"),
}


@pytest.mark.parametrize("name", BAD)
def test_an_invalid_table_is_refused(name: str, tmp_path: Path) -> None:
    columns = {column: values for column, values in (GOOD | BAD[name][0]).items() if values is not None}
    with pytest.raises(InvalidRequest, match=BAD[name][1]):
        loaded(write(tmp_path / "a.parquet", **columns))


def test_other_tables_and_roles_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("key,label\n")
    with pytest.raises(InvalidRequest, match="is of the format csv; features and codes are read from parquet"):
        loaded(str(tmp_path / "a.csv"))
    path = write(tmp_path / "a.parquet", **GOOD)
    with pytest.raises(InvalidRequest, match="where ROLE is one of key, features, code, label"):
        loaded(path, "image=key")
    with pytest.raises(InvalidRequest, match=r"does not exist"):
        loaded(str(tmp_path / "none.parquet"))
