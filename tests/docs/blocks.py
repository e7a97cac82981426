"""Owns reading code blocks from Markdown. `<!-- not run: REASON -->` on the line before a block skips it."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
RUNNABLE = ("sh", "python")
_FENCE = re.compile(r"^```(\w*)\s*$")
_NOT_RUN = re.compile(r"^<!-- not run: (\S.*) -->$")


@dataclasses.dataclass(frozen=True, slots=True)
class Block:
    """A block of commands, or a program. line: the number of its first line in the file. not_run: why it is not
    run, if so."""

    file: str
    line: int
    language: str
    text: str
    not_run: str | None


def blocks_of(file: str) -> Iterator[Block]:
    """The blocks of a file (its path below the repository) that are commands or programs, in order."""
    lines = (ROOT / file).read_text(encoding="utf-8").splitlines()
    start: int | None = None
    language = ""
    for number, line in enumerate(lines):
        fence = _FENCE.match(line)
        if start is None and fence:
            start, language = number + 1, fence[1]
        elif start is not None and line == "```":
            if language in RUNNABLE:
                mark = _NOT_RUN.match(lines[start - 2]) if start >= 2 else None
                text = "\n".join(lines[start:number]) + "\n"
                yield Block(file, start + 1, language, text, mark[1] if mark else None)
            start = None
    assert start is None, f"{file}: the block at line {start} has no end"
