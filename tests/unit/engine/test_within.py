"""A limit in time that costs nothing where nothing is waited for."""

from __future__ import annotations

import asyncio
import contextlib

import pytest

from evac.engine.pool import Within


def test_what_answers_at_once_needs_no_timer() -> None:
    async def story() -> None:
        loop = asyncio.get_running_loop()
        before = len(loop._scheduled)  # type: ignore[attr-defined]

        async def work() -> int:
            assert len(loop._scheduled) == before  # type: ignore[attr-defined]
            return 7

        assert await Within(work(), 1.0) == 7

    asyncio.run(story())


def test_it_gives_back_what_the_work_says_after_waiting_more_than_once() -> None:
    async def work() -> str:
        await asyncio.sleep(0)
        await asyncio.sleep(0.01)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(0.01):
                await asyncio.sleep(5)
        return "done"

    assert asyncio.run(_within(work(), 5.0)) == "done"


def test_errors_of_the_work_come_through_before_and_after_it_waited() -> None:
    async def work(wait: bool) -> None:
        if wait:
            await asyncio.sleep(0.001)
        raise KeyError("no")

    for wait in (False, True):
        with pytest.raises(KeyError):
            asyncio.run(_within(work(wait), 1.0))


def test_the_work_is_ended_at_the_limit_and_may_clean_up() -> None:
    cleaned = []

    async def work() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            await asyncio.sleep(0)
            cleaned.append(True)

    with pytest.raises(TimeoutError):
        asyncio.run(_within(work(), 0.02))
    assert cleaned == [True]


def test_a_cancellation_is_one_and_no_timeout() -> None:
    async def story() -> None:
        async def work() -> None:
            await asyncio.sleep(60)

        task = asyncio.create_task(_within(work(), 60.0))
        await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(story())


async def _within(work, limit_s):  # type: ignore[no-untyped-def]
    return await Within(work, limit_s)
