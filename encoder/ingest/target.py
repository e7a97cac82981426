"""Owns the collection that a batch job writes to: it is created if it does not exist, and must be in the code
space of the job's codes."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from encoder.ingest.tables.table import Table
from encoder.spec import EncoderSpec, errors_of
from lookalike.client.sync_client import Client
from lookalike.jobs.export import notes
from lookalike.model.codespace import CodeSpace
from lookalike.model.errors import AlreadyExists, CodeSpaceMismatch, InvalidRequest, NotFound
from lookalike.model.indexing import Indexing
from lookalike.model.records import Collection
from lookalike.server.config import EncoderConfig


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


def get_or_create_encoded(client: Client, name: str, encoder: str | None) -> Collection:
    """As `get_or_create`, for a collection of images.

    Args:
        client: A client of the cluster.
        name: The collection's name.
        encoder: The name of the cluster's encoder that the collection has or gets; None for the one that it has,
            or the default one.

    Raises:
        InvalidRequest: If the collection has another encoder than the one that is named.
    """
    target = get_or_create(client, name, lambda: {} if encoder is None else {"encoder": encoder})
    if encoder is not None:
        spaces = {one.name: one.code_space for one in client.status().all_encoders}
        if encoder not in spaces:
            raise InvalidRequest(
                f"encoder: {encoder!r} is not an encoder of this cluster; use {', '.join(spaces)}"
            )
        if spaces[encoder] not in (None, target.code_space):
            space = target.code_space
            raise InvalidRequest(
                f"encoder: collection {name!r} has another encoder than {encoder} ({space.backbone},"
                f" {space.hash_method}, {space.bits} bits); leave --encoder out, or name another collection"
            )
    return target


def section_of(target: Collection, sections: Mapping[str, EncoderConfig]) -> EncoderConfig:
    """Returns the section of a config whose encoder makes the codes of the collection.

    Args:
        target: The collection.
        sections: The encoders of a config. A single one is returned as it is.

    Raises:
        CodeSpaceMismatch: If none of several does.
        CannotStart: If an encoder that may be the one cannot be loaded.
    """
    if len(sections) == 1:
        return next(iter(sections.values()))
    space = target.code_space
    alike = {name: config for name, config in sections.items() if _may_make(config, space)}
    if len(alike) == 1:
        return next(iter(alike.values()))
    from encoder.preflight import space_of

    for name, config in alike.items():
        with errors_of(name):
            if space_of(EncoderSpec.from_config(config)) == space:
                return config
    raise CodeSpaceMismatch(
        f"collection {target.name!r} is in code space {space.fingerprint[:12]}… ({space.backbone},"
        f" {space.hash_method}, {space.bits} bits), which no encoder of the config makes ({', '.join(sections)});"
        " pass the config of the collection's cluster, or name another collection"
    )


def _may_make(config: EncoderConfig, space: CodeSpace) -> bool:
    """Compares what is known without loading the network."""
    spec = EncoderSpec.from_config(config)
    model = spec.model.rpartition(":")[2]
    return (spec.bits, spec.layer, model) == (space.bits, space.layer, space.backbone.rpartition(":")[2])


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
