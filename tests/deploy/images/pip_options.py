"""Owns the options of `buildah bud` with which pip in a build is configured as on this machine: one config file of
the settings in effect, and the files and folders that they name. `python -m tests.deploy.images.pip_options WORK`
prints them."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from urllib.parse import unquote, urlsplit


def main() -> None:
    work = Path(sys.argv[1])
    config = work / "pip.conf"
    listed = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"], check=True, capture_output=True, text=True
    )
    settings = settings_of(listed.stdout)
    config.write_text(content(settings))
    print(f"--volume={config}:/etc/pip.conf:ro")
    for path in sorted(set(named_paths(settings))):
        print(f"--volume={path}:{path}:ro")


def settings_of(listed: str) -> dict[str, str]:
    """The settings for all of pip's commands, from what `pip config list` prints. Environment variables win."""
    settings: dict[str, str] = {}
    for prefix in ("global.", ":env:."):
        for line in listed.splitlines():
            key, _, value = line.partition("=")
            if key.startswith(prefix) and key != ":env:.config-file":
                settings[key.removeprefix(prefix)] = ast.literal_eval(value)
    return settings


def content(settings: Mapping[str, str]) -> str:
    """The config file: further lines of a value are indented."""
    lines = (f"{key} = " + value.replace("\n", "\n    ") for key, value in settings.items())
    return "\n".join(["[global]", *lines, ""])


def named_paths(settings: Mapping[str, str]) -> Iterator[Path]:
    """The existing files and folders in the values. An index in files points to its siblings."""
    for value in settings.values():
        for word in value.split():
            parts = urlsplit(word)
            path = Path(unquote(parts.path)).parent if parts.scheme == "file" else Path(word)
            if path.is_absolute() and path != Path("/") and path.exists():
                yield path


if __name__ == "__main__":
    main()
