"""Owns the units in which tests are given to workers: all tests of a unit run on one worker, in order.

A file is a unit, because its tests share fixtures. Tests that need torch and Ray in several processes are one unit
over several files, so that the encoder cluster starts once and one process imports both for all. A test of a file
that shares nothing is a unit of its own.

pytest-xdist 3.8.0 has marks for this (`--dist loadgroup`), but they have no effect with pytest 9.2.0: xdist
appends the group to `Item._nodeid`, which that version of pytest does not read."""

from __future__ import annotations

import pytest
from xdist.scheduler import LoadScopeScheduling

ENCODER = "encoder"
_ENCODER_TESTS = (
    "tests/cluster/test_encoder.py",
    "tests/cluster/test_image_queries.py",
    "tests/cluster/test_encoders.py",
    "tests/cluster/test_batch_images.py",
    "tests/cluster/test_copies.py",
    "tests/cluster/test_mixed_folder.py",
    "tests/cluster/test_new_files.py",
    "tests/cluster/test_sync.py",
    "tests/cluster/test_observe.py::test_the_encoder_reports_images_and_replicas",
    "tests/cluster/test_tracing.py::test_a_trace_spans_the_encoder",
    "tests/deploy/test_rayservice.py",
    "tests/faults/test_background_tasks.py::test_replica_watch_of_the_encoder_restarts_and_exits_on_a_bug",
    "tests/web/test_docs.py",
    "tests/web/test_search_page.py",
    "tests/web/test_query_page.py",
    "tests/docs/test_commands.py::test_commands_of_a_document_run[README.md]",
    "tests/docs/test_commands.py::test_commands_of_a_document_run[docs/QUICKSTART.md]",
    "tests/docs/test_commands.py::test_commands_of_a_document_run[docs/GRPC.md]",
    "tests/docs/test_commands.py::test_commands_of_a_document_run[docs/PYTHON.md]",
)
# Long tests first: a long one that starts last would run alone.
_INDEPENDENT = (
    "tests/docs/test_commands.py",
    "tests/deploy/test_real_processes.py",
    "tests/faults/test_background_tasks.py",
    "tests/faults/test_resharding.py",
    "tests/faults/test_chaos_short.py",
    "tests/faults/test_soak_short.py",
    "tests/cluster/test_admission.py",
)


class UnitScheduling(LoadScopeScheduling):
    """Gives whole units to workers, in the order of collection."""

    def _split_scope(self, nodeid: str) -> str:
        return unit_of(nodeid)


def unit_of(nodeid: str) -> str:
    """The name of the unit that a test belongs to."""
    if nodeid.startswith(_ENCODER_TESTS):
        return ENCODER
    return nodeid if nodeid.startswith(_INDEPENDENT) else nodeid.partition("::")[0]


def start_order(item: pytest.Item) -> int:
    """The sort key that puts the longest units first."""
    if unit_of(item.nodeid) == ENCODER:
        return 0
    if item.nodeid.startswith(_INDEPENDENT):
        return 1
    return 3 if item.nodeid.startswith("tests/unit/") else 2
