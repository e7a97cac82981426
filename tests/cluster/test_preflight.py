"""Errors that an image job and the encoder report before Ray starts."""

from __future__ import annotations

from pathlib import Path

import pytest

from encoder.__main__ import serve
from encoder.ingest.command import ingest
from encoder.ingest.sources import find_sources
from lookalike import Client, CodeSpace, Record
from lookalike.model.errors import CannotStart, CodeSpaceMismatch
from tests.conftest import Cluster


@pytest.fixture(autouse=True)
def no_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    def start(**_: object) -> None:
        raise AssertionError("Ray starts")

    monkeypatch.setattr("ray.init", start)


@pytest.fixture
def missing_weights(tmp_path: Path) -> Path:
    """A config whose encoder's weights do not exist."""
    config = tmp_path / "config.yaml"
    config.write_text(f"encoder:\n  weights: {tmp_path / 'none.pth'}\n")
    return config


def test_an_image_job_refuses_a_foreign_code_space(
    cluster: Cluster, client: Client, collection: str, photographs: Path, tmp_path: Path
) -> None:
    config = tmp_path / "config.yaml"
    config.write_text("partitions: 1\nencoder: {bits: 64}\n")
    with pytest.raises(CodeSpaceMismatch, match="this job makes"):
        ingest(
            [str(photographs)], collection, config, server=cluster.address, dead_letters=tmp_path / "dead.jsonl"
        )
    assert client.get_collection(collection).rows == 0


def test_an_image_job_refuses_missing_weights(
    cluster: Cluster, collection: str, photographs: Path, missing_weights: Path, tmp_path: Path
) -> None:
    with pytest.raises(CannotStart, match=r"encoder.weights: .*none.pth does not exist"):
        ingest(
            [str(photographs)], collection, missing_weights, server=cluster.address,
            dead_letters=tmp_path / "dead.jsonl",
        )  # fmt: skip


async def test_the_encoder_refuses_missing_weights(missing_weights: Path) -> None:
    with pytest.raises(CannotStart, match=r"encoder.weights: .*none.pth does not exist"):
        await serve(missing_weights, watch_stdin=False, names=())


def test_a_job_with_nothing_to_encode_needs_no_encoder(
    cluster: Cluster,
    client: Client,
    photographs: Path,
    missing_weights: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    sources = find_sources([str(photographs)]).sources
    client.create_collection("complete", code_space=CodeSpace(64))
    records = [Record(source.key, code=bytes(8), attributes=source.attributes) for source in sources]
    client.upsert(records, collection="complete")
    ingest(
        [str(photographs)], "complete", missing_weights, server=cluster.address,
        dead_letters=tmp_path / "dead.jsonl",
    )  # fmt: skip
    assert "40 images: 0 stored, 40 already stored" in capsys.readouterr().out
