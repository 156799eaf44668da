"""The loop itself: time that jumps, order from a seed, processes that stop, go on and die."""

from __future__ import annotations

import asyncio

import pytest

from evac_lab.virtual_loop import Idle, VirtualLoop, VirtualProcess, run


def _order(seed: int) -> list[int]:
    loop, seen = VirtualLoop(seed), list[int]()

    async def note(number: int) -> None:
        await asyncio.sleep(0)
        seen.append(number)

    async def main() -> None:
        await asyncio.gather(*(note(number) for number in range(8)))

    run(loop, main())
    return seen


def test_the_order_is_of_the_seed() -> None:
    assert _order(1) == _order(1)
    assert len({tuple(_order(seed)) for seed in range(10)}) > 5


def test_a_year_takes_no_time() -> None:
    loop = VirtualLoop(1)
    run(loop, asyncio.sleep(365 * 86_400))
    assert loop.now_ms() == 365 * 86_400_000


def test_whoever_waits_for_nothing_is_told() -> None:
    loop = VirtualLoop(1)

    async def main() -> None:
        await loop.create_future()

    with pytest.raises(Idle):
        run(loop, main())


def test_there_are_no_threads() -> None:
    loop = VirtualLoop(1)

    async def main() -> None:
        await asyncio.to_thread(int)

    with pytest.raises(RuntimeError, match="no threads"):
        run(loop, main())


def test_a_stopped_process_does_nothing_and_its_clock_goes_on() -> None:
    loop, seen = VirtualLoop(1), list[int]()
    process = VirtualProcess(loop, "one")

    async def tick() -> None:
        while True:
            await asyncio.sleep(1)
            seen.append(process.monotonic_ms())

    async def main() -> None:
        process.spawn(tick())
        await asyncio.sleep(2.5)
        process.stop()
        await asyncio.sleep(10)
        assert len(seen) == 2
        process.resume()
        await asyncio.sleep(0.1)
        process.kill()
        await asyncio.sleep(5)

    run(loop, main())
    assert [at // 1_000 for at in seen] == [1, 2, 12]


def test_clocks_drift_and_jump_each_on_its_own() -> None:
    loop = VirtualLoop(1)
    fast, slow = (
        VirtualProcess(loop, "fast", drift_ppm=10_000),
        VirtualProcess(loop, "slow", drift_ppm=-10_000),
    )
    fast.offset_ms = 5_000

    async def main() -> None:
        await asyncio.sleep(100)

    run(loop, main())
    assert (fast.monotonic_ms(), fast.now_ms(), slow.now_ms()) == (101_000, 106_000, 99_000)


def test_an_error_anywhere_ends_the_run() -> None:
    loop = VirtualLoop(1)

    async def main() -> None:
        loop.call_later(1, lambda: 1 / 0)
        await asyncio.sleep(10)

    with pytest.raises(ZeroDivisionError):
        run(loop, main())
