"""`lookalike export`: its file can be ingested again, and a failed export leaves no file."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as parquet
import pytest

from lookalike import Client, CodeSpace, Record
from lookalike.cli.export import export
from lookalike.jobs.export.parquet_file import export_to
from lookalike.model.errors import (
    CannotStart,
    CodeSpaceMismatch,
    InvalidRequest,
)
from tests.cluster.test_batch_codes import codes_of
from tests.conftest import Cluster

RNG = np.random.default_rng(5)
JPEG = b"\xff\xd8\xff" + b"j" * 300


@pytest.fixture
def kept(client: Client) -> Iterator[str]:
    """A collection with features, thumbnails and attributes that are hard to write."""
    name = "to-export"
    client.create_collection(name, bits=64, features="float16", feature_width=4, index_attributes=["n"])
    vectors = RNG.standard_normal((2_000, 4)).astype(np.float32)
    client.upsert(
        [
            Record(
                f"k/{i}\n\"'é", code=code, features=vectors[i], thumbnail=JPEG if i % 2 else None,
                attributes={"n": i, "big": 2**60 + i, "text": "a\tb", "source": {"url": "x"}, "none": None},
            )
            for i, code in enumerate(codes_of(2_000))
        ],
        collection=name,
    )  # fmt: skip
    client.delete(["k/5\n\"'é"], collection=name)
    yield name
    client.drop_collection(name)


def test_an_export_can_be_ingested_again(
    cluster: Cluster, client: Client, kept: str, run: Any, tmp_path: Path
) -> None:
    output = tmp_path / "out.parquet"
    export(str(output), collection=kept, features=True, thumbnails=True, server=cluster.address)
    assert parquet.ParquetFile(output).metadata.num_rows == 1_999
    assert [path.name for path in tmp_path.iterdir()] == ["out.parquet"]
    summary, dead = run(output, collection="exported")
    assert (summary["stored"], dead) == (1_999, [])
    before, after = client.get_collection(kept), client.get_collection("exported")
    assert (after.rows, after.code_space, after.indexing) == (before.rows, before.code_space, before.indexing)
    keys = [f"k/{i}\n\"'é" for i in range(1_000)]
    pairs = [client.get(keys, collection=name, include_thumbnails=True) for name in (kept, "exported")]
    assert len(pairs[0]) == 999
    for one, other in zip(*pairs, strict=True):
        assert (one.key, one.code, one.attributes, one.thumbnail) == (
            other.key, other.code, other.attributes, other.thumbnail,
        )  # fmt: skip
    client.drop_collection("exported")


def test_an_export_of_a_different_code_space_is_rejected(
    cluster: Cluster, client: Client, collection: str, kept: str, run: Any, tmp_path: Path
) -> None:
    client.create_collection("other-space", code_space=CodeSpace(64, "other"))
    export(str(tmp_path / "o.parquet"), collection=kept, server=cluster.address)
    with pytest.raises(CodeSpaceMismatch, match="name another collection"):
        run(tmp_path / "o.parquet", collection="other-space")
    with pytest.raises(CodeSpaceMismatch, match="name another collection"):
        run(tmp_path / "o.parquet", collection="other-space", dry_run=True)
    assert run(tmp_path / "o.parquet", collection=collection)[0]["stored"] == 1_999


def test_an_export_to_a_full_disk_keeps_the_previous_file(
    client: Client, kept: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every write to /dev/full fails, even as root."""

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    output = tmp_path / "out.parquet"
    output.write_text("before")
    with monkeypatch.context() as patched:
        patched.setattr("os.fsync", full)
        with pytest.raises(CannotStart, match=r"out.parquet cannot be written to: No space"):
            export_to(client, client.get_collection(kept), str(output), False, False, 5)
    assert [path.name for path in tmp_path.iterdir()] == ["out.parquet"]
    assert output.read_text() == "before"
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "whole.parquet").symlink_to("/dev/full")
    monkeypatch.setattr("tempfile.TemporaryDirectory", lambda prefix: contextlib.nullcontext(tmp_path / "full"))
    with pytest.raises(CannotStart, match=r"TMPDIR: .* cannot be written to .*No space"):
        export_to(client, client.get_collection(kept), str(output), False, False, 5)


def test_an_export_that_fails_leaves_no_file(client: Client, kept: str, tmp_path: Path) -> None:
    def fail(_: int) -> None:
        raise RuntimeError

    output = tmp_path / "out.parquet"
    with pytest.raises(RuntimeError):
        export_to(client, client.get_collection(kept), str(output), False, False, 5, fail)
    with pytest.raises(InvalidRequest, match="create it first"):
        export_to(client, client.get_collection(kept), str(tmp_path / "no" / "x.parquet"), False, False, 5)
    assert list(tmp_path.iterdir()) == []
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(InvalidRequest, match="is not a regular file"):
        export_to(client, client.get_collection(kept), str(tmp_path / "pipe"), False, False, 5)
    assert (tmp_path / "pipe").is_fifo()
    export_to(client, client.get_collection(kept), "memory://bucket/out.parquet", False, False, 5)
    import fsspec

    with fsspec.open("memory://bucket/out.parquet", "rb") as file:
        assert parquet.ParquetFile(file).metadata.num_rows == 1_999
