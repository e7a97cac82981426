"""The declared metrics: consistently named, explained in the documentation, and bounded in number."""

from __future__ import annotations

from pathlib import Path

import pytest

from lookalike.server.observe import metrics
from lookalike.server.observe.metrics import (
    MAX_COLLECTIONS,
    OTHER,
    CollectionLabels,
    Declared,
    Gauges,
    by_collection,
)

DOCUMENT = Path(__file__).parents[5] / "docs" / "OBSERVABILITY.md"
EVERYONES = [metrics.EVERY, metrics.COORDINATOR, metrics.SHARD, metrics.ENCODER]


def table(declarations: metrics.Declarations) -> str:
    """The table of one kind of process, as the documentation has it."""
    lines = [f"### {declarations.who}", "", "| metric | kind | labels | meaning |", "|---|---|---|---|"]
    for one in declarations.all:
        lines.append(f"| `{one.name}` | {one.kind} | {', '.join(one.labels)} | {one.text} |")
    return "\n".join(lines)


@pytest.mark.parametrize("declarations", EVERYONES, ids=lambda one: one.who)
def test_documentation_has_every_metric_as_declared(declarations: metrics.Declarations) -> None:
    wanted = table(declarations)
    assert wanted in DOCUMENT.read_text(), f"docs/OBSERVABILITY.md needs:\n\n{wanted}"


def test_names_follow_the_conventions() -> None:
    names = [one.name for declarations in EVERYONES for one in declarations.all]
    assert len(set(names)) == len(names)
    for one in (one for declarations in EVERYONES for one in declarations.all):
        assert one.name.startswith("lookalike_")
        assert one.name.endswith("_total") == (one.kind == "counter")
        assert not {"key", "id", "request_id"} & set(one.labels)


def test_collections_beyond_the_first_hundred_share_a_label() -> None:
    labels = CollectionLabels()
    given = [labels.of(f"c{i}") for i in range(MAX_COLLECTIONS + 50)]
    assert len(set(given)) == MAX_COLLECTIONS + 1
    assert given[-1] == OTHER
    assert labels.of("c0") == "c0"
    counted = by_collection({f"c{i:04}": i for i in range(MAX_COLLECTIONS + 50)})
    assert len(counted) == MAX_COLLECTIONS + 1
    assert len(counted[OTHER]) == 50
    assert sum(map(len, counted.values())) == MAX_COLLECTIONS + 50


def test_gauges_are_read_at_each_scrape() -> None:
    queue: list[int] = []
    waiting = Declared("lookalike_waiting", "gauge", "What waits.", ("queue",))
    gauges = Gauges(lambda: [(waiting, ("a",), len(queue))], lambda: [(waiting, ("b",), 7)])
    assert [[sample.value for sample in family.samples] for family in gauges.collect()] == [[0, 7]]
    queue += [1, 2]
    assert [[sample.value for sample in family.samples] for family in gauges.collect()] == [[2, 7]]
