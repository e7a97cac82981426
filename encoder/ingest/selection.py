"""Owns which of the records that were read are taken: those that meet a filter, and no more than a limit."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Protocol, TypeVar

from lookalike.model.filters import Filter
from lookalike.model.matching import matches


class _Described(Protocol):
    @property
    def fields(self) -> Mapping[str, Any]: ...


Item = TypeVar("Item", bound=_Described)


class Choice:
    """Chooses among records; counts those that the filter left out."""

    def __init__(self, where: Filter | None = None, limit: int | None = None) -> None:
        self._where = where
        self._left = limit
        self.skipped = 0

    @property
    def is_full(self) -> bool:
        """No more are taken."""
        return self._left == 0

    def of(self, items: Iterable[Item]) -> Iterator[Item]:
        """Those that are taken. What comes after the last one is not read."""
        if self.is_full:
            return
        for item in items:
            if self._where is not None and not matches(self._where, item.fields):
                self.skipped += 1
                continue
            if self._left is not None:
                self._left -= 1
            yield item
            if self.is_full:
                return
