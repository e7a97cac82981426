"""Owns the conversion of code spaces, indexing, TTLs and collections to protobuf messages and back."""

from __future__ import annotations

from lookalike.model import features
from lookalike.model.codespace import CodeSpace
from lookalike.model.indexing import MIH, SCAN, Indexing
from lookalike.model.records import Collection
from lookalike.model.ttl import Ttl
from lookalike.v1 import codespace_pb2


def space_to_wire(space: CodeSpace) -> codespace_pb2.CodeSpace:
    return codespace_pb2.CodeSpace(
        backbone=space.backbone,
        weights_digest=space.weights_digest,
        layer=space.layer,
        preprocessing=space.preprocessing,
        hash_method=space.hash_method,
        hash_digest=space.hash_digest,
        bits=space.bits,
        fingerprint=space.fingerprint,
        arithmetic=space.arithmetic,
    )


def space_from_wire(message: codespace_pb2.CodeSpace) -> CodeSpace:
    return CodeSpace(
        bits=message.bits,
        backbone=message.backbone,
        weights_digest=message.weights_digest,
        layer=message.layer,
        preprocessing=message.preprocessing,
        hash_method=message.hash_method,
        hash_digest=message.hash_digest,
        arithmetic=message.arithmetic,
    )


def collection_to_wire(collection: Collection) -> codespace_pb2.Collection:
    return codespace_pb2.Collection(
        name=collection.name,
        code_space=space_to_wire(collection.code_space),
        rows=collection.rows,
        incarnation=collection.incarnation,
        indexing=indexing_to_wire(collection.indexing),
        ttl=None if collection.ttl is None else ttl_to_wire(collection.ttl),
        aliases=collection.aliases,
    )


def collection_from_wire(message: codespace_pb2.Collection) -> Collection:
    return Collection(
        message.name,
        space_from_wire(message.code_space),
        message.rows,
        message.incarnation,
        indexing_from_wire(message.indexing),
        ttl_from_wire(message.ttl) if message.HasField("ttl") else None,
        tuple(message.aliases),
    )


def ttl_to_wire(ttl: Ttl) -> codespace_pb2.Ttl:
    if ttl.attribute:
        return codespace_pb2.Ttl(attribute=ttl.attribute)
    return codespace_pb2.Ttl(age_seconds=ttl.age_seconds)


def ttl_from_wire(message: codespace_pb2.Ttl) -> Ttl:
    """Raises InvalidRequest if it is not one."""
    return Ttl(message.age_seconds, message.attribute)


_INDEX_KINDS = {SCAN: codespace_pb2.Indexing.KIND_SCAN, MIH: codespace_pb2.Indexing.KIND_MIH}


_FEATURE_KINDS = {
    features.NONE: codespace_pb2.Indexing.FEATURES_NONE,
    features.INT8: codespace_pb2.Indexing.FEATURES_INT8,
    features.FLOAT16: codespace_pb2.Indexing.FEATURES_FLOAT16,
}


def indexing_to_wire(indexing: Indexing) -> codespace_pb2.Indexing:
    return codespace_pb2.Indexing(
        kind=_INDEX_KINDS[indexing.kind],
        attributes=indexing.attributes,
        features=_FEATURE_KINDS[indexing.features],
        feature_width=indexing.feature_width,
    )


def indexing_from_wire(message: codespace_pb2.Indexing) -> Indexing:
    kinds = {number: kind for kind, number in _INDEX_KINDS.items()}
    kinds[codespace_pb2.Indexing.KIND_UNSPECIFIED] = SCAN
    feature_kinds = {number: kind for kind, number in _FEATURE_KINDS.items()}
    feature_kinds[codespace_pb2.Indexing.FEATURES_UNSPECIFIED] = features.NONE
    return Indexing(
        kinds.get(message.kind, str(message.kind)),
        tuple(message.attributes),
        feature_kinds.get(message.features, str(message.features)),
        message.feature_width,
    )
