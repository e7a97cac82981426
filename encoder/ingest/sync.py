"""Owns how records follow files: which attributes a record keeps when its file changes or gets another name, and
which records' files are gone."""

from __future__ import annotations

import collections
import dataclasses
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

from fsspec.core import url_to_fs
from more_itertools import chunked

from encoder.ingest.sources import Source
from lookalike.client.sync_client import Client
from lookalike.cluster.slots import SlotSet
from lookalike.files.stores import explained
from lookalike.jobs.dedup.apply import TAG
from lookalike.jobs.partitions import read_all_slots, read_part
from lookalike.model.errors import InvalidRequest
from lookalike.model.records import Collection, encode_attributes

_DELETE_KEYS = 1_000
Attributes = Mapping[str, Any]


def files_of(
    client: Client, collection: Collection, roots: Sequence[str], retry_seconds: float
) -> dict[str, Attributes]:
    """Reads which records of a collection come from files at or below some URLs.

    Args:
        client: A client of the cluster.
        collection: The collection.
        roots: URLs of folders and files.
        retry_seconds: How long to retry while a partition is unavailable.

    Returns:
        The records' attributes, by key.
    """
    found: dict[str, Attributes] = {}
    if not roots:
        return found
    # All attributes are encoded in the same way, so a search in their text rules out most records without parsing.
    beginnings = [f'"url":{encode_attributes(root)[:-1]}' for root in roots]

    def read(missing: SlotSet) -> SlotSet:
        head, batches = read_part(client, collection, missing)
        for batch in batches:
            for record in batch:
                if any(beginning in record.attributes for beginning in beginnings):
                    attributes = json.loads(record.attributes)
                    if _is_below(attributes.get("source"), roots):
                        found[record.key] = attributes
        return head.mark.slots

    read_all_slots(read, retry_seconds)
    return found


def _is_below(source: Any, roots: Sequence[str]) -> bool:
    url = source.get("url") if isinstance(source, dict) else None
    return isinstance(url, str) and any(url == root or url.startswith(f"{root.rstrip('/')}/") for root in roots)


def url_of(path: str) -> str:
    """The URL of a path or URL."""
    system, root = url_to_fs(path)
    url: str = system.unstrip_protocol(root)
    return url


def require_folders(paths: Sequence[str], is_partial: bool) -> list[str]:
    """Returns the URLs of the folders whose missing files' records `--prune` removes.

    Args:
        paths: The job's paths.
        is_partial: Whether the job leaves out some of their images, or reads tables.

    Raises:
        InvalidRequest: If a path is no folder, or files that exist might be taken for missing ones.
    """
    if is_partial or not paths:
        raise InvalidRequest("prune: works on whole folders of images; leave tables, --where and --limit out")
    for path in paths:
        with explained("path", path):
            system, root = url_to_fs(path)
            if not system.isdir(root):
                raise InvalidRequest(f"prune: {path} is not a folder; name folders")
    return [url_of(path) for path in paths]


def gone(stored: Mapping[str, Attributes], sources: Iterable[Source]) -> dict[str, Attributes]:
    """The stored records whose files no longer exist. sources: all files that exist."""
    keys = {source.key for source in sources}
    return {key: attributes for key, attributes in stored.items() if key not in keys}


def keeping(
    missing: Sequence[Source], stored: Mapping[str, Attributes], lost: Mapping[str, Attributes]
) -> list[Source]:
    """Lets files keep the attributes of their records: of the record with the same key or, for a renamed file, of
    the record whose file is gone and had the same size and time. What the file itself says takes precedence. The
    tag that `lookalike dedup` sets is dropped, because a changed file may be no duplicate.

    Args:
        missing: The files to encode.
        stored: The attributes of records with the same keys, by key.
        lost: The attributes of records whose files are gone, by key.
    """
    counts = collections.Counter(source.signature for source in missing)
    lost_by_signature: dict[str, list[Attributes]] = collections.defaultdict(list)
    for key, attributes in lost.items():
        lost_by_signature[attributes["source"].get("signature", "")].append(_without_label(key, attributes))

    def kept(source: Source) -> Source:
        attributes = stored.get(source.key)
        candidates = lost_by_signature.get(source.signature, [])
        if attributes is None and counts[source.signature] == len(candidates) == 1:
            attributes = candidates[0]
        rest = {name: value for name, value in (attributes or {}).items() if name not in ("source", TAG)}
        return dataclasses.replace(source, fields={**rest, **source.fields}) if rest else source

    return [kept(source) for source in missing]


def _without_label(key: str, attributes: Attributes) -> Attributes:
    """Drops the label that the file's folder gave, because the file may be in another folder now."""
    if attributes.get("label") != PurePosixPath(key).parent.name:
        return attributes
    return {name: value for name, value in attributes.items() if name != "label"}


def remove(
    client: Client, collection: str, keys: Iterable[str], progress: Callable[[int], None] = lambda count: None
) -> int:
    """Deletes records. Returns how many existed. progress: called with the number of keys since the last call."""
    removed = 0
    for part in chunked(keys, _DELETE_KEYS):
        removed += client.delete(part, collection=collection)
        progress(len(part))
    return removed
