"""A simulated floor: servers behind feeds, boot servers, rack switches, and the power they draw.

It owns what is true. Two accounts a domain: a server adds its watts to the steady one and its inrush to the
inrush one of every domain above it; a rack with two feeds counts in full on both. One sample above a budget
opens the breaker: what hangs on it alone is off. The rules that must never break are checked here: no budget
exceeded, no server powered twice without a look between, none that is on switched on again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Final, Literal

Fault = Literal["", "dead", "slow", "loop", "no-boot", "wrong-serial", "power-fault", "degraded"]
FAULTS: Final[tuple[Fault, ...]] = (
    "dead",
    "slow",
    "loop",
    "no-boot",
    "wrong-serial",
    "power-fault",
    "degraded",
)
HOPELESS: Final = frozenset({"dead", "loop", "no-boot", "wrong-serial", "power-fault"})
"""Servers that nobody can bring up from afar."""
SLOW: Final = 3
IMAGE_SHARE: Final = 0.4
"""How far into a boot its image is fetched."""
STEPS_IN_S: Final = 20.0
"""How long until another boot server of the site answers what begins then."""
_ENOUGH: Final = 10**12


class WaveBroken(AssertionError):
    """A rule that must never break is broken: the simulation found something."""


@dataclass(slots=True, eq=False)
class Server:
    """One server and what it does. on, up: now; starts: how often its power came on; looked: at it since.
    stray: its power came on by the request of a controller that had died. patient: it asks for its image
    until it has it; hanging: it found none. image_from: the boot server that answered for its own when it was
    last powered on.
    """

    name: str
    rack: str
    feeds: tuple[str, ...]
    boot_server: str
    watts: int
    inrush_watts: int
    inrush_s: float
    boot_s: float
    fault: Fault = ""
    on: bool = False
    up: bool = False
    starts: int = 0
    looked: bool = True
    rushing: bool = False
    stray: bool = False
    patient: bool = False
    hanging: bool = False
    image_from: str = ""


@dataclass(eq=False)
class Floor:
    """later: calls something after a while, whoever lives. fail: told of a rule that is broken. budgets: of
    domains, inrush: of feeds, in watts.
    """

    later: Callable[..., None]
    fail: Callable[[BaseException], None]
    servers: dict[str, Server]
    halls: dict[str, str]
    budgets: dict[str, int]
    inrush: dict[str, int]
    said: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.closed: dict[str, bool] = {feed: False for one in self.servers.values() for feed in one.feeds}
        self.steady: dict[str, int] = dict.fromkeys(self.budgets, 0)
        self.rush: dict[str, int] = dict.fromkeys(self.inrush, 0)
        self.dark_switches: set[str] = set()
        self.dead_boot_servers: set[str] = set()
        self.stands_in: dict[str, str] = {one.boot_server: one.boot_server for one in self.servers.values()}
        self.only_boot_server = ""
        self.trips = self.samples = self.strays = 0
        self.forgiven: dict[str, int] = {}

    def above(self, server: Server) -> tuple[str, ...]:
        """Domains with a budget that a server counts on."""
        hall = self.halls.get(server.rack, "")
        return tuple(one for one in (*server.feeds, hall, server.rack) if one in self.budgets)

    def has_power(self, server: Server) -> bool:
        return any(self.closed[feed] for feed in server.feeds)

    def answers(self, server: Server) -> bool:
        """Whether its management controller does: it has power, a switch, and is not dead."""
        return self.has_power(server) and server.rack not in self.dark_switches and server.fault != "dead"

    # What a controller is told.

    def switch_on(self, server: Server) -> None:
        if not server.looked:
            self._break(f"{server.name} is powered twice without a look between")
        if server.on:
            if not server.stray:  # else nobody could know: it is on, and stays so
                self._break(f"{server.name} is on, and is switched on")
            return
        server.looked = False
        self._power(server)

    def hear_the_dead(self, server: Server) -> None:
        """A request arrives whose sender is dead, perhaps long after another one looked."""
        if not server.on:
            server.stray = True
            self.strays += 1
            self._power(server)

    def _power(self, server: Server) -> None:
        if not self.has_power(server) or server.fault == "power-fault":
            return
        server.on, server.up, server.hanging = True, False, False
        server.image_from = self.stands_in[server.boot_server]
        server.starts += 1
        self._draw(server, 1)
        self._rush(server, 1)
        self.later(server.inrush_s, self._calm, server, server.starts)
        self.later(server.boot_s * IMAGE_SHARE, self._fetch, server, server.starts)

    def cut_off(self, server: Server) -> None:
        """It hangs, says whoever cuts it off."""
        if server.up:
            self._break(f"{server.name} is up, and is switched off")
        self.switch_off(server)

    def switch_off(self, server: Server) -> None:
        if server.on:
            server.on = server.up = server.stray = False
            self._draw(server, -1)
            self._rush(server, -1)

    def close(self, feed: str) -> None:
        """Servers of this floor stay dark until they are told to boot."""
        self.closed[feed] = True
        self.said.append(f"{feed} is closed")

    # What happens to it.

    def trip(self, feed: str, why: str) -> None:
        """The breaker opens; what has no other feed is off."""
        if not self.closed[feed]:
            return
        self.closed[feed] = False
        self.trips += 1
        self.said.append(f"{feed} trips: {why}")
        for server in self.servers.values():
            if feed in server.feeds and not self.has_power(server):
                self.switch_off(server)
                server.looked = True  # whoever finds it off again was told so by its silence

    def set_budget(self, domain: str, watts: int, held: int) -> None:
        """The utility gives less; what was promised before may still come on."""
        self.budgets[domain] = watts
        self.forgiven[domain] = max(watts, held)
        self.said.append(f"{domain} carries {watts} W, {held} W are held")

    def kill_boot_server(self, name: str) -> None:
        self.dead_boot_servers.add(name)
        self.said.append(f"boot server {name} dies")
        if name != self.only_boot_server:
            self.later(STEPS_IN_S, self._step_in, name)

    def _step_in(self, name: str) -> None:
        """The first that lives answers for one that died, and for those that it had answered for."""
        alive = sorted(self.stands_in.keys() - self.dead_boot_servers)
        if name in self.dead_boot_servers and alive:
            self.stands_in.update((one, alive[0]) for one, by in self.stands_in.items() if by == name)

    def mend_boot_server(self, name: str) -> None:
        self.dead_boot_servers.discard(name)
        self.said.append(f"boot server {name} lives again")
        for server in self.servers.values():
            if server.image_from == name and server.hanging and server.patient:
                server.hanging = False
                self.later(0.0, self._fetch, server, server.starts)

    def _fetch(self, server: Server, start: int) -> None:
        """Its image comes from the boot server that answered when it began."""
        if not server.on or server.starts != start:
            return
        stuck = server.image_from in self.dead_boot_servers
        if stuck or server.fault in ("loop", "no-boot"):
            server.hanging = stuck
            return
        rest = server.boot_s * (1 - IMAGE_SHARE)
        self.later(rest * (SLOW if server.fault == "slow" else 1), self._arrive, server, start)

    def _arrive(self, server: Server, start: int) -> None:
        if server.on and server.starts == start:
            server.up = True

    def _calm(self, server: Server, start: int) -> None:
        if server.starts == start:
            self._rush(server, -1)

    def _rush(self, server: Server, sign: int) -> None:
        if (sign > 0) == server.rushing:
            return
        server.rushing = sign > 0
        for feed in server.feeds:
            if feed in self.rush:
                self.rush[feed] += sign * server.inrush_watts
                if sign > 0 and self.rush[feed] > self.inrush[feed]:
                    self._break(f"inrush of {feed}: {self.rush[feed]} W, {self.inrush[feed]} W are allowed")

    def _draw(self, server: Server, sign: int) -> None:
        for domain in self.above(server):
            self.steady[domain] += sign * server.watts
            if sign < 0:
                continue
            self.samples += 1
            allowed = max(self.budgets[domain], self.forgiven.get(domain, 0))
            if self.steady[domain] > allowed:
                self._break(f"{domain} draws {self.steady[domain]} W, {allowed} W are allowed")

    def _break(self, words: str) -> None:
        """A driver may catch what is raised in it; the simulation ends all the same."""
        self.fail(WaveBroken(words))

    def up(self) -> int:
        return sum(1 for server in self.servers.values() if server.up)

    def missing(self, hopeless: Iterable[str] = ()) -> list[str]:
        """Servers that could be up and are not."""
        lost = set(hopeless)
        return [
            server.name
            for server in self.servers.values()
            if not server.up and server.fault not in HOPELESS and server.name not in lost
        ]
