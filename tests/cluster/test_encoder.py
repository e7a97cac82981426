"""Images in a cluster with the real encoder on Ray."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import psutil
import pytest
from PIL import Image

from encoder.hashing import drawn
from encoder.model import EncoderModel
from encoder.spec import EncoderSpec
from lookalike import Client, CodeSpace, Record
from lookalike.model.errors import CannotStart, CodeSpaceMismatch, InvalidRequest, PartitionUnavailable
from lookalike.server.config import EncoderConfig
from lookalike.v1 import encoder_pb2, encoder_pb2_grpc
from tests import preloaded
from tests.command import lookalike
from tests.conftest import Cluster, running_cluster, wait_until


@pytest.fixture
def client(encoder_cluster: Cluster) -> Iterator[Client]:
    with encoder_cluster.client(timeout=60) as client:
        yield client


@pytest.fixture(scope="module")
def model() -> EncoderModel:
    return EncoderModel(EncoderSpec("tf_efficientnet_lite0", 256, 0))


def job(cluster: Cluster, *arguments: object) -> list[str]:
    """The command line of the batch job against a cluster."""
    return [
        sys.executable, "-m", "lookalike", "ingest", *map(str, arguments), "--server", cluster.address,
        "--config", str(cluster.config_file), "--json",
    ]  # fmt: skip


def ingest(cluster: Cluster, ray: Mapping[str, str], report: Path, *arguments: object) -> dict[str, Any]:
    """Runs a job that joins the Ray cluster of the environment variables `ray`; returns its summary."""
    command = job(cluster, *arguments, "--report", report, "--workers", 1)
    result = preloaded.run(command, {**os.environ, **ray})
    assert result.returncode == 0, result.stderr
    summary: dict[str, Any] = json.loads(result.stdout)
    return summary


def test_images_are_stored_and_found_by_image(client: Client, photographs: Path, model: EncoderModel) -> None:
    client.create_collection("by-image")
    assert client.get_collection("by-image").code_space == model.space
    paths = sorted(photographs.rglob("*.jpg"))
    records = [Record(path.stem, image=path, attributes={"label": path.parent.name}) for path in paths]
    assert client.upsert(records, collection="by-image") == len(paths)
    for path in paths[::9]:
        hits = client.search(image=str(path), k=3, collection="by-image").hits
        assert (hits[0].key, hits[0].distance) == (path.stem, 0)
        assert hits[1].attributes["label"] == path.parent.name
        by_bytes = client.search(image=path.read_bytes(), k=3, collection="by-image")
        assert by_bytes.hits == hits
    expected = model.encode([path.read_bytes() for path in paths])
    stored = client.get([path.stem for path in paths], collection="by-image")
    assert [record.code for record in stored] == [item.code for item in expected]


def test_an_invalid_image_is_a_client_error_and_stores_nothing(client: Client, photographs: Path) -> None:
    client.create_collection("bad-images")
    good = next(photographs.rglob("*.jpg")).read_bytes()
    for bad, words in [
        (b"", "is empty"),
        (b"this is text", "is not an image file"),
        (good[: len(good) // 2], "is damaged or cut short"),
    ]:
        with pytest.raises(InvalidRequest, match=f"image: {words}"):
            client.search(image=bad, collection="bad-images")
        with pytest.raises(InvalidRequest, match=f"record 'bad': image: {words}"):
            client.upsert([Record("good", image=good), Record("bad", image=bad)], collection="bad-images")
    outcomes = list(
        client.ingest([Record("bad", image=b"text"), Record("good", image=good)], collection="bad-images")
    )
    assert [outcome.ok for outcome in outcomes] == [False, True]
    assert client.get_collection("bad-images").rows == 1


def test_codes_of_a_different_encoder_are_rejected(client: Client, photographs: Path) -> None:
    image = next(photographs.rglob("*.jpg"))
    other = CodeSpace(256, backbone="timm:tf_efficientnet_lite0", hash_method="lsh", hash_digest="another seed")
    client.create_collection("foreign", code_space=other)
    with pytest.raises(CodeSpaceMismatch, match="no encoder uses the collection's code space"):
        client.search(image=image, collection="foreign")
    with pytest.raises(CodeSpaceMismatch, match="no encoder uses the collection's code space"):
        client.upsert([Record("a", image=image)], collection="foreign")
    client.create_collection("own")
    with pytest.raises(CodeSpaceMismatch):
        client.search(code=bytes(32), fingerprint=other.fingerprint, collection="own")


def test_the_encoder_describes_its_code_space_and_returns_features(
    encoder_cluster: Cluster, photographs: Path, model: EncoderModel
) -> None:
    assert encoder_cluster.config.encoder is not None
    image = next(photographs.rglob("*.jpg")).read_bytes()
    with grpc.insecure_channel(encoder_cluster.config.encoder.address) as channel:
        stub = encoder_pb2_grpc.EncoderServiceStub(channel)
        described = stub.Describe(encoder_pb2.DescribeRequest())
        answer = stub.Encode(encoder_pb2.EncodeRequest(images=[image, b"x"], include_features=True))
    assert described.code_space.fingerprint == answer.fingerprint == model.space.fingerprint
    assert described.features == 1280
    (expected, _) = model.encode([image, b"x"], include_features=True)
    assert answer.images[0].code == expected.code
    assert np.array_equal(np.frombuffer(answer.images[0].features, "<f4"), expected.features)
    assert "not an image" in answer.images[1].error


def test_a_job_stores_readable_images_and_reports_the_others(
    encoder_cluster: Cluster, ray: Mapping[str, str], client: Client, photographs: Path, tmp_path: Path
) -> None:
    folder, report = tmp_path / "photos", tmp_path / "report.jsonl"
    images = sorted(photographs.rglob("*.jpg"))[:6]
    for path in images:
        target = folder / path.parent.name / path.name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(path.read_bytes())
    (folder / "text.jpg").write_text("no image")
    (folder / "empty.png").touch()
    (folder / "cut.jpg").write_bytes(images[0].read_bytes()[:2_000])
    first = ingest(encoder_cluster, ray, report, folder, "--collection", "job")
    assert (first["found"], first["stored"], first["unreadable"]) == (9, 6, 3)
    reasons = {line["key"]: line["reason"] for line in map(json.loads, report.read_text().splitlines())}
    assert set(reasons) == {"text.jpg", "empty.png", "cut.jpg"}
    assert "is empty" in reasons["empty.png"]
    (record,) = client.get([f"{images[0].parent.name}/{images[0].name}"], collection="job")
    assert record.attributes["label"] == images[0].parent.name
    versions = {r.key: r.version for r in _records(client, folder)}
    (folder / record.key).write_bytes(images[5].read_bytes())
    again = ingest(encoder_cluster, ray, report, folder, "--collection", "job")
    assert (again["stored"], again["already_stored"], again["unreadable"]) == (1, 5, 3)
    changed = {r.key for r in _records(client, folder) if r.version != versions[r.key]}
    assert changed == {record.key}


def _records(client: Client, folder: Path) -> list[Any]:
    keys = [str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()]
    return client.get(keys, collection="job")


def test_a_job_with_a_different_encoder_is_rejected_and_stores_nothing(
    encoder_cluster: Cluster, client: Client, photographs: Path, tmp_path: Path
) -> None:
    client.create_collection("refused")
    command = job(encoder_cluster, photographs, "--collection", "refused", "--report", tmp_path / "r")
    environment = {**os.environ, "LOOKALIKE__ENCODER__SEED": "5"}
    result = preloaded.run(command, environment)
    assert result.returncode == 1
    assert result.stderr.count("\n") == 1
    assert "this job makes" in result.stderr
    assert client.get_collection("refused").rows == 0


def test_a_killed_job_resumes_after_its_acknowledged_images(
    encoder_cluster: Cluster, ray: Mapping[str, str], client: Client, photographs: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "many"
    folder.mkdir()
    images = [path.read_bytes() for path in sorted(photographs.rglob("*.jpg"))]
    total = 256
    for number in range(total):
        (folder / f"{number:04d}.jpg").write_bytes(images[number % len(images)])
    client.create_collection("resumed")
    command = job(encoder_cluster, folder, "--collection", "resumed", "--report", tmp_path / "r", "--workers", 1)
    # It starts its own Ray, which must end with it.
    with (tmp_path / "output").open("wb") as output, preloaded.Popen(command, stdout=output) as process:
        wait_until(lambda: client.get_collection("resumed").rows > 0, 60)
        children = psutil.Process(process.pid).children(recursive=True)
        process.kill()
    wait_until(lambda: not any(child.is_running() for child in children), 30)
    acknowledged = client.get_collection("resumed").rows
    assert 0 < acknowledged < total
    before = {r.key: r.version for r in client.get([f"{n:04d}.jpg" for n in range(total)], collection="resumed")}
    summary = ingest(encoder_cluster, ray, tmp_path / "r", folder, "--collection", "resumed")
    assert (summary["already_stored"], summary["stored"]) == (acknowledged, total - acknowledged)
    after = {r.key: r.version for r in client.get([f"{n:04d}.jpg" for n in range(total)], collection="resumed")}
    assert len(after) == total
    assert {key: after[key] for key in before} == before


def test_a_killed_encoder_is_an_error_until_it_restarts(
    encoder_cluster: Cluster, client: Client, photographs: Path
) -> None:
    image = next(photographs.rglob("*.jpg")).read_bytes()
    client.create_collection("revived")
    old = encoder_cluster.pid("encoder")
    children = psutil.Process(old).children(recursive=True)
    encoder_cluster.kill("encoder", signal.SIGKILL)
    with pytest.raises(PartitionUnavailable, match=r"the encoder .* does not answer"):
        client.search(image=image, collection="revived")
    wait_until(lambda: encoder_cluster.pid("encoder") != old and client.status().encoder.state == "serving", 90)
    assert client.search(image=image, collection="revived").hits == []
    wait_until(lambda: not any(child.is_running() for child in children), 30)


def test_images_are_scored_by_projections_and_stored_features(
    encoder_cluster: Cluster,
    ray: Mapping[str, str],
    client: Client,
    photographs: Path,
    model: EncoderModel,
    tmp_path: Path,
) -> None:
    client.create_collection("scored", features="float16")
    assert client.get_collection("scored").indexing.feature_width == 1280
    summary = ingest(encoder_cluster, ray, tmp_path / "report.jsonl", photographs, "--collection", "scored")
    paths = {str(path.relative_to(photographs)): path for path in photographs.rglob("*.jpg")}
    assert summary["stored"] == len(paths) == client.get_collection("scored").rows
    one = client.upsert([Record("alone", image=next(iter(paths.values())))], collection="scored")
    assert one == 1
    made = model.encode([path.read_bytes() for path in paths.values()], True, True)
    features = np.stack([item.features for item in made])
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    for row in (0, 17, 33):
        image = list(paths.values())[row]
        cosines = dict(zip(paths, (unit @ unit[row]).tolist(), strict=True))
        result = client.search(image=image, k=5, rerank="features", oversampling=20, collection="scored")
        assert result.exact
        assert {hit.key: hit.score for hit in result.hits if hit.key != "alone"} == pytest.approx(
            {hit.key: cosines[hit.key] for hit in result.hits if hit.key != "alone"}, abs=2e-3
        )
        ranked = [hit.score for hit in result.hits]
        assert ranked == sorted(ranked, reverse=True)
        assert ranked[-1] >= sorted(cosines.values(), reverse=True)[5] - 2e-3
        result = client.search(image=image, k=5, score="asymmetric", collection="scored")
        by_code = client.search(
            code=made[row].code, projections=made[row].projections, k=5, score="asymmetric", collection="scored"
        )
        scores = {hit.key: hit.score for hit in result.hits}
        # The last digits of an image's features depend on its batch.
        assert scores == pytest.approx({hit.key: hit.score for hit in by_code.hits}, abs=1e-3)
        assert {result.hits[0].distance, by_code.hits[0].distance} == {0}
    assert client.get_hash_file("scored") == model.hash.to_bytes()


def test_a_collection_returns_its_fitted_hash(
    ray: Mapping[str, str], photographs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its encoder joins a running Ray cluster."""
    for name, value in ray.items():
        monkeypatch.setenv(name, value)
    fitted, given_back = tmp_path / "itq.npz", tmp_path / "back.npz"
    command = [sys.executable, "-m", "lookalike", "fit", str(photographs), "--output", str(fitted), "--json"]
    made = preloaded.run([*command, "--method", "itq", "--bits", "64"])
    assert made.returncode == 0, made.stderr
    assert json.loads(made.stdout)["images"] == 40
    image = sorted(photographs.rglob("*.jpg"))[3]
    spec = EncoderSpec.from_config(EncoderConfig(hash=fitted))
    expected = EncoderModel(spec)
    assert (expected.space.hash_method, expected.space.bits) == ("itq", 64)
    with running_cluster(tmp_path / "data", 2, EncoderConfig(hash=fitted)) as own, own.client(60) as client:
        assert client.create_collection("itq").code_space == expected.space
        assert client.upsert([Record("a", image=image)], collection="itq") == 1
        assert client.get(["a"], collection="itq")[0].code == expected.encode([image.read_bytes()])[0].code
        hits = client.search(image=image, score="asymmetric", collection="itq").hits
        assert [(hit.key, hit.distance, hit.score) for hit in hits] == [("a", 0, 1.0)]
        command = [sys.executable, "-m", "lookalike", "collection", "hash", "itq", "--output", str(given_back)]
        assert preloaded.run([*command, "--server", own.address]).returncode == 0
    assert given_back.read_bytes() == fitted.read_bytes()
    with pytest.raises(CannotStart, match="was fitted to other features"):
        EncoderModel(dataclasses.replace(spec, layer="classifier"))
    with pytest.raises(CannotStart, match="gives codes of 64 bits; leave bits out"):
        EncoderSpec.from_config(EncoderConfig(hash=fitted, bits=128))


