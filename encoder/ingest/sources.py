"""Owns which image files a batch job reads: expands paths, globs and URLs (through fsspec) to a list of images,
each with its record's key, attributes and signature."""

from __future__ import annotations

import dataclasses
import datetime
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

from fsspec.core import url_to_fs

from lookalike.model.errors import InvalidRequest
from lookalike.model.records import check_key

_NAMES = "jpg jpeg jpe jfif png gif webp bmp dib tif tiff ppm pgm pbm avif jp2 j2k"
EXTENSIONS = frozenset(f".{name}" for name in _NAMES.split())


@dataclasses.dataclass(frozen=True, slots=True)
class Source:
    """One image: a file, or a row of a table (see `encoder.ingest.images`). fields: the record's attributes,
    without the attribute `source`. signature: changes when the image does, so that it is encoded again."""

    key: str
    url: str
    fields: Mapping[str, Any]
    signature: str

    @property
    def attributes(self) -> dict[str, Any]:
        """The attributes that are stored with the record."""
        return {**self.fields, "source": {"url": self.url, "signature": self.signature}}


def find_sources(paths: Sequence[str]) -> tuple[list[Source], list[tuple[str, str]]]:
    """Finds image files. An image's key is its path relative to the given folder.

    Args:
        paths: Folders, globs and files; paths or URLs.

    Returns:
        The images, ordered by key; and (url, reason) of each file whose path is not a valid key.

    Raises:
        InvalidRequest: If a path does not exist, or two files have the same key.
    """
    found: dict[str, Source] = {}
    refused: list[tuple[str, str]] = []
    for path in paths:
        for source in _expand(path):
            try:
                check_key(source.key)
            except InvalidRequest as error:
                refused.append((source.url, error.message))
                continue
            other = found.setdefault(source.key, source)
            if other.url != source.url:
                raise InvalidRequest(
                    f"path: {other.url} and {source.url} would both have the key {source.key!r};"
                    " name their common parent folder, or ingest them into two collections"
                )
    return sorted(found.values(), key=lambda source: source.key), refused


def _expand(path: str) -> Iterator[Source]:
    try:
        system, root = url_to_fs(path)
        if is_glob(system, root):
            # A glob's keys start at the last folder before a pattern.
            fixed = PurePosixPath(*_before_pattern(PurePosixPath(root).parts))
            files = system.glob(root, detail=True)
            if not files:
                raise FileNotFoundError
            yield from _sources(system, str(fixed), files)
            return
        info = system.info(root)
        if info["type"] == "directory":
            yield from _sources(system, root, system.find(root, detail=True))
        else:
            yield _source(system, str(PurePosixPath(root).parent), info)
    except FileNotFoundError as error:
        raise does_not_exist(path, error) from None
    except Exception as error:  # each store's library raises its own errors
        raise InvalidRequest(f"path: {path} cannot be read: {error}") from None


def is_glob(system: Any, root: str) -> bool:
    """Whether a path is a pattern. An existing path, such as the folder `Album [2019]`, is not."""
    return any(mark in root for mark in "*?[") and not system.exists(root)


def does_not_exist(path: str, error: FileNotFoundError) -> InvalidRequest:
    """The error for a missing path. Its text includes the cause, which tells whether the host did not answer."""
    cause = f" ({error.__cause__})" if error.__cause__ else ""
    return InvalidRequest(f"path: {path} does not exist{cause}")


def _before_pattern(parts: Sequence[str]) -> Iterator[str]:
    for part in parts:
        if any(mark in part for mark in "*?["):
            return
        yield part


def _sources(system: Any, root: str, files: Mapping[str, Mapping[str, Any]]) -> Iterable[Source]:
    for info in files.values():
        name = PurePosixPath(info["name"])
        if info["type"] == "file" and name.suffix.lower() in EXTENSIONS and not name.name.startswith("."):
            yield _source(system, root, info)


def _source(system: Any, root: str, info: Mapping[str, Any]) -> Source:
    key = str(PurePosixPath(info["name"]).relative_to(PurePosixPath(root)))
    folder = PurePosixPath(key).parent.name
    fields = {"label": folder} if folder else {}
    return Source(key, system.unstrip_protocol(info["name"]), fields, signature(info))


def signature(info: Mapping[str, Any]) -> str:
    """Returns the file's size with the storage's digest of the content or, if there is none, the modification
    time."""
    for name in ("ETag", "etag", "md5Hash", "content_md5", "LastModified", "last_modified", "mtime"):
        if mark := info.get(name):
            if isinstance(mark, datetime.datetime):
                mark = mark.isoformat()
            return f"{info.get('size')}-{str(mark).strip(chr(34))}"
    return str(info.get("size"))
