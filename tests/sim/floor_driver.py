"""A simulated `redfish` driver: the verbs, codes and looks of the real one, on the floors of a world."""

from __future__ import annotations

import asyncio
from contextlib import nullcontext
from typing import Final

from evac.drivers.capabilities import BootsServers, PowerReport, SwitchesPower
from evac.drivers.port import Action, Checked, Evidence, Observed, Order, Verb
from evac.model.boot_codes import BOOTING
from evac.model.errors import ActionError, OutcomeUnknown, Permanent, Retryable
from evac_lab.virtual_loop import VirtualProcess
from tests.sim.floor import Floor, Server
from tests.sim.world import World

CONNECT_S: Final = 3.0
LOOK_S: Final = 0.2
REQUEST_S: Final = 0.04
"""From the word of the engine until a controller acts, half more or less."""
DAWDLE_S: Final = 7.0
"""A controller may act, or answer, up to so much later."""
SILENT_LOOKS: Final = 4
LOOPS_S: Final = 1.5
"""After so many boot times without a system, a server that starts again and again is known."""
RESERVE_S: Final = 5.0
PEEK: Final = "/feed"
"""How keys of the looks of a feed watch end: nobody boots a server because of these."""


class RedfishSimulated(BootsServers, SwitchesPower):
    """One of it for each process that acts; what a dead process had sent arrives."""

    name = "redfish"
    verbs: frozenset[Verb] = frozenset({"boot", "start", "stop"})

    def __init__(self, world: World, process: VirtualProcess) -> None:
        self._world, self._process, self._draw = world, process, world.loop.random.random

    async def check(self, action: Action, order: Order) -> Checked:
        try:
            if action.verb == "boot":
                self._identify(await self._look(action))
        except ActionError as error:
            return Checked((error.message,), {"code": error.code}, error)
        return Checked()

    async def execute(self, action: Action, order: Order) -> Evidence:
        floor = self._world.floors[action.at]
        if order.dry_run:
            return {"dry_run": f"would {action.verb} {action.target}"}
        if action.verb != "boot":
            await self._go(0.5)
            (floor.close if action.verb == "start" else floor.open)(action.target)
            return {"breaker": "closed" if action.verb == "start" else "open"}
        server = await self._look(action, REQUEST_S)
        self._identify(server)
        found = server.on
        if not found:
            async with (order.power or nullcontext)():
                await self._send(floor, server)
                await self._go(REQUEST_S)
                await asyncio.sleep(self._late_s(floor))
            if order.switched_on is not None:
                order.switched_on()
        return await self._follow(action, server, order, found)

    async def observe(self, action: Action, order: Order) -> Observed:
        if action.verb != "boot":
            await self._go(0.1)
            closed = self._world.floors[action.at].closed[action.target]
            return Observed("done" if closed is (action.verb == "start") else "absent")
        try:
            server = await self._look(action, counts=not order.key.endswith(PEEK))
        except ActionError as error:
            return Observed("unclear", {"why": error.message, "code": error.code})
        if server.fault == "wrong-serial":
            return Observed("unclear", {"why": "another machine answers"})
        if not server.on:
            return Observed("absent", {"power": "off"})
        if server.up:
            return Observed("done", self._state(server))
        return Observed("unclear", {"power": "on", "state": BOOTING})

    async def undo(self, action: Action, order: Order) -> Evidence:
        if action.verb != "boot":
            raise Permanent("not-undone", f"{action.verb} of a circuit is not taken back")
        server = await self._look(action)
        self._identify(server)
        self._world.floors[action.at].cut_off(server)
        return {"power": "off"}

    async def look(self, action: Action, within_s: float) -> PowerReport:
        server = await self._look(action, counts=False)
        self._identify(server)
        return PowerReport(server.name, "on" if server.on else "off")

    async def close(self) -> None:
        """Nothing is open."""

    async def _go(self, delay_s: float) -> None:
        """A way to a controller, now short and now long."""
        await asyncio.sleep(delay_s * (0.5 + self._draw()))
        if not self._process.alive:
            raise Retryable("process-dead", "this process is dead")

    async def _send(self, floor: Floor, server: Server) -> None:
        """A request on its way to a controller: it arrives whether or not its sender still lives."""
        arrived = asyncio.get_running_loop().create_future()
        way_s = REQUEST_S * (0.5 + self._draw()) + self._late_s(floor)

        def arrive() -> None:
            if not self._process.alive or arrived.done():  # nobody waits for it any more
                floor.hear_the_dead(server)
                return
            floor.switch_on(server)
            arrived.set_result(None)

        self._world.loop.in_world(way_s, arrive)
        await arrived

    def _late_s(self, floor: Floor) -> float:
        return self._draw() * DAWDLE_S if self._draw() < floor.dawdles else 0.0

    async def _look(self, action: Action, takes_s: float = LOOK_S, counts: bool = True) -> Server:
        """Asks its controller. counts: whether this is the look that a boot must be preceded by."""
        floor = self._world.floors[action.at]
        server = floor.servers[action.target]
        await self._go(takes_s)
        if not floor.answers(server):
            await self._go(CONNECT_S)
            raise Retryable("bmc-silent", f"{server.name} does not answer", after_ms=1_000)
        if floor.refuses:
            raise Permanent("credentials-refused", "user name or password rejected")
        server.looked = server.looked or counts
        return server

    @staticmethod
    def _identify(server: Server) -> None:
        if server.fault == "wrong-serial":
            raise Permanent("bmc-wrong-serial", f"{server.name} is another machine")

    async def _follow(self, action: Action, server: Server, order: Order, found: bool) -> Evidence:
        """Until it is up, or the time is over."""
        loop = asyncio.get_running_loop()
        ends, began = loop.time() + order.timeout_s - RESERVE_S, loop.time()
        silent = off = 0
        pause = max(0.5, server.boot_s / 20)
        while True:
            await self._go(pause)
            try:
                await self._look(action)
                silent = 0
            except Permanent as error:
                raise OutcomeUnknown(error.code, error.message) from error
            except Retryable as error:
                silent += 1
                if silent >= SILENT_LOOKS:
                    raise OutcomeUnknown("bmc-silent", error.message) from error
                continue
            if server.up:
                return {**self._state(server), "found": found}
            off = off + 1 if not server.on else 0
            if off >= 3:
                raise Permanent("server-power-fault", f"{server.name} does not stay on")
            hopeless = server.fault == "loop" and loop.time() - began > LOOPS_S * server.boot_s
            if hopeless or loop.time() >= ends:
                if not found:  # what others switched on stays on
                    self._world.floors[action.at].switch_off(server)
                code = "server-boot-loop" if hopeless else "server-no-boot"
                raise Permanent(code, f"{server.name} does not come up")

    @staticmethod
    def _state(server: Server) -> dict[str, str | int | bool]:
        return {"state": "degraded" if server.fault == "degraded" else "up", "power": "on"}
