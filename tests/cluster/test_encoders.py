"""A cluster with several encoders: each collection's images go to the encoder that makes its codes."""

from __future__ import annotations

import json
import sys
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from encoder.model import EncoderModel
from encoder.spec import EncoderSpec
from lookalike import Client, CodeSpace, Record
from lookalike.model.errors import CodeSpaceMismatch, InvalidRequest
from tests import preloaded
from tests.cluster.scraping import scrape, value
from tests.cluster.test_encoder import ingest, job
from tests.command import lookalike
from tests.conftest import Cluster


@pytest.fixture
def client(encoder_cluster: Cluster) -> Iterator[Client]:
    with encoder_cluster.client(timeout=60) as client:
        yield client


@pytest.fixture(scope="module")
def small(encoder_cluster: Cluster) -> EncoderModel:
    """The cluster's second encoder, in this process."""
    return EncoderModel(EncoderSpec.from_config(encoder_cluster.config.encoders["small"]))


@pytest.fixture(scope="module")
def images(photographs: Path) -> list[Path]:
    return sorted(photographs.rglob("*.jpg"))[:6]


def store(client: Client, collection: str, images: list[Path]) -> None:
    client.upsert([Record(path.stem, image=path) for path in images], collection=collection)


def test_each_collections_images_go_to_its_encoder(
    client: Client, images: list[Path], small: EncoderModel
) -> None:
    client.create_collection("by-default")
    assert client.create_collection("by-small", encoder="small").code_space == small.space
    assert client.create_collection("by-name", encoder="default").code_space != small.space
    for name in ("by-default", "by-small", "by-name"):
        store(client, name, images)
        for path in images:
            (hit,) = client.search(image=path, k=1, collection=name).hits
            assert (hit.key, hit.distance) == (path.stem, 0)
    expected = small.encode([path.read_bytes() for path in images])
    stored = client.get([path.stem for path in images], collection="by-small")
    assert [record.code for record in stored] == [each.code for each in expected]
    outcomes = client.ingest([Record("streamed", image=images[0])], collection="by-small")
    assert all(outcome.ok for outcome in outcomes)


def test_reranks_use_the_features_and_projections_of_the_collections_encoder(
    client: Client, images: list[Path], small: EncoderModel
) -> None:
    made = client.create_collection("small-features", encoder="small", features="int8")
    assert made.indexing.feature_width == small.width
    store(client, "small-features", images)
    by_features = client.search(image=images[2], k=1, collection="small-features", rerank="features")
    by_projections = client.search(image=images[2], k=1, collection="small-features", score="asymmetric")
    assert by_features.hits[0].key == by_projections.hits[0].key == images[2].stem
    assert client.get_hash_file("small-features") == small.hash.to_bytes()


def test_an_encoder_that_the_cluster_lacks_is_an_error_that_lists_those_that_it_has(client: Client) -> None:
    with pytest.raises(
        InvalidRequest, match="'large' is not an encoder of this cluster; use one of default, small"
    ):
        client.create_collection("large", encoder="large")
    with pytest.raises(InvalidRequest, match="encoder: is given with bits or a code space"):
        client.create_collection("both", bits=64, encoder="small")
    with pytest.raises(InvalidRequest, match="encoder: '' is not a name"):
        client.create_collection("empty", encoder="")


def test_a_collection_of_no_running_encoder_is_one_error_that_names_its_model_and_the_encoders(
    client: Client, images: list[Path]
) -> None:
    client.create_collection("lost", code_space=CodeSpace(128, backbone="timm:vit_tiny", hash_method="itq"))
    with pytest.raises(CodeSpaceMismatch) as error:
        client.search(image=images[0], collection="lost")
    said = error.value.message
    assert "(timm:vit_tiny, itq, 128 bits)" in said
    assert "default (timm:tf_efficientnet_lite0, lsh, 256 bits" in said
    assert "small (torchvision:mobilenet_v3_small, lsh, 64 bits" in said
    with pytest.raises(CodeSpaceMismatch, match="no encoder uses"):
        client.upsert([Record("a", image=images[0])], collection="lost")


