"""The driver of plain PostgreSQL: fence, promote, demote, protect and rejoin members, and say what they are.

Settings: host, port, user, password (reference), dbname, name; data, bin and system_user where the
site's agent works on the member's own machine. The user needs a superuser's rights: it changes settings
of the server. Parameters of each verb stand with the function that does it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

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
from evac.drivers.parameters import many, text
from evac.drivers.port import Action, Checked, Evidence, Observed, Order, Verb
from evac.drivers.postgres.conninfo import all_of
from evac.drivers.postgres.facts import (
    Authority,
    PostgresFacts,
    precheck_sync,
    read_facts,
    refuse_stale,
    seen_authority,
)
from evac.drivers.postgres.fence import (
    cut_off,
    demote,
    demoted,
    demoted_evidence,
    fence,
    follows,
    protect,
    protect_problems,
    protected,
    standing_problems,
    undo_demote,
    unfence,
)
from evac.drivers.postgres.link import REFUSED, KeptLinks, Link, Member, linked, member_of
from evac.drivers.postgres.peers import ask_peers, writable_of
from evac.drivers.postgres.promote import promote, promote_problems
from evac.drivers.postgres.rejoin import rejoin, rejoin_problems
from evac.drivers.store_driver import STAYS, StoreDriver, another_primary, only_others
from evac.model.errors import ActionError, Permanent, Retryable

_PREFIX: Final[Mapping[str, str]] = {"fence": "candidate", "unfence": "candidate", "promote": "candidate"}


class PostgresDriver(StoreDriver, ReportsRole, Promotes, Fences, ProvesSync, Follows, Protects, AnswersProbe):
    """Between two actions nothing is kept but connections, for a moment."""

    name = "postgres"
    verbs: frozenset[Verb] = frozenset(
        {"fence", "unfence", "promote", "demote", "protect", "rejoin", "verify"}
    )
    proofs = ("sync",)

    def __init__(self) -> None:
        self._links = KeptLinks()

    async def _check(self, action: Action, order: Order) -> Checked:
        if action.verb == "rejoin":
            return await rejoin_problems(action, order)
        async with self._links.linked(_member(action), order.timeout_s) as link:
            facts = await read_facts(link)
            seen = seen_authority(facts)
            refuse_stale(link, seen, order, own_hand=action.verb == "demote")
            problems = _problems(link, action, order, facts, seen)
            others = await _others(action, order, facts, seen)
        told = tuple(another_primary(address).message for address in others)
        return Checked((*told, *problems), facts.evidence(), only_others(others, problems))

    async def _execute(self, action: Action, order: Order) -> Evidence:
        if action.verb == "rejoin":
            return await rejoin(action, order)
        async with self._links.linked(_member(action), order.timeout_s) as link:
            match action.verb:
                case "fence":
                    return await fence(link, action, order)
                case "unfence":
                    return await unfence(link, order)
                case "promote":
                    return await promote(link, action, order)
                case "demote":
                    return await demote(link, order)
                case "protect":
                    return await protect(link, action, order)
                case _:
                    return await _verified(link, action)

    async def _observe(self, action: Action, order: Order) -> Observed:
        async with self._links.linked(_member(action), order.timeout_s) as link:
            facts = await read_facts(link)
        if not _is_done(action, order, facts, seen_authority(facts)):
            return Observed("absent", facts.evidence())
        return Observed("done", _evidence_of_done(action, facts))

    async def undo(self, action: Action, order: Order) -> Evidence:
        """Takes a fence back while nothing was promoted, and a demotion while no other primary exists."""
        if action.verb not in ("fence", "demote"):
            return await super().undo(action, order)
        async with linked(_member(action), order.timeout_s) as link:
            if order.dry_run:
                return {**(await read_facts(link)).evidence(), "dry_run": f"would undo {action.verb}"}
            if action.verb == "fence":
                return await unfence(link, order)
            return await undo_demote(link, action, order)

    async def close(self) -> None:
        await self._links.close()

    async def facts(self, action: Action, timeout_s: float) -> PostgresFacts:
        """Role, timeline, position, lag and synchronous state of the endpoint's member, for probes and plans.
        Raises `Retryable`, `Permanent`.
        """
        async with linked(_member(action), timeout_s, timeout_s) as link:
            return await read_facts(link)

    async def report_role(self, action: Action, timeout_s: float) -> RoleReport:
        return (await self.facts(action, timeout_s)).report()

    async def probe(self, action: Action, timeout_s: float) -> ProbeReport:
        """A server that refuses our password answers."""
        try:
            await self.facts(action, timeout_s)
        except Permanent as error:
            if error.code != REFUSED:
                raise
        except ActionError:
            return ProbeReport(False, f"{_member(action).address}: no answer")
        return ProbeReport(True)

    async def precheck_sync(
        self, action: Action, timeout_s: float, candidate: str, sites: Mapping[str, str], may_be_lost: str
    ) -> Checked:
        """Asks the healthy primary whether `candidate` could be the fence when `may_be_lost` is gone. When it
        is ready, the caller keeps the fact with its time, and gives it to `fence` as `standing` and
        `standing_age_ms`. Never raises.
        """
        try:
            async with linked(member_of(action), timeout_s) as link:
                return await precheck_sync(link, candidate, sites, may_be_lost)
        except ActionError as error:
            return Checked((error.message,))

    def _subject(self, action: Action) -> str:
        return _member(action).address


def _member(action: Action) -> Member:
    return member_of(action, _PREFIX.get(action.verb, ""))


async def _others(action: Action, order: Order, facts: PostgresFacts, seen: Authority) -> tuple[str, ...]:
    """Other primaries that answer and take writes, where one shall be promoted that is not yet."""
    if action.verb != "promote" or _is_done(action, order, facts, seen):
        return ()
    return tuple(writable_of(await ask_peers(action), facts.system))


def _problems(link: Link, action: Action, order: Order, facts: PostgresFacts, seen: Authority) -> list[str]:
    """What keeps the verb from working now; none when it is done already."""
    if _is_done(action, order, facts, seen):
        return []
    match action.verb:
        case "fence":
            standing = standing_problems(action, link.member)
            return standing + ([] if facts.role == "standby" else ["a primary cannot be cut off"])
        case "promote":
            return promote_problems(action, facts, seen)
        case "protect":
            return protect_problems(facts, all_of(many(action.parameters, "synchronous")))
        case "unfence":
            return [] if facts.role == "standby" else [f"it is a primary now: {STAYS}"]
        case "verify":
            return [f"it is {facts.role}, and not as expected"]
        case _:
            return []


def _is_done(action: Action, order: Order, facts: PostgresFacts, seen: Authority) -> bool:
    match action.verb:
        case "fence":
            promoted = facts.role == "primary" and seen.fence > 0 and seen.fence == order.epoch
            return cut_off(facts, seen) or promoted
        case "unfence":
            return facts.role == "standby" and facts.has_upstream
        case "promote":
            return facts.writable
        case "demote":
            return demoted(facts)
        case "protect":
            return protected(facts, all_of(many(action.parameters, "synchronous")))
        case "rejoin":
            return follows(facts, member_of(action, "primary"))
        case _:
            return _as_expected(action, facts)


def _evidence_of_done(action: Action, facts: PostgresFacts) -> Evidence:
    """A fence that is only observed, after a crash, is a proof as good as one that was made."""
    if action.verb == "demote":
        return demoted_evidence(facts)
    return {**facts.evidence(), **({"proof": "sync"} if action.verb == "fence" else {})}


def _as_expected(action: Action, facts: PostgresFacts) -> bool:
    """Parameter `expect`: primary (one that takes writes and whose synchronous set confirms) or standby."""
    if text(action.parameters, "expect", "primary") == "standby":
        return facts.role == "standby" and facts.receiver == "streaming"
    return facts.writable and protected(facts, facts.sync)


async def _verified(link: Link, action: Action) -> Evidence:
    facts = await read_facts(link)
    if not _as_expected(action, facts):
        raise Retryable("not-as-expected", f"{link.member.address} is {facts.role}, not as expected", "", 500)
    return {**facts.evidence(), "expect": text(action.parameters, "expect", "primary")}
