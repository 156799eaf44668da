"""The servers of a fleet: what each does between power-on and a running system, and how faults spoil it.

Columns, not objects: a server is a row. Time is fleet time in ms, passed everywhere; events due by then are
processed first, in order, so that no power sample is missed. Knows no HTTP.
"""

from __future__ import annotations

import heapq
from array import array
from typing import Final, Literal

import numpy as np
import numpy.typing as npt

from evac.model.errors import InvalidInput
from evac_lab.fleet.ground import FAULTS, FleetGround, PowerGrid, Trip, code_of

OFF: Final = 0
ON: Final = 1
POWERING_OFF: Final = 2
POWER_STATES: Final = ("Off", "On", "PoweringOff")

BOOT_TARGETS: Final = ("None", "Pxe", "Hdd", "Cd", "Usb", "BiosSetup", "UefiHttp")
OVERRIDE_DISABLED: Final = 0
OVERRIDE_ONCE: Final = 1
OVERRIDES: Final = ("Disabled", "Once", "Continuous")

PROGRESS: Final = (
    (0.0, "PrimaryProcessorInitializationStarted"),
    (0.10, "MemoryInitializationStarted"),
    (0.25, "PCIResourceConfigStarted"),
    (0.40, "SystemHardwareInitializationComplete"),
    (0.50, "OSBootStarted"),
    (1.0, "OSRunning"),
)
"""BootProgress by completed share of the boot."""
_LOOP_AT: Final = 0.6
_SLOW_BOOT_FACTOR: Final = 5
_NEVER: Final = 2**62
GRACEFUL_OFF_MS: Final = 20_000
TRIPS_KEPT: Final = 1_000

_CALM, _UP, _LOOP, _OFF_AT_LAST, _BOOT_SERVER_DIES = range(5)
_CODE: Final = {fault: code for code, fault in enumerate(FAULTS)}
Reset = Literal["on", "off", "graceful-off", "restart", "graceful-restart", "cycle"]


