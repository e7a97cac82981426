"""Owns which image files a batch job reads: expands paths, globs and URLs (through fsspec) to a list of images,
each with its record's key, attributes and signature."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

from fsspec.core import url_to_fs
from fsspec.implementations.local import LocalFileSystem

from lookalike.files import stores
from lookalike.files.walk import Entry, local_file, local_files, local_glob, remote_files
from lookalike.model.errors import InvalidRequest
from lookalike.model.records import check_key


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
        return self.attributes_with({})

    def attributes_with(self, facts: Mapping[str, Any]) -> dict[str, Any]:
        """The attributes that are stored with the record, with the facts of the file (`encoder.file_facts`)."""
        return {**self.fields, "source": {"url": self.url, "signature": self.signature, **facts}}


@dataclasses.dataclass(frozen=True, slots=True)
class Found:
    """What the paths of a job hold. sources: the images, ordered by key. refused: (url, reason) of each file and
    folder that cannot be read, and of each file whose path is not a valid key. skipped: the number of files that
    were left out, by reason."""

    sources: list[Source]
    refused: list[tuple[str, str]]
    skipped: Counter[str]

    @property
    def total(self) -> int:
        """The number of files that were seen."""
        return len(self.sources) + len(self.refused) + self.skipped.total()


def find_sources(paths: Sequence[str], include_hidden: bool = False) -> Found:
    """Finds image files. An image's key is its path relative to the given folder.

    Args:
        paths: Folders, globs and files; paths or URLs.
        include_hidden: Take hidden files, hidden folders and folders of thumbnails too.

    Raises:
        InvalidRequest: If a path does not exist, or two files have the same key.
    """
    sources: dict[str, Source] = {}
    result = Found([], [], Counter())
    for path in paths:
        for root, system, entry in _expand(path, include_hidden):
            if entry.skipped:
                result.skipped[entry.skipped] += 1
                continue
            try:
                source = _source(system, root, entry)
            except InvalidRequest as error:
                result.refused.append((_url(system, entry.path), error.message))
                continue
            other = sources.setdefault(source.key, source)
            if other.url != source.url:
                raise InvalidRequest(
                    f"path: {other.url} and {source.url} would both have the key {source.key!r};"
                    " name their common parent folder, or ingest them into two collections"
                )
    result.sources.extend(sorted(sources.values(), key=lambda source: source.key))
    return result


def require_images(paths: Sequence[str], found: Found) -> None:
    """Raises InvalidRequest, with the counts by reason, if the paths hold files, but no image among them."""
    if found.total and not found.sources:
        raise InvalidRequest(f"path: {_shown(paths)} holds no image that can be read: {_counts(found)}")


def _expand(path: str, include_hidden: bool) -> Iterator[tuple[str, Any, Entry]]:
    """Yields (the folder that keys start from, the file system, the entry) of each file at a path."""
    with explained(path):
        system, root = url_to_fs(path)
        start, entries = _entries(system, root, include_hidden)
        is_empty = True
        for entry in entries:
            is_empty = False
            yield start, system, entry
        if is_empty and is_glob(system, root):
            if system.glob(root):
                raise InvalidRequest(f"path: {path} matches folders, but no file; end it with /**")
            raise FileNotFoundError


def _entries(system: Any, root: str, include_hidden: bool) -> tuple[str, Iterable[Entry]]:
    is_local = isinstance(system, LocalFileSystem)
    if is_glob(system, root):
        # A glob's keys start at the last folder before a pattern.
        start = str(PurePosixPath(*_before_pattern(PurePosixPath(root).parts)))
        if is_local:
            return start, local_glob(root, start, include_hidden)
        return start, remote_files(system, start, _only_files(system.glob(root, detail=True)), include_hidden)
    if (info := system.info(root))["type"] == "directory":
        if is_local:
            return root, local_files(root, include_hidden)
        return root, remote_files(system, root, _only_files(system.find(root, detail=True)), include_hidden)
    # A file that is named itself is taken even if it is hidden; in a remote store, whatever its name.
    return str(PurePosixPath(root).parent), [local_file(root) if is_local else Entry(info["name"], info)]


def _only_files(files: Mapping[str, Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    # In object stores a name that ends in a slash stands for a folder.
    return [info for info in files.values() if info["type"] == "file" and not info["name"].endswith("/")]


def _counts(found: Found) -> str:
    parts = [f"{count:,} skipped: {reason}" for reason, count in sorted(found.skipped.items())]
    if found.refused:
        url, reason = found.refused[0]
        parts.append(f"{len(found.refused):,} unreadable ({url}: {reason})")
    return "; ".join(parts)


def _shown(paths: Sequence[str]) -> str:
    return paths[0] if len(paths) == 1 else f"{paths[0]} and {len(paths) - 1:,} more"


def is_glob(system: Any, root: str) -> bool:
    """Whether a path is a pattern. An existing path, such as the folder `Album [2019]`, is not."""
    return any(mark in root for mark in "*?[") and not system.exists(root)


@contextlib.contextmanager
def explained(path: str) -> Iterator[None]:
    """Turns failures of reading a path within the block into an InvalidRequest that names the path. For a missing
    one, the text includes the cause, which tells whether the host did not answer."""
    try:
        with stores.explained("path", path, "read"):
            yield
    except FileNotFoundError as error:
        cause = f" ({error.__cause__})" if error.__cause__ else ""
        raise InvalidRequest(f"path: {path} does not exist{cause}") from None


def _before_pattern(parts: Sequence[str]) -> Iterator[str]:
    for part in parts:
        if any(mark in part for mark in "*?["):
            return
        yield part


def _source(system: Any, root: str, entry: Entry) -> Source:
    """The image of an entry. Raises InvalidRequest if the entry cannot be read or its path is not a valid key."""
    if entry.error:
        raise InvalidRequest(entry.error)
    path = PurePosixPath(entry.path).relative_to(root)
    folder = path.parent.name
    fields = {"label": folder} if folder else {}
    return Source(check_key(str(path)), _url(system, entry.path), fields, signature(entry.info))


def _url(system: Any, path: str) -> str:
    url: str = system.unstrip_protocol(path)
    return url


def signature(info: Mapping[str, Any]) -> str:
    """Returns the file's size with the storage's digest of the content or, if there is none, the modification
    time."""
    for name in ("ETag", "etag", "md5Hash", "content_md5", "LastModified", "last_modified", "mtime"):
        if mark := info.get(name):
            if isinstance(mark, datetime.datetime):
                mark = mark.isoformat()
            return f"{info.get('size')}-{str(mark).strip(chr(34))}"
    return str(info.get("size"))
