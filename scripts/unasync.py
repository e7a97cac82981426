"""Generates the blocking SDK client from the asynchronous one, or with --check says whether it is current."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

CLIENT = Path(__file__).parents[1] / "lookalike" / "client"
SOURCE, TARGET = CLIENT / "async_client.py", CLIENT / "sync_client.py"
_DOCSTRING = '''"""Owns `Client`, the SDK for programs that wait for each answer.

Generated from async_client.py by scripts/unasync.py (`make client`): change that file, not this one."""
'''
# (pattern, replacement), applied in this order.
_REWRITES = [
    (r'\A""".*?"""\n', _DOCSTRING),
    (r"\basync (def|for|with)\b", r"\1"),
    (r"\bawait ", ""),
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
# Ruff sorts the imports, and replaces loops that only yield by `yield from`.
_FIXES = ("--quiet", "--select", "I,UP028", "--fix", "--unsafe-fixes")
_LEFT_OVER = re.compile(r".*(async|await).*", re.IGNORECASE)


def generate() -> str:
    """The text of sync_client.py. Raises ValueError if a rewrite is unused or an asynchronous word is left."""
    text = SOURCE.read_text(encoding="utf-8")
    for pattern, replacement in _REWRITES:
        text, count = re.subn(pattern, replacement, text, flags=re.DOTALL)
        if not count:
            raise ValueError(f"{SOURCE.name}: nothing matches {pattern!r}; remove it from scripts/unasync.py")
    if left_over := _LEFT_OVER.search(text.removeprefix(_DOCSTRING)):
        raise ValueError(f"{TARGET.name}: asynchronous after all rewrites: {left_over[0].strip()}")
    return _formatted(_formatted(text, "check", *_FIXES), "format")


def _formatted(text: str, *arguments: str) -> str:
    ruff = Path(sys.executable).parent / "ruff"
    command = [str(ruff), *arguments, "--stdin-filename", str(TARGET), "-"]
    return subprocess.run(command, input=text, capture_output=True, text=True, check=True, cwd=CLIENT).stdout


def main() -> None:
    fresh = generate()
    if "--check" not in sys.argv[1:]:
        TARGET.write_text(fresh, encoding="utf-8")
    elif TARGET.read_text(encoding="utf-8") != fresh:
        sys.exit(f"error: {TARGET.name} is not current; run `make client`")
    else:
        print(f"{TARGET.name} is current")


if __name__ == "__main__":
    main()
