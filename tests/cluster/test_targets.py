"""Prometheus scrapes the shards of a cluster, also those that are added while it runs."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import urllib.parse
import urllib.request
from pathlib import Path

import pytest

from lookalike.local.ephemeral import ephemeral_config, is_free
from lookalike.server.config import dump_config
from tests.command import lookalike
from tests.conftest import Cluster, wait_until

DEPLOY = Path(__file__).parents[2] / "deploy" / "prometheus"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with Prometheus' config and rules."""
    for name in ("follow.yml", "alerts.yml"):
        shutil.copy(DEPLOY / name, tmp_path / name)
    return tmp_path


def program(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        if os.environ.get("LOOKALIKE_REQUIRE_PROMTOOL") == "1":
            pytest.fail(f"{name} is not installed; it comes with Debian's package prometheus")
        pytest.skip(f"{name} is not installed; it comes with Debian's package prometheus")
    return found


def targets_in(file: Path) -> set[str]:
    return {target for group in json.loads(file.read_text()) for target in group["targets"]}


def test_promtool_accepts_the_config_with_the_targets(folder: Path) -> None:
    promtool = program("promtool")
    config = DEPLOY.parent / "local.yaml"
    assert lookalike("targets", folder / "targets.json", "--config", config)[0] == 0
    done = subprocess.run(
        [promtool, "check", "config", folder / "follow.yml"], capture_output=True, text=True, timeout=60
    )
    assert not done.returncode, done.stdout + done.stderr
    # promtool reads the targets too: a broken file is an error.
    (folder / "targets.json").write_text('[{"targets": 3}]')
    done = subprocess.run([promtool, "check", "config", folder / "follow.yml"], capture_output=True, timeout=60)
    assert done.returncode


def test_a_new_shard_is_scraped(folder: Path) -> None:
    prometheus = program("prometheus")
    config = ephemeral_config(folder / "data", partitions=1)
    base = config.coordinator.listen.rpartition(":")[2][:-2]
    assert all(is_free(f"127.0.0.1:{base}{end}") for end in ("80", "81", "82", "90"))
    shard = config.shard.model_copy(update={"metrics": f"127.0.0.1:{base}8{{partition}}"})
    coordinator = config.coordinator.model_copy(update={"metrics": f"127.0.0.1:{base}82"})
    config = config.model_copy(update={"shard": shard, "coordinator": coordinator})
    text = (folder / "follow.yml").read_text().replace("15s", "1s")
    (folder / "follow.yml").write_text(text)
    web = f"127.0.0.1:{base}90"
    cluster = Cluster(config, folder / "data")
    programs = [
        [sys.executable, "-m", "lookalike", "targets", folder / "targets.json", "--follow", "--config",
         cluster.config_file],
        [prometheus, "--config.file", folder / "follow.yml", "--storage.tsdb.path", folder / "tsdb",
         "--web.listen-address", web],
    ]  # fmt: skip
    started: list[subprocess.Popen[bytes]] = []
    try:
        cluster.start()
        for command in programs:
            with (folder / "output.log").open("ab") as log:
                started.append(subprocess.Popen(command, stdout=log, stderr=log))
        wait_until(lambda: up(web) == {"coordinator": 1, "shard": 1}, 60)
        cluster.reload(config.model_copy(update={"partitions": 2}))
        wait_until(lambda: up(web) == {"coordinator": 1, "shard": 2}, 60)
    finally:
        for process in started:
            process.terminate()
            process.wait(30)
        cluster.stop()


def up(web: str) -> dict[str, int]:
    """How many processes of each job Prometheus scrapes at this time."""
    query = urllib.parse.urlencode({"query": "sum by (job) (up)"})
    try:
        with urllib.request.urlopen(f"http://{web}/api/v1/query?{query}", timeout=5) as answer:
            found = json.load(answer)["data"]["result"]
    except OSError:  # it is starting
        return {}
    return {one["metric"]["job"]: int(one["value"][1]) for one in found}


def test_following_survives_an_invalid_config(tmp_path: Path) -> None:
    config, file = tmp_path / "lookalike.yaml", tmp_path / "targets.json"
    config.write_text(
        dump_config(ephemeral_config(tmp_path / "data", 1)).replace("metrics: null", "metrics: 'a:1'")
    )
    command = [sys.executable, "-m", "lookalike", "targets", file, "--config", config, "--follow"]
    text = config.read_text()
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stderr is not None
            assert process.stdout.readline() == f"{file}: 1 partitions, 1 replicas\n"
            config.write_text(text.replace("partitions: 1", "partitions: none"))
            assert "the config is not applied: config: " in process.stderr.readline()
            config.write_text(text.replace("'a:1'", "'a:2'"))
            assert process.stdout.readline()
            assert targets_in(file) == {"a:2"}
        finally:
            process.terminate()