class Machines:
    """All servers of a fleet.

    boot_ms: V, boot duration with seeded spread; reset_at: when last switched on or restarted; power_ons: how
    often a request switched it on; resets: number of executed resets; stalled_at: V, completed part in ms of
    a boot that waits for its boot server, -1 if none waits.
    """

    def __init__(
        self,
        ground: FleetGround,
        grid: PowerGrid,
        fault: npt.NDArray[np.uint8],
        seed: int,
        spread: float,
        bmc_boot_ms: int = 30_000,
    ) -> None:
        count = len(ground)
        self.ground, self.grid, self.fault = ground, grid, fault
        self.bmc_boot_ms = bmc_boot_ms
        kind = ground.kind
        nominal = np.array([one.boot_ms for one in ground.kinds], np.int64)[kind]
        factor = (
            np.random.default_rng([seed, 2]).triangular(1 - spread, 1, 1 + spread, count) if spread else 1.0
        )
        self.boot_ms = np.maximum(1, nominal * factor).astype(np.int64)
        self._offset_ms = np.array([one.image_offset_ms for one in ground.kinds], np.int64)[kind]
        self._inrush_ms = np.array([one.inrush_ms for one in ground.kinds], np.int64)[kind]
        self.policy = np.array([("on", "dark", "last").index(one.policy) for one in ground.kinds], np.uint8)[
            kind
        ]
        self.state = np.zeros(count, np.uint8)
        self.was_on = np.zeros(count, np.bool_)
        self.up = np.zeros(count, np.bool_)
        self.reset_at = np.full(count, -1, np.int64)
        self.up_at = np.full(count, _NEVER, np.int64)
        self.boots = np.zeros(count, np.uint16)
        self.resets = np.zeros(count, np.uint16)
        self.power_ons = np.zeros(count, np.uint16)
        self.stalled_at = np.full(count, -1, np.int64)
        self.override = np.zeros(count, np.uint8)
        self.target = np.zeros(count, np.uint8)
        self.booted_from = np.zeros(count, np.uint8)
        self.bmc_back_at = np.zeros(count, np.int64)
        self.boot_server_down = [False] * len(ground.boot_servers)
        self._turn = np.zeros(count, np.uint32)
        self._agenda = Agenda()
        self.trips: list[Trip] = []
        self.trip_count = 0
        self.up_count = 0
        self.timeline = Timeline()

    def next_due(self) -> int | None:
        """Fleet time in ms of the next event."""
        return self._agenda.next_at()

    def advance(self, now: int) -> None:
        """Processes all events due by now."""
        while (due := self._agenda.next_at()) is not None and due <= now:
            at, what, server, turn = self._agenda.pop()
            if what == _BOOT_SERVER_DIES:
                self.kill_boot_server(server, at)
            elif turn == self._turn[server]:
                self._happens(what, server, at)

    def _happens(self, what: int, server: int, at: int) -> None:
        if what == _CALM:
            self.grid.calm(server)
        elif what == _UP:
            self._comes_up(server, at)
        elif what == _LOOP:
            self._begin_boot(server, at)
        else:
            self.turn_off(server, at)

    def _later(self, at: int, what: int, server: int) -> None:
        self._agenda.note(at, what, server, int(self._turn[server]))

    def has_fault(self, server: int, fault: str) -> bool:
        return bool(self.fault[server] == _CODE[fault])

    def reset(self, server: int, how: Reset, now: int) -> bool:
        """Executes a reset once. Returns whether there was anything to do."""
        if self.has_fault(server, "lying") or not self.grid.has_power(server):
            return False
        on = self.state[server] != OFF
        if how == "on":
            if on:
                return False
            self.resets[server] += 1
            self.power_ons[server] += 1
            self.turn_on(server, now)
        elif how in ("off", "graceful-off"):
            if not on or (how == "graceful-off" and self.state[server] == POWERING_OFF):
                return False
            self.resets[server] += 1
            self._switch_off(server, now, gracefully=how == "graceful-off" and bool(self.up[server]))
        else:
            if not on:
                return False
            self.resets[server] += 1
            if how == "cycle":
                self.turn_off(server, now)
                self.turn_on(server, now)
            else:
                self._begin_boot(server, now)
        return True

    def _switch_off(self, server: int, now: int, gracefully: bool) -> None:
        if not gracefully:
            self.turn_off(server, now)
            return
        self.state[server] = POWERING_OFF
        self._leave_up(server, now)
        self._later(now + GRACEFUL_OFF_MS, _OFF_AT_LAST, server)

    def turn_on(self, server: int, now: int) -> None:
        """Switches power on; if that trips a breaker, it is off again at once."""
        self.state[server] = ON
        self.was_on[server] = True
        above = self.grid.switch_on(server)
        self._begin_boot(server, now)
        for domain in above:
            self.trip(domain, now)

    def turn_off(self, server: int, now: int) -> None:
        self.grid.switch_off(server)
        self._is_off(server, now)
        self.was_on[server] = False

    def _is_off(self, server: int, now: int) -> None:
        self._leave_up(server, now)
        self._turn[server] += 1
        self.state[server] = OFF
        self.up_at[server] = _NEVER
        self.stalled_at[server] = -1

    def _leave_up(self, server: int, now: int) -> None:
        if self.up[server]:
            self.up[server] = False
            self._count(-1, now)

    def _count(self, change: int, now: int) -> None:
        self.up_count += change
        self.timeline.note(now, self.up_count)

    def _begin_boot(self, server: int, now: int) -> None:
        """Starts a boot after power-on or restart; the latter draws its inrush again."""
        self._leave_up(server, now)
        self._turn[server] += 1
        self.state[server] = ON
        self.boots[server] += 1
        self.reset_at[server] = now
        self.booted_from[server] = self.target[server] if self.override[server] else 0
        if self.override[server] == OVERRIDE_ONCE:
            self.override[server], self.target[server] = OVERRIDE_DISABLED, 0
        self.stalled_at[server] = -1
        self._later(now + int(self._inrush_ms[server]), _CALM, server)
        self._go_on(server, now, 0)
        for domain in self.grid.rush(server):
            self.trip(domain, now)

    def _takes_ms(self, server: int) -> int:
        slow = _SLOW_BOOT_FACTOR if self.has_fault(server, "slow-boot") else 1
        return int(self.boot_ms[server]) * slow

    def _go_on(self, server: int, now: int, done: int) -> None:
        """Continues the boot from `done` ms: to its end, to the next loop, or to a missing image."""
        takes = self._takes_ms(server)
        if self.has_fault(server, "boot-loop"):
            self._later(now + int(takes * _LOOP_AT) - done, _LOOP, server)
            return
        if self.has_fault(server, "no-boot"):
            return
        boot_server = self.ground.boot_server[server]
        if boot_server >= 0 and self.boot_server_down[boot_server]:
            self.stalled_at[server] = max(done, min(takes - 1, int(self._offset_ms[server])))
        self.up_at[server] = now + takes - done
        self._later(int(self.up_at[server]), _UP, server)

    def _comes_up(self, server: int, now: int) -> None:
        if self.stalled_at[server] >= 0 or self.up[server]:
            return
        self.up[server] = True
        self._count(1, now)

    def boot_server_dies(self, number: int, at: int) -> None:
        """Schedules the death of a boot server."""
        self._agenda.note(at, _BOOT_SERVER_DIES, number, 0)

    def kill_boot_server(self, number: int, now: int) -> int:
        """Boots without their image wait; returns how many."""
        self.boot_server_down[number] = True
        waiting = self._booting(number)
        done = now - self.reset_at[waiting]
        before = waiting[(done < self._offset_ms[waiting]) & (self.up_at[waiting] < _NEVER)]
        self.stalled_at[before] = np.minimum(self._offset_ms[before], self.boot_ms[before] - 1)
        return len(before)

    def revive_boot_server(self, number: int, now: int) -> int:
        """Waiting boots resume from where they were; returns how many."""
        self.boot_server_down[number] = False
        waiting = self._booting(number)
        waiting = waiting[self.stalled_at[waiting] >= 0]
        for server in waiting.tolist():
            done = min(int(self.stalled_at[server]), now - int(self.reset_at[server]))
            self.stalled_at[server] = -1
            self._resume(server, now, done)
        return len(waiting)

    def _resume(self, server: int, now: int, done: int) -> None:
        """Continues a running boot under present conditions and cancels its earlier events."""
        self._turn[server] += 1
        self.up_at[server] = _NEVER
        if self.grid.rushing[server]:
            self._later(max(now, int(self.reset_at[server] + self._inrush_ms[server])), _CALM, server)
        self._go_on(server, now, done)

    def _booting(self, boot_server: int) -> npt.NDArray[np.int64]:
        return np.flatnonzero((self.ground.boot_server == boot_server) & (self.state == ON) & ~self.up)

    def progress(self, server: int, now: int) -> str:
        """BootProgress.LastState."""
        if self.state[server] == OFF:
            return "None"
        if self.up[server] or self.state[server] == POWERING_OFF:
            return "OSRunning"
        done = now - int(self.reset_at[server])
        if self.stalled_at[server] >= 0:
            done = min(done, int(self.stalled_at[server]))
        takes = self._takes_ms(server)
        if self.up_at[server] < _NEVER and self.stalled_at[server] < 0:
            done = takes - (int(self.up_at[server]) - now)
        share = min(done / takes, _LOOP_AT)
        share = min(done / takes, 0.999) if not self.has_fault(server, "no-boot") else share
        return [name for least, name in PROGRESS if share >= least][-1]

    def trip(self, domain: int, now: int) -> None:
        """Opens a breaker that is over budget."""
        account = self.grid.over(domain)
        if account is None:
            return
        which = 0 if account == "steady" else 1
        watts, budget = self.grid.load[domain][which], self.grid.budget[domain][which]
        lost = self._lose(domain, now)
        self.grid.tripped[domain] = True
        self.trip_count += 1
        if len(self.trips) < TRIPS_KEPT:
            self.trips.append(
                Trip(now, self.grid.ids[domain], self.grid.kinds[domain], account, watts, budget, lost)
            )

    def _lose(self, domain: int, now: int) -> int:
        lost = self.grid.open(domain)
        for server in lost.tolist():
            self._is_off(server, now)
        return len(lost)

    def open(self, domain: int, now: int) -> int:
        """A person opens a breaker; returns how many servers lost power."""
        return self._lose(domain, now)

    def close(self, domain: int, now: int) -> None:
        """Closes a breaker; management controllers start, and servers follow their power policy at once."""
        dark = ~self.grid.rack_live[self.grid.rack_of]
        above = self.grid.close(domain)
        behind = self.grid.servers_behind(domain)
        returned = behind[dark[behind] & self.grid.rack_live[self.grid.rack_of[behind]]]
        if self.bmc_boot_ms:
            self.bmc_back_at[returned] = now + self.bmc_boot_ms
        if above:
            self.trip(domain, now)
            return
        wanted = (self.policy[returned] == 0) | ((self.policy[returned] == 2) & self.was_on[returned])
        for server in returned[wanted & (self.fault[returned] != _CODE["lying"])].tolist():
            if self.grid.has_power(server) and self.state[server] == OFF:
                self.turn_on(server, now)

    def restart_controller(self, server: int, now: int) -> None:
        self.bmc_back_at[server] = now + self.bmc_boot_ms

    def set_budget(self, domain: int, power: int | None, inrush: int | None, now: int) -> None:
        """Changes a budget; a domain over it trips."""
        if self.grid.set_budget(domain, power, inrush):
            self.trip(domain, now)

    def set_faults(self, servers: npt.NDArray[np.int64], fault: str, now: int) -> None:
        """Sets or clears (`none`) a fault of servers. A running boot continues under the new one."""
        self.fault[servers] = code_of(fault)
        booting = servers[(self.state[servers] == ON) & ~self.up[servers]]
        for server in booting.tolist():
            self._resume(server, now, min(now - int(self.reset_at[server]), self._takes_ms(server) - 1))

    def start_all(self, now: int) -> None:
        """Everything that has power and can be is on and up, as after years of operation, without inrush."""
        able = (self.fault != _CODE["boot-loop"]) & (self.fault != _CODE["no-boot"])
        running = able & self.grid.rack_live[self.grid.rack_of]
        if above := self.grid.start_with(running):
            words = f"{self.grid.ids[above[0]]} cannot supply what is connected to it"
            raise InvalidInput("fleet-power", words, "start with all servers off")
        self.state[running] = ON
        self.was_on[running] = self.up[running] = True
        self.boots[running] = 1
        self.reset_at[running] = self.up_at[running] = now
        self._count(int(self.up.sum()), now)

    def was_running(self) -> None:
        """Marks dark servers as on before: policy `last` will switch them on."""
        self.was_on[:] = True


