"""Owns the list of all commands in the documents: in code blocks, in indented lines, in code spans of a sentence,
and in the comments of deploy/."""

from __future__ import annotations

import dataclasses
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

from tests.docs.blocks import ROOT, RUNNABLE, blocks_of

DOCUMENTS = (
    "README.md",
    *sorted(str(path.relative_to(ROOT)) for path in (ROOT / "docs").glob("*.md")),
    "benchmarks/README.md",
    "examples/typescript/README.md",
)
# The first word of a command.
PROGRAMS = frozenset(
    "buildah bash cp curl docker flock git grep grpcurl head install journalctl kill kubectl lookalike make mv npm"
    " node openssl pip podman promtool protoc ps pytest python python3 python3.11 ray rm rsync sed sh ssh sudo"
    " systemctl systemd-analyze systemd-sysusers usermod".split()
)
# The tags of blocks that have no commands.
OTHER_TAGS = ("", "json", "text", "yaml")
_FENCE = re.compile(r"^\s*(?:```+|~~~+)\s*(.*)$")
_SPAN = re.compile(r"`([^`]+)`")
_SEPARATORS = frozenset("; ;; | || & && ( ) { } do then else until while if !".split())
_HEREDOC = re.compile(r"<<-?'?(\w+)'?(.*?)\n.*?^\1$", re.DOTALL | re.MULTILINE)
_CRON = re.compile(r"^(?:[\d*/,-]+ +){5}")
_PLACEHOLDER = re.compile(r"^[A-Z][A-Z_]*(?:\.\.\.)?$|^\.\.\.$|^\[|\]$")


@dataclasses.dataclass(frozen=True, slots=True)
class Command:
    """One command as its words. place: `block` (of commands), `line` (indented), `span` (of a sentence), or
    `comment`. text: what stands in the document. line: its number in the file."""

    file: str
    line: int
    place: str
    text: str
    words: tuple[str, ...]


def commands() -> Iterator[Command]:
    """All commands of the documents and of deploy/'s comments."""
    for file in DOCUMENTS:
        yield from _of_blocks(file)
        yield from _of_prose(file)
    for path in sorted((ROOT / "deploy").rglob("*")):
        if path.is_file() and path.suffix != ".json":
            yield from _of_comments(str(path.relative_to(ROOT)))


def without_blocks(text: str) -> str:
    """A page with its code blocks blank, so that lines keep their numbers."""
    return re.sub(r"^```.*?^```", lambda found: "\n" * found[0].count("\n"), text, flags=re.DOTALL | re.MULTILINE)


def tags_of(file: str) -> Iterator[tuple[int, str]]:
    """The line and the tag of each code block."""
    is_open = False
    for number, line in enumerate((ROOT / file).read_text(encoding="utf-8").splitlines(), 1):
        if fence := _FENCE.match(line):
            is_open = not is_open
            if is_open:
                yield number, fence[1]


def split(script: str) -> Iterator[tuple[str, ...]]:
    """The commands of a shell script that begin with a known program, without assignments and redirections."""
    script = _HEREDOC.sub(r"\2", script).replace("\\\n", " ").replace('"$(', "( ").replace(')"', " )")
    words: list[str] = []
    for token in _tokens(re.sub(r"(?<!\S)#.*", "", script).replace("\n", " ; ")):
        if token not in _SEPARATORS:
            words.append(token)
            continue
        if found := _program(words):
            yield found
        words = []


def _tokens(script: str) -> Iterator[str]:
    lexer = shlex.shlex(script + " ;", posix=True, punctuation_chars=True)
    lexer.commenters, lexer.whitespace_split = "", True
    yield from lexer


def _program(words: list[str]) -> tuple[str, ...] | None:
    while words and (re.match(r"^[A-Z_]+=", words[0]) or words[0] == "sudo"):
        words = words[1:]
    if words[:2] == ["flock", "-n"]:
        words = words[3:]
    for number, word in enumerate(words):
        if set(word) <= {"<", ">", "&"} and number:
            words = words[:number]
            break
    if not words:
        return None
    words = [Path(words[0]).name if words[0].startswith("/opt/") else words[0], *words[1:]]
    return tuple(words) if words[0] in PROGRAMS or words[0].endswith(".sh") else None


def _of_blocks(file: str) -> Iterator[Command]:
    for block in blocks_of(file):
        if block.language != "python":
            for words in split(block.text):
                yield Command(file, block.line, "block", block.text, words)


def _of_prose(file: str) -> Iterator[Command]:
    prose = without_blocks((ROOT / file).read_text(encoding="utf-8"))
    for found in _SPAN.finditer(prose):
        text = " ".join(found[1].split())
        yield from _command(file, prose.count("\n", 0, found.start()) + 1, "span", text)
    for number, line in enumerate(prose.splitlines(), 1):
        if line.startswith("    "):
            yield from _command(file, number, "line", _CRON.sub("", line.strip()))


def _of_comments(file: str) -> Iterator[Command]:
    for number, line in enumerate((ROOT / file).read_text(encoding="utf-8").splitlines(), 1):
        if comment := re.match(r"^\s*(?:.*\s)?#\s*(.*)$", line):
            for span in _SPAN.findall(comment[1]):
                yield from _command(file, number, "comment", span)
            if re.match(r"^(?:docker|kubectl|lookalike|cd deploy|make|ray) [a-z]+ |^cd deploy", comment[1]):
                yield from _command(file, number, "comment", comment[1])


def _command(file: str, line: int, place: str, text: str) -> Iterator[Command]:
    """What a line or a span contains, if it is a command with at least one argument."""
    if any(quote in text for quote in ("’", "…")):
        return
    for words in split(text):
        if len(words) > 1:
            yield Command(file, line, place, text, words)


def is_placeholder(word: str) -> bool:
    """Whether a word stands for what the reader puts there, such as FILE."""
    return bool(_PLACEHOLDER.search(word))


assert RUNNABLE == ("sh", "python")
