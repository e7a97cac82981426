"""A process follows its config file."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from lookalike.server.config import ClusterConfig, load_config
from lookalike.server.config_follower import ConfigFollower, Reload

POLL_SECONDS = 0.01


@contextlib.asynccontextmanager
async def following(file: Path, config: ClusterConfig) -> AsyncIterator[asyncio.Queue[int]]:
    """The partitions of each config that is applied."""
    applied: asyncio.Queue[int] = asyncio.Queue()

    async def reload(config: ClusterConfig) -> None:
        applied.put_nowait(config.partitions)

    task = asyncio.create_task(follower(file, config, reload).run())
    try:
        yield applied
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        asyncio.get_running_loop().remove_signal_handler(signal.SIGHUP)


def follower(file: Path, config: ClusterConfig, reload: Reload) -> ConfigFollower:
    return ConfigFollower(file, config, reload, POLL_SECONDS)


async def next_of(applied: asyncio.Queue[int]) -> int:
    return await asyncio.wait_for(applied.get(), 30)


def write(file: Path, text: str) -> None:
    file.write_text(text)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "lookalike.yaml"
    path.write_text("partitions: 2")
    return path


async def test_change_is_applied_and_the_initial_config_is_not_applied_again(file: Path) -> None:
    async with following(file, load_config(file)) as applied:
        await asyncio.sleep(0)  # it has read the config once
        write(file, "partitions: 3")
        assert await next_of(applied) == 3
        write(file, "partitions: none")
        write(file, "partitions: 4")
        assert await next_of(applied) == 4


async def test_change_during_the_start_is_applied(file: Path) -> None:
    config = load_config(file)
    write(file, "partitions: 3")
    async with following(file, config) as applied:
        assert await next_of(applied) == 3


async def test_empty_file_is_not_read_as_the_defaults(file: Path) -> None:
    async with following(file, load_config(file)) as applied:
        write(file, "")
        await asyncio.sleep(10 * POLL_SECONDS)
        write(file, "partitions: 3")
        assert await next_of(applied) == 3


async def test_swapped_symbolic_link_is_a_change(tmp_path: Path) -> None:
    """As Kubernetes updates a ConfigMap: `..data` points to another folder."""
    for name, partitions in (("first", 2), ("second", 3)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "lookalike.yaml").write_text(f"partitions: {partitions}")
    data, file = tmp_path / "..data", tmp_path / "lookalike.yaml"
    data.symlink_to("first")
    file.symlink_to("..data/lookalike.yaml")
    async with following(file, load_config(file)) as applied:
        await asyncio.sleep(0)
        fresh = tmp_path / "..data_tmp"
        fresh.symlink_to("second")
        fresh.replace(data)
        assert await next_of(applied) == 3


async def test_sighup_applies_an_unchanged_config(file: Path) -> None:
    async with following(file, load_config(file)) as applied:
        await asyncio.sleep(0)  # it handles signals now
        os.kill(os.getpid(), signal.SIGHUP)
        assert await next_of(applied) == 2


async def test_failed_reload_is_raised_and_tried_again_by_the_next_run(file: Path) -> None:
    applied: list[int] = []
    is_full = True

    async def reload(config: ClusterConfig) -> None:
        if is_full:
            raise OSError("No space left on device")
        applied.append(config.partitions)
        raise asyncio.CancelledError  # the test ends here

    following = follower(file, load_config(file), reload)
    write(file, "partitions: 3")
    for _ in range(2):
        with pytest.raises(OSError, match="No space"):
            await following.run()
    is_full = False
    with pytest.raises(asyncio.CancelledError):
        await following.run()
    assert applied == [3]
    asyncio.get_running_loop().remove_signal_handler(signal.SIGHUP)


async def test_reload_that_failed_after_sighup_is_tried_again(file: Path) -> None:
    attempts: list[int] = []

    async def reload(config: ClusterConfig) -> None:
        attempts.append(config.partitions)
        raise OSError("No space left on device")

    following = follower(file, load_config(file), reload)
    following.request()
    for _ in range(2):
        with pytest.raises(OSError, match="No space"):
            await following.run()
    assert attempts == [2, 2]
    asyncio.get_running_loop().remove_signal_handler(signal.SIGHUP)
