"""Thumbnails are stored, returned on request, validated and backed up."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lookalike import AsyncClient, Client, Record
from lookalike.model.errors import InvalidRequest
from lookalike.model.records import VersionedRecord, record_id
from lookalike.model.thumbnails import MAX_THUMBNAIL_BYTES
from lookalike.v1 import record_pb2, search_pb2
from tests.command import lookalike
from tests.conftest import Cluster

JPEG = b"\xff\xd8\xff" + b"j" * 500
PNG = b"\x89PNG\r\n\x1a\n" + b"p" * 500
WEBP = b"RIFF\x10\0\0\0WEBP" + b"w" * 500
CODE = bytes(8)


def run(cluster: Cluster, *arguments: object) -> str:
    """The output of a command, which must succeed."""
    code, said, complaint = lookalike(*arguments, "--server", cluster.address)
    assert code == 0, complaint
    return said


async def test_thumbnails_are_returned_only_on_request(cluster: Cluster, client: Client, collection: str) -> None:
    pictures = {"a": JPEG, "b": PNG, "c": WEBP, "none": None}
    client.upsert(
        [Record(key, code=CODE, thumbnail=picture) for key, picture in pictures.items()], collection=collection
    )
    assert all(record.thumbnail == b"" for record in client.get(list(pictures), collection=collection))
    for consistency in ("one", "quorum"):
        found = client.get(list(pictures), collection=collection, consistency=consistency, include_thumbnails=True)
        assert [record.thumbnail for record in found] == [JPEG, PNG, WEBP, b""]
    async with AsyncClient(cluster.address) as other:
        (record,) = await other.get(["b"], collection=collection, include_thumbnails=True)
        assert record.thumbnail == PNG


@pytest.mark.parametrize(
    "picture", [b"<svg onload=alert(1)>", b"GIF89a" + bytes(9), JPEG + bytes(MAX_THUMBNAIL_BYTES)]
)
def test_an_invalid_thumbnail_is_rejected_at_every_entry_point(
    client: Client, collection: str, picture: bytes
) -> None:
    with pytest.raises(InvalidRequest, match="thumbnail: "):
        client.upsert([Record("k", code=CODE, thumbnail=picture)], collection=collection)
    fingerprint = client.get_collection(collection).code_space.fingerprint
    raw = record_pb2.Record(key="k", code=CODE, thumbnail=picture)
    request = search_pb2.IngestRequest(collection=collection, records=[raw], fingerprint=fingerprint)
    (answer,) = client._coordinators.next().stub.Ingest(iter([request]))
    assert answer.outcomes[0].error == "InvalidRequest"
    assert "record 'k': thumbnail: " in answer.outcomes[0].message
    restored = VersionedRecord("k", CODE, "{}", 0, b"", picture)
    with pytest.raises(InvalidRequest, match="thumbnail: "):
        client.restore([restored], collection, fingerprint, "")
    assert client.get(["k"], collection=collection) == []


def test_a_response_with_too_many_thumbnails_is_rejected(client: Client, collection: str) -> None:
    full = JPEG + bytes(MAX_THUMBNAIL_BYTES - len(JPEG))
    keys = [f"k{number}" for number in range(3_000)]
    client.upsert([Record(key, code=CODE, thumbnail=full) for key in keys], collection=collection)
    assert len(client.get(keys, collection=collection)) == 3_000
    assert len(client.get(keys[:1_000], collection=collection, include_thumbnails=True)) == 1_000
    with pytest.raises(InvalidRequest, match="request fewer at once"):
        client.get(keys, collection=collection, include_thumbnails=True)


def test_the_command_names_files_by_id_and_never_by_key(
    cluster: Cluster, client: Client, collection: str, tmp_path: Path
) -> None:
    keys = {"../../escape": JPEG, "/tmp/absolute": PNG, "a\nb": WEBP, "bare": None}
    client.upsert(
        [Record(key, code=CODE, thumbnail=picture) for key, picture in keys.items()], collection=collection
    )
    folder, outside = tmp_path / "out", tmp_path / "outside"
    folder.mkdir()
    outside.write_text("mine")
    (folder / f"{record_id('../../escape'):016x}.jpg").symlink_to(outside)
    shown = json.loads(run(cluster, "get", *keys, "-c", collection, "--thumbnails", folder, "--json"))
    files = {record["key"]: Path(record["thumbnail"]) for record in shown if "thumbnail" in record}
    assert {key: path.read_bytes() for key, path in files.items()} == {k: p for k, p in keys.items() if p}
    assert sorted(folder.iterdir()) == sorted(files.values())
    assert {path.suffix for path in files.values()} == {".jpg", ".png", ".webp"}
    assert outside.read_text() == "mine"
    assert str(files["../../escape"]) in run(
        cluster, "get", "../../escape", "-c", collection, "--thumbnails", folder
    )


def test_a_backup_restores_thumbnails(cluster: Cluster, client: Client, collection: str, tmp_path: Path) -> None:
    keys = [f"k{number}" for number in range(50)]
    client.upsert([Record(key, code=CODE, thumbnail=JPEG + key.encode()) for key in keys], collection=collection)
    run(cluster, "backup", tmp_path, "-c", collection)
    client.drop_collection(collection)
    run(cluster, "restore", tmp_path, "-c", collection)
    found = client.get(keys, collection=collection, include_thumbnails=True)
    assert [record.thumbnail for record in found] == [JPEG + key.encode() for key in keys]
