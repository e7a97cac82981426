"""Owns which files a path names: walks folders, follows symbolic links, matches globs, and says of each file that
is left out why. Every file is yielded, so that none is lost without being counted.

Local folders are read with os.scandir. In other stores fsspec lists the files, and links do not exist."""

from __future__ import annotations

import dataclasses
import errno
import functools
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import PurePosixPath
from typing import Any

from lookalike.files.kinds import HEAD_BYTES, why_skipped
from lookalike.files.stores import reason_of

# Folders of previews that NAS devices, phones and archives keep next to the originals.
_THUMBNAIL_FOLDERS = frozenset((".thumbnails", "@eaDir", ".@__thumb", "__MACOSX"))
_THUMBNAIL_FILES = frozenset(("thumbs.db", "ehthumbs.db", "ehthumbs_vista.db"))
HIDDEN = "hidden"
BROKEN_LINK = "broken symbolic link"
LOOP = "symbolic link to a folder that contains it"
NOT_A_FILE = "neither a file nor a folder"
_REQUESTS = 16

Head = Callable[[], bytes]


@dataclasses.dataclass(frozen=True, slots=True)
class Entry:
    """A file, or a folder or link that leads to no file. info: its size, time and other facts, as fsspec names
    them. skipped: why it is left out. error: why it cannot be read. Both are empty for a file that is taken."""

    path: str
    info: Mapping[str, Any]
    skipped: str = ""
    error: str = ""


def local_file(path: str) -> Entry:
    """The entry of one local file. Raises OSError."""
    return _judged(path, _info(os.stat(path)), functools.partial(_head, path))


def local_files(root: str, include_hidden: bool) -> Iterator[Entry]:
    """Walks a local folder.

    Args:
        root: The folder.
        include_hidden: Take hidden files, hidden folders and folders of thumbnails too.

    Yields:
        Each file once for each path that leads to it; a folder that contains itself is entered once.

    Raises:
        OSError: If the root itself cannot be read.
    """
    return _walk(root, include_hidden, None, None)


def local_glob(pattern: str, root: str, include_hidden: bool) -> Iterator[Entry]:
    """Yields the local files whose paths match a pattern. root: the last folder before its first wildcard."""
    # Imported here, so that walking a folder needs no package beyond the client's.
    from fsspec.utils import glob_translate

    depth = None if "**" in pattern else pattern.removeprefix(root).strip("/").count("/") + 1
    return _walk(root, include_hidden, re.compile(glob_translate(pattern)), depth)


def remote_files(
    system: Any, root: str, files: Iterable[Mapping[str, Any]], include_hidden: bool
) -> Iterator[Entry]:
    """Judges files that fsspec listed. A file without an ending is judged by its first bytes, which takes one
    request; any other file by its ending."""
    without_ending = []
    for info in files:
        path = PurePosixPath(info["name"])
        reasons = () if include_hidden else map(name_reason, path.relative_to(root).parts)
        if reason := next(filter(None, reasons), ""):
            yield Entry(info["name"], info, skipped=reason)
        elif path.suffix:
            yield _judged(info["name"], info, None)
        else:
            without_ending.append(info)

    def look(info: Mapping[str, Any]) -> Entry:
        name, is_empty = info["name"], info.get("size") == 0
        # A store refuses a range of an empty object.
        return _judged(name, info, lambda: b"" if is_empty else system.cat_file(name, start=0, end=HEAD_BYTES))

    with ThreadPoolExecutor(_REQUESTS) as pool:
        yield from pool.map(look, without_ending)


def _walk(root: str, include_hidden: bool, wanted: re.Pattern[str] | None, depth: int | None) -> Iterator[Entry]:
    """Walks a folder. wanted: matches the paths of the files to yield. depth: how many levels to read."""
    # (folder, why its files are skipped, whether a link led to it, its level)
    pending = [(root, "", False, 1)]
    while pending:
        folder, inherited, is_linked, level = pending.pop()
        try:
            with os.scandir(folder) as listing:
                entries = list(listing)
        except OSError as error:
            if folder == root:
                raise
            yield Entry(folder, {}, inherited, "" if inherited else _cannot_be_read(error))
            continue
        for entry in entries:
            reason = inherited or ("" if include_hidden else name_reason(entry.name))
            if _is_folder(entry) and not (reason and entry.is_symlink()):
                link = is_linked or entry.is_symlink()
                if link and _contains_itself(entry.path, root):
                    yield Entry(entry.path, {}, LOOP)
                elif depth is None or level < depth:
                    pending.append((entry.path, reason, link, level + 1))
            elif wanted is None or wanted.match(entry.path):
                yield Entry(entry.path, {}, reason) if reason else _entry(entry)


def _entry(entry: os.DirEntry[str]) -> Entry:
    try:
        if entry.is_file():
            return _judged(entry.path, _info(entry.stat()), functools.partial(_head, entry.path))
        return Entry(entry.path, {}, BROKEN_LINK if entry.is_symlink() else NOT_A_FILE)
    except OSError as error:
        is_ring = error.errno == errno.ELOOP
        return Entry(entry.path, {}, BROKEN_LINK if is_ring else "", "" if is_ring else _cannot_be_read(error))


def _judged(path: str, info: Mapping[str, Any], head: Head | None) -> Entry:
    try:
        return Entry(path, info, why_skipped(path, head))
    except Exception as error:  # each store's library raises its own errors
        return Entry(path, info, error=_cannot_be_read(error))


def name_reason(name: str) -> str:
    """Why a file or folder of this name is left out; empty if it is not."""
    if name in _THUMBNAIL_FOLDERS:
        return f"in a thumbnail folder ({name})"
    if name.lower() in _THUMBNAIL_FILES:
        return f"a cache of thumbnails ({name.lower()})"
    return HIDDEN if name.startswith(".") else ""


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # the link leads to itself, or to a folder that may not be read
        return False


def _contains_itself(path: str, root: str) -> bool:
    """Whether a folder that was reached through a link is one of the folders above it."""
    above = {*PurePosixPath(path).parents, *PurePosixPath(os.path.realpath(root)).parents}
    try:
        own = os.stat(path)
        return any(os.path.samestat(own, os.stat(folder)) for folder in above)
    except OSError:  # the path is too long, or was removed; listing the folder reports it
        return False


def _info(found: os.stat_result) -> dict[str, Any]:
    return {"size": found.st_size, "mtime": found.st_mtime}


def _head(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read(HEAD_BYTES)


def _cannot_be_read(error: Exception) -> str:
    return f"cannot be read: {reason_of(error)}"
