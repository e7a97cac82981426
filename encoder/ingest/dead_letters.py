"""Owns the dead letters of a batch job: what was not stored, and why, as a manifest that can be ingested again."""

from __future__ import annotations

import collections
import contextlib
import json
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from lookalike.model.errors import CannotStart


class DeadLetters:
    """Writes a JSON line {"key", "uri", "attributes", "reason"} for each record that was not stored, and its
    `code` in hexadecimal if it had one. Thread-safe. Raises CannotStart when the file cannot be written, as on a
    full disk."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.count = 0
        self._reasons: collections.Counter[str] = collections.Counter()
        self._examples: dict[str, str] = {}
        with self._explained():
            self._file = path.open("w", encoding="utf-8")
        self._writing = threading.Lock()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # close() flushes the buffer, which fails again if the disk is still full.
        with self._explained():
            self._file.close()

    def add(
        self, uri: str, key: str | None, reason: str, fields: Mapping[str, Any] | None = None, code: bytes = b""
    ) -> None:
        """Adds a line.

        Args:
            uri: The URI of the image; or TABLE#row=N, which names a row of a table.
            key: The record's key, None if it has none.
            reason: Why the record was not stored.
            fields: The record's attributes.
            code: The record's code, empty if it has none.
        """
        line: dict[str, Any] = {"key": key, "uri": uri, "attributes": fields or {}, "reason": reason}
        if code:
            line["code"] = code.hex()
        with self._writing, self._explained():
            self.count += 1
            self._reasons[reason] += 1
            self._examples.setdefault(reason, key or uri)
            # ASCII, because the text may be invalid Unicode.
            self._file.write(json.dumps(line) + "\n")
            self._file.flush()

    def commonest(self) -> str:
        """The commonest reason, how often it occurs, and an example. Requires `count` > 0."""
        ((reason, count),) = self._reasons.most_common(1)
        return f"{count:,} of {self.count:,}, for example {self._examples[reason]!r}: {reason}"

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise CannotStart(
                f"dead-letters: {self.path} cannot be written to ({error.strerror}); name another file"
            ) from None
