"""A simulated floor: servers behind feeds, boot servers, rack switches, and the power they draw.

It owns what is true. Two accounts a domain: a server adds its watts to the steady one and its inrush to the
inrush one of every domain above it; a rack with two feeds counts in full on both. One sample above a budget
opens the breaker: what hangs on it alone is off. The rules that must never break are checked here: no budget
exceeded, no server powered twice without a look between, none that is on switched on again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Final, Literal, get_args

Fault = Literal["", "dead", "slow", "loop", "no-boot", "wrong-serial", "power-fault", "degraded"]
FAULTS: Final[tuple[Fault, ...]] = tuple(one for one in get_args(Fault) if one)
HOPELESS: Final = frozenset({"dead", "loop", "no-boot", "wrong-serial", "power-fault"})
"""Servers that nobody can bring up from afar."""
SLOW: Final = 3
IMAGE_SHARE: Final = 0.4
"""How far into a boot its image is fetched."""
STEPS_IN_S: Final = 20.0
"""How long until another boot server of the site answers what begins then."""


@dataclass(slots=True, eq=False)
class Server:
    """One server and what it does."""

    name: str
    rack: str
    feeds: tuple[str, ...]
    boot_server: str
    watts: int
    inrush_watts: int
    inrush_s: float
    boot_s: float
    fault: Fault = ""
    patient: bool = False
    """Whether it asks for its image until it has it."""
    on: bool = False
    up: bool = False
    starts: int = 0
    """How often its power came on."""
    looked: bool = True
    """Whether somebody looked at it since."""
    rushing: bool = False
    stray: bool = False
    """Whether its power came on by the request of a controller that had died."""
    hanging: bool = False
    """Whether it found no image."""
    image_from: str = ""
    """The boot server that answered for its own when it was last powered on."""


@dataclass(eq=False)
class Floor:
    later: Callable[..., None]
    """Calls something after so many seconds, whoever lives by then."""
    breaks: Callable[[str], None]
    """Hears in words of a rule that is broken; a driver may catch what is raised in it."""
    say: Callable[[str], None]
    servers: dict[str, Server]
    halls: Mapping[str, str]
    """Rack -> hall."""
    budgets: dict[str, int]
    """Of domains, in watts."""
    inrush: Mapping[str, int]
    """What a feed bears, in watts."""
    dawdles: float = 0.0
    """Share of requests, and of answers, that take seconds."""

    def __post_init__(self) -> None:
        self.closed: dict[str, bool] = {feed: False for one in self.servers.values() for feed in one.feeds}
        self.steady: dict[str, int] = dict.fromkeys(self.budgets, 0)
        self.rush: dict[str, int] = dict.fromkeys(self.inrush, 0)
        self.dark_switches: set[str] = set()
        self.dead_boot_servers: set[str] = set()
        self.stands_in: dict[str, str] = {one.boot_server: one.boot_server for one in self.servers.values()}
        self.only_boot_server = ""
        self.refuses = False
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
            self.breaks(f"{server.name} is powered twice without a look between")
        if server.on:
            if not server.stray:  # else nobody could know: it is on, and stays so
                self.breaks(f"{server.name} is on, and is switched on")
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
            self.breaks(f"{server.name} is up, and is switched off")
        self.switch_off(server)

    def switch_off(self, server: Server) -> None:
        if server.on:
            server.on = server.up = server.stray = False
            self._draw(server, -1)
            self._rush(server, -1)

    def close(self, feed: str) -> None:
        """Servers of this floor stay dark until they are told to boot."""
        self.closed[feed] = True
        self.say(f"{feed} is closed")

    # What happens to it.

    def trip(self, feed: str, why: str) -> None:
        """The breaker opens by itself."""
        if self.closed[feed]:
            self.trips += 1
            self.say(f"{feed} trips: {why}")
            self.open(feed)

    def open(self, feed: str) -> None:
        """What has no other feed is off."""
        self.closed[feed] = False
        for server in self.servers.values():
            if feed in server.feeds and not self.has_power(server):
                self.switch_off(server)
                server.looked = True  # whoever finds it off again was told so by its silence

    def set_budget(self, domain: str, watts: int, held: int) -> None:
        """The utility gives less; what was promised before may still come on."""
        self.budgets[domain] = watts
        self.forgiven[domain] = max(watts, held)
        self.say(f"{domain} carries {watts} W, {held} W are held")

    def kill_boot_server(self, name: str) -> None:
        self.dead_boot_servers.add(name)
        self.say(f"boot server {name} dies")
        if name != self.only_boot_server:
            self.later(STEPS_IN_S, self._step_in, name)

    def _step_in(self, name: str) -> None:
        """The first that lives answers for one that died, and for those that it had answered for."""
        alive = sorted(self.stands_in.keys() - self.dead_boot_servers)
        if name in self.dead_boot_servers and alive:
            self.stands_in.update((one, alive[0]) for one, by in self.stands_in.items() if by == name)

    def mend_boot_server(self, name: str) -> None:
        self.dead_boot_servers.discard(name)
        self.say(f"boot server {name} lives again")
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
                    self.breaks(f"inrush of {feed}: {self.rush[feed]} W, {self.inrush[feed]} W are allowed")

    def _draw(self, server: Server, sign: int) -> None:
        for domain in self.above(server):
            self.steady[domain] += sign * server.watts
            if sign < 0:
                continue
            self.samples += 1
            allowed = max(self.budgets[domain], self.forgiven.get(domain, 0))
            if self.steady[domain] > allowed:
                self.breaks(f"{domain} draws {self.steady[domain]} W, {allowed} W are allowed")

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
