"""Which files a batch job finds, and their keys, labels and signatures."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from s3fs import S3FileSystem

from encoder.ingest.images import read
from encoder.ingest.sources import find_sources
from lookalike.model.errors import InvalidRequest


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for name in ("root.jpg", "cats/a.JPG", "cats/b.png", "deep/dogs/c.webp", "notes.txt", "cats/.hidden.jpg"):
        path = tmp_path / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())
    return tmp_path / "photos"


def test_keys_are_relative_to_the_folder_and_labels_are_sub_folders(tree: Path) -> None:
    found = find_sources([str(tree)])
    sources = found.sources
    assert found.refused == []
    assert found.skipped == {"hidden": 1, "not an image": 1}
    assert [(source.key, source.fields.get("label")) for source in sources] == [
        ("cats/a.JPG", "cats"),
        ("cats/b.png", "cats"),
        ("deep/dogs/c.webp", "dogs"),
        ("root.jpg", None),
    ]
    assert read(sources[0].url, 100) == b"cats/a.JPG"


def test_globs_files_and_memory_urls_work(tree: Path) -> None:
    import fsspec

    assert [source.key for source in find_sources([f"{tree}/cats/*.png"]).sources] == ["b.png"]
    assert [source.key for source in find_sources([f"{tree}/**/*.webp"]).sources] == ["deep/dogs/c.webp"]
    assert [source.key for source in find_sources([f"{tree}/root.jpg"]).sources] == ["root.jpg"]
    with fsspec.open("memory://bucket/cats/m.jpg", "wb") as file:
        file.write(b"in memory")
    (source,) = find_sources(["memory://bucket"]).sources
    assert (source.key, source.fields["label"], read(source.url, 100)) == ("cats/m.jpg", "cats", b"in memory")


def test_a_signature_follows_the_content(tree: Path) -> None:
    def signature() -> str:
        return find_sources([f"{tree}/root.jpg"]).sources[0].signature

    before = signature()
    assert signature() == before
    os.utime(tree / "root.jpg", (1, 1))
    assert signature() != before


def test_two_files_with_one_key_are_refused(tree: Path) -> None:
    (tree / "cats" / "root.jpg").touch()
    with pytest.raises(InvalidRequest, match=r"would both have the key 'root.jpg'"):
        find_sources([str(tree / "cats"), str(tree / "root.jpg")])


def test_file_with_too_long_a_key_is_refused(tree: Path) -> None:
    deep = tree / "/".join(["d" * 100] * 6)
    deep.mkdir(parents=True)
    (deep / "x.jpg").touch()
    found = find_sources([str(tree)])
    assert len(found.sources) == 4
    assert [("use 1..512 bytes" in reason) for _, reason in found.refused] == [True]


def test_missing_path_is_an_error(tree: Path) -> None:
    with pytest.raises(InvalidRequest, match="does not exist"):
        find_sources([str(tree / "none")])
    with pytest.raises(InvalidRequest, match="does not exist"):
        find_sources([f"{tree}/*.nothing"])


def test_existing_path_with_glob_characters_is_not_a_glob(tree: Path) -> None:
    (tree / "Album [2019]").mkdir()
    (tree / "Album [2019]" / "p[1].jpg").write_bytes(b"p")
    for path in ("Album [2019]", "Album [2019]/p[1].jpg"):
        (source,) = find_sources([str(tree / path)]).sources
        assert (source.key, read(source.url, 10)) == ("p[1].jpg", b"p")


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("http://127.0.0.1:9/a.jpg", "Connect call failed"),
        ("memory://bucket/no.jpg", "no such object in the store"),
    ],
)
def test_missing_remote_image_error_names_the_cause(url: str, reason: str) -> None:
    with pytest.raises(ValueError, match=f"does not exist .*{reason}"):
        read(url, 10)


@pytest.fixture
def fresh_s3() -> Iterator[None]:
    """fsspec caches a store with the environment of its first use."""
    S3FileSystem.clear_instance_cache()
    yield
    S3FileSystem.clear_instance_cache()


@pytest.mark.usefixtures("fresh_s3")
def test_store_library_errors_become_invalid_request(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(InvalidRequest, match=r"s3://bucket/photos cannot be read: .*credentials"):
        find_sources(["s3://bucket/photos"])


def test_a_file_over_the_limit_is_not_read_into_memory(tree: Path) -> None:
    with pytest.raises(ValueError, match="over 5 bytes"):
        read(str(tree / "root.jpg"), 5)
