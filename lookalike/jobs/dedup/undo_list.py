"""Owns the undo list: a file of JSON lines that says what a run does to records and files, before it does it.

The first line describes the run. Each other line is one record, whole, with what happens to it. A crash may leave
the last line incomplete; nothing was done for it."""

from __future__ import annotations

import base64
import dataclasses
import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Literal, Self, get_args

from lookalike.files.atomic import sync_folder
from lookalike.model.errors import InvalidRequest
from lookalike.model.records import Collection, VersionedRecord, encode_attributes

Kind = Literal["move", "delete", "tag"]
_TITLE = "lookalike dedup: undo list"
_FORMAT = 1


@dataclasses.dataclass(frozen=True, slots=True)
class Run:
    """What a run does, and to which collection. features: how the collection stores features."""

    kind: Kind
    collection: str
    fingerprint: str
    features: str

    @classmethod
    def of(cls, kind: Kind, collection: Collection) -> Self:
        return cls(kind, collection.name, collection.code_space.fingerprint, collection.indexing.features_text)


@dataclasses.dataclass(frozen=True, slots=True)
class Entry:
    """One record before the run, and what the run does to it.

    Attributes:
        record: The whole record.
        kept: The key of the record that its group keeps.
        path: Where its file is; empty for tags.
        moved_to: Where the file goes; empty unless files are moved.
        tag: The value that the record's attribute `duplicate_of` gets; None to remove it. Only for tags.
    """

    record: VersionedRecord
    kept: str
    path: str = ""
    moved_to: str = ""
    tag: str | None = None


class UndoList:
    """An undo list that is being written. The file is created with the first entries, so that a run that does
    nothing leaves none."""

    def __init__(self, path: Path, run: Run) -> None:
        self.path = path
        self._run = run
        self._descriptor: int | None = None

    def append(self, entries: Iterable[Entry]) -> None:
        """Writes entries durably. Raises InvalidRequest if the file exists or cannot be written."""
        lines = [_line(entry) for entry in entries]
        try:
            if self._descriptor is None:
                self._descriptor = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o600)
                sync_folder(self.path.absolute().parent)
                lines.insert(0, json.dumps({"title": _TITLE, "format": _FORMAT, **dataclasses.asdict(self._run)}))
            with open(self._descriptor, "ab", closefd=False) as file:
                file.write("".join(f"{line}\n" for line in lines).encode())
            os.fsync(self._descriptor)
        except OSError as error:
            raise _unwritable(self.path, error) from None

    def close(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)


def free_path(wanted: Path | None, default: str) -> Path:
    """The path of a new undo list. Raises InvalidRequest if the path that the user wants is taken.

    Args:
        wanted: The path that the user wants; None for the default.
        default: The default; if it is taken, the first free one of NAME-2, NAME-3, ...
    """
    if wanted is not None:
        if os.path.lexists(wanted):
            raise InvalidRequest(f"undo-list: {wanted} exists, and is never overwritten; name another file")
        return wanted
    path, number = Path(default), 1
    while os.path.lexists(path):
        number += 1
        path = Path(default).with_stem(f"{Path(default).stem}-{number}")
    return path


def read_run(path: Path) -> Run:
    """Reads the description of the run. Raises InvalidRequest if the file is not an undo list."""
    try:
        with path.open(encoding="utf-8") as file:
            head = json.loads(file.readline())
        if (head["title"], head["format"]) != (_TITLE, _FORMAT) or head["kind"] not in get_args(Kind):
            raise ValueError("another kind of file")
        return Run(head["kind"], head["collection"], head["fingerprint"], head["features"])
    except OSError as error:
        raise InvalidRequest(f"undo: {path} cannot be read ({error.strerror}); name an undo list") from None
    except (ValueError, KeyError, TypeError):
        raise InvalidRequest(
            f"undo: {path} is not an undo list of this version; name a file that --apply wrote"
        ) from None


def read_entries(path: Path) -> Iterator[Entry]:
    """Reads the entries. Raises InvalidRequest for a line that is damaged, unless it is an incomplete last one."""
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if number == 1:
                continue
            if not line.endswith(b"\n"):
                return
            try:
                yield _entry(json.loads(line))
            except (ValueError, KeyError, TypeError) as error:
                raise InvalidRequest(
                    f"undo: line {number:,} of {path} is damaged ({type(error).__name__}: {error}); restore the"
                    " file, or remove the line"
                ) from None


def _line(entry: Entry) -> str:
    record = entry.record
    assert record.code is not None, "a live record has a code"
    document: dict[str, Any] = {"key": record.key, "kept": entry.kept}
    document |= {"path": entry.path} if entry.path else {"tag": entry.tag}
    document |= {"moved_to": entry.moved_to} if entry.moved_to else {}
    return json.dumps(
        {
            **document,
            "code": record.code.hex(),
            "version": record.version,
            "attributes": json.loads(record.attributes or "{}"),
            "features": base64.b64encode(record.features).decode(),
            "thumbnail": base64.b64encode(record.thumbnail).decode(),
        }
    )


def _entry(document: dict[str, Any]) -> Entry:
    record = VersionedRecord(
        key=document["key"],
        code=bytes.fromhex(document["code"]),
        attributes=encode_attributes(document["attributes"]),
        version=document["version"],
        features=base64.b64decode(document["features"], validate=True),
        thumbnail=base64.b64decode(document["thumbnail"], validate=True),
    )
    return Entry(
        record, document["kept"], document.get("path", ""), document.get("moved_to", ""), document.get("tag")
    )


def _unwritable(path: Path, error: OSError) -> InvalidRequest:
    return InvalidRequest(f"undo-list: {path} cannot be written ({error.strerror}); name another file")
