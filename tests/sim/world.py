"""The simulated world: sites that burn, links that are cut, databases, units, proxies, name servers, floors.

It owns what is true. Whoever acts on it asks a server in a site and may get no answer; what a server does, it
does at one instant. The rules that must never break are checked here after every change that could break
them: two primaries that acknowledge, an acknowledged write that a new primary does not hold, an effect under
a lease that is over, an effect twice without a look between.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

from evac.drivers.port import Action, Order
from evac.engine.lead.leadership import LEADER
from evac.model.errors import ActionError, OutcomeUnknown, Permanent, Retryable
from evac_lab.virtual_loop import VirtualLoop, VirtualProcess
from tests.sim.databases import Database, Engine, Member
from tests.sim.faulty_store import Cluster, Weather
from tests.sim.floor import Floor, Server

T = TypeVar("T")
SITES: Final = ("anyang", "ansan", "pangyo")
CONNECT_S: Final = 0.3
TRACE_MOST: Final = 20_000


class Broken(AssertionError):
    """A rule that must never break is broken: the simulator found something."""


@dataclass(slots=True)
class Faults:
    """How real systems misbehave, in permille of changes: fail (nothing done), refuse (for good), hang (and
    nothing done), hang_done (done, and no answer), lie (done, and says it failed), slow.
    """

    fail: int = 0
    refuse: int = 0
    hang: int = 0
    hang_done: int = 0
    lie: int = 0
    slow: int = 0
    blind: int = 0

    def clear(self) -> None:
        self.fail = self.refuse = self.hang = self.hang_done = self.lie = self.slow = self.blind = 0

    def draw(self, number: int) -> str:
        """number: from 0 to 999."""
        for name in ("fail", "refuse", "hang", "hang_done", "lie", "slow"):
            number -= getattr(self, name)
            if number < 0:
                return name
        return ""


@dataclass(slots=True)
class Traffic:
    """Where one proxy, or one name server, sends a service. token: the highest it obeyed."""

    to: set[str]
    token: int = 0


@dataclass(slots=True)
class Units:
    """Instances of a service that run in one site."""

    count: int
    token: int = 0


@dataclass(eq=False)
class World:
    """Everything outside the controllers. said: the trace, one line a happening."""

    loop: VirtualLoop
    weather: Weather = field(default_factory=Weather)
    faults: Faults = field(default_factory=Faults)
    sites: tuple[str, ...] = SITES
    said: list[str] = field(default_factory=list)
    tracing: bool = False

    def __post_init__(self) -> None:
        self.cluster = Cluster(self.loop, self.weather)
        self.burnt: set[str] = set()
        self.cuts: set[tuple[str, str]] = set()
        self._apart: frozenset[tuple[str, str]] = frozenset()
        self._connected = frozenset(self.sites)
        self.gone_since_ms: dict[str, int] = {}
        self.back_since_ms: dict[str, int] = {}
        self.databases: dict[str, Database] = {}
        self.units: dict[tuple[str, str], Units] = {}
        self.proxies: dict[tuple[str, str], Traffic] = {}
        self.names: dict[tuple[str, str], Traffic] = {}
        self.floors: dict[str, Floor] = {}
        self.repositories: dict[tuple[str, str], Any] = {}
        self.places: dict[tuple[str, str], Any] = {}
        self.done_by_key: set[str] = set()
        self.under_way: dict[tuple[str, str, str], int] = {}
        self.unseen: dict[str, int] = {}
        self.tokens: dict[str, int] = {}
        self.effects = 0
        self.writes = 0
        self.store_leader = self.sites[-1]

    # What people build in it.

    def add_store(
        self, store: str, engine: Engine, primary: str, sync: str = "", fenced: bool = True
    ) -> None:
        """A store with a copy in every site; the synchronous one, if any, is named by its site."""
        members = {site: Member(store, site, engine) for site in self.sites}
        for site, member in members.items():
            member.upstream = "" if site == primary else primary
        members[primary].role = "primary"
        members[primary].sync = (members[sync].name,) if sync else ()
        self.databases[store] = Database(store, engine, members, self.reach, fenced)

    def add_service(self, service: str, sites: Sequence[str]) -> None:
        """A service with units in some sites, a proxy and a name server for it in every one."""
        for site in self.sites:
            self.units[service, site] = Units(1 if site in sites else 0)
            self.proxies[service, site] = Traffic(set(sites))
            self.names[service, site] = Traffic(set(sites))

    def add_floor(self, site: str, servers: Iterable[Server], **limits: Mapping[str, Any]) -> Floor:
        """Servers that are dark until somebody boots them; limits: see `Floor`."""
        named = {server.name: server for server in servers}
        floor = self.floors[site] = Floor(self.loop.in_world, self.breaks, self.say, named, **limits)
        return floor

    # What happens to it.

    def breaks(self, words: str) -> None:
        """A rule is broken: the story ends, whatever the code that runs now does with errors."""
        self.loop.fail(Broken(words))

    def say(self, words: str) -> None:
        if self.tracing and len(self.said) < TRACE_MOST:
            self.said.append(f"{self.loop.time():9.3f}  {words}")

    def reach(self, one: str, other: str) -> bool:
        """Whether two sites (or a site and itself) reach each other, both ways."""
        return (one, other) not in self._apart

    def connected(self, site: str) -> bool:
        """Whether a site reaches a majority of the members of evac's own store."""
        return site in self._connected

    def _draw_map(self) -> None:
        """Who reaches whom, anew after a fire or a cut: it is asked much more often than it changes."""
        pairs = [(one, other) for one in self.sites for other in self.sites]
        burnt = {pair for pair in pairs if not self.burnt.isdisjoint(pair)}
        self._apart = frozenset(burnt | self.cuts | {(other, one) for one, other in self.cuts})
        reached = {site: sum((site, other) not in self._apart for other in self.sites) for site in self.sites}
        self._connected = frozenset(site for site in self.sites if reached[site] * 2 > len(self.sites))

    def burn(self, site: str) -> None:
        """Everything in the site at one instant."""
        if site in self.burnt:
            return
        self.say(f"FIRE in {site}")
        for database in self.databases.values():
            database.burn(site, lambda: int(self.loop.random.random() * 4))
        self.burnt.add(site)
        self._draw_map()
        for units in (self.units[key] for key in self.units if key[1] == site):
            units.count = 0
        if site == self.store_leader:
            self._elect()
        self._note_gone()

    def restore(self, site: str) -> None:
        """The machines of a site run again, with what their disks kept."""
        if site in self.burnt:
            self.say(f"{site} is back")
            self.burnt.discard(site)
            self._draw_map()
            self._note_gone()
            self.check_primaries()

    def cut(self, site: str, one_way: bool = False) -> None:
        """The site lives, and nobody else reaches it."""
        self.say(f"{site} is cut off" + (" in one direction" if one_way else ""))
        for other in self.sites:
            if other != site:
                self.cuts.add((site, other))
                if not one_way:
                    self.cuts.add((other, site))
        self._draw_map()
        if site == self.store_leader:
            self._elect()
        self._note_gone()
        self.check_primaries()

    def cut_link(self, one: str, other: str) -> None:
        """Two sites do not reach each other; both reach the third."""
        self.say(f"the link between {one} and {other} is cut")
        self.cuts |= {(one, other), (other, one)}
        self._draw_map()
        self._note_gone()
        self.check_primaries()

    def mend(self) -> None:
        """Every link works again."""
        if self.cuts:
            self.say("every link is mended")
        self.cuts.clear()
        self._draw_map()
        self._note_gone()
        self.check_primaries()

    def _elect(self) -> None:
        left = [site for site in self.sites if self.connected(site)]
        self.store_leader = left[0] if left else self.store_leader
        self.cluster.elect(int(200 + 1_000 * self.loop.random.random()))

    def _note_gone(self) -> None:
        """Since when each site cannot be reached by any other, in truth."""
        for site in self.sites:
            gone = not any(self.reach(site, other) for other in self.sites if other != site)
            if gone:
                self.gone_since_ms.setdefault(site, self.loop.now_ms())
            elif site in self.gone_since_ms:
                del self.gone_since_ms[site]
                self.back_since_ms[site] = self.loop.now_ms()

    def clients_write(self) -> None:
        """One write to each store, and a moment later its answer."""
        for database in self.databases.values():
            self.writes += 1
            if database.write(self.writes):
                self.loop.in_world(0.002 + 0.01 * self.loop.random.random(), self._flow, database)

    def _flow(self, database: Database) -> None:
        database.flow(lambda: self.loop.random.random() < 0.3)

    # What must never break.

    def check_primaries(self) -> None:
        """Never two primaries of one store that acknowledge writes."""
        for database in self.databases.values():
            found = database.primaries() if database.fenced else []
            if len(found) > 1:
                names = " and ".join(member.site for member in found)
                raise Broken(f"two primaries of {database.store} acknowledge writes: {names}")

    def check_promoted(self, database: Database, site: str) -> None:
        """A new primary holds every write that was acknowledged under a synchronous set."""
        missing = database.missing(database.of(site))
        if database.fenced and missing:
            raise Broken(f"{database.store} lost {len(missing)} acknowledged writes: {sorted(missing)[:5]}")
        self.check_primaries()

    def begins(self, process: VirtualProcess, action: Action, order: Order) -> None:
        """An effect begins, as its controller believes under a lease that is held."""
        self.effects += 1
        holder = self.cluster.token_of(LEADER)
        self.tokens[order.run] = max(order.token, self.tokens.get(order.run, 0))
        if order.token != holder:
            words = f"{process.name} begins {action.verb} {action.target} under token {order.token}"
            self.breaks(f"{words}, and {holder or 'nobody'} holds the lease")

    def accepts(self, order: Order, what: str) -> None:
        """A server takes an order up. A second one without a look between is what must not be."""
        if order.key.endswith("/again") or order.token < self.tokens.get(order.run, 0):
            return
        key = f"{what} {order.key}"
        if key in self.unseen:
            raise Broken(f"{order.step} is executed twice without an observe between ({what})")
        self.unseen[key] = order.attempt

    def looked(self, order: Order) -> None:
        for what in ("execute", "undo"):
            self.unseen.pop(f"{what} {order.key}", None)

    # How a controller reaches a server.

    async def ask(
        self,
        process: VirtualProcess,
        site: str,
        serve: Callable[[], T],
        order: Order,
        what: str,
        takes_s: float,
        where: tuple[str, str, str] = ("", "", ""),
    ) -> T:
        """A question, or an order, to a server in a site. Raises what the server raises; `Retryable` where it
        was never reached, `OutcomeUnknown` where a change may have been made.
        """
        changes = what != "look"
        if not process.alive:
            raise Retryable("process-dead", "this process is dead")
        if not self.reach(process.site, site):
            refused = site in self.burnt and self.loop.random.random() < 0.3
            await asyncio.sleep(0.001 if refused else min(CONNECT_S, order.timeout_s / 2))
            raise Retryable("unreachable", f"{site} does not answer", after_ms=100)
        fault = self.faults.draw(int(self.loop.random.random() * 1_000)) if changes else ""
        answer: asyncio.Future[T] = self.loop.create_future()
        call = _Call(self, process.site, site, serve, answer, fault, where, changes)
        delay_s = (0.2 + self.loop.random.random()) * 0.004
        takes_s *= 20 if fault == "slow" else 1
        self.loop.in_world(delay_s, call.arrive, takes_s)
        limit_s = order.timeout_s * 0.9
        timer = self.loop.call_later(limit_s, call.give_up)
        try:
            return await answer
        finally:
            timer.cancel()


