"""Background tasks restart or end the process; none ends unnoticed."""

from __future__ import annotations

import asyncio
import sqlite3

import pytest

from lookalike.model.errors import Overloaded
from lookalike.server.background import STABLE_SECONDS, BackgroundFailed, BackgroundTasks
from lookalike.server.lifecycle import EXIT_BACKGROUND_FAILED, run_process


async def forever() -> None:
    await asyncio.Event().wait()


def tasks() -> BackgroundTasks:
    return BackgroundTasks(base_seconds=0.001, max_seconds=0.002)


@pytest.mark.parametrize(
    "error",
    [OSError(28, "No space left on device"), sqlite3.OperationalError("disk I/O error"), Overloaded("disk full")],
)
async def test_task_restarts_after_a_temporary_error(error: Exception, caplog: pytest.LogCaptureFixture) -> None:
    runs = 0
    recovered = asyncio.Event()

    async def run() -> None:
        nonlocal runs
        runs += 1
        if runs <= 3:
            raise error
        recovered.set()
        await forever()

    async with tasks() as background_tasks:
        background_tasks.start("scrubber", run)
        await asyncio.wait_for(recovered.wait(), 30)
    assert runs == 4
    assert caplog.text.count("background task 'scrubber' failed and restarts in") == 3
    assert "Traceback" in caplog.text


async def test_delay_grows_and_starts_over_after_a_stable_run(caplog: pytest.LogCaptureFixture) -> None:
    now = [0.0]
    durations = iter([0, 0, 0, STABLE_SECONDS])
    done = asyncio.Event()

    async def run() -> None:
        duration = next(durations, None)
        if duration is None:
            done.set()
            await forever()
            return
        now[0] += duration
        raise OSError("full")

    async with BackgroundTasks(0.05, 1, lambda: now[0]) as background_tasks:
        background_tasks.start("loop", run)
        await asyncio.wait_for(done.wait(), 30)
    delays = [record.args[1] for record in caplog.records if record.args]  # type: ignore[index]
    assert len(delays) == 4
    assert 0.2 <= delays[2] <= 0.4  # type: ignore[operator]
    assert 0.05 <= delays[3] <= 0.1  # type: ignore[operator]


@pytest.mark.parametrize("is_bug", [True, False])
async def test_bug_or_early_return_ends_the_process(is_bug: bool, caplog: pytest.LogCaptureFixture) -> None:
    async def run() -> None:
        if is_bug:
            raise TypeError("a\nb")

    async def serve() -> None:
        async with tasks() as background_tasks:
            background_tasks.start("other", forever)
            background_tasks.start("scrubber", run)
            await asyncio.wait_for(background_tasks.run_until(forever()), 30)

    reason = "failed: TypeError: a b" if is_bug else "returned before the process stopped"
    with pytest.raises(BackgroundFailed, match=f"^background task 'scrubber' {reason}; the process exits"):
        await serve()
    assert ("Traceback" in caplog.text) == is_bug


async def test_first_failure_is_the_one_that_is_reported() -> None:
    async def fail(name: str) -> None:
        raise TypeError(name)

    async def serve() -> None:
        async with tasks() as background_tasks:
            background_tasks.start("first", lambda: fail("first"))
            background_tasks.start("second", lambda: fail("second"))
            await background_tasks.run_until(forever())

    with pytest.raises(BackgroundFailed, match="'first'"):
        await serve()


async def test_error_of_the_block_is_not_replaced() -> None:
    async def run() -> None:
        raise TypeError("hidden")

    async def serve() -> None:
        async with tasks() as background_tasks:
            background_tasks.start("loop", run)
            await background_tasks.run_until(forever())
            raise LookupError("seen")

    with pytest.raises(LookupError, match="seen"):
        await serve()


async def test_stop_cancels_every_task() -> None:
    ended: list[str] = []

    async def run() -> None:
        try:
            await forever()
        finally:
            ended.append("run")

    async with tasks() as background_tasks:
        background_tasks.start("a", run)
        background_tasks.start("b", run)
        await background_tasks.run_until(asyncio.sleep(0))
        await background_tasks.stop()
        assert ended == ["run", "run"]


async def test_cancelled_task_is_not_a_failure() -> None:
    async with tasks() as background_tasks:
        task = background_tasks.start("watch", forever)
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        background_tasks.raise_failure()


def test_process_exits_with_one_line_and_a_code_of_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    async def serve() -> None:
        raise BackgroundFailed("background task 'x' failed")

    with pytest.raises(SystemExit) as ended:
        run_process(serve())
    assert ended.value.code == EXIT_BACKGROUND_FAILED
    assert capsys.readouterr().err == "error: background task 'x' failed\n"
