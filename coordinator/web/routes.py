"""Owns the route table of the REST API: the RPC of each method and path, and where the RPC's request fields come
from (path, query string or body). The application and the OpenAPI document are both generated from it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

COLLECTIONS = "/v1/collections"
COLLECTION = f"{COLLECTIONS}/{{name}}"
RECORDS = f"{COLLECTION}/records"


@dataclasses.dataclass(frozen=True, slots=True)
class Call:
    """One RPC of the SearchService over HTTP.

    Attributes:
        in_path: The request field that {name} in the path sets.
        query: Query parameters, and the request field that each sets.
        takes_image: Whether the body can also be multipart/form-data.
    """

    operation: str
    method: str
    path: str
    rpc: str
    summary: str
    in_path: str | None = None
    query: Mapping[str, str] = dataclasses.field(default_factory=dict)
    takes_body: bool = False
    takes_image: bool = False
    status: int = 200


@dataclasses.dataclass(frozen=True, slots=True)
class PlainRoute:
    """A route without an RPC. The module `server` has its handler, and `openapi` describes its response."""

    operation: str
    method: str
    path: str
    summary: str


_KEYS = {"key": "keys"}

CALLS = (
    Call("listCollections", "GET", COLLECTIONS, "ListCollections", "List collections by name"),
    Call(
        "createCollection",
        "POST",
        COLLECTIONS,
        "CreateCollection",
        "Create a collection; without bits and code space, it gets an encoder's code space",
        takes_body=True,
        status=201,
    ),
    Call(
        "getCollection",
        "GET",
        COLLECTION,
        "GetCollection",
        "Get a collection, and its hash file on request",
        in_path="name",
        query={"includeHash": "include_hash"},
    ),
    Call(
        "dropCollection",
        "DELETE",
        COLLECTION,
        "DropCollection",
        "Drop a collection with all its records",
        in_path="name",
    ),
    Call(
        "search",
        "POST",
        f"{COLLECTION}/search",
        "Search",
        "Find the k records nearest to an image, a code or a stored record",
        in_path="collection",
        takes_body=True,
        takes_image=True,
    ),
    Call(
        "searchBatch",
        "POST",
        f"{COLLECTION}/search:batch",
        "SearchBatch",
        "Find the k nearest records for each of several queries",
        in_path="collection",
        takes_body=True,
    ),
    Call(
        "getRecords",
        "GET",
        RECORDS,
        "Get",
        "Get records by key; missing ones are left out",
        in_path="collection",
        query={**_KEYS, "consistency": "consistency", "includeThumbnails": "include_thumbnails"},
    ),
    *(
        Call(
            operation,
            method,
            RECORDS,
            "Upsert",
            "Upsert records; success means that all are stored durably",
            in_path="collection",
            takes_body=True,
        )
        for operation, method in (("putRecords", "PUT"), ("postRecords", "POST"))
    ),
    *(
        Call(operation, "POST", f"{RECORDS}/{name}", rpc, summary, in_path="collection", takes_body=True)
        for operation, name, rpc, summary in (
            ("exists", "exists", "Exists", "Say which keys have a record"),
            ("count", "count", "Count", "Count the records that match a filter, exactly"),
            ("scroll", "scroll", "Scroll", "Get the records that match a filter, page by page"),
            ("facets", "facets", "Facets", "Count the values of an attribute, exactly"),
            ("setAttributes", "set-attributes", "SetAttributes", "Set or remove some attributes of records"),
            ("deleteByFilter", "delete", "DeleteByFilter", "Delete records that match a filter, page by page"),
        )
    ),
    Call(
        "deleteRecords",
        "DELETE",
        RECORDS,
        "Delete",
        "Delete records by key; missing ones are ignored",
        in_path="collection",
        query={**_KEYS, "ifVersion": "if_versions"},
    ),
)

ALIASES = "/v1/aliases"
ALIAS = f"{ALIASES}/{{name}}"

CALLS += (
    Call("listAliases", "GET", ALIASES, "ListAliases", "List aliases"),
    Call("createAlias", "POST", ALIASES, "CreateAlias", "Create an alias", takes_body=True, status=201),
    Call(
        "switchAlias",
        "PUT",
        ALIAS,
        "SwitchAlias",
        "Point an alias to another collection; later requests see the new one",
        in_path="alias",
        takes_body=True,
    ),
    Call("deleteAlias", "DELETE", ALIAS, "DeleteAlias", "Delete an alias; its collection stays", in_path="alias"),
    Call(
        "renameCollection",
        "POST",
        f"{COLLECTION}/rename",
        "RenameCollection",
        "Rename a collection; later requests see the new name only",
        in_path="name",
        takes_body=True,
    ),
    Call(
        "setTtl",
        "PUT",
        f"{COLLECTION}/ttl",
        "SetTtl",
        "Set when the records of a collection expire; {} for never",
        in_path="name",
        takes_body=True,
    ),
    Call(
        "copyRecords",
        "POST",
        f"{COLLECTION}/copy",
        "CopyRecords",
        "Copy records to another collection, page by page",
        in_path="collection",
        takes_body=True,
    ),
)

HEALTH = PlainRoute("health", "GET", "/healthz", "Check that this coordinator is running")
STATUS = PlainRoute(
    "status", "GET", "/v1/status", "Get the state of partitions, replicas, encoders and collections"
)
THUMBNAIL = PlainRoute("thumbnail", "GET", f"{COLLECTION}/thumbnail", "Get the thumbnail stored with a record")
OPENAPI = PlainRoute("openapi", "GET", "/openapi.json", "Get this document")
