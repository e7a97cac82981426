"""Owns what a job knows of its codes: their format and kind as the user names them or as they are recognized, and
whether they may go into the collection."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterable, Sequence

import numpy as np

from encoder.ingest.code_recognition import SAMPLE_ROWS, padding_note, settle
from encoder.ingest.codes import PACKED, PLAIN, Reading
from encoder.ingest.tables.table import Table
from lookalike.jobs.export import notes
from lookalike.model.code_kinds import CodeKind, kind_of_column
from lookalike.model.codespace import CodeSpace
from lookalike.model.errors import CodeSpaceMismatch
from lookalike.model.records import Collection


def _silent(_: str) -> None:
    """Says nothing."""


@dataclasses.dataclass(frozen=True, slots=True)
class CodeOptions:
    """What is known of a job's codes.

    Attributes:
        format: Their format, one of `encoder.ingest.codes.FORMATS`; None to recognize it.
        kind: Their kind; None to recognize it by the column's name.
        target: The code space of the collection; None if it does not exist.
        say: Called with each line for the user.
    """

    format: str | None = None
    kind: CodeKind | None = None
    target: CodeSpace | None = None
    say: Callable[[str], None] = _silent

    def kind_of(self, table: Table) -> CodeKind | None:
        """Returns the kind of a table's codes; None if it is unknown."""
        return self.kind or (kind_of_column(table.naming.written("code")) if "code" in table.columns else None)

    def kind_of_all(self, tables: Sequence[Table]) -> CodeKind | None:
        """Returns the kind of the codes of all tables. Raises CodeSpaceMismatch if there are several."""
        kinds = {kind.name: kind for table in tables if (kind := self.kind_of(table)) is not None}
        if len(kinds) > 1:
            raise CodeSpaceMismatch(
                f"path: the tables' codes are of several kinds ({', '.join(sorted(kinds))}); ingest each kind in a"
                " separate job, into a collection of its own"
            )
        return next(iter(kinds.values()), None)

    def new_space(self, bits: int, tables: Sequence[Table]) -> CodeSpace:
        """Returns the code space of a new collection for the tables' codes. Raises InvalidRequest if their kind
        has another width."""
        kind = self.kind_of_all(tables)
        if kind is None:
            return CodeSpace(bits)
        self._say_kind(kind)
        return CodeSpace.of_kind(kind.name, bits)

    def require_kind(self, target: Collection, tables: Sequence[Table]) -> None:
        """Raises CodeSpaceMismatch if the tables' codes are of another kind than the collection's."""
        kind, space = self.kind_of_all(tables), target.code_space
        if kind is None or space.kind == kind:
            return
        is_unnamed = space.kind is None and space.backbone == space.hash_method == "external"
        if self.kind is None and is_unnamed:
            self._say_kind(kind)
            return
        found = (
            "codes of no known kind"
            if is_unnamed
            else f"{space.kind.name if space.kind else space.backbone} codes"
        )
        raise CodeSpaceMismatch(
            f"code_kind: collection {target.name!r} holds {found} ({space.hash_method}, {space.bits} bits), the"
            f" job's are {kind.name} codes, and distances between the two have no meaning; name another collection"
        )

    def _say_kind(self, kind: CodeKind) -> None:
        if self.kind is None:
            self.say(f"code_kind: the column's name says that the codes are {kind.name}; --code-kind overrides it")


class CodeReader:
    """Decides how one table's codes are read, from the first rows that have codes.

    Attributes:
        reading: How the table's codes are read.
    """

    def __init__(self, table: Table, options: CodeOptions) -> None:
        self.reading: Reading = PLAIN
        self._is_exported = notes.read(table.notes) is not None
        self._column = table.naming.written("code")
        self._kind = options.kind_of(table) or (options.target.kind if options.target else None)
        self._options = options

    def see(self, values: Iterable[object], element: str = "") -> None:
        """Decides the reading from codes, unless an earlier call did. Raises InvalidRequest if their format is
        ambiguous.

        Args:
            values: Codes; None is ignored.
            element: "int8", "uint8" or "bool", if lists are known to hold this type.
        """
        if self.reading is not PLAIN:
            return
        sample = list(itertools.islice((value for value in values if value is not None), SAMPLE_ROWS))
        if not sample:
            return
        if isinstance(sample[0], np.ndarray):
            element = sample[0].dtype.name
        options = self._options
        self.reading = settle(
            sample,
            self._column,
            element=element,
            format=PACKED if self._is_exported else options.format,
            kind=self._kind,
            bits=None if options.target is None else options.target.bits,
        )
        if note := padding_note(self.reading, self._column):
            options.say(note)
