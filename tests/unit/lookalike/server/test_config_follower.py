"""A process follows its config file from what it started with."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from lookalike.server import serving
from lookalike.server.config import ClusterConfig, load_config
from lookalike.server.serving import follow_config


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving, "CONFIG_POLL_SECONDS", 0.01)


@contextlib.asynccontextmanager
async def following(file: Path, config: ClusterConfig) -> AsyncIterator[asyncio.Queue[int]]:
    """The partitions of each config that is taken over."""
    taken: asyncio.Queue[int] = asyncio.Queue()

    async def reload(config: ClusterConfig) -> None:
        taken.put_nowait(config.partitions)

    task = asyncio.create_task(follow_config(file, config, reload))
    try:
        yield taken
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        asyncio.get_running_loop().remove_signal_handler(signal.SIGHUP)


async def next_of(taken: asyncio.Queue[int]) -> int:
    return await asyncio.wait_for(taken.get(), 30)


async def test_what_a_process_started_with_is_not_taken_over_again(tmp_path: Path) -> None:
    file = tmp_path / "lookalike.yaml"
    file.write_text("partitions: 2")
    async with following(file, load_config(file)) as taken:
        await asyncio.sleep(0)  # it has looked once
        file.write_text("partitions: 3")
        assert await next_of(taken) == 3
        file.write_text("partitions: none")
        file.write_text("partitions: 4")
        assert await next_of(taken) == 4


async def test_what_changed_while_a_process_started_is_taken_over(tmp_path: Path) -> None:
    file = tmp_path / "lookalike.yaml"
    file.write_text("partitions: 2")
    config = load_config(file)
    file.write_text("partitions: 3")
    async with following(file, config) as taken:
        assert await next_of(taken) == 3


async def test_a_file_that_is_about_to_be_written_is_not_taken_for_the_defaults(tmp_path: Path) -> None:
    file = tmp_path / "lookalike.yaml"
    file.write_text("partitions: 2")
    async with following(file, load_config(file)) as taken:
        file.write_text("")
        await asyncio.sleep(10 * serving.CONFIG_POLL_SECONDS)
        file.write_text("partitions: 3")
        assert await next_of(taken) == 3


async def test_who_asks_has_the_config_taken_over_unchanged(tmp_path: Path) -> None:
    file = tmp_path / "lookalike.yaml"
    file.write_text("partitions: 2")
    async with following(file, load_config(file)) as taken:
        await asyncio.sleep(0)  # it hears signals now
        os.kill(os.getpid(), signal.SIGHUP)
        assert await next_of(taken) == 2
