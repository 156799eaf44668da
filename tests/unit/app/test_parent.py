"""Works side by side in one process: the first that ends ends all."""

from __future__ import annotations

import asyncio
import os
import signal

import pytest

from evac.app.side_process import until_ended


async def _for_ever(left: list[str]) -> None:
    try:
        await asyncio.Event().wait()
    finally:
        left.append("cancelled")


def test_what_fails_ends_the_others_and_is_raised() -> None:
    async def fails() -> None:
        await asyncio.sleep(0)
        raise ValueError("it broke")

    left: list[str] = []
    with pytest.raises(ValueError, match="it broke"):
        asyncio.run(until_ended(_for_ever(left), fails()))
    assert left == ["cancelled"]


def test_what_is_over_ends_the_others() -> None:
    left: list[str] = []
    asyncio.run(until_ended(_for_ever(left), asyncio.sleep(0)))
    assert left == ["cancelled"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_all(number: signal.Signals) -> None:
    async def story() -> None:
        asyncio.get_running_loop().call_later(0.05, os.kill, os.getpid(), number)
        await until_ended(_for_ever(left))

    left: list[str] = []
    asyncio.run(story())
    assert left == ["cancelled"]