def test_a_different_feature_width_rejects_images(client: Client, photographs: Path, model: EncoderModel) -> None:
    client.create_collection("narrow", code_space=model.space, features="int8", feature_width=64)
    image = next(photographs.rglob("*.jpg"))
    with pytest.raises(InvalidRequest, match=r"record 'a': image: the encoder's features have 1,280 values"):
        client.upsert([Record("a", image=image)], collection="narrow")
    with pytest.raises(InvalidRequest, match="the collection stores 64; create the collection with"):
        client.search(image=image, rerank="features", collection="narrow")
    assert client.search(image=image, collection="narrow").hits == []


def test_another_arithmetic_than_the_collections_is_said(
    encoder_cluster: Cluster,
    ray: Mapping[str, str],
    client: Client,
    photographs: Path,
    model: EncoderModel,
    tmp_path: Path,
) -> None:
    other = "float64, by hand"
    assert model.space.arithmetic not in ("", other)
    client.create_collection("own-arithmetic")
    assert client.get_collection("own-arithmetic").code_space.arithmetic == model.space.arithmetic
    space = dataclasses.replace(model.space, arithmetic=other)
    assert space.fingerprint == model.space.fingerprint
    client.create_collection("other", code_space=space, hash_file=model.hash.to_bytes())
    image = min(photographs.rglob("*.jpg"))
    said = f"computes in {model.space.arithmetic}, the collection's codes were made in {other}"
    (warning,) = client.search(image=image, k=1, collection="other").warnings
    assert said in warning
    (result,) = client.search_batch(images=[image], k=1, collection="other")
    assert result.warnings == [warning]
    assert client.search(code=bytes(32), k=1, collection="other").warnings == []
    assert client.search(image=image, k=1, collection="own-arithmetic").warnings == []
    summary = ingest(encoder_cluster, ray, tmp_path / "r.jsonl", image, "-c", "other")
    (warning,) = summary["warnings"]
    assert f"encodes in {model.space.arithmetic}, the collection's encoder in {other}" in warning


