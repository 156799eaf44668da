"""Simulated drivers: names, verbs and settings of the real ones, on the servers of a simulated world.

Each is made for one process, and reaches a server as that process would. What a server does is in `World` and
`Database`; here stands which verb asks for what, as the real drivers ask it. `host`, `server`, `agent` and
`url` of the settings name the site where the server stands.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from types import MappingProxyType
from typing import Any, Final

from evac.drivers import parameters
from evac.drivers.capabilities import (
    ABOUT,
    Fences,
    HealthReport,
    ReportsHealth,
    RoutesTraffic,
    RunsUnits,
    Verifies,
)
from evac.drivers.command.driver import CommandDriver
from evac.drivers.http.driver import HttpDriver
from evac.drivers.manual import ManualDriver, NoopDriver
from evac.drivers.port import Action, Evidence, Observed, Order, Verb
from evac.drivers.registry import DRIVERS, Maker
from evac.drivers.spec import DriverSpec
from evac.model.errors import Permanent, Retryable
from evac_lab.virtual_loop import VirtualProcess
from tests.sim.backups import ResticSimulated
from tests.sim.database_drivers import PostgresSimulated, RedisSimulated
from tests.sim.databases import Member
from tests.sim.floor_driver import RedfishSimulated
from tests.sim.simulated_driver import SimulatedDriver, question
from tests.sim.world import Traffic, Units, World


class _TrafficDriver(SimulatedDriver):
    """A shift, and its way back, at one server. tokens: whether the server keeps the highest one obeyed."""

    tokens = False

    @abstractmethod
    def now(self, action: Action) -> Traffic:
        """Where this server sends the traffic."""

    def _target(self, action: Action) -> set[str]:
        now = set(self.now(action).to)
        if action.verb == "shift":
            to, away, share = parameters.shares(action)
            for site in to:
                self._known(site)
            return (now | set(to)) - (set(away) if share == parameters.PERMILLE else set())
        site = self._known(parameters.text(action.parameters, "site", action.at))
        return now - {site} if action.verb == "drain" else now | {site}

    def _known(self, site: str) -> str:
        if site not in self.world.sites:
            raise Permanent("setting-missing", f"nothing is named of the site {site}")
        return site

    def refuse_stale(self, action: Action, order: Order) -> None:
        if self.tokens and order.token < self.now(action).token:
            raise parameters.stale_token(self.site(action), self.now(action).token, order)

    def problems(self, action: Action, order: Order) -> list[str]:
        self.refuse_stale(action, order)
        return [] if self._target(action) else [f"nobody would be left to take the work of {action.target}"]

    def do(self, action: Action, order: Order) -> Evidence:
        wanted = self._target(action)
        if not wanted:
            raise Permanent("nowhere", f"nobody would be left to take the work of {action.target}")
        now = self.now(action)
        now.to, now.token = wanted, max(now.token, order.token)
        return {"to": ",".join(sorted(wanted))}

    def is_done(self, action: Action, order: Order) -> bool:
        return self._target(action) == self.now(action).to

    def may_undo(self, action: Action) -> bool:
        return action.verb in ("shift", "drain", "ready")

    def take_back(self, action: Action, order: Order) -> Evidence:
        return self.do(parameters.reversed_traffic(action), order)


class HaproxySimulated(_TrafficDriver, RoutesTraffic):
    """The proxy of a site. It keeps no token. A fence takes the way of clients to a store's old primary."""

    name = "haproxy"
    verbs: frozenset[Verb] = frozenset({"drain", "ready", "shift", "verify"})

    def now(self, action: Action) -> Traffic:
        return self.world.proxies[action.target, self.site(action)]


class DnsSimulated(_TrafficDriver, RoutesTraffic):
    """An authoritative server; the highest token is kept in its zone."""

    name = "dns"
    verbs: frozenset[Verb] = frozenset({"shift", "drain", "ready", "verify"})
    tokens = True
    host_key = "server"

    def now(self, action: Action) -> Traffic:
        return self.world.names[action.target, self.site(action)]


