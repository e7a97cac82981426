"""Owns what a table is: a file whose rows are dicts of plain values, under the names that `encoder.ingest.rows`
knows."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence

from encoder.ingest.sources import explained
from encoder.ingest.tables.naming import AS_WRITTEN, Kind, Naming, Row

BATCH_ROWS = 1_024


@dataclasses.dataclass(frozen=True, slots=True)
class Format:
    """A format of tables.

    Attributes:
        name: Its name, as `--format` takes it.
        endings: The endings of such files' names, in lower case.
        open: Returns a table, given the file's URL and signature; reads the columns, but not all rows.
        rows: Reads all rows in order, in batches, under the names in the file.
    """

    name: str
    endings: tuple[str, ...]
    open: Callable[[str, str], Table]
    rows: Callable[[Table], Iterator[list[Row]]]


@dataclasses.dataclass(frozen=True, slots=True)
class Table:
    """A file of rows.

    Attributes:
        url: The file's URL.
        format: Its format.
        kinds: What each column holds, by its name in the file. Without a schema, the first rows decide.
        signature: A text that changes when the file does.
        notes: The file's own metadata.
        naming: What the columns mean.
        keys: The path or URL of a file with the keys of a file of vectors.
    """

    url: str
    format: Format
    kinds: Mapping[str, Kind]
    signature: str
    notes: Mapping[str, str] = dataclasses.field(default_factory=dict)
    naming: Naming = AS_WRITTEN
    keys: str | None = None

    @property
    def columns(self) -> frozenset[str]:
        """The names of the columns that are used, as `encoder.ingest.rows` knows them."""
        return frozenset(self.naming.renamed(name) for name in self.kinds if name not in self.naming.left_out)

    @property
    def image_column(self) -> str | None:
        """The name in the file of the column that holds image files; None if none does."""
        name = self.naming.written("image")
        return name if self.kinds.get(name) in ("bytes", "image") else None

    @property
    def folder(self) -> str:
        """The folder that relative URIs start from."""
        return self.url.rpartition("/")[0]

    def batches(self) -> Iterator[list[Row]]:
        """Yields all rows in order, in batches. Raises InvalidRequest when the file cannot be read."""
        with explained(self.url):
            for batch in self.format.rows(self):
                yield [self.naming.applied(row) for row in batch]


def columns_of(tables: Sequence[Table]) -> frozenset[str]:
    """The columns of all tables."""
    return frozenset().union(*(table.columns for table in tables))
