"""Stands in for `systemctl`: checks that the units exist in deploy/systemd, and that one that is enabled says what
starts it. `python -m tests.deploy.systemctl`"""

from __future__ import annotations

import argparse
import configparser
import re

from tests.deploy.render import DEPLOY

UNITS = DEPLOY / "systemd"


def main() -> None:
    parser = argparse.ArgumentParser(prog="systemctl", allow_abbrev=False)
    parser.add_argument("--failed", action="store_true")
    verbs = parser.add_subparsers(dest="verb")
    verbs.add_parser("daemon-reload")
    enable = verbs.add_parser("enable")
    enable.add_argument("--now", action="store_true", required=True)
    for verb in (enable, verbs.add_parser("restart"), verbs.add_parser("edit")):
        verb.add_argument("units", nargs="+")
    given = parser.parse_args()
    assert given.failed != bool(given.verb), "give --failed or a verb"
    for unit in getattr(given, "units", ()):
        settings = configparser.ConfigParser(strict=False, interpolation=None)
        settings.read_string((UNITS / file_of(unit)).read_text())
        assert given.verb != "enable" or settings.get("Install", "WantedBy", fallback=None), unit


def file_of(unit: str) -> str:
    """The file of a unit: an instance, or all instances, of a template have the template's."""
    name = unit if re.search(r"\.(?:service|target|timer)$", unit) else f"{unit}.service"
    template = re.sub("@[^.]+", "@", name)
    assert (UNITS / template).exists(), f"there is no unit {unit}"
    assert ("@" in unit) == ("@" in template), unit
    return template


if __name__ == "__main__":
    main()
