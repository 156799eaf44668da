"""The last moment before power: inrush is counted from when the request goes out."""

from __future__ import annotations

import asyncio
import random

from evac.engine.power_gate import PowerGate
from evac.run.values import RunStep
from evac.testing.virtual_loop import VirtualLoop, run


def boot(name: str, watts: int, hold_ms: int, *feeds: str) -> RunStep:
    uses = tuple((f"inrush:{feed}", watts, hold_ms) for feed in feeds)
    return RunStep(f"boot:{name}", "boot", name, 0, 1_000, (), (*uses, ("power:x", 9, -1), ("boots:b", 1, 0)))


def test_no_two_inrushes_meet_that_do_not_fit_however_late_they_come() -> None:
    loop, rng = VirtualLoop(5), random.Random(5)
    gate = PowerGate(lambda name: 1_000)
    sent: list[tuple[float, float, int, tuple[str, ...]]] = []

    async def start(number: int) -> None:
        feeds = (("a", "b"), ("a",), ("b",))[number % 3]
        watts, hold = rng.choice((300, 450, 700)), rng.choice((500, 2_000))
        await asyncio.sleep(rng.random() * 3)
        async with gate.turn(boot(str(number), watts, hold, *feeds)):
            await asyncio.sleep(rng.random() * rng.choice((0.1, 4.0)))
            sent.append((loop.time(), loop.time() + hold / 1_000, watts, feeds))
            await asyncio.sleep(rng.random() * rng.choice((0.1, 4.0)))

    async def story() -> None:
        await asyncio.gather(*(start(number) for number in range(60)))

    run(loop, story())
    assert len(sent) == 60
    for feed in ("a", "b"):
        for at, _, _, _ in sent:
            drawn = sum(w for begin, end, w, feeds in sent if feed in feeds and begin <= at < end)
            assert drawn <= 1_000


def test_what_has_no_inrush_passes_at_once_and_room_is_used_without_pause() -> None:
    loop = VirtualLoop(1)
    gate = PowerGate(lambda name: 1_000)

    async def story() -> float:
        async with gate.turn(RunStep("boot:x", "boot", "x", 0, 1)):
            pass
        for number in range(10):
            async with gate.turn(boot(str(number), 1_000, 20_000, "a")):
                pass
        return loop.time()

    assert 180.0 <= run(loop, story()) <= 180.0 * 1.051
