"""Simulated drivers: names, verbs and settings of the real ones, on the servers of a simulated world.

Each is made for one process, and reaches a server as that process would. What a server does is in `World` and
`Database`; here stands which verb asks for what, as the real drivers ask it. `host`, `server`, `agent` and
`url` of the settings name the site where the server stands.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Final, TypeVar, cast

from evac.actions import given
from evac.actions.command import VERBS as COMMAND_VERBS
from evac.actions.data_peers import another_primary, only_others
from evac.actions.http import VERBS as HTTP_VERBS
from evac.actions.manual import ManualDriver
from evac.actions.noop import NoopDriver
from evac.actions.port import Action, Checked, Driver, Evidence, Observed, Order, Verb
from evac.actions.registry import Maker
from evac.model.errors import ActionError, Permanent, Retryable
from evac.testing.databases import Database, Member
from evac.testing.virtual_loop import Process
from evac.testing.world import Traffic, Units, World

T = TypeVar("T")
STANDING_MOST_MS: Final = 60_000


class SimulatedDriver(ABC):
    """What all have in common: the way to the server, a dry run, and rules that are checked on the way."""

    name = ""
    verbs: frozenset[Verb] = frozenset()
    takes_s: Mapping[str, float] = MappingProxyType({})
    host_key = "host"

    def __init__(self, world: World, process: Process) -> None:
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
            return {**found, **given.proof_of(action)}

        return await self._change(action, order, serve)

    async def observe(self, action: Action, order: Order) -> Observed:
        try:
            self._refuse_others(action)
            done, under_way = await self._look(
                action,
                order,
                lambda: (self.is_done(action, order), self.world.under_way.get(self._where(action), 0)),
            )
        except ActionError as error:
            return Observed("unclear", {"why": error.message[:200]})
        if under_way or int(self.world.loop.random.random() * 1_000) < self.world.faults.blind:
            return Observed("unclear", {"why": "something is under way"})
        self.world.looked(order)
        evidence = {"seen": self.site(action), **(given.proof_of(action) if done else {})}
        return Observed("done" if done else "absent", evidence)

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
        return given.text(action.settings, self.host_key)

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


class _DatabaseDriver(SimulatedDriver):
    takes_s: Mapping[str, float] = MappingProxyType(
        {"fence": 0.03, "promote": 0.1, "rejoin": 0.2, "protect": 0.02}
    )

    def site(self, action: Action) -> str:
        return given.text(action.settings, "host")

    def database(self, action: Action) -> Database:
        return self.world.databases[action.target]

    def member(self, action: Action) -> Member:
        member = self.database(action).of(self.site(action))
        if not member.powered:
            raise Retryable("silent", f"{member.name} does not run", after_ms=200)
        return member

    def refuse_stale(self, action: Action, order: Order) -> None:
        self.member(action).refuse_stale(order)

    def promote(self, action: Action, order: Order) -> Evidence:
        database, member = self.database(action), self.member(action)
        member.obey(order)
        if member.writable:
            return {**member.evidence(), "already": True}
        if member.role == "primary":
            raise Permanent("demoted", f"{member.name} is a primary that was demoted")
        database.promote(member.site, given.many(action.parameters, "synchronous"))
        if given.text(action.parameters, "proof", "sync") not in ("sync", "demote"):
            database.excused |= database.missing(member)  # a person agreed at the gate to what is lost
        self.world.check_promoted(database, member.site)
        return {**member.evidence(), "proof": given.text(action.parameters, "proof", "sync")}

    def rejoin(self, action: Action, order: Order) -> Evidence:
        member = self.member(action)
        primary = given.text(action.parameters, "primary_host")
        member.obey(order)
        by_hand = given.text(action.parameters, "how", "") != "follow"
        self.database(action).follow(member.site, primary, by_hand)
        self.world.check_primaries()
        return member.evidence()

    def rejoin_problems(self, action: Action) -> list[str]:
        primary = self.database(action).of(given.text(action.parameters, "primary_host"))
        reached = self.world.reach(self.site(action), primary.site)
        return [] if primary.writable and reached else [f"{primary.name} is not a primary that answers"]

    def follows(self, action: Action) -> bool:
        database, member = self.database(action), self.member(action)
        primary = database.of(given.text(action.parameters, "primary_host"))
        return database.streams(primary, member)


class PostgresSimulated(_DatabaseDriver):
    """Plain PostgreSQL."""

    name = "postgres"
    verbs: frozenset[Verb] = frozenset(
        {"fence", "unfence", "promote", "demote", "protect", "rejoin", "verify"}
    )

    def problems(self, action: Action, order: Order) -> list[str]:
        member = self.member(action)
        member.refuse_stale(order)
        if self.is_done(action, order):
            return []
        match action.verb:
            case "fence":
                standing = self._standing_problems(action, member)
                return standing + ([] if member.role == "standby" else ["a primary cannot be cut off"])
            case "promote":
                told = [another_primary(name).message for name in self._others(action, member)]
                return told + self._promote_problems(action, member)
            case "protect":
                return self._protect_problems(action, member)
            case "rejoin":
                return self.rejoin_problems(action)
            case "verify":
                return [f"it is {member.role}, and not as expected"]
        return []

    def _standing_problems(self, action: Action, member: Member) -> list[str]:
        standing = given.text(action.parameters, "standing", "")
        if standing != member.name:
            return [f"it was never prechecked that every commit needs {member.name}"]
        age_ms = given.whole(action.parameters, "standing_age_ms", 2**53)
        return ["the precheck is too old"] if age_ms > STANDING_MOST_MS else []

    def error(self, action: Action, order: Order) -> ActionError | None:
        if action.verb != "promote" or self.is_done(action, order):
            return None
        member = self.member(action)
        return only_others(self._others(action, member), self._promote_problems(action, member))

    def _others(self, action: Action, member: Member) -> list[str]:
        return [
            one.name
            for one in self.database(action).members.values()
            if one is not member and one.writable and one.path and one.powered
            and self.world.reach(member.site, one.site)
            and one.site == given.text(action.parameters, "old_host", "")
        ]  # fmt: skip

    def _promote_problems(self, action: Action, member: Member) -> list[str]:
        others: list[str] = []
        if given.text(action.parameters, "proof", "sync") == "sync" and not member.cut_off:
            others.append("no fence proof: this standby is not cut off")
        least = _least(action)
        if len(member.log) < least and not member.upstream:
            others.append(_short_of(member, least))
        return others

    def _protect_problems(self, action: Action, member: Member) -> list[str]:
        if not member.writable:
            return ["this member is no primary that takes writes"]
        database = self.database(action)
        streaming = {one.name for one in database.members.values() if database.streams(member, one)}
        return [
            f"{name} does not stream now"
            for name in given.many(action.parameters, "synchronous")
            if name not in streaming
        ]

    def do(self, action: Action, order: Order) -> Evidence:
        member = self.member(action)
        match action.verb:
            case "fence":
                return self._fence(action, order, member)
            case "unfence":
                return self._unfence(order, member)
            case "promote":
                if member.role == "standby":
                    if others := self._others(action, member):
                        raise another_primary(others[0])
                    if problems := self._promote_problems(action, member):
                        raise Permanent("promote-refused", problems[0])
                    if len(member.log) < (least := _least(action)):  # the real one waits for the last bytes
                        raise Retryable("not-there-yet", _short_of(member, least), after_ms=100)
                return self.promote(action, order)
            case "demote":
                return self._demote(order, member)
            case "protect":
                return self._protect(action, order, member)
            case "rejoin":
                return self.rejoin(action, order)
        if not self.is_done(action, order):
            raise Retryable("not-as-expected", f"{member.name} is {member.role}", after_ms=200)
        return member.evidence()

    def _fence(self, action: Action, order: Order, member: Member) -> Evidence:
        if problems := self._standing_problems(action, member):
            raise Permanent("fence-unproven", problems[0])
        if member.role == "primary":
            if member.fence and member.fence == order.epoch:
                return {**member.evidence(), "already": True}
            raise Permanent("not-a-standby", f"{member.name} is a primary: it cannot be cut off")
        member.obey(order)
        member.fence = max(1, order.epoch)
        member.kept, member.upstream = member.upstream or member.kept, ""
        return {**member.evidence(), "candidate": member.name}

    def _unfence(self, order: Order, member: Member) -> Evidence:
        if member.role == "primary":
            raise Permanent("store-moved", f"{member.name} is a primary now: a store that moved stays")
        member.obey(order)
        member.upstream, member.fence = member.upstream or member.kept, 0
        self.world.check_primaries()
        return {**member.evidence(), "undone": "fence"}

    def _demote(self, order: Order, member: Member) -> Evidence:
        member.obey(order)
        if member.role == "primary":
            member.read_only = True
            return {**member.evidence(), "proof": "demote", "last_lsn": f"0/{len(member.log):X}"}
        return member.evidence()

    def _protect(self, action: Action, order: Order, member: Member) -> Evidence:
        member.obey(order)
        wanted = given.many(action.parameters, "synchronous")
        if member.sync != wanted:
            if problems := self._protect_problems(action, member):
                raise Retryable("protect-refused", problems[0], after_ms=200)
            member.sync = wanted
            self.world.check_primaries()
        return {**member.evidence(), "asynchronous": not wanted}

    def is_done(self, action: Action, order: Order) -> bool:
        member = self.member(action)
        match action.verb:
            case "fence":
                promoted = member.role == "primary" and member.fence > 0 and member.fence == order.epoch
                return member.cut_off or promoted
            case "unfence":
                return member.role == "standby" and bool(member.upstream)
            case "promote":
                return member.writable
            case "demote":
                return member.demoted
            case "protect":
                return member.writable and member.sync == given.many(action.parameters, "synchronous")
            case "rejoin":
                return self.follows(action)
        if given.text(action.parameters, "expect", "primary") == "standby":
            return member.role == "standby" and bool(member.upstream)
        return member.writable

    def may_undo(self, action: Action) -> bool:
        return action.verb == "fence"

    def take_back(self, action: Action, order: Order) -> Evidence:
        return self._unfence(order, self.member(action))


def _least(action: Action) -> int:
    return int(given.text(action.parameters, "least_lsn", "0/0").partition("/")[2], 16)


def _short_of(member: Member, least: int) -> str:
    return f"{member.name} holds {len(member.log)}, and {least} is the least that may be promoted"


class RedisSimulated(_DatabaseDriver):
    """Redis: asynchronous, and nothing here is a fence proof."""

    name = "redis"
    verbs: frozenset[Verb] = frozenset({"promote", "demote", "protect", "rejoin", "verify"})

    def do(self, action: Action, order: Order) -> Evidence:
        member = self.member(action)
        match action.verb:
            case "promote":
                return self.promote(action, order)
            case "rejoin":
                return self.rejoin(action, order)
            case "demote" | "protect":
                member.obey(order)
                member.read_only = action.verb == "demote"
        return member.evidence()

    def problems(self, action: Action, order: Order) -> list[str]:
        self.member(action).refuse_stale(order)
        return []

    def is_done(self, action: Action, order: Order) -> bool:
        member = self.member(action)
        if action.verb == "rejoin":
            return self.follows(action)
        return member.demoted if action.verb == "demote" else member.writable


class _TrafficDriver(SimulatedDriver):
    """A shift, and its way back, at one server. tokens: whether the server keeps the highest one obeyed."""

    tokens = False

    @abstractmethod
    def now(self, action: Action) -> Traffic:
        """Where this server sends the traffic."""

    def _target(self, action: Action) -> set[str]:
        now = set(self.now(action).to)
        if action.verb == "shift":
            to, away, share = given.shares(action)
            return (now | set(to)) - (set(away) if share == given.PERMILLE else set())
        site = given.text(action.parameters, "site", action.at)
        return now - {site} if action.verb == "drain" else now | {site}

    def refuse_stale(self, action: Action, order: Order) -> None:
        if self.tokens and order.token < self.now(action).token:
            raise given.stale_token(self.site(action), self.now(action).token, order)

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
        return self.do(given.reversed_traffic(action), order)


class HaproxySimulated(_TrafficDriver):
    """The proxy of a site. It keeps no token. A fence takes the way of clients to a store's old primary."""

    name = "haproxy"
    verbs: frozenset[Verb] = frozenset({"drain", "ready", "shift", "verify"})

    def now(self, action: Action) -> Traffic:
        return self.world.proxies[action.target, self.site(action)]


