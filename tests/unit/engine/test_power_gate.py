"""The last moment before power: inrush is counted from when the request goes out."""

from __future__ import annotations

import asyncio
import contextlib
import random

import pytest

from evac.engine.boots.binding import TURN_S, Before, NoTurn, PowerGate
from evac.model.errors import LeaseLost
from evac.run.boots.events import ARRIVES_MS
from evac.run.values import RunStep
from evac_lab.virtual_loop import VirtualLoop, run

ARRIVES_S = ARRIVES_MS / 1_000


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
        while True:
            with contextlib.suppress(NoTurn):
                async with gate.turn(boot(str(number), watts, hold, *feeds)):
                    await asyncio.sleep(rng.random() * rng.choice((0.1, 4.0)))
                    sent.append((loop.time(), loop.time() + hold / 1_000, watts, feeds))
                    await asyncio.sleep(rng.random() * rng.choice((0.1, 4.0)))
                    return

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


def entered_at(gate: PowerGate, loop: VirtualLoop, *steps: RunStep) -> list[float]:
    """When each of these got its turn; all ask at once."""

    async def enter(step: RunStep) -> float:
        async with gate.turn(step):
            return loop.time()

    async def story() -> list[float]:
        return list(await asyncio.gather(*(enter(step) for step in steps)))

    return run(loop, story())


def test_what_a_dead_leader_may_have_sent_is_counted_until_it_has_arrived_and_is_over() -> None:
    loop = VirtualLoop(1)
    gate = PowerGate(lambda name: 1_000, [Before(boot(name, 400, 2_000, "a")) for name in "xy"])
    (at,) = entered_at(gate, loop, boot("z", 300, 2_000, "a"))
    assert ARRIVES_S + 2.0 <= at <= ARRIVES_S + 2.2


def test_a_server_of_a_dead_leader_that_is_off_may_still_be_switched_on_for_a_while() -> None:
    loop, old = VirtualLoop(1), boot("x", 400, 2_000, "a")
    gate = PowerGate(lambda name: 1_000, [Before(old)])

    async def story() -> list[bool]:
        await asyncio.sleep(3.0)  # counted from the first look
        found = [gate.may_arrive(old), gate.may_arrive(boot("y", 400, 2_000, "a"))]
        await asyncio.sleep(ARRIVES_S - 0.1)
        found.append(gate.may_arrive(old))
        await asyncio.sleep(0.2)
        return [*found, gate.may_arrive(old)]

    assert run(loop, story()) == [True, False, True, False]


def test_a_server_of_a_dead_leader_that_is_seen_on_is_counted_for_its_inrush_only() -> None:
    loop = VirtualLoop(1)
    old = [boot(name, 400, 2_000, "a") for name in "xy"]
    gate = PowerGate(lambda name: 1_000, map(Before, old))

    async def story() -> float:
        await asyncio.sleep(0.5)
        for step in old:
            gate.seen_on(step)
        async with gate.turn(boot("z", 1_000, 2_000, "a")):
            return loop.time()

    assert 2.5 <= run(loop, story()) <= 2.7


def test_a_server_that_is_seen_on_late_is_counted_no_longer_than_one_that_is_not_seen() -> None:
    loop = VirtualLoop(1)
    old = [boot(name, 400, 2_000, "a") for name in "xy"]
    gate = PowerGate(lambda name: 1_000, map(Before, old))

    async def story() -> float:
        assert gate.may_arrive(old[0])
        await asyncio.sleep(ARRIVES_S + 1.0)  # what was sent has arrived a second ago at the latest
        for step in old:
            gate.seen_on(step)
        async with gate.turn(boot("z", 1_000, 2_000, "a")):
            return loop.time()

    assert ARRIVES_S + 2.0 <= run(loop, story()) <= ARRIVES_S + 2.2


def test_a_server_that_is_asked_again_needs_no_second_room_and_the_room_of_others_stays_theirs() -> None:
    loop = VirtualLoop(1)
    old = [boot(name, 500, 2_000, "a") for name in "xy"]
    gate = PowerGate(lambda name: 1_000, map(Before, old))
    again, other = entered_at(gate, loop, old[0], boot("z", 500, 2_000, "a"))
    assert (again, other >= 2.0) == (0.0, True)
    crowd = [boot(name, 500, 2_000, "a") for name in "xyz"]  # which two of them were sent, nobody knows
    assert (
        min(entered_at(PowerGate(lambda name: 1_000, map(Before, crowd)), VirtualLoop(1), *crowd))
        >= ARRIVES_S + 2.0
    )


def test_a_server_that_a_dead_leader_switched_on_is_counted_for_the_rest_of_its_inrush() -> None:
    loop = VirtualLoop(1)
    on_for = {"x": 1_500, "y": 2_000, "z": 500_000}
    gate = PowerGate(lambda name: 1_000, [Before(boot(n, 600, 2_000, "a"), ms) for n, ms in on_for.items()])

    async def story() -> float:
        assert not gate.may_arrive(boot("x", 600, 2_000, "a"))
        async with gate.turn(boot("other", 400, 2_000, "a")):
            assert loop.time() == 0.0
        async with gate.turn(boot("more", 600, 2_000, "a")):
            return loop.time()

    assert 0.5 <= run(loop, story()) <= 0.7


def test_a_turn_that_does_not_come_in_time_ends_with_nothing_sent() -> None:
    loop = VirtualLoop(1)
    gate = PowerGate(lambda name: 1_000)

    async def story() -> float:
        async with gate.turn(boot("x", 800, 90_000, "a")):
            pass
        with pytest.raises(NoTurn):
            async with gate.turn(boot("y", 800, 60_000, "a")):
                raise AssertionError("there was no room")
        async with gate.turn(boot("z", 200, 60_000, "a")):  # who gave up holds nothing
            return loop.time()

    assert TURN_S + 60 <= run(loop, story()) <= TURN_S + 60.1


def test_nothing_is_sent_in_a_turn_that_comes_after_the_lease() -> None:
    loop = VirtualLoop(1)

    def check() -> None:
        if loop.time() > 1.0:
            raise LeaseLost("leader")

    gate = PowerGate(lambda name: 1_000, check=check)

    async def story() -> None:
        async with gate.turn(boot("x", 800, 3_000, "a")):
            pass
        with pytest.raises(LeaseLost):
            async with gate.turn(boot("y", 800, 3_000, "a")):
                raise AssertionError("somebody else leads")

    run(loop, story())
