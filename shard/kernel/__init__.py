"""Owns exact nearest-row search by Hamming distance. It works on arrays, and does not depend on gRPC, the store or
the config."""

from shard.kernel import weighted
from shard.kernel.chunk import Selection
from shard.kernel.matrix import CodeMatrix
from shard.kernel.row_index import RowIndex
from shard.kernel.search import Matches
from shard.kernel.view import ScanStopped, View, count_selected, live_rows, mask_by_id, selected_rows

__all__ = [
    "CodeMatrix",
    "Matches",
    "RowIndex",
    "ScanStopped",
    "Selection",
    "View",
    "count_selected",
    "live_rows",
    "mask_by_id",
    "selected_rows",
    "weighted",
]