class DnsSimulated(_TrafficDriver):
    """An authoritative server; the highest token is kept in its zone."""

    name = "dns"
    verbs: frozenset[Verb] = frozenset({"shift", "drain", "ready", "verify"})
    tokens = True
    host_key = "server"

    def now(self, action: Action) -> Traffic:
        return self.world.names[action.target, self.site(action)]


class ProcessSimulated(SimulatedDriver):
    """The agent of a site and its units; it remembers the highest token of a unit."""

    name = "process"
    verbs: frozenset[Verb] = frozenset({"start", "stop", "scale", "verify", "boot"})
    takes_s: Mapping[str, float] = MappingProxyType({"start": 0.3, "scale": 0.3, "stop": 0.05, "boot": 0.5})
    host_key = "agent"

    def units(self, action: Action) -> Units:
        return self.world.units[action.target, self.site(action)]

    def refuse_stale(self, action: Action, order: Order) -> None:
        if order.token < self.units(action).token:
            raise given.stale_token(self.site(action), self.units(action).token, order)

    def problems(self, action: Action, order: Order) -> list[str]:
        self.refuse_stale(action, order)
        return []

    def do(self, action: Action, order: Order) -> Evidence:
        units = self.units(action)
        if action.verb == "verify":
            if units.count < _replicas(action):
                raise Retryable("not-ready", f"{action.target} does not answer", after_ms=200)
        else:
            units.count, units.token = _replicas(action), max(units.token, order.token)
        return {"running": units.count}

    def is_done(self, action: Action, order: Order) -> bool:
        count, wanted = self.units(action).count, _replicas(action)
        return count >= wanted if action.verb == "verify" else count == wanted

    def may_undo(self, action: Action) -> bool:
        return action.verb in ("start", "stop", "scale", "boot")

    def take_back(self, action: Action, order: Order) -> Evidence:
        units = self.units(action)
        before = given.whole(action.parameters, "from_replicas", 0 if action.verb != "stop" else 1)
        units.count, units.token = before, max(units.token, order.token)
        return {"running": units.count}


