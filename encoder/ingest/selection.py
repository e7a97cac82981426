"""Owns which records a job takes: those that match a filter, up to a limit."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Protocol, TypeVar

from lookalike.model.filters import Filter
from lookalike.model.matching import matcher


class _HasFields(Protocol):
    @property
    def key(self) -> str: ...
    @property
    def fields(self) -> Mapping[str, Any]: ...


Item = TypeVar("Item", bound=_HasFields)


class Selection:
    """Selects items by their fields. The limit holds for all calls of `apply` together. skipped: the number of
    items that the filter left out."""

    def __init__(self, where: Filter | None = None, limit: int | None = None) -> None:
        self._where = None if where is None else matcher(where)
        self._left = limit
        self.skipped = 0

    @property
    def is_full(self) -> bool:
        """Whether the limit is reached."""
        return self._left == 0

    @property
    def has_filter(self) -> bool:
        """Whether records are selected by their attributes."""
        return self._where is not None

    def take(self, count: int) -> int:
        """Selects the next `count` records, or as many as the limit leaves. Returns how many."""
        if self._left is not None:
            count = min(count, self._left)
            self._left -= count
        return count

    def apply(self, items: Iterable[Item]) -> Iterator[Item]:
        """Yields the selected items. Stops reading `items` once the limit is reached."""
        if self.is_full:
            return
        for item in items:
            if self._where is not None and not self._where(item.fields, item.key):
                self.skipped += 1
                continue
            if self._left is not None:
                self._left -= 1
            yield item
            if self.is_full:
                return
