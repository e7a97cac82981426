"""Owns the codecs, which convert the project's data classes to and from the generated protobuf messages.

Decoding checks types and the sizes of packed arrays. Most rules about values are checked where the values are
used."""

from lookalike.wire.public.answers import (
    coverage_from_wire,
    coverage_to_wire,
    outcome_from_wire,
    outcome_to_wire,
    outcomes_to_wire,
    result_from_wire,
    status_from_wire,
    status_to_wire,
    stored_record_from_wire,
    stored_record_to_wire,
)
from lookalike.wire.public.collections import (
    collection_from_wire,
    collection_to_wire,
    indexing_from_wire,
    indexing_to_wire,
    space_from_wire,
    space_to_wire,
)
from lookalike.wire.public.columns import columns_from_wire, columns_to_wire
from lookalike.wire.public.filters import filter_from_wire, filter_to_wire
from lookalike.wire.public.requests import (
    consistency_from_wire,
    consistency_to_wire,
    image_bytes,
    options_from_wire,
    options_to_wire,
    query_to_wire,
    record_to_wire,
)
from lookalike.wire.public.searches import (
    draft_from_wire,
    hits_to_wire,
    query_from_wire,
    timings_to_wire,
)
from lookalike.wire.shard.dumps import (
    dump_part_from_wire,
    dump_request_to_wire,
    head_to_wire,
    mark_from_wire,
    mark_to_wire,
)
from lookalike.wire.shard.membership import (
    generations_from_wire,
    generations_to_wire,
    hand_over_from_wire,
    slots_from_wire,
    state_from_wire,
    state_to_wire,
    table_from_wire,
    table_to_wire,
    target_from_wire,
    target_to_wire,
)
from lookalike.wire.shard.rows import (
    listing_from_wire,
    listing_to_wire,
    numbers_from_wire,
    numbers_to_wire,
)
from lookalike.wire.shard.scans import (
    scan_group_from_wire,
    scan_group_to_wire,
    scan_result_from_wire,
    scan_result_to_wire,
    versioned_from_wire,
    versioned_to_wire,
)
from lookalike.wire.shard.writes import (
    write_from_wire,
    write_result_from_wire,
    write_result_to_wire,
    write_to_wire,
)

__all__ = [
    "collection_from_wire",
    "collection_to_wire",
    "columns_from_wire",
    "columns_to_wire",
    "consistency_from_wire",
    "consistency_to_wire",
    "coverage_from_wire",
    "coverage_to_wire",
    "draft_from_wire",
    "dump_part_from_wire",
    "dump_request_to_wire",
    "filter_from_wire",
    "filter_to_wire",
    "generations_from_wire",
    "generations_to_wire",
    "hand_over_from_wire",
    "head_to_wire",
    "hits_to_wire",
    "image_bytes",
    "indexing_from_wire",
    "indexing_to_wire",
    "listing_from_wire",
    "listing_to_wire",
    "mark_from_wire",
    "mark_to_wire",
    "numbers_from_wire",
    "numbers_to_wire",
    "options_from_wire",
    "options_to_wire",
    "outcome_from_wire",
    "outcome_to_wire",
    "outcomes_to_wire",
    "query_from_wire",
    "query_to_wire",
    "record_to_wire",
    "result_from_wire",
    "scan_group_from_wire",
    "scan_group_to_wire",
    "scan_result_from_wire",
    "scan_result_to_wire",
    "slots_from_wire",
    "space_from_wire",
    "space_to_wire",
    "state_from_wire",
    "state_to_wire",
    "status_from_wire",
    "status_to_wire",
    "stored_record_from_wire",
    "stored_record_to_wire",
    "table_from_wire",
    "table_to_wire",
    "target_from_wire",
    "target_to_wire",
    "timings_to_wire",
    "versioned_from_wire",
    "versioned_to_wire",
    "write_from_wire",
    "write_result_from_wire",
    "write_result_to_wire",
    "write_to_wire",
]