def _replicas(action: Action) -> int:
    if action.verb == "stop":
        return 0
    return given.whole(action.parameters, "replicas", given.whole(action.parameters, "expect", 1))


class _KeyedDriver(SimulatedDriver):
    """Whatever is done once a key: a webhook, a program. It keeps no token. A fence by `network` or `power`
    takes the old primary's path to its clients, or its machine.
    """

    def do(self, action: Action, order: Order) -> Evidence:
        if action.verb == "fence":
            member = self._old(action)
            if given.text(action.parameters, "proof") == "power":
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
        return self.world.databases[action.target].of(given.text(action.parameters, "old"))

    def may_undo(self, action: Action) -> bool:
        return action.verb != "fence"

    def take_back(self, action: Action, order: Order) -> Evidence:
        self.world.done_by_key.discard(_what(action, order))
        return {"key": order.key}


def _what(action: Action, order: Order) -> str:
    """The same for a step, also when it is looked at later under another key."""
    return f"{order.run}/{order.step}/{action.verb}/{action.target}/{action.at}"


class HttpSimulated(_KeyedDriver):
    """A signed webhook with an idempotency key, served in the site that its URL names."""

    name = "http"
    verbs = HTTP_VERBS
    host_key = "url"


class CommandSimulated(_KeyedDriver):
    """A program that the controller starts in its own site."""

    name = "command"
    verbs = COMMAND_VERBS

    def site(self, action: Action) -> str:
        return self.process.site


