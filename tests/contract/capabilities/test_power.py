"""What every driver of power keeps: BootsServers, SwitchesPower."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

from evac.drivers.capabilities import BootsServers, SwitchesPower
from evac.drivers.port import PowerTurn
from evac.model.errors import ActionError
from tests.contract.capabilities.asked import TIMEOUT_S, ask, refuses_hostile_answers, silently
from tests.contract.capabilities.story import Case, assert_keeps_contract
from tests.contract.capabilities.suites import AskedPower, acting, asking


class Meter:
    """Counts the turns to draw power, and how often a controller confirmed the request."""

    def __init__(self) -> None:
        self.turns = self.inside = self.confirmed = 0

    @property
    def power(self) -> PowerTurn:
        @asynccontextmanager
        async def turn() -> AsyncIterator[None]:
            self.turns += 1
            self.inside += 1
            try:
                yield
            finally:
                self.inside -= 1

        return turn

    def switched_on(self) -> None:
        self.confirmed += 1


@acting(BootsServers, "boot")
def test_boot(case: Case) -> None:
    """Power is drawn in one turn and confirmed once, however often a boot is ordered."""
    meter = Meter()
    case.order = replace(case.order, power=meter.power, switched_on=meter.switched_on)

    async def it_drew_power_once(case: Case) -> None:
        assert (meter.turns, meter.inside, meter.confirmed) == (1, 0, 1)

    assert_keeps_contract(case, it_drew_power_once)
    assert meter.confirmed == 1


@asking(BootsServers)
def test_look(asked: AskedPower) -> None:
    """On, off, or an error: never the power of another machine, and silence is no power."""

    async def story() -> None:
        off = await asked.driver.look(asked.action, TIMEOUT_S)
        on = await asked.driver.look(asked.on, TIMEOUT_S)
        assert (off.power, on.power) == ("off", "on")
        assert isinstance(await ask(asked, "look", TIMEOUT_S, action=asked.another), ActionError)
        await refuses_hostile_answers(asked, "look")
        async with silently(asked) as within_s:
            error = await ask(asked, "look", within_s)
            assert isinstance(error, ActionError), error

    asked.run(story())


@acting(SwitchesPower, "start", "stop")
def test_circuit(case: Case) -> None:
    """A breaker is closed and opened, and never another one."""
    assert_keeps_contract(case)
