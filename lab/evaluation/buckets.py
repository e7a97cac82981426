"""Owns the paper's alternative to a scan (see `paper`): hash tables whose buckets give the candidates, which are
then ranked by Hamming distance. Such a search compares fewer codes than a scan and may miss results; the
evaluation measures how many results it misses."""

from __future__ import annotations

import collections
import dataclasses

import numpy as np
import numpy.typing as npt

Codes = npt.NDArray[np.uint8]


@dataclasses.dataclass(frozen=True, slots=True)
class Layout:
    """`tables` tables, each keyed by `key_bits` random bits of a code."""

    tables: int
    key_bits: int

    def __str__(self) -> str:
        return f"{self.tables}x{self.key_bits}"


class HashTables:
    """Tables over packed codes, uint8 (n, bits/8)."""

    def __init__(self, codes: Codes, layout: Layout, seed: int = 0) -> None:
        self._codes = codes
        random = np.random.RandomState(seed)
        bits = codes.shape[1] * 8
        count = min(layout.key_bits, bits)
        self._drawn = [random.permutation(bits)[:count] for _ in range(layout.tables)]
        self._tables: list[dict[bytes, list[int]]] = []
        for drawn in self._drawn:
            table: dict[bytes, list[int]] = collections.defaultdict(list)
            for row, key in enumerate(_keys(codes, drawn)):
                table[key].append(row)
            self._tables.append(dict(table))

    def search(self, query: Codes, k: int) -> tuple[npt.NDArray[np.int64], int]:
        """Searches the candidates of one query.

        Args:
            query: A packed code, uint8 (bits/8,).
            k: The number of results.

        Returns:
            The rows of the nearest k candidates, (k,), ordered by (distance, row), padded with -1;
            and the number of candidates.
        """
        rows: set[int] = set()
        for drawn, table in zip(self._drawn, self._tables, strict=True):
            rows.update(table.get(_keys(query[None], drawn)[0], ()))
        candidates = np.array(sorted(rows), np.int64)
        distances = np.bitwise_count(self._codes[candidates] ^ query).sum(axis=1, dtype=np.int64)
        found = candidates[np.argsort(distances, kind="stable")[:k]]
        return np.concatenate([found, np.full(k - len(found), -1)]), len(candidates)


def _keys(codes: Codes, drawn: npt.NDArray[np.int64]) -> list[bytes]:
    chosen = np.packbits(np.unpackbits(codes, axis=1)[:, drawn], axis=1)
    return [row.tobytes() for row in chosen]
