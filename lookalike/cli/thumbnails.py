"""Owns the files that thumbnails are written to. Their names are the records' ids in hexadecimal, because a key is
untrusted text and not a path."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from lookalike.model.errors import InvalidRequest
from lookalike.model.records import StoredRecord, record_id
from lookalike.model.thumbnails import ENDINGS, format_of


def write_thumbnails(folder: Path, records: Iterable[StoredRecord]) -> dict[str, Path]:
    """Writes each record's thumbnail, if it has one, to a file. Returns the files by key. Raises InvalidRequest if
    a file cannot be written."""
    files: dict[str, Path] = {}
    taken: set[Path] = set()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for record in records:
            if (kind := format_of(record.thumbnail)) is None or record.key in files:
                continue
            path = folder / f"{record_id(record.key):016x}.{ENDINGS[kind]}"
            if path in taken:
                path = path.with_stem(f"{path.stem}-{len(taken)}")
            # Do not follow a link that another user has placed there.
            path.unlink(missing_ok=True)
            with path.open("xb") as file:
                file.write(record.thumbnail)
            files[record.key] = path
            taken.add(path)
    except OSError as error:
        raise InvalidRequest(
            f"thumbnails: {folder} cannot be written to ({error.strerror}); name another folder"
        ) from None
    return files
