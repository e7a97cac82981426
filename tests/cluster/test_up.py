"""`lookalike up`: start, restart of dead processes, stop, and the errors that prevent a start."""

from __future__ import annotations

import os
import pty
import signal
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

import psutil
import pytest

from lookalike import Client, Record
from lookalike.local.ephemeral import ephemeral_config
from lookalike.server.config import dump_config
from tests.conftest import Cluster, wait_until


class Up:
    """`lookalike up` in its own process."""

    def __init__(self, folder: Path, text: str) -> None:
        self.config = folder / "config.yaml"
        self.config.write_text(text)
        self.data = folder / "data"
        self.command = [sys.executable, "-m", "lookalike", "up", "--config", self.config, "--data", self.data]
        self.process = subprocess.Popen(self.command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def ready(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline()

    def end(self, number: signal.Signals) -> int:
        self.process.send_signal(number)
        return self.close()

    def close(self) -> int:
        _, self.errors = self.process.communicate(timeout=40)
        return self.process.returncode


def config_text(folder: Path, partitions: int = 2) -> str:
    return dump_config(ephemeral_config(folder / "data", partitions))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_up_restarts_dead_processes_and_stops_all_of_them(number: signal.Signals, tmp_path: Path) -> None:
    up = Up(tmp_path, config_text(tmp_path))
    words = up.ready().split()
    assert words[:2] == ["ready:", "grpc"]
    assert words[3] == "web"
    address, web = words[2], words[4]
    assert urllib.request.urlopen(f"{web}/healthz", timeout=5).status == 200
    children = psutil.Process(up.process.pid).children(recursive=True)
    assert len(children) == 3
    pid_file = up.data / "run" / "shard-r0-1.pid"
    old = pid_file.read_text()
    psutil.Process(int(old)).kill()
    with Client(address) as client:
        wait_until(
            lambda: (
                pid_file.read_text() not in ("", old)
                and client.status().partitions[1].replicas[0].state == "serving"
            ),
            30,
        )
    children += psutil.Process(up.process.pid).children(recursive=True)
    assert up.end(number) == 0
    assert "signal SIGKILL" in up.errors
    assert not any(child.is_running() for child in children)
    assert list((up.data / "run").glob("*.pid")) == []


def test_a_briefly_missing_config_is_reported_once(tmp_path: Path) -> None:
    text = config_text(tmp_path, partitions=1)
    up = Up(tmp_path, text)
    address = up.ready().split()[2]
    up.config.unlink()
    up.process.send_signal(signal.SIGHUP)
    assert up.process.stderr is not None
    while "is not applied: " not in (line := up.process.stderr.readline()):
        assert line
    up.config.write_text("")
    up.config.write_text(text.replace("partitions: 1", "partitions: 2"))
    with Client(address) as client:
        wait_until(lambda: len(client.status().partitions) == 2, 60)
    assert up.end(signal.SIGTERM) == 0
    assert "is not applied" not in up.errors


def test_closing_the_terminal_stops_the_cluster(tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    config.write_text(config_text(tmp_path, partitions=1))
    outer, inner = pty.openpty()
    command = [sys.executable, "-m", "lookalike", "up", "--config", config, "--data", tmp_path / "data"]
    with subprocess.Popen(command, stdin=inner, stdout=inner, stderr=inner) as process:
        os.close(inner)
        shown = b""
        while b"ready: " not in shown:
            shown += os.read(outer, 65_536)
        children = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(signal.SIGHUP)  # which is taken as a request to read the config
        assert process.poll() is None
        os.close(outer)
        process.send_signal(signal.SIGHUP)
        assert process.wait(60) == 0
    assert not any(child.is_running() for child in children)


def test_nothing_outlives_a_killed_up(tmp_path: Path) -> None:
    up = Up(tmp_path, config_text(tmp_path))
    assert up.ready().startswith("ready:")
    children = psutil.Process(up.process.pid).children(recursive=True)
    up.end(signal.SIGKILL)
    wait_until(lambda: not any(child.is_running() for child in children), 20)


def test_up_stopped_while_it_starts_leaves_nothing_behind(tmp_path: Path) -> None:
    up = Up(tmp_path, config_text(tmp_path))
    wait_until(lambda: (up.data / "run" / "coordinator.pid").exists(), 20)
    children = psutil.Process(up.process.pid).children(recursive=True)
    assert up.end(signal.SIGTERM) == 0
    assert children
    assert not any(child.is_running() for child in children)


def start_failure(tmp_path: Path, text: str) -> str:
    """The one error line of an `up` that cannot start, which must leave nothing running."""
    up = Up(tmp_path, text)
    assert up.ready() == ""
    assert up.close() == 1
    errors = [line for line in up.errors.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert not [p for p in psutil.process_iter(["cmdline"]) if str(up.data) in " ".join(p.info["cmdline"] or [])]
    return errors[0]


def test_a_port_in_use_ends_the_start(tmp_path: Path) -> None:
    config = ephemeral_config(tmp_path / "data", 2)
    host, _, port = config.shard_address(1).rpartition(":")
    with socket.socket() as holder:
        holder.bind((host, int(port)))
        holder.listen()
        error = start_failure(tmp_path, dump_config(config))
    assert f"shard-r0-1: {host}:{port} cannot be bound" in error


def test_the_web_port_in_use_ends_the_start(tmp_path: Path) -> None:
    config = ephemeral_config(tmp_path / "data", 1)
    host, _, port = config.coordinator.web.rpartition(":")
    with socket.socket() as holder:
        holder.bind((host, int(port)))
        holder.listen()
        error = start_failure(tmp_path, dump_config(config))
    assert f"coordinator: {host}:{port} cannot be bound" in error


def test_a_second_cluster_on_the_same_ports_is_rejected(cluster: Cluster, tmp_path: Path) -> None:
    error = start_failure(tmp_path, dump_config(cluster.config))
    assert "cannot be bound (Address already in use)" in error


def test_a_bad_config_ends_the_start(tmp_path: Path) -> None:
    assert "partition: is not a known key" in start_failure(tmp_path, "partition: 3")


def test_an_unusable_data_folder_ends_the_start(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("a file")
    assert "cannot be used" in start_failure(tmp_path, config_text(tmp_path))


def test_fewer_partitions_at_the_next_start_lose_nothing(tmp_path: Path) -> None:
    text = config_text(tmp_path, partitions=2)
    up = Up(tmp_path, text)
    address = up.ready().split()[2]
    keys = [f"k{i}" for i in range(50)]
    with Client(address) as client:
        client.create_collection("c", bits=64)
        client.upsert([Record(key, code=bytes(8)) for key in keys], collection="c")
    assert up.end(signal.SIGTERM) == 0
    up = Up(tmp_path, text.replace("partitions: 2", "partitions: 1"))
    address = up.ready().split()[2]
    with Client(address) as client:
        assert len(client.search(code=bytes(8), k=100, collection="c").hits) == 50
        wait_until(lambda: [part.partition for part in client.status().partitions] == [0], 30)
        assert len(client.get(keys, collection="c")) == 50
        assert client.search(code=bytes(8), k=100, collection="c").exact
    assert up.end(signal.SIGTERM) == 0


def test_data_in_use_by_another_cluster_ends_the_start(tmp_path: Path) -> None:
    up = Up(tmp_path, config_text(tmp_path))
    assert up.ready().startswith("ready:")
    second = subprocess.run(up.command, capture_output=True, text=True, check=False)
    assert second.returncode == 1
    assert "is in use by another cluster" in second.stderr
    assert up.process.poll() is None
    assert up.end(signal.SIGTERM) == 0


def test_missing_weights_end_the_start(tmp_path: Path) -> None:
    from lookalike.server.config import EncoderConfig

    encoder = EncoderConfig(weights=str(tmp_path / "none.pth"))
    text = dump_config(ephemeral_config(tmp_path / "data", 1, encoder))
    assert "encoder: encoder.weights:" in start_failure(tmp_path, text)