def test_status_command_and_web_name_each_encoder(encoder_cluster: Cluster, client: Client) -> None:
    status = client.status()
    assert (status.encoder.name, status.encoder.state) == ("default", "serving")
    (other,) = status.encoders
    assert (other.name, other.state) == ("small", "serving")
    assert other.address == encoder_cluster.config.encoders["small"].address
    code, said, _ = lookalike("status", "--server", encoder_cluster.address)
    assert code == 0
    assert f"encoder small: {other.address} serving torchvision:mobilenet_v3_small, lsh, 64 bits" in said
    with urllib.request.urlopen(f"{encoder_cluster.config.web_url}/v1/status", timeout=30) as answer:
        assert [each["name"] for each in json.load(answer)["encoders"]] == ["small"]
    code, said, _ = lookalike("health", "--address", other.address)
    assert (code, said) == (0, f"{other.address} is SERVING\n")


def test_command_and_rest_create_collections_with_an_encoder(
    encoder_cluster: Cluster, client: Client, small: EncoderModel
) -> None:
    code, said, complaint = lookalike(
        "collection", "create", "by-command", "--encoder", "small", "--server", encoder_cluster.address
    )
    assert code == 0, complaint
    assert "64 bits, torchvision:mobilenet_v3_small lsh" in said
    body = json.dumps({"name": "by-rest", "encoder": "small"}).encode()
    request = urllib.request.Request(
        f"{encoder_cluster.config.web_url}/v1/collections", body, {"content-type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=30) as answer:
        assert answer.status == 201
    assert client.get_collection("by-rest").code_space == small.space


def test_metrics_name_each_encoder(encoder_cluster: Cluster, client: Client, images: list[Path]) -> None:
    client.create_collection("counted", encoder="small")
    config = encoder_cluster.config.encoder
    assert config is not None

    def encoded(name: str) -> float:
        labels = {"encoder": name, "outcome": "encoded"}
        return value(scrape(config.metrics), "lookalike_encoder_images_total", labels)

    before = {name: encoded(name) for name in ("default", "small")}
    store(client, "counted", images)
    assert encoded("small") == before["small"] + len(images)
    assert encoded("default") == before["default"]
    samples = scrape(config.metrics)
    assert value(samples, "lookalike_queue_waiting", {"queue": "encode small"}) == 0
    assert value(samples, "lookalike_ready") == 1
    assert value(samples, "lookalike_encoder_replicas_max", {"encoder": "small"}) == 1


def test_jobs_take_the_collections_encoder_from_the_config(
    encoder_cluster: Cluster,
    ray: Mapping[str, str],
    client: Client,
    photographs: Path,
    small: EncoderModel,
    tmp_path: Path,
) -> None:
    """The encoder's weights are in a file, so that only the config has them."""
    folder = min(path for path in photographs.iterdir() if path.is_dir())
    summary = ingest(encoder_cluster, ray, tmp_path / "r.jsonl", folder, "-c", "job-small", "--encoder", "small")
    assert summary["stored"] == summary["found"] > 0
    assert client.get_collection("job-small").code_space == small.space
    again = ingest(encoder_cluster, ray, tmp_path / "r.jsonl", folder, "-c", "job-small")
    assert again["already_stored"] == summary["stored"]
    paths = sorted(folder.iterdir())
    expected = [each.code for each in small.encode([path.read_bytes() for path in paths])]
    keys = [path.name for path in paths]
    assert [record.code for record in client.get(keys, collection="job-small")] == expected
    command = job(
        encoder_cluster, folder, "-c", "job-small", "--encoder", "default", "--report", tmp_path / "r.jsonl"
    )
    code, _, complaint = lookalike(*command[3:])
    assert code == 1
    assert "encoder: collection 'job-small' has another encoder than default" in complaint


def test_a_job_says_that_no_encoder_of_its_config_makes_the_collections_codes(
    encoder_cluster: Cluster, client: Client, photographs: Path, tmp_path: Path
) -> None:
    space = CodeSpace(128, backbone="timm:vit_tiny", hash_method="itq")
    client.create_collection("job-lost", code_space=space, hash_file=b"x")
    command = job(encoder_cluster, photographs, "-c", "job-lost", "--report", tmp_path / "r.jsonl")
    code, _, complaint = lookalike(*command[3:])
    assert code == 1
    assert "which no encoder of the config makes (default, small)" in complaint


def test_a_name_that_the_config_lacks_is_refused_at_start(encoder_cluster: Cluster) -> None:
    command = [sys.executable, "-m", "encoder", "--config", str(encoder_cluster.config_file), "--name", "large"]
    result = preloaded.run(command)
    assert result.returncode == 2
    assert "has no encoder 'large'; use one of default, small" in result.stderr
