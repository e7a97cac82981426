"""One load of each pretrained network for the tests of the lab."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.unit.encoder.networks import loaded_once


@pytest.fixture(autouse=True, scope="session")
def networks() -> Iterator[None]:
    with loaded_once():
        yield
