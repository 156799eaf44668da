"""One running fleet: the ground it stands on, its machines, its clock, its accounts and what it counts."""

from __future__ import annotations

import uuid
from dataclasses import dataclass

from evac.model.errors import InvalidInput
from evac_lab.fleet import faults
from evac_lab.fleet.accounts import Accounts
from evac_lab.fleet.clock import FleetClock
from evac_lab.fleet.faults import Shares
from evac_lab.fleet.ground import Ground
from evac_lab.fleet.machines import Machines
from evac_lab.fleet.power import PowerGrid
from evac_lab.fleet.stats import Stats


@dataclass(frozen=True, slots=True)
class Settings:
    """How a fleet behaves. Durations in ms of fleet time; closed: the breakers at the start; racks_down: how
    many racks have a dead switch, so that their controllers are silent; dying: boot servers, and when.
    """

    speed: float = 1.0
    seed: int = 1
    spread: float = 0.1
    latency_ms: int = 5
    slow_ms: int = 3_000
    busy_ms: int = 20_000
    bmc_boot_ms: int = 30_000
    closed: bool = True
    running: bool = False
    was_running: bool = False
    racks_down: int = 0
    dying: tuple[tuple[str, int], ...] = ()


class Fleet:
    """Everything of one fleet that lives in memory."""

    def __init__(
        self,
        ground: Ground,
        shares: Shares,
        settings: Settings,
        user: str,
        password: str,
        clock: FleetClock | None = None,
    ) -> None:
        self.ground, self.settings = ground, settings
        self.clock = clock or FleetClock(settings.speed)
        self.stats = Stats(len(ground))
        self.grid = PowerGrid(ground, settings.closed)
        drawn = faults.draw(len(ground), shares, settings.seed)
        self.machines = Machines(
            ground, self.grid, drawn, settings.seed, settings.spread, settings.bmc_boot_ms
        )
        self.accounts = Accounts(user, password, self.stats)
        self.first_call: dict[int, int] = {}
        self._strike(settings)
        if settings.running:
            self.machines.start_all(0)
        elif settings.was_running:
            self.machines.was_running()

    def _strike(self, settings: Settings) -> None:
        """What else is broken from the start, or will be."""
        for rack in faults.draw_racks(len(self.ground.racks), settings.racks_down, settings.seed):
            self.machines.fault[self.ground.rack == rack] = faults.code_of("dead")
        for id, at in settings.dying:
            self.machines.boot_server_dies(self.boot_server(id), at)

    def boot_server(self, id: str) -> int:
        """Its number. Raises `InvalidInput`."""
        ids = self.ground.boot_servers
        if id not in ids:
            raise InvalidInput("fleet-boot-server", f"there is no boot server {id[:80]}", ", ".join(ids[:20]))
        return ids.index(id)

    def now(self) -> int:
        """Fleet time; what was due until now has happened."""
        now = self.clock.now()
        self.machines.advance(now)
        return now

    def uuid_of(self, server: int, what: str) -> str:
        return str(uuid.uuid5(uuid.NAMESPACE_OID, f"evac/{self.ground.site}/{server}/{what}"))
