"""Owns the local file that a record was made from, and whether it is still the file that was ingested."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import re
import stat
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

MISSING = "the file is missing"
CHANGED = "the file has changed since it was ingested"
LINK = "the file is a symbolic link"
UNKNOWN = "whether the file has changed is unknown; ingest it again"

_LOCAL = "file://"
# An image inside a table or an archive has no file of its own.
_INSIDE = re.compile(r"#(?:row=\d+|bytes=\d+\+\d+|member=)")
# How `lookalike ingest` marks a local file: its size and modification time. Rows of tables have other marks.
_FILE_MARK = re.compile(r"(\d+)-[^+]*")


@dataclasses.dataclass(frozen=True, slots=True)
class Original:
    """A record's file, as the record describes it.

    Attributes:
        path: The file.
        folder: The folder that was ingested; None if the key does not tell.
        below: The file's path below `folder`, or else below the root of the file system.
        mark: The file's size and modification time; empty if the record does not state them.
        size: The size of the file; None if the record does not state it.
        digest: SHA-256 in hexadecimal; empty if the record does not state it.
    """

    path: Path
    folder: Path | None
    below: PurePosixPath
    mark: str
    size: int | None
    digest: str

    def why_not_original(self) -> str:
        """Why the file at the path is not, or may not be, the one that was ingested; empty if it is."""
        try:
            found = os.lstat(self.path)
        except (FileNotFoundError, NotADirectoryError):
            return MISSING
        if stat.S_ISLNK(found.st_mode):
            return LINK
        if not stat.S_ISREG(found.st_mode):
            return CHANGED
        if self.mark:
            return "" if self.mark == mark_of(found) else CHANGED
        return self._why_other_content(found)

    def why_not_whole(self) -> str:
        """Why the picture is not, or may not be, in the file at the path; empty if it is. Unlike
        `why_not_original`, accepts links, and another modification time if the bytes are the same."""
        try:
            found = os.stat(self.path)
        except (FileNotFoundError, NotADirectoryError):
            return MISSING
        if self.mark == mark_of(found):
            return ""
        return self._why_other_content(found)

    def _why_other_content(self, found: os.stat_result) -> str:
        if self.size is not None and found.st_size != self.size:
            return CHANGED
        if not self.digest:
            return UNKNOWN
        with self.path.open("rb") as file:
            return "" if hashlib.file_digest(file, "sha256").hexdigest() == self.digest else CHANGED


def mark_of(found: os.stat_result) -> str:
    """The mark that `lookalike ingest` gives a local file."""
    return f"{found.st_size}-{found.st_mtime}"


def original_of(key: str, attributes: Mapping[str, Any]) -> Original | None:
    """The local file that a record was made from; None if it was made from something else."""
    source = attributes.get("source")
    url = source.get("url") if isinstance(source, dict) else None
    if not isinstance(source, dict) or not isinstance(url, str):
        return None
    path = url.removeprefix(_LOCAL)
    if path == url or not path.startswith("/") or _INSIDE.search(url):
        return None
    # Descriptions beside an image add their digest to the mark, after a plus sign.
    signature = source.get("signature")
    mark = _FILE_MARK.match(signature) if isinstance(signature, str) else None
    size, digest = source.get("bytes"), source.get("sha256")
    folder = _folder(key, path)
    return Original(
        path=Path(path),
        folder=folder,
        below=PurePosixPath(path).relative_to(folder or "/"),
        mark=mark[0] if mark else "",
        size=size if type(size) is int else int(mark[1]) if mark else None,
        digest=digest if isinstance(digest, str) else "",
    )


def _folder(key: str, path: str) -> Path | None:
    below = PurePosixPath(key)
    if below.is_absolute() or ".." in below.parts or not path.endswith(f"/{below}"):
        return None
    return Path(path.removesuffix(f"{below}"))
