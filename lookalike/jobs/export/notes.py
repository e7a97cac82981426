"""Owns what an export notes in its file of the collection it is of: the code space and the indexing, as JSON. So
its codes are not taken for those of another space."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

from lookalike.model.codespace import CodeSpace
from lookalike.model.errors import InvalidRequest
from lookalike.model.indexing import Indexing

_CODE_SPACE, _INDEXING = "lookalike.code_space", "lookalike.model.indexing"


def write(space: CodeSpace, indexing: Indexing) -> dict[str, str]:
    """The notes by name."""
    notes: dict[str, Any] = {_CODE_SPACE: space, _INDEXING: indexing}
    return {name: json.dumps(dataclasses.asdict(note)) for name, note in notes.items()}


def read(notes: Mapping[str, str]) -> tuple[CodeSpace, Indexing] | None:
    """What the notes say; None when there are none of ours. Raises InvalidRequest."""
    if _CODE_SPACE not in notes:
        return None
    try:
        space = CodeSpace(**json.loads(notes[_CODE_SPACE]))
        stored = json.loads(notes.get(_INDEXING, "{}"))
        return space, Indexing(**{**stored, "attributes": tuple(stored.get("attributes", ()))})
    except (ValueError, TypeError, AttributeError) as error:
        raise InvalidRequest(f"path: its note of a code space cannot be read ({error})") from None
