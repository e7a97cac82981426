"""Owns exact nearest-row search by Hamming distance. It works on arrays, and does not depend on gRPC, the store or
the config."""

from shard.kernel import grouped, weighted
from shard.kernel.chunk import Selection
from shard.kernel.matrix import CodeMatrix
from shard.kernel.row_index import RowIndex
from shard.kernel.search import Matches, Search
from shard.kernel.view import (
    ScanStopped,
    View,
    count_selected,
    live_rows,
    mask_by_id,
    rows_with_ids,
    selected_rows,
)

__all__ = [
    "CodeMatrix",
    "Matches",
    "RowIndex",
    "ScanStopped",
    "Search",
    "Selection",
    "View",
    "count_selected",
    "grouped",
    "live_rows",
    "mask_by_id",
    "rows_with_ids",
    "selected_rows",
    "weighted",
]
