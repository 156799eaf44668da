"""The port of the controllers: who was called, whether he can hear it, and how long he takes to answer."""

from __future__ import annotations

import asyncio
import heapq
from typing import Final

from evac_lab.fleet.addresses import NOBODY, is_loopback, server_at
from evac_lab.fleet.answers import Answer, Request
from evac_lab.fleet.connections import IDLE_SECONDS, Connection
from evac_lab.fleet.faults import FAULTS
from evac_lab.fleet.fleet import Fleet
from evac_lab.fleet.service import Controller

CONNECTIONS_MOST: Final = 4_096
TLS_CONNECTIONS_MOST: Final = 512
"""Each holds up to 100 KiB, one without TLS 6."""
_AT_REST_SECONDS: Final = 0.2
_ROOM: Final = 64
_DEAD: Final = FAULTS.index("dead")


class ControllerDoor:
    """A `Door` to all controllers of a fleet."""

    def __init__(self, fleet: Fleet, loop: asyncio.AbstractEventLoop, most: int = CONNECTIONS_MOST) -> None:
        self.fleet, self._loop, self._most = fleet, loop, most
        self._controller = Controller(fleet)
        self._open: set[Connection] = set()

    def enter(self, connection: Connection, address: str) -> int | None:
        stats = self.fleet.stats
        stats.connections_in_all += 1
        if not is_loopback(address):
            stats.nobody += 1
            return None
        server = server_at(address, len(self.fleet.ground))
        if server == NOBODY:
            stats.nobody += 1
            return None
        if len(self._open) >= self._most and not self._make_room():
            stats.connections_refused += 1
            return None
        if server >= 0 and not self._takes_connections(server):
            return None
        self._open.add(connection)
        stats.connections = len(self._open)
        stats.connections_most = max(stats.connections_most, stats.connections)
        return server

    def leave(self, connection: Connection) -> None:
        self._open.discard(connection)
        self.fleet.stats.connections = len(self._open)

    def _takes_connections(self, server: int) -> bool:
        machines, now = self.fleet.machines, self.fleet.now()
        if machines.has_fault(server, "refusing") or not self.hears(server, now):
            return False
        if machines.has_fault(server, "rebooting") and server not in self.fleet.first_call:
            self.fleet.first_call[server] = now
            machines.restart_controller(server, now)
            return False
        return True

    def hears(self, server: int, now: int) -> bool:
        """Whether a controller has power, is not dead, and is not starting."""
        machines = self.fleet.machines
        powered = self.fleet.grid.has_power(server) and machines.fault[server] != _DEAD
        return bool(powered and now >= machines.bmc_back_at[server])

    def begin(self, server: int) -> float | None:
        fleet = self.fleet
        fleet.stats.begin(server)
        settings = fleet.settings
        if server < 0:
            return fleet.clock.wall_seconds(settings.latency_ms)
        if fleet.machines.has_fault(server, "hanging") or not self.hears(server, fleet.now()):
            return None
        slow = fleet.machines.has_fault(server, "slow")
        return fleet.clock.wall_seconds(settings.slow_ms if slow else settings.latency_ms)

    def answer(self, server: int, request: Request) -> Answer | None:
        if server >= 0 and not self.hears(server, self.fleet.now()):
            return None
        return self._controller.answer(server, request)

    def end(self, server: int, status: int) -> None:
        self.fleet.stats.end(server)
        if status:
            self.fleet.stats.answered(status)

    def _make_room(self) -> bool:
        """Ends connections that were idle longest; one that was used a moment ago is left alone.

        Many at once, because looking for them takes its time.
        """
        latest = self._loop.time() - _AT_REST_SECONDS
        at_rest = [one for one in self._open if one.idle and one.used_at <= latest]
        for one in heapq.nsmallest(_ROOM, at_rest, key=lambda one: one.used_at):
            one.drop()
        return bool(at_rest)

    def sweep(self) -> None:
        """Ends connections that nobody has used for long."""
        old = self._loop.time() - IDLE_SECONDS
        for connection in [one for one in self._open if one.used_at < old]:
            connection.drop()

    def close(self) -> None:
        for connection in list(self._open):
            connection.drop()
