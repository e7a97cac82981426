"""Owns the table of the REST interface: which method and path is which RPC, and what of its request stands in the
path, in the query string or in the body. The application and the OpenAPI document are both made from it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

COLLECTIONS = "/v1/collections"
COLLECTION = f"{COLLECTIONS}/{{name}}"
RECORDS = f"{COLLECTION}/records"


@dataclasses.dataclass(frozen=True, slots=True)
class Call:
    """One RPC of the SearchService over HTTP. in_path: the request's field that {name} fills. query: the query
    string's parameters and the fields that they fill. takes_image: as multipart/form-data, too."""

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
class Other:
    """What is no plain RPC: its handler stands in `server`, what it answers in `openapi`."""

    operation: str
    method: str
    path: str
    summary: str


_KEYS = {"key": "keys"}

CALLS = (
    Call("listCollections", "GET", COLLECTIONS, "ListCollections", "All collections, by name"),
    Call(
        "createCollection",
        "POST",
        COLLECTIONS,
        "CreateCollection",
        "Make a collection; with neither bits nor a code space it is the encoder's",
        takes_body=True,
        status=201,
    ),
    Call(
        "getCollection",
        "GET",
        COLLECTION,
        "GetCollection",
        "One collection, on request with its hash file",
        in_path="name",
        query={"includeHash": "include_hash"},
    ),
    Call(
        "dropCollection",
        "DELETE",
        COLLECTION,
        "DropCollection",
        "Delete a collection and all its records",
        in_path="name",
    ),
    Call(
        "search",
        "POST",
        f"{COLLECTION}/search",
        "Search",
        "The k nearest records to one picture, code or key",
        in_path="collection",
        takes_body=True,
        takes_image=True,
    ),
    Call(
        "searchBatch",
        "POST",
        f"{COLLECTION}/search:batch",
        "SearchBatch",
        "The k nearest records to each of many queries",
        in_path="collection",
        takes_body=True,
    ),
    Call(
        "getRecords",
        "GET",
        RECORDS,
        "Get",
        "Records by key, those that exist",
        in_path="collection",
        query={**_KEYS, "consistency": "consistency", "includeThumbnails": "include_thumbnails"},
    ),
    *(
        Call(
            operation,
            method,
            RECORDS,
            "Upsert",
            "Write records, all or none; the answer means that they are stored durably",
            in_path="collection",
            takes_body=True,
        )
        for operation, method in (("putRecords", "PUT"), ("postRecords", "POST"))
    ),
    Call(
        "deleteRecords",
        "DELETE",
        RECORDS,
        "Delete",
        "Delete records by key; one that does not exist is no error",
        in_path="collection",
        query=_KEYS,
    ),
)

HEALTH = Other("health", "GET", "/healthz", "Whether this coordinator runs")
STATUS = Other("status", "GET", "/v1/status", "Partitions, replicas, encoder and collections as they are now")
THUMBNAIL = Other("thumbnail", "GET", f"{COLLECTION}/thumbnail", "The small picture kept with a record")
OPENAPI = Other("openapi", "GET", "/openapi.json", "This document")
