"""Owns a process that holds ever more, or lets go of what it took.

Run `python -m tests.soak.watched_child FOLDER leak`, or `flat`."""

from __future__ import annotations

import pathlib
import sys
import threading
import time
from typing import Any

_SECONDS = 0.02
_BYTES = 500_000
_KEPT = 5


def main() -> None:
    folder, is_leaking = pathlib.Path(sys.argv[1]), sys.argv[2] == "leak"
    held: list[Any] = []
    ends: list[threading.Event] = []
    while True:
        end = threading.Event()
        threading.Thread(target=end.wait, daemon=True).start()
        ends.append(end)
        held.append((bytearray(b"x") * _BYTES, (folder / "log-wal").open("ab")))
        held[-1][1].write(bytes(_BYTES))
        held[-1][1].flush()
        if not is_leaking and len(held) > _KEPT:
            for _, file in held:
                file.truncate(0)
                file.close()
            for one in ends:
                one.set()
            held.clear()
            ends.clear()
        print(len(held), flush=True)
        time.sleep(_SECONDS)


if __name__ == "__main__":
    main()
