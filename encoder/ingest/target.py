"""Owns the collection that a batch job writes to: it is created if it does not exist, and must be in the code
space of the job's codes."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from encoder.ingest.tables.table import Table
from encoder.spec import EncoderSpec
from lookalike.client.sync_client import Client
from lookalike.jobs.export import notes
from lookalike.model.codespace import CodeSpace
from lookalike.model.errors import AlreadyExists, CodeSpaceMismatch, InvalidRequest, NotFound
from lookalike.model.indexing import Indexing
from lookalike.model.records import Collection


def get_or_create(client: Client, name: str, settings: Callable[[], Mapping[str, Any]] = dict) -> Collection:
    """Returns the collection. Creates it if it does not exist.

    Args:
        client: A client of the cluster.
        name: The collection's name.
        settings: Called if the collection does not exist; returns the arguments of `Client.create_collection`. The
            default is a collection in the encoder's code space.
    """
    try:
        return client.get_collection(name)
    except NotFound:
        arguments = settings()
    # Another job may create the collection at the same moment.
    with contextlib.suppress(AlreadyExists):
        client.create_collection(name, **arguments)
    return client.get_collection(name)


def require_encoded_space(target: Collection, fingerprint: str, spec: EncoderSpec) -> None:
    """Raises CodeSpaceMismatch unless the collection is in the encoder's code space, `fingerprint`."""
    space = target.code_space
    if space.fingerprint != fingerprint:
        raise CodeSpaceMismatch(
            f"collection {target.name!r} is in code space {space.fingerprint[:12]}… ({space.backbone},"
            f" {space.hash_method}, {space.bits} bits), this job makes codes in {fingerprint[:12]}…"
            f" ({spec.model}, {spec.bits} bits); pass the cluster's own --config, or another collection"
        )


def spec_for(client: Client, target: Collection) -> EncoderSpec:
    """Returns the encoder that made the collection's code space. Raises InvalidRequest if no encoder did."""
    hash_file = client.get_hash_file(target.name)
    if not hash_file:
        raise InvalidRequest(
            f"collection: {target.name!r} holds codes that were made elsewhere; images cannot be encoded for it;"
            " ingest codes, or name another collection"
        )
    return EncoderSpec.of_space(target.code_space, hash_file)


def require_noted_space(target: Collection, noted: CodeSpace | None) -> None:
    """Raises CodeSpaceMismatch if an export's metadata names a code space other than the collection's."""
    if noted is not None and noted.fingerprint != target.code_space.fingerprint:
        raise CodeSpaceMismatch(
            f"collection {target.name!r} is in code space {target.code_space.fingerprint[:12]}…, the file's codes"
            f" are in {noted.fingerprint[:12]}…; name another collection"
        )


def noted_settings(tables: Sequence[Table]) -> tuple[CodeSpace, Indexing] | None:
    """Returns the code space and indexing in the tables' metadata; None if `lookalike export` wrote none of the
    tables. Raises CodeSpaceMismatch if the code spaces differ."""
    found = [noted for table in tables if (noted := notes.read(table.notes)) is not None]
    if len({space for space, _ in found}) > 1:
        raise CodeSpaceMismatch(
            "path: the files' codes are in several code spaces; ingest each space in a separate job"
        )
    return found[0] if found else None


def noted_space(tables: Sequence[Table]) -> CodeSpace | None:
    """Returns only the code space of `noted_settings`."""
    noted = noted_settings(tables)
    return None if noted is None else noted[0]
