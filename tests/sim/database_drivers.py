"""Simulated drivers of PostgreSQL and Redis: which verb asks a `Database` for what, as the real ones do."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from evac.drivers import parameters
from evac.drivers.capabilities import (
    AnswersProbe,
    Fences,
    Follows,
    ProbeReport,
    Promotes,
    Protects,
    ProvesSync,
    ReportsRole,
    RoleReport,
)
from evac.drivers.port import Action, Checked, Evidence, Order, Verb
from evac.drivers.store_driver import STANDING_MOST_MS, another_primary, only_others
from evac.model.errors import ActionError, Permanent, Retryable
from tests.sim.databases import Database, Member
from tests.sim.simulated_driver import SimulatedDriver, question


class _DatabaseDriver(SimulatedDriver, ReportsRole, AnswersProbe):
    takes_s: Mapping[str, float] = MappingProxyType(
        {"fence": 0.03, "promote": 0.1, "rejoin": 0.2, "protect": 0.02}
    )

    def site(self, action: Action) -> str:
        return parameters.text(action.settings, "host")

    def database(self, action: Action) -> Database:
        return self.world.databases[action.target]

    def member(self, action: Action) -> Member:
        member = self.database(action).of(self.site(action))
        if not member.powered:
            raise Retryable("silent", f"{member.name} does not run", after_ms=200)
        return member

    async def report_role(self, action: Action, timeout_s: float) -> RoleReport:
        return await self._look(action, question(timeout_s), lambda: self._role(action))

    def _role(self, action: Action) -> RoleReport:
        database, member = self.database(action), self.member(action)
        held, members = len(member.log), database.members.values()
        history = str(member.timeline)
        if member.writable:
            streaming = {one.name for one in members if database.streams(member, one)}
            waits_for = () if streaming.intersection(member.sync) else member.sync
            return RoleReport("primary", None, member.sync, waits_for, held, history)
        primary = next((one for one in members if database.streams(one, member)), None)
        if primary is None:
            is_set = member.role == "standby" and member.upstream != ""
            return RoleReport("detached" if is_set else "none", position=held, history=history)
        lag_ms = 1_000 if len(primary.log) > held else 0
        return RoleReport("replica", lag_ms, position=held, history=history)

    async def probe(self, action: Action, timeout_s: float) -> ProbeReport:
        await self._look(action, question(timeout_s), lambda: self.member(action))
        return ProbeReport(True)

    def refuse_stale(self, action: Action, order: Order) -> None:
        self.member(action).refuse_stale(order)

    def promote(self, action: Action, order: Order) -> Evidence:
        database, member = self.database(action), self.member(action)
        member.obey(order)
        if member.writable:
            return {**member.evidence(), "already": True}
        if member.role == "primary":
            raise Permanent("demoted", f"{member.name} is a primary that was demoted")
        database.catch_up(member.site, parameters.many(action.parameters, "copies"))
        database.promote(member.site, parameters.many(action.parameters, "synchronous"))
        if parameters.text(action.parameters, "proof", "sync") not in ("sync", "demote"):
            database.excused |= database.missing(member)  # a person agreed at the gate to what is lost
        self.world.check_promoted(database, member.site)
        return {**member.evidence(), "proof": parameters.text(action.parameters, "proof", "sync")}

    def rejoin(self, action: Action, order: Order) -> Evidence:
        member = self.member(action)
        primary = parameters.text(action.parameters, "primary_host")
        member.refuse_stale(order)
        by_hand = parameters.text(action.parameters, "how", "") != "follow"
        self.database(action).follow(member.site, primary, by_hand)
        member.obey(order)
        self.world.check_primaries()
        return member.evidence()

    def rejoin_problems(self, action: Action) -> list[str]:
        primary = self.database(action).of(parameters.text(action.parameters, "primary_host"))
        reached = self.world.reach(self.site(action), primary.site)
        return [] if primary.writable and reached else [f"{primary.name} is not a primary that answers"]

    def known_primary(self, action: Action, member: Member) -> str:
        """Where another primary may be, as far as the candidate knows."""
        return parameters.text(action.parameters, "old_host", "")

    def others(self, action: Action, member: Member) -> list[str]:
        """Members that take writes, as far as the candidate knows of them and reaches them."""
        known = self.known_primary(action, member)
        return [
            one.name
            for one in self.database(action).members.values()
            if one is not member
            and one.writable
            and one.path
            and one.powered
            and self.world.reach(member.site, one.site)
            and one.site == known
        ]

    def follows(self, action: Action) -> bool:
        database, member = self.database(action), self.member(action)
        primary = database.of(parameters.text(action.parameters, "primary_host"))
        return database.streams(primary, member)


class PostgresSimulated(_DatabaseDriver, Promotes, Fences, ProvesSync, Follows, Protects):
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
                told = [another_primary(name).message for name in self.others(action, member)]
                return told + self._promote_problems(action, member)
            case "protect":
                return self._protect_problems(action, member)
            case "rejoin":
                return self.rejoin_problems(action)
            case "verify":
                return [f"it is {member.role}, which is not expected"]
        return []

    async def precheck_sync(
        self, action: Action, timeout_s: float, candidate: str, sites: Mapping[str, str], may_be_lost: str
    ) -> Checked:
        def missing() -> tuple[str, ...]:
            member = self.member(action)
            left = [name for name in member.sync if sites.get(name) != may_be_lost]
            if not member.writable or left != [candidate]:
                return (f"not every commit of {member.name} needs {candidate}",)
            streams = self.database(action).streams(member, self.database(action).of(sites[candidate]))
            return () if streams else (f"{candidate} is not streaming",)

        try:
            return Checked(await self._look(action, question(timeout_s), missing))
        except ActionError as error:
            return Checked((error.message,))

    def _standing_problems(self, action: Action, member: Member) -> list[str]:
        standing = parameters.text(action.parameters, "standing", "")
        if standing != member.name:
            return [f"it was never prechecked that every commit needs {member.name}"]
        age_ms = parameters.whole(action.parameters, "standing_age_ms", 2**53)
        return ["the precheck is too old"] if age_ms > STANDING_MOST_MS else []

    def error(self, action: Action, order: Order) -> ActionError | None:
        if action.verb != "promote" or self.is_done(action, order):
            return None
        member = self.member(action)
        return only_others(self.others(action, member), self._promote_problems(action, member))

    def _promote_problems(self, action: Action, member: Member) -> list[str]:
        others: list[str] = []
        if parameters.text(action.parameters, "proof", "sync") == "sync" and not member.cut_off:
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
            f"{name} is not streaming"
            for name in parameters.many(action.parameters, "synchronous")
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
                    if others := self.others(action, member):
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
            raise Permanent("not-a-standby", f"{member.name} is a primary, so it cannot be cut off")
        member.obey(order)
        member.fence = max(1, order.epoch)
        member.kept, member.upstream = member.upstream or member.kept, ""
        return {**member.evidence(), "candidate": member.name}

    def _unfence(self, order: Order, member: Member) -> Evidence:
        if member.role == "primary":
            raise Permanent("store-moved", f"{member.name} is now a primary: a store that moved stays")
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
        wanted = parameters.many(action.parameters, "synchronous")
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
                return member.writable and member.sync == parameters.many(action.parameters, "synchronous")
            case "rejoin":
                return self.follows(action)
        if parameters.text(action.parameters, "expect", "primary") == "standby":
            return member.role == "standby" and bool(member.upstream)
        return member.writable

    def may_undo(self, action: Action) -> bool:
        return action.verb == "fence"

    def take_back(self, action: Action, order: Order) -> Evidence:
        return self._unfence(order, self.member(action))


def _least(action: Action) -> int:
    return int(parameters.text(action.parameters, "least_lsn", "0/0").partition("/")[2], 16)


def _short_of(member: Member, least: int) -> str:
    return f"{member.name} holds {len(member.log)}, but must hold at least {least} to be promoted"


class RedisSimulated(_DatabaseDriver, Promotes, Follows, Protects):
    """Redis: asynchronous, and nothing here is a fence proof."""

    name = "redis"
    verbs: frozenset[Verb] = frozenset({"promote", "demote", "protect", "rejoin", "verify"})

    def known_primary(self, action: Action, member: Member) -> str:
        return member.upstream

    def do(self, action: Action, order: Order) -> Evidence:
        member = self.member(action)
        match action.verb:
            case "promote":
                if not member.writable and (others := self.others(action, member)):
                    raise another_primary(others[0])
                return self.promote(action, order)
            case "rejoin":
                return self.rejoin(action, order)
            case "demote":
                member.obey(order)
                member.read_only = True
            case "protect":
                member.obey(order)
                member.sync = parameters.many(action.parameters, "synchronous")
        return member.evidence()

    def problems(self, action: Action, order: Order) -> list[str]:
        member = self.member(action)
        member.refuse_stale(order)
        if self.is_done(action, order):
            return []
        if action.verb == "promote":
            return [another_primary(name).message for name in self.others(action, member)]
        return self.rejoin_problems(action) if action.verb == "rejoin" else []

    def is_done(self, action: Action, order: Order) -> bool:
        member = self.member(action)
        match action.verb:
            case "rejoin":
                return self.follows(action)
            case "demote":
                return member.demoted
            case "protect":
                return member.writable and member.sync == parameters.many(action.parameters, "synchronous")
        return member.writable
