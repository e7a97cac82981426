"""Owns archives of images: tar files, WebDataset's among them, and zip files.

Files whose paths agree up to the first dot of the file's name, and that follow each other, are one sample, as
WebDataset defines it. Text beside an image becomes its attributes. An image without text is treated like one in
a folder. Images are read later by the workers, at the place that their URL names."""

from __future__ import annotations

import functools
import json
import re
import tarfile
import threading
import zipfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import PurePosixPath
from typing import IO, Any
from urllib.parse import quote, unquote

import fsspec
from more_itertools import chunked

from encoder.ingest.tables.naming import Row, Skipped, Unreadable
from encoder.ingest.tables.table import BATCH_ROWS, Format, Table
from lookalike.files.kinds import HEAD_BYTES, NOT_AN_IMAGE, why_skipped
from lookalike.files.walk import name_reason
from lookalike.model.errors import InvalidRequest

# Text that may become attributes.
_MAX_TEXT_BYTES = 1024 * 1024
_BYTES = re.compile(r"(?s)(.+)#bytes=(\d+)\+(\d+)")
_MEMBER = re.compile(r"(?s)(.+)#member=([^#]+)")
_COMPRESSED = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")
_reading = threading.Lock()


class _Member:
    """A file in an archive.

    Args:
        name: Its path in the archive.
        url: The URL that the workers read it at.
        read: Reads the beginning of its content, enough for text. Called at most once.
    """

    def __init__(self, name: str, url: str, read: Callable[[], bytes]) -> None:
        self.name = name
        self.url = url
        self._read = functools.cache(read)
        path = PurePosixPath(name)
        self.ending = path.name.partition(".")[2].lower()
        self.sample = name.removesuffix(path.name.partition(".")[2]).removesuffix(".")
        self.hidden = next(filter(None, map(name_reason, path.parts)), "")
        self.is_text = not self.hidden and self.ending in _TEXTS
        self.skipped = self.hidden or (NOT_AN_IMAGE if self.is_text else why_skipped(name, self._head))
        if self.is_text:
            self._read()  # now, because a tar is a stream, which cannot go back

    @property
    def text(self) -> bytes:
        return self._read()

    def _head(self) -> bytes:
        return self._read()[:HEAD_BYTES]


def _tar_rows(table: Table) -> Iterator[list[Row]]:
    with fsspec.open(table.url, "rb") as file, tarfile.open(fileobj=file, mode="r|") as archive:
        members = (
            _Member(
                info.name.removeprefix("./"), f"{table.url}#bytes={info.offset_data}+{info.size}",
                functools.partial(_content, archive, info),
            )
            for info in archive
            if info.isfile()
        )  # fmt: skip
        yield from chunked(_rows(members), BATCH_ROWS)


def _content(archive: tarfile.TarFile, info: tarfile.TarInfo) -> bytes:
    file = archive.extractfile(info)
    return b"" if file is None else file.read(_MAX_TEXT_BYTES)


def _zip_rows(table: Table) -> Iterator[list[Row]]:
    with fsspec.open(table.url, "rb") as file, zipfile.ZipFile(file) as archive:
        members = (
            _Member(
                info.filename, f"{table.url}#member={quote(info.filename)}",
                functools.partial(_head, archive, info),
            )
            for info in sorted(archive.infolist(), key=lambda info: info.filename)
            if not info.is_dir()
        )  # fmt: skip
        yield from chunked(_rows(members), BATCH_ROWS)


def _head(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> bytes:
    with archive.open(info) as file:
        return file.read(_MAX_TEXT_BYTES)


def _rows(members: Iterable[_Member]) -> Iterator[Row]:
    """The rows of an archive: one for each image, and one for each file that is neither an image nor about one."""
    for sample in _samples(members):
        images = [member for member in sample if not member.skipped]
        texts = [member for member in sample if member.is_text] if images else []
        yield from (Skipped(member.skipped) for member in sample if member not in images and member not in texts)
        fields: dict[str, Any] = {}
        try:
            for member in texts:
                fields |= _fields(member.ending, member.text)
        except ValueError as error:
            yield from (Unreadable(f"{image.name}: the text beside it is invalid ({error})") for image in images)
            continue
        for image in images:
            # Without text, an image's key is its path, as in a folder. Endings tell images of a sample apart.
            key = image.sample if texts and len(images) == 1 else image.name
            folder = PurePosixPath(image.name).parent.name
            yield {**({"label": folder} if folder and not texts else {}), **fields, "key": key, "uri": image.url}


def _samples(members: Iterable[_Member]) -> Iterator[list[_Member]]:
    sample: list[_Member] = []
    for member in members:
        if member.hidden:
            yield [member]
            continue
        if sample and member.sample != sample[0].sample:
            yield sample
            sample = []
        sample.append(member)
    if sample:
        yield sample


_TEXTS = ("json", "txt", "caption", "cls", "cls2")


def _fields(ending: str, data: bytes) -> dict[str, Any]:
    """The attributes in a text beside an image. Raises ValueError if its JSON is invalid."""
    if ending == "json":
        value = json.loads(data)
        fields = value if isinstance(value, dict) else {"json": value}
        # The key and the URI come from the place in the archive, not from the JSON.
        return {name: value for name, value in fields.items() if value is not None and name not in ("key", "uri")}
    text = data.decode("utf-8", "replace").strip()
    return {ending: int(text) if ending.startswith("cls") and text.isdecimal() else text}


def read_inside(url: str, limit_bytes: int) -> bytes | None:
    """Reads an image inside an archive.

    Args:
        url: The image's URL.
        limit_bytes: The largest accepted size. Of a larger image, one byte more is returned.

    Returns:
        The bytes; None if the URL names no place in an archive.
    """
    if found := _BYTES.fullmatch(url):
        offset, size = int(found[2]), int(found[3])
        with fsspec.open(found[1], "rb") as file:
            file.seek(offset)
            data: bytes = file.read(min(size, limit_bytes + 1))
        if len(data) < min(size, limit_bytes + 1):
            raise ValueError("the archive ends before the image does")
        return data
    if found := _MEMBER.fullmatch(url):
        with _reading:
            archive = _zip(found[1])
        with archive.open(unquote(found[2])) as member:
            return member.read(limit_bytes + 1)
    return None


@functools.lru_cache(maxsize=4)
def _zip(url: str) -> zipfile.ZipFile:
    # Stays open: reading the list of its members takes longer than reading one.
    return zipfile.ZipFile(fsspec.open(url, "rb").open())


def _open(name: str) -> Callable[[str, str], Table]:
    def opened(url: str, mark: str) -> Table:
        _check(url, name)
        return Table(url, _FORMATS[name], {"key": "text", "uri": "text"}, mark)

    return opened


def _check(url: str, name: str) -> None:
    """Raises an error of the archive's library if the file is not such an archive."""
    file: IO[bytes]
    if name == "tar":
        if url.lower().endswith(_COMPRESSED):
            raise InvalidRequest(
                f"path: {url} is compressed, so that the images in it cannot be read one at a time; decompress it"
            )
        with fsspec.open(url, "rb") as file, tarfile.open(fileobj=file, mode="r|") as archive:
            archive.next()
    else:
        with fsspec.open(url, "rb") as file, zipfile.ZipFile(file):
            return


TAR = Format("tar", (".tar", *_COMPRESSED), _open("tar"), _tar_rows)
ZIP = Format("zip", (".zip",), _open("zip"), _zip_rows)
_FORMATS = {format.name: format for format in (TAR, ZIP)}
