"""Runs `lookalike` with the processes of its cluster forked from one that has imported their packages."""

from lookalike.cli import main
from lookalike.local import process as spawner
from tests import preloaded

if __name__ == "__main__":
    assert hasattr(spawner, "subprocess")
    spawner.subprocess = preloaded
    main()
