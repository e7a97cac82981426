"""Owns the network between containers: a bridge, and for each container a network namespace, an address and its
line in a hosts file, which stands for DNS.

Needs to be root in its own network and mount namespaces, with /run/netns on a file system of theirs; everything
disappears with them."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

UNSHARE = ("unshare", "--net", "--mount", "--pid", "--fork", "--mount-proc", "--kill-child")


class Network:
    """The addresses of the containers that have joined, by name."""

    def __init__(self, hosts_file: Path) -> None:
        self._addresses: dict[str, str] = {}
        self._spaces: dict[str, Path] = {}
        self._hosts_file = hosts_file
        hosts_file.write_text("127.0.0.1 localhost\n")
        run("ip", "link", "set", "lo", "up")
        run("ip", "link", "add", "bridge0", "type", "bridge")
        run("ip", "address", "add", "10.77.0.1/16", "dev", "bridge0")
        run("ip", "link", "set", "bridge0", "up")

    def join(self, name: str, aliases: tuple[str, ...] = ()) -> Path:
        """Gives a container an address, which its names resolve to; a container that has been here keeps its own.

        Returns:
            The file of its network namespace.
        """
        if name in self._spaces:
            return self._spaces[name]
        number = len(self._addresses) + 1
        address = self._addresses[name] = f"10.77.1.{number}"
        with self._hosts_file.open("a") as file:
            print(address, name, *aliases, file=file)
        space = f"n{number}"
        run("ip", "netns", "add", space)
        run("ip", "link", "add", f"v{number}", "master", "bridge0", "type", "veth", "peer", "eth0", "netns", space)
        run("ip", "link", "set", f"v{number}", "up")
        run("ip", "-n", space, "link", "set", "lo", "up")
        run("ip", "-n", space, "address", "add", f"{address}/16", "dev", "eth0")
        run("ip", "-n", space, "link", "set", "eth0", "up")
        self._spaces[name] = Path("/run/netns", space)
        return self._spaces[name]

    def address(self, name: str) -> str:
        return self._addresses[name]


def run(*command: str | os.PathLike[str]) -> None:
    subprocess.run(command, check=True)
