"""Every command of docs/INGESTION.md runs: against a real cluster, a web server and an S3 server.

Jobs that encode images run with --dry-run, because Ray takes half a minute to start each time;
test_batch_images.py tests the rest."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path

import boto3
import faiss
import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet
import pytest
from moto.server import ThreadedMotoServer

from encoder.hashing import drawn
from lookalike import Client, CodeSpace, Record
from lookalike.cli import app
from lookalike.jobs.dedup.undo_list import Run, UndoList
from lookalike.model.errors import InvalidRequest
from tests.conftest import Cluster
from tests.served import served

PAGE = Path(__file__).parents[2] / "docs" / "INGESTION.md"
COMMANDS = [
    line
    for block in re.findall(r"^```sh\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    for line in block.splitlines()
    if line
]
RNG = np.random.default_rng(3)
NAMES = ("features", "photos", "codes", "hashes", "pdq", "phash", "vectors")
JPEG = b"\xff\xd8\xff" + bytes(50)


@pytest.fixture(scope="module")
def folder(photographs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files that the page mentions."""
    folder = tmp_path_factory.mktemp("page")
    names = [f"{label}/{number}.jpg" for label in ("cat", "dog") for number in range(3)]
    for name, source in zip(names, sorted(photographs.rglob("*.jpg")), strict=False):
        (folder / "photos" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source, folder / "photos" / name)
    data = [(folder / "photos" / name).read_bytes() for name in names]
    (folder / "tables").mkdir()
    parquet.write_table(
        pa.table({"key": names, "image": data, "year": range(6)}), folder / "tables" / "photos.parquet"
    )
    lines = [{"key": name, "uri": f"photos/{name}", "label": name[:3]} for name in names]
    (folder / "manifest.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / "manifest.csv").write_text("uri,year\n" + "".join(f"{name},1999\n" for name in names))
    shutil.copy(folder / "manifest.csv", folder / "photos")
    (folder / "coco" / "annotations").mkdir(parents=True)
    shutil.copytree(folder / "photos" / "cat", folder / "coco" / "val2017")
    content = {
        "categories": [{"id": 1, "name": "cat"}],
        "images": [{"id": number, "file_name": f"{number}.jpg"} for number in range(3)],
        "annotations": [{"image_id": 0, "category_id": 1}],
    }
    (folder / "coco" / "annotations" / "instances_val2017.json").write_text(json.dumps(content))
    codes = [bytes(row) for row in RNG.integers(0, 256, (500, 32), np.uint8)]
    rows = {
        "key": [str(row) for row in range(500)],
        "code": codes,
        "year": [1990 + row % 20 for row in range(500)],
    }
    parquet.write_table(pa.table({**rows, "label": ["cat", "cow"] * 250}), folder / "codes.parquet")
    ready = [{"key": "a", "code": "00" * 32}, {"key": "narrow", "code": "00"}]
    (folder / "codes.jsonl").write_text("".join(json.dumps(line) + "\n" for line in ready))
    bits = RNG.integers(0, 2, (20, 256))
    lines = [{"key": str(row), "code": "".join(map(str, code[:64]))} for row, code in enumerate(bits)]
    (folder / "hashes.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    parquet.write_table(
        pa.table({"key": [str(row) for row in range(20)], "code": bits.tolist()}), folder / "pdq.parquet"
    )
    packed = np.packbits(bits[:, :64], axis=1)
    index = faiss.IndexBinaryFlat(64)
    index.add(packed)
    faiss.write_index_binary(index, str(folder / "codes.faiss"))
    np.save(folder / "codes.npy", packed)
    (folder / "keys.txt").write_text("".join(f"photo-{row}.jpg\n" for row in range(20)))
    vectors = RNG.standard_normal((20, 16)).tolist()
    parquet.write_table(
        pa.table({"key": [str(i) for i in range(20)], "features": vectors}), folder / "features.parquet"
    )
    return folder


@pytest.fixture(scope="module")
def collections(cluster: Cluster, folder: Path) -> Iterator[None]:
    hashing = drawn(16, 64, 3)
    space = CodeSpace(64, "net", "", "pooled", "", hashing.method, hashing.digest)
    with cluster.client() as client:
        for left in client.list_collections():
            if left.name in NAMES:
                client.drop_collection(left.name)
        client.create_collection(
            "features", code_space=space, hash_file=hashing.to_bytes(), features="int8", feature_width=16
        )
        client.create_collection("photos", bits=64)
        client.upsert([Record("cat/1.jpg", code=bytes(8), thumbnail=JPEG)], collection="photos")
        UndoList(folder / "dedup-undo.jsonl", Run.of("move", client.get_collection("photos"))).append([])
        yield
        for name in NAMES:
            client.drop_collection(name)


@pytest.fixture(scope="module")
def web(folder: Path) -> Iterator[str]:
    with served(folder) as address:
        yield address


@pytest.fixture(scope="module")
def s3(folder: Path) -> Iterator[str]:
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    endpoint = f"http://{host}:{port}"
    store = boto3.client(
        "s3", endpoint_url=endpoint, region_name="us-east-1", aws_access_key_id="k", aws_secret_access_key="s"
    )
    store.create_bucket(Bucket="bucket")
    for path in [*folder.rglob("*.jpg"), folder / "manifest.jsonl"]:
        store.upload_file(str(path), "bucket", str(path.relative_to(folder)))
    yield endpoint
    server.stop()


def test_the_page_has_commands() -> None:
    assert len(COMMANDS) > 20
    assert {shlex.split(command)[1] for command in COMMANDS} == {
        "ingest", "get", "export", "dedup", "collection", "calibrate",
    }  # fmt: skip


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("command", COMMANDS)
def test_a_documented_command_works(
    cluster: Cluster,
    collections: None,
    folder: Path,
    web: str,
    s3: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    command: str,
) -> None:
    settings = {
        "LOOKALIKE_SERVER": cluster.address, "AWS_ENDPOINT_URL": s3, "AWS_ACCESS_KEY_ID": "k",
        "AWS_SECRET_ACCESS_KEY": "s", "AWS_DEFAULT_REGION": "us-east-1",
    }  # fmt: skip
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(folder)
    program, *arguments = shlex.split(command.replace("127.0.0.1:8000", web).replace(":9400", ":0"))
    assert program == "lookalike"
    if arguments[:2] == ["ingest", "dead.jsonl"]:
        with (folder / "dead.jsonl").open("a") as file:
            file.write(json.dumps({"key": "mended", "code": "00" * 32}) + "\n")
    is_image_job = arguments[0] == "ingest" and "photos" in arguments[arguments.index("-c") :]
    if "--against" in arguments:
        # It needs an encoder; test_new_files.py tests the rest.
        with pytest.raises(InvalidRequest, match=r"none of 3 files .* \(this cluster has no encoder"):
            app(arguments, standalone_mode=False)
        return
    if arguments[0] == "calibrate":
        # It needs several pictures; test_copies.py tests the rest.
        with pytest.raises(InvalidRequest, match="fewer than two records"):
            app(arguments, standalone_mode=False)
        return
    app([*arguments, *(["--dry-run"] if is_image_job else [])], standalone_mode=False)
    said = capsys.readouterr().out
    if is_image_job:
        found = re.search(r"([\d,]+) images: ([\d,]+) can be stored, 0 cannot", said)
        assert found, said
        assert int(found[1]) in (3, 6)
        assert found[1] == found[2]
    assert said


def test_the_documented_commands_stored_the_right_records(cluster: Cluster, folder: Path) -> None:
    """Relies on the commands, which run before this test."""
    with cluster.client() as client:
        assert _rows(client) == {
            "codes": 502, "features": 20, "photos": 1, "hashes": 20, "pdq": 20, "phash": 0, "vectors": 40,
        }  # fmt: skip
    assert parquet.ParquetFile(folder / "photos.parquet").metadata.num_rows == 1
    assert parquet.read_table(folder / "features-out.parquet").column("features")[0].as_py() is not None
    assert len((folder / "still-dead.jsonl").read_text().splitlines()) == 1
    assert [path.read_bytes() for path in (folder / "pictures").iterdir()] == [JPEG]
    assert "<title>Near-duplicates</title>" in (folder / "groups.html").read_text()


def _rows(client: Client) -> dict[str, int]:
    return {name: client.get_collection(name).rows for name in NAMES}
