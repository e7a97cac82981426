"""Owns archives of image files: checks them, and extracts them once into the data folder.

`folders` reads the files. An archive is extracted completely or not at all, and only into its own folder."""

from __future__ import annotations

import gzip
import hashlib
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path, PureWindowsPath

from lab.datasets.labelled import reason
from lookalike.model.errors import CannotStart, InvalidRequest

ARCHIVES = (".tar", ".tar.gz", ".tgz", ".zip")


def archive_suffix(path: Path) -> str | None:
    """The ending of an archive's name, in lower case; None if it is not an archive."""
    return next((suffix for suffix in ARCHIVES if path.name.lower().endswith(suffix)), None)


def extracted(archive: Path, suffix: str, data: Path) -> Path:
    """The folder in data/extracted with an archive's files; they are extracted if it does not exist. A changed
    archive gets a new folder.

    Raises:
        InvalidRequest: If the archive is damaged, or would write outside its folder.
        CannotStart: If the folder cannot be written to.
    """
    state = archive.stat()
    digest = hashlib.sha256(f"{state.st_size} {state.st_mtime_ns}".encode()).hexdigest()[:12]
    target = data / "extracted" / f"{archive.name[: -len(suffix)]}-{digest}"
    if target.is_dir():
        return target
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        # The folder is renamed when it is complete, so that an interrupted extraction is never used.
        with tempfile.TemporaryDirectory(prefix=".partial-", dir=target.parent) as partial:
            folder = Path(partial, "images")
            folder.mkdir()
            _extract(archive, suffix, folder)
            folder.rename(target)
    except OSError as error:
        if not target.is_dir():  # otherwise another process was first
            raise CannotStart(
                f"dataset: {archive} cannot be extracted to {target} ({reason(error)});"
                " free space, and give this user permission to write there"
            ) from None
    return target


def _extract(archive: Path, suffix: str, folder: Path) -> None:
    try:
        if suffix == ".zip":
            with zipfile.ZipFile(archive) as file:
                _refuse_escapes(archive, file.namelist())
                file.extractall(folder)
        else:
            with tarfile.open(archive) as file:
                file.extractall(folder, filter="data")
                _check_end(file)
    except tarfile.FilterError as error:
        raise InvalidRequest(
            f"dataset: {archive} is not safe to extract ({reason(error)}); pack it again"
        ) from None
    except (tarfile.TarError, zipfile.BadZipFile, gzip.BadGzipFile, zlib.error, EOFError, RuntimeError) as error:
        raise InvalidRequest(
            f"dataset: {archive} is damaged or encrypted ({reason(error)}); pack it again"
        ) from None


def _check_end(file: tarfile.TarFile) -> None:
    """Raises an error for an archive that is truncated or damaged between two files, which tarfile accepts: a
    complete one ends with a block of zeros. Reading to the end also checks gzip's checksum."""
    if file.fileobj is not None:
        file.fileobj.seek(file.offset)
        if file.fileobj.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
            raise tarfile.ReadError("it has no end-of-archive marker")
        while file.fileobj.read(1 << 20):
            pass


def _refuse_escapes(archive: Path, members: Sequence[str]) -> None:
    for member in members:
        # On every machine, a Windows path also splits at backslashes and recognises drives.
        path = PureWindowsPath(member)
        if path.drive or path.root or ".." in path.parts:
            raise InvalidRequest(
                f"dataset: {archive} is not safe to extract ({member!r} is outside its folder); pack it again"
            )
