"""Owns asking the real programs which subcommands, options and make targets exist."""

from __future__ import annotations

import functools
import re
import subprocess
from collections.abc import Sequence

from tests.docs.blocks import ROOT
from tests.docs.inventory import is_placeholder

_MAKE = ("make", "--dry-run", "--no-print-directory", "-o", ".venv/.installed")


class Unknown(Exception):
    """A document names something that the program does not have."""


def lookalike_signature(arguments: Sequence[str]) -> tuple[str, frozenset[str]]:
    """The subcommand, such as `collection create`, and the longest names of the options that are given.

    Raises:
        Unknown: If the subcommand or an option does not exist.
    """
    path, given, words = "lookalike", set[str](), list(arguments)
    while words:
        word = words.pop(0)
        name, has_value, _ = word.partition("=")
        if re.fullmatch(r"-[a-z]|--[a-z].*", word):
            if name not in _helps()[path]:
                raise Unknown(f"{path} has no {name}")
            longest, takes_value = _helps()[path][name]
            given.add(longest)
            if takes_value and not has_value and words:
                words.pop(0)
        elif any(known.startswith(f"{path} ") for known in _helps()):
            path = f"{path} {word}"
            if path not in _helps():
                raise Unknown(f"there is no command {path}")
    return path.removeprefix("lookalike").strip(), frozenset(given)


@functools.cache
def _helps() -> dict[str, dict[str, tuple[str, bool]]]:
    """For each command its options: each name, with the longest name of the same option and whether it takes a
    value. They are those of --help: `make check` compares docs/api/CLI.md with it."""
    found: dict[str, dict[str, tuple[str, bool]]] = {}
    for section in (ROOT / "docs" / "api" / "CLI.md").read_text(encoding="utf-8").split("\n## ")[1:]:
        options = {}
        for shown in re.findall(r"^  (-.*?)(?:  .*)?$", section, re.MULTILINE):
            names = re.findall(r"(?<!\S)--?[a-z][a-z0-9-]*", shown)
            longest, last = max(names, key=len), names[-1]
            options.update(dict.fromkeys(names, (longest, not shown.endswith(last))))
        found[section.partition("\n")[0]] = options
    return found


def module_options(module: str, arguments: Sequence[str]) -> frozenset[str]:
    """The options that are given to `python -m module`. The options that exist are read from its source, because
    importing all modules takes many seconds.

    Raises:
        Unknown: If there is no such module, option or benchmark.
    """
    if module not in _SOURCES:
        raise Unknown(f"there is no module {module} to run")
    source = "".join((ROOT / file).read_text(encoding="utf-8") for file in _SOURCES[module])
    given = frozenset(word for argument in arguments for word in re.findall(r"^\[?(--[a-z0-9-]+)", argument))
    if unknown := {option for option in given if f'"{option}"' not in source}:
        raise Unknown(f"python -m {module} has no {sorted(unknown)}")
    names = [name for name in arguments[:1] if module == "benchmarks" and not is_placeholder(name)]
    if any(f'    "{name}": lambda' not in source for name in names):
        raise Unknown(f"there is no benchmark {names[0]}")
    return given


# The files in which a module's options are.
_SOURCES = {
    "benchmarks": ("benchmarks/__main__.py",),
    "benchmarks.gpu": ("benchmarks/gpu.py",),
    "coordinator": ("coordinator/__main__.py", "lookalike/server/lifecycle.py"),
    "encoder": ("encoder/__main__.py", "lookalike/server/lifecycle.py"),
    "shard": ("shard/__main__.py", "lookalike/server/lifecycle.py"),
}


def check_make(arguments: Sequence[str]) -> None:
    """Checks targets, and that the Makefile reads each variable.

    Raises:
        Unknown: If it does not.
    """
    result = subprocess.run([*_MAKE, *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
    if result.returncode:
        raise Unknown(result.stderr)
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for name in (argument.partition("=")[0] for argument in arguments if "=" in argument):
        if not re.search(rf"\$\({name}\b", makefile):
            raise Unknown(f"the Makefile does not read {name}")
