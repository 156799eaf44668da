"""How often a password may be refused: the counting, without any controller."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

import pytest

from evac.drivers.credentials import Credential, Credentials, NothingSent, Places, Refused, Verdict
from evac.drivers.redfish.settings import CIRCUIT_WEIGHT
from evac.model.errors import Permanent
from evac.net.secrets import Secret


def credential(most: int = 3) -> Credential:
    return Credential("evac", Secret("word"), most)


async def asks(
    one: Credential, address: str, verdict: Verdict, trace: list[int], in_flight: list[int]
) -> str:
    try:
        await one.enter(address)
    except Permanent:
        return "not asked"
    in_flight[0] += 1
    trace.append(in_flight[0])
    await asyncio.sleep(0)
    in_flight[0] -= 1
    one.leave(address, verdict)
    return verdict


def test_an_unproven_password_is_tried_by_a_few_at_once_and_then_by_nobody() -> None:
    async def story() -> None:
        one, trace = credential(3), list[int]()
        flight = [0]
        found = await asyncio.gather(*(asks(one, f"10.0.0.{n}", "refused", trace, flight) for n in range(50)))
        assert found.count("refused") == 3
        assert found.count("not asked") == 47
        assert max(trace) <= 3
        assert await asks(one, "10.0.1.1", "accepted", trace, flight) == "not asked"

    asyncio.run(story())


def test_a_success_lets_everybody_in_and_forgets_refusals() -> None:
    async def story() -> None:
        one, trace = credential(3), list[int]()
        flight = [0]
        for number in range(12):
            verdict: Verdict = "accepted" if number % 3 == 2 else "refused"
            assert await asks(one, f"10.0.0.{number}", verdict, trace, flight) == verdict
        trace.clear()
        found = await asyncio.gather(
            *(asks(one, f"10.0.1.{n}", "accepted", trace, flight) for n in range(40))
        )
        assert set(found) == {"accepted"}
        assert max(trace) == 40

    asyncio.run(story())


def test_silence_proves_nothing_and_frees_its_place() -> None:
    async def story() -> None:
        one, trace = credential(2), list[int]()
        flight = [0]
        found = await asyncio.gather(*(asks(one, f"10.0.0.{n}", "unknown", trace, flight) for n in range(20)))
        assert set(found) == {"unknown"}
        assert max(trace) <= 2

    asyncio.run(story())


def test_who_gives_up_waiting_hands_its_place_on() -> None:
    async def story() -> None:
        one = credential(1)
        await one.enter("10.0.0.1")
        first = asyncio.create_task(one.enter("10.0.0.2"))
        second = asyncio.create_task(one.enter("10.0.0.3"))
        await asyncio.sleep(0)
        one.leave("10.0.0.1", "unknown")
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
        await asyncio.wait_for(second, 1)
        assert first.cancelled()

    asyncio.run(story())


def test_a_refusal_is_judged_by_the_answers_of_those_beside_it() -> None:
    async def told(verdicts: list[Verdict], most: int) -> list[str]:
        """How the refusals are judged of controllers that answer in this order; all are asked at once."""
        one = credential(most)
        ends = asyncio.get_running_loop().time() + 60

        async def ask(number: int, verdict: Verdict) -> str:
            await one.enter(f"10.0.0.{number}")
            await asyncio.sleep(0.01 * number)
            one.leave(f"10.0.0.{number}", verdict)
            if verdict != "refused":
                return ""
            return (await one.judged(Refused("credentials-refused", "no"), ends)).code

        found = await asyncio.gather(*(ask(number, verdict) for number, verdict in enumerate(verdicts)))
        return [code for code in found if code]

    async def story() -> None:
        assert await told(["refused", "unknown", "accepted"], 5) == ["bmc-password"]
        assert await told(["accepted", "refused"], 5) == ["bmc-password"]
        assert await told(["refused"], 5) == ["credentials-refused"]
        assert await told(["refused", "unknown"], 5) == ["credentials-refused"]
        assert await told(["refused", "refused", "refused"], 3) == ["credentials-refused"] * 3
        # accepted once, and then by nobody any more: it was changed everywhere
        assert await told(["accepted", "refused", "refused", "refused"], 3) == ["credentials-refused"] * 3

    asyncio.run(story())


def test_after_five_minutes_one_at_a_time_tries_a_password_that_was_refused_in_a_row(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def story() -> None:
        loop = asyncio.get_running_loop()
        one = credential(2)
        for number in range(2):
            await one.enter(f"10.0.0.{number}")
            one.leave(f"10.0.0.{number}", "refused")
        with pytest.raises(NothingSent):
            await one.enter("10.0.0.9")
        then = loop.time()
        monkeypatch.setattr(loop, "time", lambda: then + 301)
        await one.enter("10.0.0.9")
        second = asyncio.create_task(one.enter("10.0.0.8"))
        await asyncio.sleep(0)
        assert not second.done()
        one.leave("10.0.0.9", "refused")
        with pytest.raises(NothingSent):
            await second
        monkeypatch.setattr(loop, "time", lambda: then + 602)
        await one.enter("10.0.0.8")
        one.leave("10.0.0.8", "accepted")
        for number in (5, 6, 7):
            await asyncio.wait_for(one.enter(f"10.0.0.{number}"), 1)

    asyncio.run(story())


def test_a_mended_password_is_another_one(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    known = Credentials(lambda: now[0])
    monkeypatch.setenv("BMC_PASSWORD", "first")
    first = known.of("evac", "env:BMC_PASSWORD", 3)
    monkeypatch.setenv("BMC_PASSWORD", "second")
    assert known.of("evac", "env:BMC_PASSWORD", 3) is first
    now[0] = 6.0
    assert known.of("evac", "env:BMC_PASSWORD", 3) is not first
    assert "second" not in repr(known.of("evac", "env:BMC_PASSWORD", 3).secret)


def test_places_go_first_to_who_goes_on_with_something() -> None:
    order: list[str] = []

    async def takes(places: Places, name: str, goes_on: bool) -> None:
        await places.take(goes_on)
        order.append(name)
        places.give()

    async def story() -> None:
        places = Places(1)
        await places.take()
        waiting: list[Coroutine[Any, Any, None]] = [
            takes(places, "new", False),
            takes(places, "going on", True),
        ]
        tasks = [asyncio.create_task(one) for one in waiting]
        await asyncio.sleep(0)
        assert not places.free
        places.give()
        await asyncio.gather(*tasks)
        assert places.free

    asyncio.run(story())
    assert order == ["going on", "new"]


def test_of_those_who_have_only_come_the_weightiest_goes_first_and_equals_in_the_order_they_came() -> None:
    order: list[str] = []

    async def takes(places: Places, name: str, weight: int) -> None:
        await places.take(weight=weight)
        order.append(name)
        places.give()

    async def story() -> None:
        places = Places(1)
        await places.take()
        come = [("unknown", 0), ("web-1", 60), ("store-1", 120), ("web-2", 60), ("feed", CIRCUIT_WEIGHT)]
        tasks = [asyncio.create_task(takes(places, name, weight)) for name, weight in come]
        await asyncio.sleep(0)
        places.give()
        await asyncio.gather(*tasks)

    asyncio.run(story())
    assert order == ["feed", "store-1", "web-1", "web-2", "unknown"]


def test_a_place_that_was_handed_to_somebody_who_left_is_not_lost() -> None:
    async def story() -> None:
        places = Places(1)
        await places.take()
        task = asyncio.create_task(places.take())
        await asyncio.sleep(0)
        places.give()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert places.free

    asyncio.run(story())
