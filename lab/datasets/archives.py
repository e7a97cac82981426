"""Owns archives of image files: they are checked, and extracted once, into the data folder.

What the files in them mean is left to `folders`. An archive is extracted whole or not at all, and writes nowhere
else."""

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
    """The ending, as the name has it in lower case, of a file that is an archive by its name."""
    return next((suffix for suffix in ARCHIVES if path.name.lower().endswith(suffix)), None)


def extracted(archive: Path, suffix: str, data: Path) -> Path:
    """The folder below data/extracted with this archive's files, extracted unless it is there. An archive that
    changes gets another folder. Raises InvalidRequest for one that is damaged or writes outside of its folder."""
    state = archive.stat()
    digest = hashlib.sha256(f"{state.st_size} {state.st_mtime_ns}".encode()).hexdigest()[:12]
    target = data / "extracted" / f"{archive.name[: -len(suffix)]}-{digest}"
    if target.is_dir():
        return target
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        # Under its own name only when it is whole, so that an extraction cut short is not taken for the set.
        with tempfile.TemporaryDirectory(prefix=".partial-", dir=target.parent) as partial:
            folder = Path(partial, "images")
            folder.mkdir()
            _extract(archive, suffix, folder)
            folder.rename(target)
    except OSError as error:
        if not target.is_dir():  # else another process was first
            raise CannotStart(
                f"dataset: {archive} cannot be extracted to {target} ({reason(error)});"
                " make room and let this user write there"
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
            f"dataset: {archive} is not safe to extract ({reason(error)}); pack it anew"
        ) from None
    except (tarfile.TarError, zipfile.BadZipFile, gzip.BadGzipFile, zlib.error, EOFError, RuntimeError) as error:
        raise InvalidRequest(f"dataset: {archive} is damaged or locked ({reason(error)}); pack it anew") from None


def _check_end(file: tarfile.TarFile) -> None:
    """tarfile takes an archive that is cut short, or damaged, between two files for one that ends there; one that
    ends has a block of zeros. Reading on to the end also checks gzip's checksum."""
    if file.fileobj is not None:
        file.fileobj.seek(file.offset)
        if file.fileobj.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
            raise tarfile.ReadError("it ends without its mark of the end")
        while file.fileobj.read(1 << 20):
            pass


def _refuse_escapes(archive: Path, members: Sequence[str]) -> None:
    for member in members:
        # The Windows reading also splits at backslashes and knows drives, whatever the machine.
        path = PureWindowsPath(member)
        if path.drive or path.root or ".." in path.parts:
            raise InvalidRequest(
                f"dataset: {archive} is not safe to extract ({member!r} would lie outside); pack it anew"
            )
