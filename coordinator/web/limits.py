"""Owns the limits that the OpenAPI document states for the fields of requests. Each value comes from the constant,
or from the part of the config, that the check of the request uses too."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lookalike.cluster.select import MAX_FACETS
from lookalike.model import codespace, features, filters, indexing
from lookalike.model.query import MAX_EXAMPLES
from lookalike.model.records import (
    COLLECTION_NAME,
    MAX_ATTRIBUTES_BYTES,
    MAX_BATCH_RECORDS,
    MAX_HASH_BYTES,
    MAX_K,
    MAX_KEY_BYTES,
    MAX_OVERSAMPLING,
)
from lookalike.model.thumbnails import MAX_THUMBNAIL_BYTES
from lookalike.server.config import LimitsConfig

Schema = dict[str, Any]


def _base64(size: int) -> int:
    """The length of `size` bytes in base64."""
    return -(-size // 3) * 4


_REQUIRED: Schema = {"required": True}
# JSON Schema counts characters and the server counts UTF-8 bytes, so text beyond ASCII has to be shorter.
KEY: Schema = {"minLength": 1, "maxLength": MAX_KEY_BYTES}
COLLECTION: Schema = {"pattern": f"^{COLLECTION_NAME}$"}
_FIELD: Schema = {"minLength": 1}
_ATTRIBUTES: Schema = {"maxLength": MAX_ATTRIBUTES_BYTES}
_KEYS: Schema = {"minItems": 1, "maxItems": MAX_BATCH_RECORDS, "items": KEY}
_VALUES: Schema = {"minItems": 1, "maxItems": filters.MAX_VALUES}
_PAGE: Schema = {"maximum": MAX_BATCH_RECORDS}
_BITS: Schema = {"minimum": codespace.MIN_BITS, "maximum": codespace.MAX_BITS, "multipleOf": 8}
_TEXT: Schema = {"maxLength": codespace.MAX_TEXT}
_CODE: Schema = {"maxLength": _base64(codespace.MAX_BITS // 8)}
_QUERY_CODE = _CODE | {"minLength": _base64(codespace.MIN_BITS // 8)}
_SHARE: Schema = {"minimum": 0, "maximum": 1}
_FIXED: Mapping[str, Schema] = {
    "Alias.alias": COLLECTION,
    "Box.x0": _SHARE,
    "Box.x1": _SHARE | _REQUIRED,
    "Box.y0": _SHARE,
    "Box.y1": _SHARE | _REQUIRED,
    "CodeSpace.arithmetic": _TEXT,
    "CodeSpace.backbone": _TEXT,
    "CodeSpace.bits": _BITS | _REQUIRED,
    "CodeSpace.hash_digest": _TEXT,
    "CodeSpace.hash_method": _TEXT,
    "CodeSpace.layer": _TEXT,
    "CodeSpace.preprocessing": _TEXT,
    "CodeSpace.weights_digest": _TEXT,
    "Collection.name": COLLECTION,
    "CopyRecordsRequest.limit": _PAGE,
    "CopyRecordsRequest.target": COLLECTION | _REQUIRED,
    "CreateAliasRequest.alias": COLLECTION | _REQUIRED,
    "CreateAliasRequest.collection": COLLECTION | _REQUIRED,
    "CreateCollectionRequest.bits": _BITS,
    "CreateCollectionRequest.hash_file": {"maxLength": _base64(MAX_HASH_BYTES)},
    "CreateCollectionRequest.name": COLLECTION | _REQUIRED,
    "DeleteByFilterRequest.filter": _REQUIRED,
    "DeleteByFilterRequest.limit": _PAGE,
    "DeleteRequest.keys": _KEYS,
    "Equals.field": _FIELD | _REQUIRED,
    "Equals.value": _REQUIRED,
    "Example.code": _QUERY_CODE,
    "Example.key": KEY,
    "Examples.like": {"minItems": 1, "maxItems": MAX_EXAMPLES, "required": True},
    "Examples.not_like": {"maxItems": MAX_EXAMPLES},
    "Exists.field": _FIELD | _REQUIRED,
    "ExistsRequest.keys": _KEYS | _REQUIRED,
    "FacetsRequest.attribute": _FIELD | _REQUIRED,
    "FacetsRequest.limit": {"maximum": MAX_FACETS},
    "Filters.filters": {"minItems": 1, "maxItems": filters.MAX_CONDITIONS, "required": True},
    "GetRequest.keys": _KEYS,
    "In.field": _FIELD | _REQUIRED,
    "In.integers": _VALUES,
    "In.texts": _VALUES,
    "In.values": _VALUES,
    "Indexing.attributes": {"maxItems": indexing.MAX_ATTRIBUTES, "uniqueItems": True, "items": _FIELD},
    "Indexing.feature_width": {"maximum": features.MAX_WIDTH},
    "Prefix.field": _FIELD | _REQUIRED,
    "Query.code": _QUERY_CODE,
    "Query.key": KEY,
    "Range.field": _FIELD | _REQUIRED,
    "Record.attributes": _ATTRIBUTES,
    "Record.code": _CODE,
    "Record.features": {"maxLength": _base64(4 * features.MAX_WIDTH)},
    "Record.key": KEY | _REQUIRED,
    "Record.thumbnail": {"maxLength": _base64(MAX_THUMBNAIL_BYTES)},
    "RenameCollectionRequest.new_name": COLLECTION | _REQUIRED,
    "ScrollRequest.limit": _PAGE,
    "SearchBatchRequest.options": _REQUIRED,
    "SearchOptions.exclude_keys": {"maxItems": MAX_BATCH_RECORDS, "items": KEY},
    "SearchOptions.group_size": {"maximum": MAX_K},
    "SearchOptions.offset": {"maximum": MAX_K - 1},
    "SearchOptions.oversampling": {"maximum": MAX_OVERSAMPLING},
    "SearchRequest.options": _REQUIRED,
    "SearchRequest.query": _REQUIRED,
    "SetAttributesRequest.attributes": _ATTRIBUTES,
    "SetAttributesRequest.keys": {"maxItems": MAX_BATCH_RECORDS, "items": KEY},
    "SetAttributesRequest.limit": _PAGE,
    "SwitchAliasRequest.collection": COLLECTION | _REQUIRED,
    "Ttl.attribute": _FIELD,
    "UpsertRequest.records": {"minItems": 1, "maxItems": MAX_BATCH_RECORDS, "required": True},
}


def field_limits(config: LimitsConfig) -> Mapping[str, Schema]:
    """The limits of each field, as parts of its JSON schema, by "MESSAGE.FIELD". The part `items` is of the items
    of a list; `required` is whether a request must have the field."""
    image = {"minLength": 1, "maxLength": _base64(config.max_image_bytes)}
    return {
        **_FIXED,
        "Example.image": image,
        "Query.image": image,
        "Record.image": image,
        "SearchBatchRequest.queries": {"minItems": 1, "maxItems": config.max_batch, "required": True},
        "SearchOptions.k": {"minimum": 1, "maximum": config.max_k, "required": True},
    }
