"""Owns the metadata of an exported file: the collection's code space and indexing, as JSON. An import uses
it to reject codes of another code space."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

from lookalike.model.codespace import CodeSpace
from lookalike.model.errors import InvalidRequest
from lookalike.model.indexing import Indexing

_CODE_SPACE, _INDEXING = "lookalike.code_space", "lookalike.indexing"


def write(space: CodeSpace, indexing: Indexing) -> dict[str, str]:
    """Returns the metadata: JSON text by key."""
    notes: dict[str, Any] = {_CODE_SPACE: space, _INDEXING: indexing}
    return {name: json.dumps(dataclasses.asdict(note)) for name, note in notes.items()}


def read(notes: Mapping[str, str]) -> tuple[CodeSpace, Indexing] | None:
    """Decodes the metadata of a file. Returns None if no export wrote the file. Raises InvalidRequest if the
    metadata is malformed."""
    if _CODE_SPACE not in notes:
        return None
    try:
        space = CodeSpace(**json.loads(notes[_CODE_SPACE]))
        stored = json.loads(notes.get(_INDEXING, "{}"))
        return space, Indexing(**{**stored, "attributes": tuple(stored.get("attributes", ()))})
    except (ValueError, TypeError, AttributeError) as error:
        raise InvalidRequest(f"path: its code space cannot be read ({error})") from None