def makers(world: World, process: Process) -> dict[str, Maker]:
    """How each driver is made for one process (`registry.Drivers`); people and nothing are the real ones."""
    kinds: tuple[type[SimulatedDriver], ...] = (
        PostgresSimulated, RedisSimulated, HaproxySimulated, DnsSimulated, ProcessSimulated, HttpSimulated,
        CommandSimulated,
    )  # fmt: skip
    found: dict[str, Maker] = {kind.name: _maker(kind, world, process) for kind in kinds}
    found["manual"] = ManualDriver
    found["noop"] = lambda: SharedNoop(world)
    return found


def _maker(kind: type[SimulatedDriver], world: World, process: Process) -> Maker:
    return lambda: cast(Driver, kind(world, process))


class SharedNoop(NoopDriver):
    """What was done outlives the process, as everything does that other drivers change. A fence that policy
    does not ask for says so.
    """

    def __init__(self, world: World) -> None:
        super().__init__()
        self._done = world.done_by_key

    async def execute(self, action: Action, order: Order) -> Evidence:
        await super().execute(action, order)
        return given.proof_of(action)

    async def observe(self, action: Action, order: Order) -> Observed:
        seen = await super().observe(action, order)
        return Observed(seen.outcome, given.proof_of(action)) if seen.outcome == "done" else seen
