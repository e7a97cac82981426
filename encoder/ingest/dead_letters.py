"""Owns the dead letters of a batch job: what has no record, and why, as a manifest that a job can be run from
again."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from lookalike.model.errors import CannotStart


class DeadLetters:
    """A JSON line {"key", "uri", "attributes", "reason"} for each; with its code in hexadecimal for one that has
    one. Threads may share it. A file that cannot be written to, as on a full disk, raises CannotStart."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.count = 0
        with self._explained():
            self._file = path.open("w", encoding="utf-8")
        self._writing = threading.Lock()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # Once more tries to write what could not be.
        with self._explained():
            self._file.close()

    def add(
        self, uri: str, key: str | None, reason: str, fields: Mapping[str, Any] | None = None, code: bytes = b""
    ) -> None:
        """uri: of the image, or of the row. key: None where there is none."""
        line: dict[str, Any] = {"key": key, "uri": uri, "attributes": fields or {}, "reason": reason}
        if code:
            line["code"] = code.hex()
        with self._writing, self._explained():
            self.count += 1
            # Whatever it is that is wrong with a text, the line is ASCII.
            self._file.write(json.dumps(line) + "\n")
            self._file.flush()

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise CannotStart(
                f"dead-letters: {self.path} cannot be written to ({error.strerror}); name another file"
            ) from None
