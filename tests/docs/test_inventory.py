"""Every command in the documents exists, and a test runs it: in a block that a test runs, or, if it stands in a
sentence, in a line or in a comment of deploy/, in one of the tests listed here."""

from __future__ import annotations

import functools
import re
from collections import defaultdict

import pytest

from tests.docs import parsers
from tests.docs.blocks import ROOT, blocks_of
from tests.docs.inventory import DOCUMENTS, OTHER_TAGS, Command, commands, split, tags_of
from tests.docs.test_commands import DOCUMENTS as RUN_HERE
from tests.docs.test_commands import ELSEWHERE
from tests.docs.tested import NOT_RUN, TESTED

ALL = tuple(commands())
PYTHON = ("python", "python3", "python3.11")
OURS = ("lookalike", "make", *PYTHON)


@functools.cache
def signature(words: tuple[str, ...]) -> tuple[str, frozenset[str]]:
    """What is run, and the options with which; of programs other than ours, the whole command.

    Raises:
        Unknown: If it does not exist.
    """
    program, *arguments = words
    if program == "lookalike":
        path, options = parsers.lookalike_signature(arguments)
        return f"lookalike {path}".strip(), options
    if program in PYTHON and arguments[:1] == ["-m"] and arguments[1] not in ("venv", "pip"):
        options = parsers.module_options(arguments[1], arguments[2:])
        named = arguments[2:3] if arguments[1] == "benchmarks" else []
        return " ".join([*words[:2], *arguments[1:2], *named]), options
    if program == "make":
        parsers.check_make([argument.replace("MODULE", "x") for argument in arguments])
        return " ".join(words[:2]), frozenset(word.partition("=")[0] for word in words if "=" in word)
    return " ".join(words), frozenset()


@pytest.mark.parametrize("program", sorted({command.words[0] for command in ALL} & set(OURS)))
def test_each_command_exists(program: str) -> None:
    wrong = []
    for command in ALL:
        if command.words[0] == program:
            try:
                signature(command.words)
            except parsers.Unknown as error:
                wrong.append(f"{command.file}:{command.line}: {' '.join(command.words)}: {error}")
    assert not wrong, "\n".join(wrong)


def test_each_command_is_run_by_a_test() -> None:
    run = defaultdict(list)
    for words in _run_words():
        name, options = signature(words)
        run[name].append(options)
    spoken = [one for one in ALL if one.place != "block" and one.text not in NOT_RUN]
    missing = [f"{one.file}:{one.line}: {one.text}" for one in spoken if not _is_run(one, run)]
    assert not missing, "no test runs these; list one that does in tests/docs/tested.py:\n" + "\n".join(missing)


def _run_words() -> list[tuple[str, ...]]:
    """The commands of the blocks that run, and those that TESTED lists."""
    blocks = [block for file in (*RUN_HERE, *ELSEWHERE) for block in blocks_of(file)]
    running = [block.text for block in blocks if block.not_run is None and block.language == "sh"]
    bring = [one.text for one in ALL if one.file == "docs/BRING.md"]  # test_bring.py runs all of the page
    return [words for text in (*running, *bring, *TESTED) for words in split(text)]


def _is_run(command: Command, run: dict[str, list[frozenset[str]]]) -> bool:
    if len(command.words) == 2:  # it only names them
        return any(name.startswith(" ".join(command.words)) for name in run)
    name, options = signature(command.words)
    return any(options <= had for had in run[name])


@pytest.mark.parametrize("command", TESTED)
def test_the_named_test_has_the_command(command: str) -> None:
    """It exists, and it or the file around it has the subcommand and each option, or reads the document."""
    file, _, name = TESTED[command].partition("::")
    text = (ROOT / file).read_text(encoding="utf-8")
    assert re.search(rf"^\s*(?:async )?def {name}\(", text, re.MULTILINE), TESTED[command]
    (words,) = split(command)
    if any(document in text for document in {one.file for one in ALL if one.text == command}):
        return
    wanted = [word.partition("=")[0] for word in words[1:] if word.startswith("--") or word == words[1] != "-m"]
    assert not [word for word in wanted if word not in text]


def test_each_listed_command_is_in_a_document() -> None:
    known = {one.text for one in ALL}
    assert not [command for command in (*TESTED, *NOT_RUN) if command not in known]
    assert not TESTED.keys() & NOT_RUN.keys()


@pytest.mark.parametrize("file", DOCUMENTS)
def test_each_block_of_commands_belongs_to_a_test(file: str) -> None:
    for line, tag in tags_of(file):
        if tag in ("sh", "python"):
            assert file in {**RUN_HERE, **ELSEWHERE}, f"{file}:{line}: no test runs the blocks of this document"
        else:
            assert tag in OTHER_TAGS, f"{file}:{line}: tag a block of commands as sh or python, not {tag!r}"
            found = [words for words in _of_other(file, line) if words[0] in (*OURS, "curl", "kubectl", "docker")]
            assert not found or file in EXAMPLES, f"{file}:{line}: {found}: a block of commands is tagged sh"


# Pages whose steps a test of their own repeats.
EXAMPLES = ("examples/typescript/README.md",)


def _of_other(file: str, line: int) -> list[tuple[str, ...]]:
    text = (ROOT / file).read_text(encoding="utf-8")
    block = "\n".join(text.splitlines()[line:]).partition("```")[0]
    found = []
    for one in block.splitlines():
        try:
            found.extend(words for words in split(one) if len(words) > 1)
        except ValueError:  # a quotation that a line of text does not close
            continue
    return found