class ProcessSimulated(SimulatedDriver, RunsUnits, Verifies):
    """The agent of a site and its units; it remembers the highest token of a unit."""

    name = "process"
    verbs: frozenset[Verb] = frozenset({"start", "stop", "scale", "verify", "boot"})
    takes_s: Mapping[str, float] = MappingProxyType({"start": 0.3, "scale": 0.3, "stop": 0.05, "boot": 0.5})
    host_key = "agent"

    def units(self, action: Action) -> Units:
        return self.world.units[action.target, self.site(action)]

    def refuse_stale(self, action: Action, order: Order) -> None:
        if order.token < self.units(action).token:
            raise parameters.stale_token(self.site(action), self.units(action).token, order)

    def problems(self, action: Action, order: Order) -> list[str]:
        self.refuse_stale(action, order)
        return []

    def do(self, action: Action, order: Order) -> Evidence:
        units = self.units(action)
        if action.verb == "verify":
            if units.count < _replicas(action):
                raise Retryable("not-ready", f"{action.target} does not answer", after_ms=200)
        else:
            more = units.count if action.verb == "start" else 0
            units.count, units.token = max(more, _replicas(action)), max(units.token, order.token)
        return {"running": units.count}

    def is_done(self, action: Action, order: Order) -> bool:
        count, wanted = self.units(action).count, _replicas(action)
        return count >= wanted if action.verb in ("start", "verify") else count == wanted

    def may_undo(self, action: Action) -> bool:
        return action.verb in ("start", "stop", "scale", "boot")

    def take_back(self, action: Action, order: Order) -> Evidence:
        units = self.units(action)
        before = parameters.whole(action.parameters, "from_replicas", 0 if action.verb != "stop" else 1)
        units.count, units.token = before, max(units.token, order.token)
        return {"running": units.count}


def _replicas(action: Action) -> int:
    if action.verb == "stop":
        return 0
    return parameters.whole(action.parameters, "replicas", parameters.whole(action.parameters, "expect", 1))


class _KeyedDriver(SimulatedDriver):
    """Whatever is done once a key: a webhook, a program. It keeps no token. A fence by `network` or `power`
    takes the old primary's path to its clients, or its machine.
    """

    def do(self, action: Action, order: Order) -> Evidence:
        if action.verb == "fence":
            member = self._old(action)
            if parameters.text(action.parameters, "proof") == "power":
                member.powered = False
            else:
                member.path = False
        self.world.done_by_key.add(_what(action, order))
        return {"key": order.key}

    def is_done(self, action: Action, order: Order) -> bool:
        if action.verb == "fence":
            member = self._old(action)
            return not (member.powered and member.path)
        return _what(action, order) in self.world.done_by_key

    def _old(self, action: Action) -> Member:
        return self.world.databases[action.target].of(parameters.text(action.parameters, "old"))

    def may_undo(self, action: Action) -> bool:
        return action.verb != "fence"

    def take_back(self, action: Action, order: Order) -> Evidence:
        self.world.done_by_key.discard(_what(action, order))
        return {"key": order.key}


def _what(action: Action, order: Order) -> str:
    """The same for a step, also when it is looked at later under another key."""
    return f"{order.run}/{order.step}/{action.verb}/{action.target}/{action.at}"


class HttpSimulated(_KeyedDriver, Fences, ReportsHealth):
    """A signed webhook with an idempotency key, or a service that answers users, in the site that its URL
    names. A service of which nothing runs answers with errors.
    """

    name = "http"
    verbs = HttpDriver.verbs
    host_key = "url"

    async def report_health(self, action: Action, timeout_s: float, samples: int) -> HealthReport:
        units = self.world.units[action.target, self.site(action)]
        try:
            works = await self._look(action, question(timeout_s), lambda: units.count > 0)
        except Retryable:
            return HealthReport(0, 0)
        return HealthReport(samples, 0 if works else samples)


class CommandSimulated(_KeyedDriver, Fences):
    """A program that the controller starts in its own site."""

    name = "command"
    verbs = CommandDriver.verbs

    def site(self, action: Action) -> str:
        return self.process.site


KINDS: Final[tuple[Any, ...]] = (
    CommandSimulated,
    DnsSimulated,
    HaproxySimulated,
    HttpSimulated,
    PostgresSimulated,
    ProcessSimulated,
    RedfishSimulated,
    RedisSimulated,
    ResticSimulated,
)
SPECS: Final[Mapping[str, DriverSpec]] = MappingProxyType(
    {
        kind.name: replace(
            DRIVERS[kind.name],
            capabilities=tuple(one for one in ABOUT if one in kind.__mro__),
            make=f"{kind.__module__}:{kind.__qualname__}",
        )
        for kind in KINDS
    }
)
"""What simulated drivers declare: what the real one does, as far as it is simulated."""


def makers(world: World, process: VirtualProcess) -> dict[str, Maker]:
    """How each driver is made for one process (`registry.Drivers`); people and nothing are the real ones."""
    found: dict[str, Maker] = {kind.name: partial(kind, world, process) for kind in KINDS}
    return {**found, "manual": ManualDriver, "noop": partial(SharedNoop, world)}


class SharedNoop(NoopDriver):
    """What was done outlives the process, as everything does that other drivers change. A fence that policy
    does not ask for says so.
    """

    def __init__(self, world: World) -> None:
        super().__init__()
        self._done = world.done_by_key

    async def execute(self, action: Action, order: Order) -> Evidence:
        await super().execute(action, order)
        return parameters.proof_of(action)

    async def observe(self, action: Action, order: Order) -> Observed:
        seen = await super().observe(action, order)
        return Observed(seen.outcome, parameters.proof_of(action)) if seen.outcome == "done" else seen
