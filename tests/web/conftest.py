"""Owns the fixtures for the web port: a REST client, collections, and a browser."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import pytest_asyncio
from playwright.async_api import Browser

from lab.demo.photographs import bundled_photographs, write_views
from lookalike import Client, Record
from tests.conftest import Cluster
from tests.web.chromium import browser, find_chromium
from tests.web.photographs import fill
from tests.web.rest import Rest

THUMBNAIL = b"\x89PNG\r\n\x1a\n and the rest"
PHOTOGRAPHS = "photographs"


@pytest.fixture
def rest(cluster: Cluster) -> Rest:
    return Rest(cluster.config.coordinator.web)


@pytest.fixture
def filled(client: Client, collection: str) -> str:
    """A collection of ten codes; k3 has a thumbnail."""
    records = [
        Record(
            f"k{number}",
            code=number.to_bytes(8, "big"),
            attributes={"number": number},
            thumbnail=THUMBNAIL if number == 3 else None,
        )
        for number in range(10)
    ]
    client.upsert(records, collection=collection)
    return collection


@pytest.fixture(scope="session")
def photograph_base(encoder_cluster: Cluster, photographs: Path) -> Iterator[str]:
    """The address of a cluster with a collection of real photographs."""
    with encoder_cluster.client(timeout=120) as client:
        # The pages open the largest collection, so drop the collections of other tests.
        for left in client.list_collections():
            client.drop_collection(left.name)
        fill(client, PHOTOGRAPHS, photographs)
        yield f"http://{encoder_cluster.config.coordinator.web}"


@pytest.fixture(scope="session")
def cat(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A view of a cat that is not in the collection."""
    chelsea = next(photograph for photograph in bundled_photographs() if photograph.name == "chelsea")
    return next(write_views(chelsea, range(1, 2), "query", tmp_path_factory.mktemp("query")))


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def chromium() -> AsyncIterator[Browser]:
    executable = find_chromium()
    if executable is None:
        pytest.skip("Chromium is not installed: apt-get install chromium")
    async with browser(executable) as running:
        yield running
