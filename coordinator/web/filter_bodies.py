"""Owns the filters in JSON bodies, which have one of two forms: the language of docs/FILTERS.md, and the older
protobuf form of the `Filter` message. No document is both."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from google.protobuf import json_format
from google.protobuf.message import Message

from lookalike import wire
from lookalike.model import filter_language

_FIELD = "filter"
_OPTIONS = "options"


def parse_message(text: str, message: Message) -> None:
    """Parses a JSON object into a message whose filter, or whose options' filter, may have either form.

    Raises:
        json_format.ParseError: If the text is not the message's JSON.
        InvalidRequest: If the filter is not valid.
    """
    if f'"{_FIELD}"' not in text:
        json_format.Parse(text, message)
        return
    document = _loaded(text)
    condition = _pop_filter(document)
    json_format.ParseDict(document, message)
    if condition is not None:
        holder: Any = message if _FIELD in message.DESCRIPTOR.fields_by_name else getattr(message, _OPTIONS)
        holder.filter.CopyFrom(wire.filter_to_wire(filter_language.parse(condition)))


def _pop_filter(document: dict[str, Any]) -> Mapping[str, Any] | None:
    """Removes a filter in the JSON language from a body, and returns it; None if there is none."""
    options = document.get(_OPTIONS)
    for holder in (document, options):
        found = holder.get(_FIELD) if isinstance(holder, dict) else None
        if isinstance(found, dict) and isinstance(holder, dict) and not filter_language.is_message(found):
            del holder[_FIELD]
            return found
    return None


def _loaded(text: str) -> dict[str, Any]:
    try:
        document: dict[str, Any] = json.loads(text, object_pairs_hook=_without_duplicates)
    except ValueError as error:
        raise json_format.ParseError(f"Failed to load JSON: {error}") from None
    return document


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"duplicate key {twice[:40]}")
    return found