_AT: Final = 112
_ORDER: Final = 64
_WHAT: Final = 60
_SERVER: Final = 32
_TURN: Final = 2**32 - 1
_NUMBER: Final = 2**28 - 1
POINTS_MOST: Final = 100_000


class Agenda:
    """Events in the order in which they are due; ties in the order noted.

    An event is one number of 160 bits: a tuple would take four times the memory.
    """

    def __init__(self) -> None:
        self._due: list[int] = []
        self._sequence = 0

    def note(self, at: int, what: int, server: int, turn: int) -> None:
        """at: ms, 0 or more; what: below 16; server: below 2^28; turn: below 2^32."""
        self._sequence += 1
        order = at << _AT | self._sequence << _ORDER
        heapq.heappush(self._due, order | what << _WHAT | server << _SERVER | turn)

    def next_at(self) -> int | None:
        return self._due[0] >> _AT if self._due else None

    def pop(self) -> tuple[int, int, int, int]:
        """(at, what, server, turn) of the first event."""
        due = heapq.heappop(self._due)
        return due >> _AT, due >> _WHAT & 0xF, due >> _SERVER & _NUMBER, due & _TURN


class Timeline:
    """A count over time. When full, every second point is dropped, never the last one."""

    def __init__(self) -> None:
        self._at = array("q", [0])
        self._count = array("i", [0])

    def note(self, at: int, count: int) -> None:
        if self._at[-1] == at:
            self._count[-1] = count
            return
        if len(self._at) >= POINTS_MOST:
            self._at, self._count = self._at[::2], self._count[::2]
        self._at.append(at)
        self._count.append(count)

    def points(self, most: int = POINTS_MOST) -> list[tuple[int, int]]:
        """(at, count), evenly thinned to about `most` points, always including the last."""
        step = -(-len(self._at) // most)
        found = list(zip(self._at[::step], self._count[::step], strict=True))
        last = (self._at[-1], self._count[-1])
        return found if found[-1] == last else [*found, last]
