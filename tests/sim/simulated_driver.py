"""What all simulated drivers have in common: the way to a server, a dry run, and rules checked on the way."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import TypeVar

from evac.drivers import parameters
from evac.drivers.port import Action, Checked, Evidence, Observed, Order, Verb
from evac.drivers.registry import DRIVERS
from evac.model.errors import ActionError, Permanent
from evac_lab.virtual_loop import VirtualProcess
from tests.sim.world import World

T = TypeVar("T")


def question(timeout_s: float) -> Order:
    """What is asked outside of any run."""
    return Order("", "", 0, 0, 0, "", timeout_s, "")


class SimulatedDriver(ABC):
    """What all have in common: the way to the server, a dry run, and rules that are checked on the way."""

    name = ""
    verbs: frozenset[Verb] = frozenset()
    takes_s: Mapping[str, float] = MappingProxyType({})
    host_key = "host"

    def __init__(self, world: World, process: VirtualProcess) -> None:
        self.world, self.process = world, process

    async def check(self, action: Action, order: Order) -> Checked:
        try:
            self._refuse_others(action)
            problems, known = await self._look(
                action, order, lambda: (tuple(self.problems(action, order)), self.error(action, order))
            )
        except ActionError as error:
            return Checked((error.message,))
        return Checked(problems, error=known)

    async def execute(self, action: Action, order: Order) -> Evidence:
        self._refuse_others(action)
        if order.dry_run:
            checked = await self.check(action, order)
            return {
                "dry_run": f"would {action.verb} {action.target}",
                "problems": "; ".join(checked.problems),
            }
        await self._go_on()
        self.world.begins(self.process, action, order)

        def serve() -> Evidence:
            self.refuse_stale(action, order)
            self.world.accepts(order, "execute")
            found = self.do(action, order)
            self.world.say(f"{self.name}: {action.verb} {action.target} at {self.site(action)} ({order.key})")
            return {**found, **parameters.proof_of(action)}

        return await self._change(action, order, serve)

    async def observe(self, action: Action, order: Order) -> Observed:
        world = self.world
        try:
            self._refuse_others(action)
            site = self.site(action)
            where = (self.name, action.target, site)
            done, under_way = await world.ask(
                self.process,
                site,
                lambda: (self.is_done(action, order), world.under_way.get(where, 0)),
                order,
                "look",
                0,
            )
        except ActionError as error:
            return Observed("unclear", {"why": error.message[:200]})
        if under_way or int(world.loop.random.random() * 1_000) < world.faults.blind:
            return Observed("unclear", {"why": "something is under way"})
        world.looked(order)
        if done:
            return Observed("done", {"seen": site, **parameters.proof_of(action)})
        return Observed("absent", {"seen": site})

    async def undo(self, action: Action, order: Order) -> Evidence:
        self._refuse_others(action)
        if not self.may_undo(action):
            raise Permanent("not-undone", f"{action.verb} is not taken back")
        if order.dry_run:
            return {"dry_run": f"would undo {action.verb}"}
        await self._go_on()
        self.world.begins(self.process, action, order)

        def serve() -> Evidence:
            self.refuse_stale(action, order)
            found = self.take_back(action, order)
            self.world.say(f"{self.name}: undo {action.verb} {action.target} at {self.site(action)}")
            return found

        return await self._change(action, order, serve)

    async def close(self) -> None:
        """Nothing is open."""
        return

    # What each driver says for itself; all of these run at the server, at one instant.

    def site(self, action: Action) -> str:
        return parameters.text(action.settings, self.host_key)

    def problems(self, action: Action, order: Order) -> list[str]:
        return []

    def refuse_stale(self, action: Action, order: Order) -> None:
        """Where the server remembers tokens; by itself it remembers none."""
        return

    @abstractmethod
    def do(self, action: Action, order: Order) -> Evidence:
        """Changes the simulated world."""

    def error(self, action: Action, order: Order) -> ActionError | None:
        """What execute would raise now, where that is known."""
        return None

    @abstractmethod
    def is_done(self, action: Action, order: Order) -> bool:
        """Whether the simulated world is as the action wants it."""

    def may_undo(self, action: Action) -> bool:
        return False

    def take_back(self, action: Action, order: Order) -> Evidence:
        raise Permanent("not-undone", f"{action.verb} is not taken back")

    def _refuse_others(self, action: Action) -> None:
        if action.verb not in self.verbs:
            raise Permanent("verb-unknown", f"{self.name} cannot {action.verb}")
        parameters.refuse_proof(action, DRIVERS[self.name].proofs)

    def _where(self, action: Action) -> tuple[str, str, str]:
        return self.name, action.target, self.site(action)

    async def _go_on(self) -> None:
        """A process that was stopped in the middle of a callback acts only when it goes on."""
        while self.process.stopped:
            await asyncio.sleep(0)

    async def _look(self, action: Action, order: Order, serve: Callable[[], T]) -> T:
        return await self.world.ask(self.process, self.site(action), serve, order, "look", 0)

    async def _change(self, action: Action, order: Order, serve: Callable[[], T]) -> T:
        takes_s = self.takes_s.get(action.verb, 0.01)
        return await self.world.ask(
            self.process, self.site(action), serve, order, "change", takes_s, self._where(action)
        )
