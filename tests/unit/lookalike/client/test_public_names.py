"""The names and parameters that programs outside of this repository use. A change here breaks them."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
from typing import Any

import pytest

import lookalike
from lookalike.cli import app
from shard.kernel import CodeMatrix

OPTIONS = """k max_distance filter include_attributes allow_partial rerank consistency score oversampling
    after offset exclude_keys group_by group_size include_thumbnails""".split()
COLLECTION = "bits code_space index index_attributes features feature_width hash_file encoder ttl".split()
SCROLL = """collection filter include_attributes include_codes include_thumbnails limit consistency
    cursor timeout""".split()
QUERY = "collection image code key examples not_like box".split()
QUERIES = "collection images codes keys boxes".split()
METHODS = {
    "close": [],
    "search": [*QUERY, "projections", "features", "fingerprint", "timeout", *OPTIONS],
    "search_all": [
        *QUERY,
        "projections",
        "features",
        "fingerprint",
        "page_size",
        "limit",
        "timeout",
        *OPTIONS,
    ],
    "search_batch": [*QUERIES, "projections", "features", "fingerprint", "timeout", *OPTIONS],
    "get": ["keys", "collection", "consistency", "include_thumbnails", "timeout"],
    "exists": ["keys", "collection", "consistency", "timeout"],
    "count": ["collection", "filter", "allow_partial", "consistency", "timeout"],
    "scroll": [*SCROLL, "page_size"],
    "scroll_columns": [*SCROLL, "page_size"],
    "scroll_page": SCROLL,
    "facets": ["attribute", "collection", "filter", "limit", "allow_partial", "timeout"],
    "set_attributes": ["attributes", "collection", "keys", "filter", "if_versions", "timeout"],
    "remove_attributes": ["names", "collection", "keys", "filter", "if_versions", "timeout"],
    "change_attributes": ["attributes", "remove", "collection", "keys", "filter", "if_versions", "timeout"],
    "delete_by_filter": ["filter", "collection", "timeout"],
    "upsert": ["records", "collection", "timeout"],
    "ingest": ["records", "collection", "timeout"],
    "ingest_arrays": ["keys", "codes", "attributes", "collection", "fingerprint", "timeout"],
    "ingest_columns": ["batches", "collection", "fingerprint", "timeout"],
    "delete": ["keys", "collection", "if_versions", "timeout"],
    "create_collection": ["name", *COLLECTION, "timeout"],
    "get_collection": ["name", "timeout"],
    "get_hash_file": ["name", "timeout"],
    "list_collections": ["timeout"],
    "drop_collection": ["name", "timeout"],
    "create_alias": ["alias", "collection", "timeout"],
    "switch_alias": ["alias", "collection", "timeout"],
    "delete_alias": ["alias", "timeout"],
    "list_aliases": ["timeout"],
    "rename_collection": ["name", "new_name", "timeout"],
    "set_ttl": ["name", "ttl", "timeout"],
    "copy_collection": ["source", "target", "filter", "resume", "timeout"],
    "drain": ["partition", "undo", "timeout"],
    "backup": ["collection", "slots", "since", "timeout"],
    "restore": ["records", "collection", "fingerprint", "features", "timeout"],
    "status": ["timeout"],
}
FIELDS = {
    "ClusterStatus": [
        "cluster", "version", "partitions", "encoder", "collections", "rebalance", "coordinator", "encoders",
    ],
    "CodeSpace": [
        "bits", "backbone", "weights_digest", "layer", "preprocessing", "hash_method", "hash_digest",
        "arithmetic",
    ],
    "Collection": ["name", "code_space", "rows", "incarnation", "indexing", "ttl", "aliases"],
    "CopiedPage": ["records", "copied", "cursor"],
    "CountResult": ["count", "coverage", "warnings"],
    "Coverage": ["partitions", "answered", "rows_searched", "rows_known", "missing", "stale_ms"],
    "Facet": ["value", "count"],
    "FacetsResult": ["facets", "other_values", "other_count", "coverage", "warnings"],
    "Example": ["image", "code", "key", "box"],
    "Hit": ["key", "distance", "score", "attributes", "thumbnail"],
    "HitGroup": ["value", "hits"],
    "IngestReport": ["stored", "errors"],
    "Outcome": ["key", "error"],
    "Page": ["records", "cursor", "warnings"],
    "Record": ["key", "image", "code", "attributes", "fingerprint", "features", "thumbnail", "if_version"],
    "SearchOptions": OPTIONS,
    "SearchResult": ["hits", "coverage", "exact", "timings", "warnings", "more", "cursor", "groups"],
    "StoredRecord": ["key", "code", "attributes", "version", "thumbnail"],
    "Tls": ["ca", "certificate", "key", "server_name"],
    "Ttl": ["age_seconds", "attribute"],
}  # fmt: skip
ERRORS = """AlreadyExists Cancelled CannotStart CodeSpaceMismatch Corruption DeadlineExceeded Internal
    InvalidRequest LookalikeError NotFound Overloaded PartitionUnavailable PermissionDenied Recovering SlotMoved
    Unauthenticated UnknownFieldWarning VersionConflict"""
FILTERS = "And Equals Exists Filter In Not Or Prefix Range Scalar parse"
COMMANDS = """backup bench collection count delete demo drain evaluate facets get ingest list plan rebalance
    restore search set status up"""


def parameters(function: Any) -> list[str]:
    return [name for name in inspect.signature(function).parameters if name != "self"]


def test_package_exports_exactly_these_names() -> None:
    assert set(lookalike.__all__) == {"AsyncClient", "Client", "LookalikeError", "StoredRecords", *FIELDS}
    assert all(hasattr(lookalike, name) for name in lookalike.__all__)


@pytest.mark.parametrize(("module", "names"), [("errors", ERRORS), ("filters", FILTERS)])
def test_modules_export_these_names(module: str, names: str) -> None:
    found = importlib.import_module(f"lookalike.{module}")
    assert set(names.split()) == set(found.__all__)
    assert all(hasattr(found, name) for name in names.split())


@pytest.mark.parametrize("client", [lookalike.Client, lookalike.AsyncClient])
def test_clients_keep_their_methods_and_parameters(client: type) -> None:
    assert parameters(client) == ["address", "timeout", "api_key", "tls"]
    methods = inspect.getmembers(client, inspect.isfunction)
    found = {name: parameters(method) for name, method in methods if name[0] != "_"}
    assert found.keys() == METHODS.keys()
    for name, expected in METHODS.items():
        assert set(found[name]) - {"options"} == set(expected), name
    assert parameters(client.get)[0] == "keys"  # type: ignore[attr-defined]


@pytest.mark.parametrize(("name", "fields"), FIELDS.items())
def test_classes_keep_their_fields(name: str, fields: list[str]) -> None:
    assert [field.name for field in dataclasses.fields(getattr(lookalike, name))] == fields


def test_results_keep_their_arrays() -> None:
    for name in ("keys", "ids", "distances", "scores", "to_pandas", "_repr_html_"):
        assert hasattr(lookalike.SearchResult, name)
    for name in ("keys", "ids", "codes", "to_pandas", "_repr_html_"):
        assert hasattr(lookalike.StoredRecords, name)


def test_command_line_keeps_its_commands() -> None:
    group = importlib.import_module("typer").main.get_command(app)
    assert set(COMMANDS.split()) <= set(
        group.list_commands(group.make_context("lookalike", [], resilient_parsing=True))
    )


def test_kernel_keeps_its_methods() -> None:
    assert parameters(CodeMatrix)[:1] == ["bits"]
    assert parameters(CodeMatrix.append)[:2] == ["codes", "ids"]
    assert {"queries", "k", "threads"} <= set(parameters(CodeMatrix.search))
