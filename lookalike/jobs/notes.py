"""Owns notes on collections: texts that jobs keep with a collection, such as what `lookalike calibrate` measured.

A note is a record of the collection NOTES, so that it is as durable and as available as any other record. A note
on a collection that was dropped and created again is not returned."""

from __future__ import annotations

import contextlib

from lookalike.client.sync_client import Client
from lookalike.model.errors import AlreadyExists, InvalidRequest, NotFound, PermissionDenied
from lookalike.model.records import Collection, Record

NOTES = "lookalike-notes"
# The width of the codes, which each collection must have. Nothing searches these.
_BITS = 16
_MAX_BYTES = 48 * 1024


def get_note(client: Client, collection: Collection, name: str) -> str:
    """Returns the note of this name on a collection; empty if there is none, or the caller may not read it."""
    try:
        found = client.get([_key(collection, name)], collection=NOTES, consistency="quorum")
    except (NotFound, PermissionDenied):
        return ""
    text = next((record.attributes.get("text") for record in found if _is_of(record.attributes, collection)), "")
    return text if isinstance(text, str) else ""


def set_note(client: Client, collection: Collection, name: str, text: str) -> None:
    """Stores the note of this name on a collection; it replaces an earlier one.

    Raises:
        InvalidRequest: If the text has over 48 KiB.
        PermissionDenied: If the caller may not write to the collection NOTES.
    """
    if len(text.encode()) > _MAX_BYTES:
        raise InvalidRequest(f"note: {name} takes {len(text.encode()):,} bytes; at most {_MAX_BYTES:,} are stored")
    attributes = {"text": text, "collection": collection.name, "incarnation": str(collection.incarnation)}
    record = Record(_key(collection, name), code=bytes(_BITS // 8), attributes=attributes)
    try:
        client.upsert([record], collection=NOTES)
    except NotFound:
        with contextlib.suppress(AlreadyExists):
            client.create_collection(NOTES, bits=_BITS)
        client.upsert([record], collection=NOTES)


def _key(collection: Collection, name: str) -> str:
    return f"{collection.name}/{name}"


def _is_of(attributes: object, collection: Collection) -> bool:
    return isinstance(attributes, dict) and attributes.get("incarnation") == str(collection.incarnation)
