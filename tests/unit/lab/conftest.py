"""Fixtures for the tests of the lab: networks are loaded once, and BLAS uses one thread."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from threadpoolctl import threadpool_limits

from tests.unit.encoder.networks import loaded_once


@pytest.fixture(autouse=True, scope="package")
def networks() -> Iterator[None]:
    with loaded_once():
        yield


@pytest.fixture(autouse=True, scope="package")
def one_thread() -> Iterator[None]:
    """BLAS's threads spin while they wait for each other, which takes minutes on a busy machine."""
    with threadpool_limits(1):
        yield
