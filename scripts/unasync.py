"""Generates the blocking SDK client from the asynchronous one, or with --check says whether it is current."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

CLIENT = Path(__file__).parents[1] / "lookalike" / "client"
# By source, what the generated file owns.
SOURCES = {
    "async_client.py": "`Client`, the SDK for programs that wait for each answer",
    "async_ingest.py": "one ingest stream of `Client`",
    "async_search.py": "the searches of `Client`: one query, and batches of any size",
    "async_management.py": "the calls of `Client` that manage collections and partitions, and how each is retried",
}
_NOTE = """

Generated from {source} by scripts/unasync.py (`make client`): change that file, not this one."""
# (pattern, replacement), applied in this order.
_REWRITES = [
    (r"\basync (def|for|with)\b", r"\1"),
    (r"\bawait ", ""),
    (r"\basync_(ingest|management|search)\b", r"sync_\1"),
    (r" \| AsyncIterable\[Sequence\[Record\]\]", ""),
    (r"\bAsyncIterable, ", ""),
    (r"\bgrpc\.aio\b", "grpc"),
    (r"\bAsync([A-Z]\w+)", r"\1"),
    (r"\basync_batches\b", "batches"),
    (r"\bwait_async\b", "wait"),
    (r"__a(enter|exit)__", r"__\1__"),
    (r"Bound to the event loop of its first call\.", "Safe to share between threads."),
    (r"\s+An\s+asynchronous\s+iterator\s+yields\s+lists\.", ""),
]
# Ruff sorts the imports, and simplifies loops and comprehensions that only pass values on.
_FIXES = ("--quiet", "--select", "I,UP028,C416", "--fix", "--unsafe-fixes")
_LEFT_OVER = re.compile(r".*(async|await).*", re.IGNORECASE)


def generate() -> dict[Path, str]:
    """The text of each generated file, by path.

    Raises:
        ValueError: If a rewrite is unused, or an asynchronous word is left.
    """
    texts = {source: (CLIENT / source).read_text(encoding="utf-8") for source in SOURCES}
    for source, owned in SOURCES.items():
        docstring = f'"""Owns {owned}.{_NOTE.format(source=source)}"""\n'
        texts[source] = docstring + re.sub(r'\A""".*?"""\n', "", texts[source], flags=re.DOTALL)
    for pattern, replacement in _REWRITES:
        count = 0
        for source, text in texts.items():
            texts[source], found = re.subn(pattern, replacement, text, flags=re.DOTALL)
            count += found
        if not count:
            raise ValueError(f"nothing matches {pattern!r}; remove it from scripts/unasync.py")
    return {CLIENT / source.replace("async", "sync"): _checked(source, text) for source, text in texts.items()}


def _checked(source: str, text: str) -> str:
    body = text.partition('"""\n')[2]
    if left_over := _LEFT_OVER.search(body):
        raise ValueError(f"{source}: asynchronous after all rewrites: {left_over[0].strip()}")
    return _formatted(_formatted(text, "check", *_FIXES), "format")


def _formatted(text: str, *arguments: str) -> str:
    ruff = Path(sys.executable).parent / "ruff"
    command = [str(ruff), *arguments, "--stdin-filename", str(CLIENT / "sync_client.py"), "-"]
    return subprocess.run(command, input=text, capture_output=True, text=True, check=True, cwd=CLIENT).stdout


def main() -> None:
    fresh = generate()
    if "--check" not in sys.argv[1:]:
        for path, text in fresh.items():
            path.write_text(text, encoding="utf-8")
        return
    for path, text in fresh.items():
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            sys.exit(f"error: {path.name} is not current; run `make client`")
        print(f"{path.name} is current")


if __name__ == "__main__":
    main()
