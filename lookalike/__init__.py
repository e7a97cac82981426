"""The Python SDK of Lookalike. `Client` and `AsyncClient` call a cluster's coordinators. They accept `Record` and
`SearchOptions`, return `SearchResult` with its `Hit`s and `Coverage`, and raise the errors of
`lookalike.errors`."""

from lookalike.client.arrays import IngestReport
from lookalike.client.async_client import AsyncClient
from lookalike.client.sync_client import Client
from lookalike.model.codespace import CodeSpace
from lookalike.model.errors import LookalikeError
from lookalike.model.query import Example
from lookalike.model.records import (
    Collection,
    CopiedPage,
    CountResult,
    Coverage,
    Facet,
    FacetsResult,
    Outcome,
    Page,
    Record,
    StoredRecord,
)
from lookalike.model.results import Hit, HitGroup, SearchResult, StoredRecords
from lookalike.model.search_options import SearchOptions
from lookalike.model.status import ClusterStatus
from lookalike.model.ttl import Ttl
from lookalike.transport.tls import Tls

__all__ = [
    "AsyncClient",
    "Client",
    "ClusterStatus",
    "CodeSpace",
    "Collection",
    "CopiedPage",
    "CountResult",
    "Coverage",
    "Example",
    "Facet",
    "FacetsResult",
    "Hit",
    "HitGroup",
    "IngestReport",
    "LookalikeError",
    "Outcome",
    "Page",
    "Record",
    "SearchOptions",
    "SearchResult",
    "StoredRecord",
    "StoredRecords",
    "Tls",
    "Ttl",
]
