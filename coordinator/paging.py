"""Owns the cursors of searches: the place of the last hit, the query's code, and a digest of the search that they
belong to.

A cursor contains the code that the first page was searched with. So all pages have one order, even if the query's
record is overwritten or deleted in the meantime, and an image is encoded only once."""

from __future__ import annotations

import hashlib
import struct

import numpy as np

from coordinator import cursors
from coordinator.catalog import NotInLayout
from coordinator.scoring import ScoringPlan
from lookalike.cluster.hits import HitTable
from lookalike.cluster.scan import Codes, Inputs, Place, Scoring
from lookalike.model.codespace import CodeSpace
from lookalike.model.errors import InvalidRequest
from lookalike.model.query import Query
from lookalike.model.records import check_key
from lookalike.model.search_options import SearchOptions

_MARK = b"s"
# The digest, the place's value, and the sizes of the place's key and of the code. What remains are the inputs.
_HEAD = struct.Struct("<16sdHH")
_WEIGHT = np.dtype("<u2")
# Two images that have the same length and these same bytes at both ends are taken for one.
_IMAGE_ENDS = 64 * 1024


def check(options: SearchOptions, plan: ScoringPlan) -> None:
    """Raises InvalidRequest if the search cannot be paged as its options ask."""
    if not options.after:
        return
    if plan.reranks:
        raise InvalidRequest(
            "after: a rerank orders only its candidates, so it has no next page; raise k, use offset, or leave the"
            " rerank out"
        )
    if options.offset:
        raise InvalidRequest("offset: is given with after, which already says where to start; leave it out")


def cursor(
    collection: str,
    query: Query,
    options: SearchOptions,
    space: CodeSpace,
    codes: Codes,
    inputs: Inputs | None,
    hits: HitTable,
) -> str:
    """Returns the cursor of the page that follows these hits, of which there is at least one."""
    value = hits.ranks[-1] if len(hits.ranks) else hits.distances[-1]
    key, code = str(hits.keys[-1]).encode(), codes.tobytes()
    head = _HEAD.pack(_digest(collection, query, options, space), float(value), len(key), len(code))
    weights = b"" if inputs is None else inputs.astype(_WEIGHT, copy=False).tobytes()
    return cursors.seal(_MARK, head + key + code + weights)


def resume(
    collection: str, query: Query, options: SearchOptions, space: CodeSpace, plan: ScoringPlan
) -> tuple[Codes, Inputs | None, Place]:
    """Decodes `options.after`.

    Returns:
        The query's code, uint8 (1, bits/8), its inputs, and the place after which the page starts.

    Raises:
        InvalidRequest: If it is not a cursor, or belongs to another search.
    """
    content = cursors.unseal(_MARK, options.after, "after", "an answer")
    digest, value, key_size, code_size = _HEAD.unpack_from(content.ljust(_HEAD.size, b"\0"))
    if digest != _digest(collection, query, options, space):
        raise NotInLayout(
            "after: is the cursor of another search; send the collection, the query, max_distance, filter, score"
            " and exclude_keys that it came with, or leave it out to start again"
        )
    key_end = _HEAD.size + key_size
    code_end = key_end + code_size
    weights = np.frombuffer(content[code_end : code_end + (len(content) - code_end) // 2 * 2], _WEIGHT)
    is_weighted = plan.scoring is Scoring.ASYMMETRIC or len(query.parts) > 1
    expected = space.bits if is_weighted else 0
    is_whole = code_size == space.code_bytes and code_end <= len(content) and len(weights) == expected
    if not is_whole or not 0 <= value <= space.bits:
        raise InvalidRequest("after: is damaged; leave it out to start again")
    key = check_key(content[_HEAD.size : key_end].decode(errors="replace"))
    codes = np.frombuffer(content[key_end:code_end], np.uint8).reshape(1, -1)
    return codes, weights.reshape(1, -1) if expected else None, Place(value, key)


def _digest(collection: str, query: Query, options: SearchOptions, space: CodeSpace) -> bytes:
    """A digest of everything that the order of the hits depends on."""
    given = (
        collection, space.fingerprint, len(query.not_like), options.max_distance, options.condition,
        options.score, options.exclude_keys,
    )  # fmt: skip
    digest = hashlib.blake2b(repr(given).encode(), digest_size=16)
    for part in query.parts:
        image = part.image or b""
        digest.update(repr((part.key, part.code, part.projections, part.box, len(image))).encode())
        digest.update(image[:_IMAGE_ENDS])
        digest.update(image[-_IMAGE_ENDS:])
    return digest.digest()