@dataclass(slots=True, eq=False)
class _Call:
    """One order on its way, at the server, and back."""

    world: World
    home: str
    site: str
    serve: Callable[[], Any]
    answer: asyncio.Future[Any]
    fault: str
    where: tuple[str, str, str]
    changes: bool

    def arrive(self, takes_s: float) -> None:
        world = self.world
        if not world.reach(self.home, self.site) or self.fault == "hang":
            return
        if self.fault == "fail":
            self._reply(None, Retryable("no", "it says no, and did nothing"))
        elif self.fault == "refuse":
            self._reply(None, Permanent("never", "it says that this can never be done"))
        elif takes_s > 0:
            self._count(1)
            world.loop.in_world(takes_s * (0.5 + world.loop.random.random()), self._act, True)
        else:
            self._act(False)

    def _count(self, more: int) -> None:
        if self.changes:
            under_way = self.world.under_way
            under_way[self.where] = under_way.get(self.where, 0) + more

    def _act(self, counted: bool) -> None:
        if counted:
            self._count(-1)
        if self.site in self.world.burnt:
            return
        try:
            result = self.serve()
        except ActionError as error:
            self._reply(None, error)
        else:
            if self.fault == "lie":
                self._reply(None, Retryable("no", "it says that it failed, and it did not"))
            elif self.fault != "hang_done":
                self._reply(result, None)

    def _reply(self, result: Any, error: ActionError | None) -> None:
        if self.answer.done() or not self.world.reach(self.home, self.site):
            return
        if error is not None:
            self.answer.set_exception(error)
        else:
            self.answer.set_result(result)

    def give_up(self) -> None:
        if self.answer.done():
            return
        if self.changes:
            self.answer.set_exception(OutcomeUnknown("no-answer", f"{self.site} stopped answering"))
        else:
            self.answer.set_exception(Retryable("silent", f"{self.site} stopped answering"))