def test_a_job_without_a_config_encodes_as_the_collections_encoder_does(
    encoder_cluster: Cluster, ray: Mapping[str, str], client: Client, model: EncoderModel, tmp_path: Path
) -> None:
    """The default encoder makes 256 bits; this collection has 64 of another seed, so the defaults would not do."""
    hashing = drawn(model.network.width, 64, 7)
    space = dataclasses.replace(model.space, bits=64, hash_method=hashing.method, hash_digest=hashing.digest)
    client.create_collection("asked", code_space=space, hash_file=hashing.to_bytes())
    Image.effect_noise((300, 200), 90).convert("RGB").save(tmp_path / "noise.png")
    command = job(encoder_cluster, tmp_path / "noise.png", "-c", "asked", "--report", tmp_path / "r.jsonl")
    place = command.index("--config")
    result = preloaded.run([*command[:place], *command[place + 2 :]], {**os.environ, **ray})
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout)["stored"] == 1
    (record,) = client.get(["noise.png"], collection="asked")
    assert len(record.code) == 8


def test_images_are_refused_for_a_collection_of_codes_made_elsewhere(
    encoder_cluster: Cluster, client: Client, photographs: Path, tmp_path: Path
) -> None:
    client.create_collection("made-elsewhere", bits=64)
    command = job(encoder_cluster, photographs, "-c", "made-elsewhere", "--report", tmp_path / "r.jsonl")
    place = command.index("--config")
    code, _, complaint = lookalike(*command[3:place], *command[place + 2 :])
    assert code == 1
    assert "'made-elsewhere' holds codes that were made elsewhere; images cannot be encoded for it" in complaint
