"""Archives of image folders: extracted once, completely, and only into the data folder."""

from __future__ import annotations

import gzip
import os
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import pytest

from lab.datasets import archives, load_dataset
from lookalike.model.errors import CannotStart, InvalidRequest
from tests.unit.lab.datasets.photographs import write_classes


def pack(folder: Path, archive: Path) -> Path:
    if archive.suffix == ".zip":
        with zipfile.ZipFile(archive, "w") as file:
            for path in sorted(folder.rglob("*")):
                file.write(path, path.relative_to(folder.parent))
    else:
        with tarfile.open(archive, "w" if archive.suffix == ".tar" else "w:gz") as file:
            file.add(folder, folder.name)
    return archive


@pytest.mark.parametrize("suffix", [".tar", ".tar.gz", ".tgz", ".zip"])
def test_an_archive_equals_its_folder_and_is_extracted_once(
    tmp_path: Path, data: Path, suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_classes(tmp_path / "pets", cats=5, dogs=5)
    archive = pack(folder, tmp_path / f"pets{suffix}")
    expected = load_dataset(str(folder), data=data)
    images = load_dataset(str(archive), data=data)
    assert (images.name, images.keys) == ("pets", expected.keys)
    assert images.queries.tolist() == expected.queries.tolist()
    assert [images.read(row) for row in range(10)] == [expected.read(row) for row in range(10)]
    (extracted,) = (data / "extracted").iterdir()
    assert extracted.name.startswith("pets-")

    with monkeypatch.context() as patch:
        patch.setattr(archives, "_extract", lambda *_: pytest.fail("extracted a second time"))
        assert load_dataset(str(archive), data=data).digest == images.digest
    os.utime(archive, (1, 1))
    assert load_dataset(str(archive), data=data).keys == images.keys
    assert len(list((data / "extracted").iterdir())) == 2, "a changed archive was not extracted"


def test_concurrent_extractions_share_one_folder(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = pack(write_classes(tmp_path / "pets", cats=2), tmp_path / "pets.zip")
    extract, reentered = archives._extract, []

    def extract_after_another(*arguments: Any) -> None:
        if not reentered:
            reentered.append(True)
            load_dataset(str(archive), data=data)
        extract(*arguments)

    monkeypatch.setattr(archives, "_extract", extract_after_another)
    assert load_dataset(str(archive), data=data).keys == ("cats/00.jpg", "cats/01.jpg")
    assert reentered
    assert len(list((data / "extracted").iterdir())) == 1


@pytest.mark.parametrize("member", ["../escaped.jpg", "pets/../../escaped.jpg", "/escaped.jpg", "..\\escaped.jpg"])
def test_zip_member_outside_the_folder_is_refused_before_writing(tmp_path: Path, data: Path, member: str) -> None:
    with zipfile.ZipFile(tmp_path / "bad.zip", "w") as file:
        file.writestr("pets/cats/a.jpg", b"")
        file.writestr(member, b"")
    with pytest.raises(InvalidRequest, match=r"bad.zip is not safe to extract .*escaped.jpg.*; pack it again"):
        load_dataset(str(tmp_path / "bad.zip"), data=data)
    assert list((data / "extracted").iterdir()) == []
    assert not list(tmp_path.rglob("escaped.jpg"))


def test_tar_member_outside_the_folder_is_refused(tmp_path: Path, data: Path) -> None:
    link = tarfile.TarInfo("pets/link")
    link.type, link.linkname = tarfile.SYMTYPE, "../../../escaped"
    for number, member in enumerate([tarfile.TarInfo("../escaped.jpg"), link]):
        archive = tmp_path / f"bad{number}.tar"
        with tarfile.open(archive, "w") as file:
            file.addfile(member)
        with pytest.raises(InvalidRequest, match=rf"bad{number}.tar is not safe to extract \(Outside|LinkOutside"):
            load_dataset(str(archive), data=data)
    assert list((data / "extracted").iterdir()) == []
    assert not list(tmp_path.rglob("escaped*"))


def test_a_damaged_archive_is_refused_and_leaves_nothing(tmp_path: Path, data: Path) -> None:
    folder = write_classes(tmp_path / "pets", cats=5, dogs=5)
    damaged = []
    for suffix in (".tar", ".tar.gz", ".zip"):
        archive = pack(folder, tmp_path / f"short{suffix}")
        archive.write_bytes(archive.read_bytes()[:2000])
        damaged.append(archive)
    # Cut after the third image, where the next header should be: tarfile takes that for the end.
    with tarfile.open(pack(folder, tmp_path / "whole.tar")) as whole:
        end = [member for member in whole.getmembers() if member.isfile()][3].offset
    (tmp_path / "cut.tar").write_bytes((tmp_path / "whole.tar").read_bytes()[:end])
    damaged.append(tmp_path / "cut.tar")
    for name in ("text.tar", "text.zip"):
        (tmp_path / name).write_text("not an archive")
        damaged.append(tmp_path / name)
    flipped = tmp_path / "flipped.tar.gz"
    content = bytearray(gzip.compress(pack(folder, tmp_path / "pets.tar").read_bytes()))
    content[-8] ^= 1  # the checksum of the content
    flipped.write_bytes(content)
    for archive in [*damaged, flipped]:
        with pytest.raises(InvalidRequest, match=f"{archive.name} is damaged or encrypted"):
            load_dataset(str(archive), data=data)
    assert list((data / "extracted").iterdir()) == []


def test_failed_extraction_error_names_the_folder(tmp_path: Path, data: Path) -> None:
    archive = pack(write_classes(tmp_path / "pets", cats=2), tmp_path / "pets.zip")
    data.write_text("a file where the data folder should be")
    with pytest.raises(
        CannotStart, match=r"pets.zip cannot be extracted to .*data/extracted/pets-.*; free space, and give"
    ):
        load_dataset(str(archive), data=data)
