"""Owns the network of the processes: loopback, or separate hosts whose connections can be cut.

A host is a network namespace, connected to the others by a bridge. The replicas with the same index share a host,
because their address consists only of {replica} and {partition}; each coordinator has its own. The harness's own
calls come from the bridge and are never cut.

A cut redirects the sender's packets to an unused hardware address, so that they are dropped silently, on open
connections and on new ones; the other direction works until it is cut too. A blackhole route would not do: the
sender would get an error at once."""

from __future__ import annotations

import random
import subprocess
from collections.abc import Iterable, Sequence
from typing import Protocol

from lookalike.local.ephemeral import is_free
from tests.chaos.settings import MAX_COORDINATORS, MAX_PARTITIONS, MAX_REPLICAS

NOT_PERMITTED = "network faults: skipped; network namespaces are not permitted here"
_UNUSED_HARDWARE_ADDRESS = "02:00:00:00:00:01"
_LINK = "link0"
# Port ranges (in thousands) below the kernel's ephemeral port range.
_THOUSANDS = range(11, 32)


class Network(Protocol):
    """Hosts and their addresses. `shard_address` is the template for the config."""

    shard_address: str
    encoder_address: str
    hosts: Sequence[str]

    def coordinator_address(self, index: int) -> str: ...
    def coordinator_web(self, index: int) -> str: ...
    def prefix(self, host: str) -> tuple[str, ...]: ...
    def cut(self, sender: str, receiver: str) -> None: ...
    def heal(self) -> None: ...
    def close(self) -> None: ...


def replica_host(replica: int) -> str:
    return f"replica{replica}"


def coordinator_host(index: int) -> str:
    return f"coordinator{index}"


def has_traffic(sender: str, receiver: str) -> bool:
    """Returns whether two hosts communicate: two coordinators do not."""
    return not all(host.startswith("coordinator") for host in (sender, receiver))


class Loopback:
    """A single host: connections cannot be cut."""

    hosts: Sequence[str] = ()

    def __init__(self) -> None:
        for thousand in random.sample(_THOUSANDS, len(_THOUSANDS)):
            self._start = f"127.0.0.1:{thousand}"
            self.shard_address = self._start + "{replica}{partition:02d}"
            self.encoder_address = f"{self._start}980"
            if all(map(is_free, self._addresses())):
                return
        raise RuntimeError("no range of 1,000 ports between 11000 and 31999 has enough free ports")

    def coordinator_address(self, index: int) -> str:
        return f"{self._start}90{index}"

    def coordinator_web(self, index: int) -> str:
        return f"{self._start}91{index}"

    def prefix(self, host: str) -> tuple[str, ...]:
        return ()

    def cut(self, sender: str, receiver: str) -> None:
        raise RuntimeError("connections on loopback cannot be cut")

    def heal(self) -> None:
        """Does nothing: there are no cuts."""

    def close(self) -> None:
        """Does nothing: there are no resources."""

    def _addresses(self) -> list[str]:
        shards = [
            self.shard_address.format(replica=replica, partition=partition)
            for replica in range(MAX_REPLICAS)
            for partition in range(MAX_PARTITIONS)
        ]
        coordinators = [
            address
            for index in range(MAX_COORDINATORS)
            for address in (self.coordinator_address(index), self.coordinator_web(index))
        ]
        return [*shards, *coordinators, self.encoder_address]


class Namespaces:
    """A host for each replica index and each coordinator. Needs to be root in its own mount and network
    namespaces; all hosts disappear with them."""

    shard_address = "10.77.{replica}.1{partition:02d}:7710"
    encoder_address = "10.77.200.1:7720"

    def __init__(self, replicas: int, coordinators: int) -> None:
        """Creates the namespaces.

        Raises:
            OSError: If namespaces are not permitted.
            subprocess.CalledProcessError: If namespaces are not permitted.
        """
        self._addresses = {
            **{replica_host(i): [f"10.77.{i}.1{p:02d}" for p in range(MAX_PARTITIONS)] for i in range(replicas)},
            **{coordinator_host(i): [f"10.77.{100 + i}.1"] for i in range(coordinators)},
        }
        self.hosts: Sequence[str] = tuple(self._addresses)
        self._cuts: set[tuple[str, str]] = set()
        # Namespace names are files. On a private file system they disappear with this process.
        _run("mkdir", "-p", "/run/netns")
        _run("mount", "-t", "tmpfs", "tmpfs", "/run/netns")
        _run("ip", "link", "add", "bridge0", "type", "bridge")
        _run("ip", "address", "add", "10.77.200.1/16", "dev", "bridge0")
        _run("ip", "link", "set", "bridge0", "up")
        for host, addresses in self._addresses.items():
            self._add(host, addresses)

    def coordinator_address(self, index: int) -> str:
        return f"10.77.{100 + index}.1:7700"

    def coordinator_web(self, index: int) -> str:
        return f"10.77.{100 + index}.1:7780"

    def prefix(self, host: str) -> tuple[str, ...]:
        """Returns the command prefix that runs a command on a host. Unlike `ip netns exec` it keeps the mounts."""
        return ("nsenter", f"--net=/run/netns/{host}") if host in self._addresses else ()

    def cut(self, sender: str, receiver: str) -> None:
        """Drops all packets from `sender` to `receiver` from now on."""
        self._cuts.add((sender, receiver))
        self._batch(
            sender,
            (
                f"neigh replace {a} lladdr {_UNUSED_HARDWARE_ADDRESS} nud permanent dev {_LINK}"
                for a in self._addresses[receiver]
            ),
        )

    def heal(self) -> None:
        """Ends every cut."""
        for sender, receiver in self._cuts:
            self._batch(sender, (f"neigh del {address} dev {_LINK}" for address in self._addresses[receiver]))
        self._cuts.clear()

    def close(self) -> None:
        for host in self.hosts:
            _run("ip", "netns", "del", host)
        _run("ip", "link", "del", "bridge0")
        _run("umount", "/run/netns")

    def _add(self, host: str, addresses: Sequence[str]) -> None:
        outside = f"veth-{host.replace('coordinator', 'c').replace('replica', 'r')}"
        _run("ip", "netns", "add", host)
        _run("ip", "link", "add", outside, "type", "veth", "peer", "name", _LINK, "netns", host)
        _run("ip", "link", "set", outside, "master", "bridge0", "up")
        inside = [f"address add {address}/16 dev {_LINK}" for address in addresses]
        self._batch(host, ["link set lo up", *inside, f"link set {_LINK} up"])

    def _batch(self, host: str, lines: Iterable[str]) -> None:
        command = [*self.prefix(host), "ip", "-batch", "-"]
        subprocess.run(command, input="\n".join(lines).encode(), capture_output=True, check=True)


def make_network(replicas: int, coordinators: int, wants_hosts: bool, is_isolated: bool) -> tuple[Network, str]:
    """Returns hosts whose connections can be cut, or loopback; and a line for the log."""
    if not wants_hosts:
        return Loopback(), "network faults: disabled"
    if not is_isolated:
        return Loopback(), NOT_PERMITTED
    try:
        return Namespaces(replicas, coordinators), "network: one namespace per replica index and coordinator"
    except (OSError, subprocess.CalledProcessError):
        return Loopback(), NOT_PERMITTED


def _run(*command: str) -> None:
    subprocess.run(command, capture_output=True, check=True)
