"""Which processes a config asks for, and which changes a running cluster applies."""

from __future__ import annotations

from pathlib import Path

import pytest

from lookalike.local.ephemeral import ephemeral_config
from lookalike.local.folder import DataFolder
from lookalike.local.plan import check_change, planned
from lookalike.model.errors import CannotStart
from lookalike.server.config import EncoderConfig


@pytest.fixture
def folder(tmp_path: Path) -> DataFolder:
    return DataFolder(tmp_path)


def write_data(folder: DataFolder, name: str) -> None:
    (folder.path / name).mkdir()
    (folder.path / name / "shard.json").touch()


def test_every_replica_of_every_partition_and_a_coordinator_last(folder: DataFolder) -> None:
    processes = planned(ephemeral_config(folder.path, 2, replicas=2), folder)
    assert [process.name for process in processes] == [
        "shard-r0-0", "shard-r1-0", "shard-r0-1", "shard-r1-1", "coordinator",
    ]  # fmt: skip
    assert not any(process.is_leaving for process in processes)


def test_one_process_runs_all_encoders_unless_they_use_several_ray_clusters(folder: DataFolder) -> None:
    here, there = EncoderConfig(), EncoderConfig(ray_address="ray:6379")
    config = ephemeral_config(folder.path, 1, here, encoders={"shoes": here, "bags": here})
    (process,) = (each for each in planned(config, folder) if each.name.startswith("encoder"))
    assert (process.name, process.arguments) == ("encoder", ["encoder"])
    assert process.served == [encoder.address for encoder in config.all_encoders.values()]
    assert len(set(process.served)) == 3
    config = ephemeral_config(folder.path, 1, here, encoders={"shoes": there, "bags": here})
    first, second = (each for each in planned(config, folder) if each.name.startswith("encoder"))
    assert first.arguments == ["encoder", "--name", "default", "--name", "bags"]
    assert (second.name, second.arguments) == ("encoder-shoes", ["encoder", "--name", "shoes"])


def test_all_addresses_of_an_encoder_process_must_be_free(folder: DataFolder) -> None:
    config = ephemeral_config(folder.path, 1, EncoderConfig(), encoders={"shoes": EncoderConfig()})
    shoes = config.encoders["shoes"].model_copy(update={"metrics": "127.0.0.1:9"})
    config = config.model_copy(update={"encoders": {"shoes": shoes}})
    (process,) = (each for each in planned(config, folder) if each.name == "encoder")
    assert process.addresses == [process.address, shoes.address, "127.0.0.1:9"]


def test_removed_partition_keeps_running_until_it_is_marked_empty(folder: DataFolder) -> None:
    config = ephemeral_config(folder.path, 1)
    for name in ("r0-0", "r0-3", "r0-4", "rx-5"):
        write_data(folder, name)
    folder.mark_empty(4, 0)
    assert [process.name for process in planned(config, folder) if process.is_leaving] == ["shard-r0-3"]
    folder.unmark_empty(4, 0)
    assert len([process for process in planned(config, folder) if process.is_leaving]) == 2


def test_change_that_needs_a_restart_is_refused(folder: DataFolder) -> None:
    before = ephemeral_config(folder.path, 1)
    check_change(before, before.model_copy(update={"partitions": 2, "replicas": 3}))
    with pytest.raises(CannotStart, match="config: cluster: cannot change while the cluster runs"):
        check_change(before, before.model_copy(update={"cluster": "another"}))


def test_folder_serves_one_cluster_at_a_time(folder: DataFolder) -> None:
    config = ephemeral_config(folder.path, 1)
    folder.claim(config)
    with pytest.raises(CannotStart, match="is in use by another cluster"):
        DataFolder(folder.path).claim(config)
    folder.release()
    again = DataFolder(folder.path)
    again.claim(config)
    again.release()


def test_coordinator_processes_share_a_port_and_have_sockets_of_their_own(folder: DataFolder) -> None:
    config = ephemeral_config(folder.path, 1)
    coordinator = config.coordinator.model_copy(update={"processes": 2, "metrics": "127.0.0.1:7781"})
    several = config.model_copy(update={"coordinator": coordinator})
    _, first, second = planned(several, folder)
    assert (first.name, second.name) == ("coordinator", "coordinator-1")
    assert first.addresses == [coordinator.listen, "127.0.0.1:7781"]
    assert second.addresses == [coordinator.listen, "127.0.0.1:7782"]
    assert second.served == [f"unix:{folder.socket_file('coordinator-1')}"]
    assert first.served != second.served
    with pytest.raises(CannotStart, match="config: coordinator: cannot change while the cluster runs"):
        check_change(config, several)
    folder.release()
