"""The war room's computations, in a separate process: loads the estate, audits it, answers what-ifs.

An audit uses a whole core for seconds, and a page must not wait for it. Roles of stores and frozen facts are
passed between the processes; the estate itself stays in the worker. A what-if result says what happens to
each service, through which dependencies, and gives capacity before and after. Field names are those of the
API. Times are in milliseconds, capacities in base units of `units.RESOURCES`.

If the plan library has a plan for the current estate that the checker accepted, what that plan restores
counts, not the estimate of the audit: a loss looks the same wherever it is shown.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures.process import BrokenProcessPool
from dataclasses import field, replace
from datetime import date
from pathlib import Path
from typing import Any, Final, Protocol, TypeVar

import numpy as np

from evac.app.estates.copies import edition_of
from evac.app.side_process import Apart
from evac.audit import AuditReport, LossRow, audit_together
from evac.audit.context import Context, why_by_plan, why_degraded, why_down, why_lost
from evac.audit.impacts.capacity import taken_by_placing
from evac.audit.impacts.free_capacity import pool_capacity, servers_beside_unknown, vague_pools
from evac.audit.impacts.planned import plain_where_small
from evac.backup.evidence import NO_BACKUPS, BackupsSeen
from evac.engine.lead.policies import digest_of
from evac.incident.runbook import Runbook, runbook
from evac.model.backup import BackupFacts
from evac.model.errors import EvacError, InvalidInput, Unavailable
from evac.model.estate import Estate, Lead
from evac.model.fleet import BoolColumn, IntColumn
from evac.model.objectives import LOSS_CLASSES, open_rpo_words, rto_for
from evac.model.observation import Observation
from evac.model.plan import Outcome, Plan, StoreOutcome
from evac.model.records import dataclass
from evac.model.run_policy import Mode, RunPolicy, WatchProfile
from evac.model.situation import Situation
from evac.model.units import RESOURCE_COUNT, RESOURCES
from evac.office.facts import EstateFacts, LossFacts, loss_facts
from evac.views.backup_view import BackupsDocument
from evac.views.plan_view import capacity, standing
from evac.views.words import duration, listed, number, people, plural

_GONE = frozenset({"shed", "unplaced", "unknown"})


@dataclass(frozen=True, slots=True)
class FateOf:
    """What a loss does to one affected service."""

    service: str
    tier: int | None
    people: int | None
    fate: str
    recovery_ms: int | None
    rto_ms: int | None
    chain: tuple[str, ...]
    """From the service along its dependencies to the cause, as text."""
    needs: tuple[str, ...] = ()
    """Required services that are also down."""
    wants: tuple[str, ...] = ()
    """Optional services that are down."""
    stores: tuple[str, ...] = ()
    """Families of required stores that are completely lost."""
    down: bool = False
    """Whether it goes down, rather than only loses replicas or an optional service."""


@dataclass(frozen=True, slots=True)
class CapacityOf:
    """One resource at one site, over the servers and pools that may take replicas and whose load is known."""

    site: str
    resource: str
    total: int
    used: int
    """Before the loss."""
    total_left: int
    used_left: int
    """Right after the loss."""
    moved_in: int
    """How much of the rest is taken by replicas placed there, by first fit and before anything is shed."""


@dataclass(frozen=True, slots=True)
class WhatIf:
    """What losing several domains at once does."""

    domains: tuple[str, ...]
    estate: str
    """Digest of the estate that it was computed from."""
    loss: LossFacts
    services: tuple[FateOf, ...]
    capacity: tuple[CapacityOf, ...] = ()
    """By site and resource, if there are any."""
    lead: Lead = field(default_factory=Lead)
    """Time before the first step; included in every recovery time."""
    newly_lost: tuple[str, ...] = ()
    """What has been lost since, and is no part of the question: so the result is unknown."""


def capacity_of_plan(estate: Estate, plan: Plan) -> Iterator[CapacityOf]:
    """Where the plan puts replicas; capacity of shed services counts as free."""
    where = standing(estate, plan)
    stays = replace(where, after=np.minimum(where.before, where.after))
    for row, kept in zip(capacity(estate, plan, where), capacity(estate, plan, stays), strict=True):
        before = row.whole - row.before.dark - row.before.gone
        left = row.whole - row.after.dark - row.after.gone
        moved = row.after.used - kept.after.used
        yield CapacityOf(row.site, row.resource, before, row.before.used, left, kept.after.used, moved)


def what_if_of(report: AuditReport, wanted: tuple[str, ...]) -> WhatIf:
    """What losing several domains at once does. For a single domain, the result is taken from the audit.
    Raises UnknownDomain.
    """
    known = {row.domain: row for row in report.rows} if len(wanted) == 1 else {}
    if wanted[0] not in known:
        report = audit_together(report, wanted)
        known = {wanted[0]: report.rows[0]}
    row = known[wanted[0]]
    with plain_where_small(report.impacts.estate, 1):
        capacity = tuple(_capacity(report, report.impacts.losses.index[row.domain]))
    facts, fates = loss_facts(report, row), tuple(_fates(report, row))
    return WhatIf(wanted, report.digest or "", facts, fates, capacity, report.lead)


def _fates(report: AuditReport, row: LossRow) -> Iterator[FateOf]:
    impacts, graph = report.impacts, report.impacts.graph
    context = Context(impacts.estate, impacts, report.as_of, report.digest)
    number = impacts.losses.index[row.domain]
    names = [service.id for service in impacts.estate.services]
    down = impacts.away[number].tolist()
    gone = {f for f, n in impacts.families.index.items() if number in impacts.families.losses[n]}
    why = {"lost": why_lost, "recovers": why_down, "degraded": why_degraded}
    for one in row.fates(report.services):
        place = graph.index[one.service]
        service = impacts.estate.services[place]
        yield FateOf(
            service.id,
            service.tier,
            service.people,
            one.fate,
            one.recovery_ms,
            rto_for(service, LOSS_CLASSES[int(impacts.losses.classes[number])]),
            why.get(one.fate, why_by_plan)(context, place, number).words,
            tuple(names[other] for other in graph.lacking(place, down)),
            tuple(names[other] for other in graph.soft[place] if down[other]),
            tuple(family for family in graph.families[place] if family in gone),
            down[place],
        )


def _capacity(report: AuditReport, number: int) -> Iterator[CapacityOf]:
    """By site, in the order of the estate, then by resource."""
    impacts, losses = report.impacts, report.impacts.losses
    estate = impacts.estate
    lost_rows = np.zeros(losses.rows.count, np.bool_)
    lost_rows[losses.rows_of(number)] = True
    left = ~lost_rows[losses.rows.of_server]
    pools_left = ~losses.sites[number][impacts.top.pool_site].astype(np.bool_)
    total, used = _amounts(report, np.ones_like(left), np.ones_like(pools_left))
    total_left, used_left = _amounts(report, left, pools_left)
    moved = taken_by_placing(impacts.capacity, losses, impacts.lost, number)
    for place, site in enumerate(estate.sites):
        for n in range(RESOURCE_COUNT):
            if total[place, n]:
                amounts = (int(t[place, n]) for t in (total, used, total_left, used_left, moved))
                yield CapacityOf(site.id, RESOURCES[n], *amounts)


def _amounts(report: AuditReport, servers: BoolColumn, pools: BoolColumn) -> tuple[IntColumn, IntColumn]:
    """(sites, R) in total and in use, of usable servers and pools among some, where what is free is known."""
    impacts = report.impacts
    top, supply, fleet = impacts.top, impacts.capacity.supply, impacts.estate.fleet
    total, used = (np.zeros((len(impacts.estate.sites), RESOURCE_COUNT), np.int64) for _ in range(2))
    rows, vague = (
        np.flatnonzero(supply.found.usable & ~servers_beside_unknown(top) & servers),
        vague_pools(top),
    )
    site, known = fleet.site[rows], np.where(fleet.capacity_known[rows], fleet.capacity[rows], 0)
    for n in range(RESOURCE_COUNT):
        total[:, n] += np.bincount(site, known[:, n], len(total)).astype(np.int64)
        used[:, n] += np.bincount(site, supply.stock.used.servers[rows, n], len(total)).astype(np.int64)
    for row in np.flatnonzero(pools).tolist():
        quota = impacts.estate.pools[row].quota_permille
        place = int(top.pool_site[row])
        for n, amount in enumerate(pool_capacity(top, row)):
            if amount is not None and not vague[row, n]:
                total[place, n] += amount * quota // 1_000
                used[place, n] += int(supply.stock.used.pools[row, n])
    return total, used


DOMAINS_MOST: Final = 64
"""Maximum number of domains in one what-if."""
ANSWER_S: Final = 120.0
Answer = TypeVar("Answer")


@dataclass(frozen=True, slots=True)
class Rules:
    """What the war room needs to know about the policy."""

    mode: Mode
    profile: WatchProfile
    approvers: tuple[str, ...] = ()
    """Names of those who may approve; empty: not stated."""
    digest: str = ""
    """Digest of the whole policy."""


@dataclass(frozen=True, slots=True)
class Reckoned:
    """The facts of an estate, and the rules set by its policy."""

    facts: EstateFacts
    rules: Rules


def rules_of(policy: RunPolicy) -> Rules:
    approvers = tuple(sorted(one.name for one in policy.approvers))
    return Rules(policy.mode, policy.profile, approvers, digest_of(policy))


class Reckoner(Protocol):
    """What the office asks for. Raises EvacError with the message of the code that found the problem."""

    async def reckon(self, observation: Observation, backups: BackupsSeen = NO_BACKUPS) -> Reckoned: ...

    async def what_if(self, observation: Observation, domains: Sequence[str]) -> WhatIf: ...

    async def capacity(self, observation: Observation, data: bytes) -> tuple[CapacityOf, ...]: ...

    async def runbook(self, data: bytes, digest: str) -> Runbook: ...

    async def backups(self, facts: BackupFacts, now_ms: int) -> BackupsDocument: ...

    def close(self) -> None: ...


class Worker:
    """A reckoner in a separate process (`apart`), or in a thread."""

    def __init__(
        self, path: Path, as_of: date | None = None, policy: Path | None = None, *, apart: bool = True
    ) -> None:
        self._where = (str(path), as_of, None if policy is None else str(policy))
        self._apart = Apart() if apart else None

    async def reckon(self, observation: Observation, backups: BackupsSeen = NO_BACKUPS) -> Reckoned:
        return await self._ask(_Books.reckoned, observation, backups)

    async def what_if(self, observation: Observation, domains: Sequence[str]) -> WhatIf:
        wanted = tuple(sorted(set(domains)))
        if not 0 < len(wanted) <= DOMAINS_MOST:
            raise InvalidInput(
                "what-if-domains",
                f"a request must list 1 to {DOMAINS_MOST} fault domains, not {len(wanted)}",
                "GET /v1/domains lists them",
            )
        return await self._ask(_Books.what_if, observation, wanted)

    async def capacity(self, observation: Observation, data: bytes) -> tuple[CapacityOf, ...]:
        """Site capacity before and after the plan in these bytes."""
        return await self._ask(_Books.capacity, observation, data)

    async def runbook(self, data: bytes, digest: str) -> Runbook:
        """A printable plan, with the commands that the estate's endpoints allow."""
        return await self._ask(_Books.runbook, data, digest)

    async def backups(self, facts: BackupFacts, now_ms: int) -> BackupsDocument:
        """The verdict on the backups of every data set, from what is known about them."""
        return await self._ask(_Books.matrix, facts, now_ms)

    async def _ask(self, work: Callable[..., Answer], *more: Any) -> Answer:
        ask = asyncio.to_thread if self._apart is None else self._apart.ask
        try:
            path, as_of, policy = self._where
            of = edition_of(path), as_of, policy and edition_of(policy)
            async with asyncio.timeout(ANSWER_S):
                found = await ask(_answer, of, work, *more)
        except BrokenProcessPool as error:
            raise Unavailable("the what-if process ended; it is being restarted") from error
        except TimeoutError as error:
            raise Unavailable(f"the calculation did not finish within {ANSWER_S:.0f} s") from error
        if isinstance(found, _Refused):
            raise InvalidInput(found.code, found.message, found.hint)
        return found

    def close(self) -> None:
        if self._apart is not None:
            self._apart.close()


class _Books:
    """Held by the worker: the estate, its policy, and the last audit."""

    def __init__(self, path: str, as_of: date | None, policy: str | None) -> None:
        from evac import estate as estates
        from evac.app.controlling import read_policy
        from evac.model.digest import estate_digest

        self.estate = estates.load(path, as_of)
        self.policy = read_policy(Path(path), None if policy is None else Path(policy), self.estate)
        self.digest = estate_digest(self.estate)
        self.report: Any = None
        self.now: Situation | None = None
        self.backups = NO_BACKUPS

    def audited(self, observation: Observation) -> Any:
        """With the latest facts about backups."""
        from evac.audit import audit
        from evac.derive import situation
        from evac.model.digest import estate_digest

        self.now = situation.of(self.estate, observation)
        seen = self.now.estate
        digest = self.digest if seen is self.estate else estate_digest(seen)
        if self.report is None or self.report.digest != digest:
            self.report = audit(seen, digest=digest, backups=self.backups.facts, at_ms=self.backups.at_ms)
        return self.report

    def know(self, backups: BackupsSeen) -> None:
        """Makes the next audit count them."""
        if backups != self.backups:
            self.backups, self.report = backups, None

    def reckoned(self, observation: Observation, backups: BackupsSeen) -> Reckoned:
        from evac.office.facts import facts_of

        self.know(backups)
        report = self.audited(observation)
        return Reckoned(facts_of(report, self.digest, self.now), rules_of(self.policy))

    def what_if(self, observation: Observation, wanted: tuple[str, ...]) -> WhatIf:
        return what_if_of(self.audited(observation), wanted)

    def capacity(self, observation: Observation, data: bytes) -> tuple[CapacityOf, ...]:
        from evac.derive import situation
        from evac.estate.codecs.plan import decode

        return tuple(capacity_of_plan(situation.of(self.estate, observation).estate, decode(data)))

    def runbook(self, data: bytes, digest: str) -> Runbook:
        from evac.estate.codecs.plan import decode

        return runbook(decode(data, digest), digest, self.estate)

    def matrix(self, facts: BackupFacts, now_ms: int) -> BackupsDocument:
        from evac.app.backups import matrix

        return matrix(self.estate, facts, now_ms)


@dataclass(frozen=True, slots=True)
class _Refused:
    """An error, as it passes between processes."""

    code: str
    message: str
    hint: str


Key = tuple[str, date | None, str | None]
_books: dict[Key, _Books] = {}
_turn = threading.Lock()


def _answer(of: Key, work: Callable[..., Answer], *more: Any) -> Answer | _Refused:
    """In the worker, one answer at a time. One estate per process: loading another replaces it."""
    try:
        with _turn:
            if of not in _books:
                made = _Books(*of)
                _books.clear()
                _books[of] = made
            return work(_books[of], *more)
    except EvacError as error:
        return _Refused(error.code, error.message, error.hint)


@dataclass(frozen=True, slots=True)
class PlanVerdict:
    """The outcome of one plan. The most important names come first."""

    plan: str
    """Its digest."""
    affected: int
    down: int
    """Services whose base is down for a while, or permanently."""
    restored: int
    degraded: int
    """Services with reduced capacity until the horizon."""
    late: int
    """Services restored later than their `rto`."""
    missed: int
    """Services that miss their `rto`: those restored later, and those not restored."""
    unplaced: tuple[str, ...]
    shed: tuple[str, ...]
    unknown: tuple[str, ...]
    people_gone: int
    """Users of the largest service that is not restored."""
    worst_ms: int
    stores_lost: int
    stores_gone: int
    data_loss_ms: int | None
    """The most data loss of any store; None if it is not known."""
    already: int = 0
    """Services down because of what is already lost and no worse off after this loss; not counted above."""
    untimed: int = 0
    """Services restored at an unknown time."""
    kept: int = 0
    """Services that stay up, with reduced capacity for a while or until the horizon."""
    congested: tuple[str, ...] = ()
    """Links and ingress that may be too small for the traffic after the loss."""
    rto_unknown: int = 0
    """Services that may or may not be restored within their `rto`; it is not known."""
    surely_congested: bool = False
    """Whether any of these links and ingress is certain to be too small."""
    stores_open: int = 0
    """Stores that may lose too much data: how much they lose, or may lose, is not stated."""

    @property
    def verdict(self) -> str:
        """The same values as for a loss in the audit."""
        if self.unplaced or self.stores_gone:
            return "loss"
        if self.unknown or self.stores_open:
            return "unknown"
        if self.down or self.shed or self.degraded or self.kept or self.surely_congested:
            return "degraded"
        return "unknown" if self.congested else "ok"

    @property
    def words(self) -> str:
        """`6 services down, 5 restored, the last after 2 min; not coming back: mail (8 million people)`."""
        if not (self.affected or self.stores_gone or self.stores_open or self.congested):
            more = f"; {number(self.already)} already down" if self.already else ""
            return "no service is affected" if not more else f"no other service is affected{more}"
        parts = [f"{plural(self.down, 'service')} down" if self.down else "no service goes down"]
        if not self.down and self.unknown:
            parts = []
        if self.restored:
            last = f", the last after {duration(self.worst_ms)}" if self.worst_ms else ""
            if self.untimed:
                last = f", {self.untimed:,} of them at an unknown time"
            parts[0] += f", {plural(self.restored, 'service')} restored{last}"
        if self.unplaced:
            who = f" ({people(self.people_gone)} people)" if self.people_gone else ""
            parts.append(f"not coming back: {listed(self.unplaced)}{who}")
        named = (("shed", self.shed), ("cannot be judged", self.unknown))
        parts += [f"{what}: {listed(names)}" for what, names in named if names]
        rest = [(self.degraded, "service", "restored in part"), (self.kept, "service", "degraded, but up")]
        rest.append((self.stores_gone, "store", "not restored"))
        parts += [f"{plural(count, noun)} {what}" for count, noun, what in rest if count]
        if self.stores_open:
            parts.append(open_rpo_words(self.stores_open))
        if self.congested:
            parts.append(f"the traffic may be too much for {listed(self.congested)}")
        if self.already:
            parts.append(f"{plural(self.already, 'other service')} already down")
        return "; ".join(parts)


def _as_before(one: Outcome, was: Outcome | None) -> bool:
    """Whether a second loss leaves the service no worse off than the first. Unknown counts as worse."""
    if was is None or (one.goes_down and not (was.goes_down or was.state in _GONE)):
        return False
    if one.state in _GONE or was.state in _GONE:
        return one.state == was.state or one.state not in _GONE
    late = one.meets_rto is False and was.meets_rto is not False
    untimed = one.recovery_ms is None and was.recovery_ms is not None
    in_doubt = one.rto_unknown and not was.rto_unknown
    return not (late or untimed or in_doubt) and (one.state == "restored" or was.state == "degraded")


def _lost_before(one: StoreOutcome, was: StoreOutcome | None) -> bool:
    """Whether a second loss leaves the store no worse off than the first."""
    if was is None or (one.primary_ms is None and was.primary_ms is not None):
        return False
    if was.in_doubt and one.primary_ms is None and not one.in_doubt:
        return False
    return was.loss_ms is None or (one.loss_ms is not None and one.loss_ms <= was.loss_ms)


def made_worse(plan: Plan, before: Plan | None) -> tuple[list[Outcome], list[StoreOutcome]]:
    """Services and stores that this plan leaves worse off than the plan for what is already lost; if nothing
    is lost, all that are affected.
    """
    services = {one.service: one for one in before.outcomes} if before else {}
    stores = {one.store: one for one in before.stores} if before else {}
    return (
        [o for o in plan.outcomes if o.state != "running" and not _as_before(o, services.get(o.service))],
        [one for one in plan.stores if not _lost_before(one, stores.get(one.store))],
    )


def verdict_of(digest: str, plan: Plan, before: Plan | None = None) -> PlanVerdict:
    """`before`: the plan for what is already lost. If given, only what the loss makes worse counts."""
    every = [one for one in plan.outcomes if one.state != "running"]
    outcomes, stores = made_worse(plan, before)
    ordered = sorted(outcomes, key=lambda one: (one.tier, -one.people, one.service))
    back = [one for one in ordered if one.state not in _GONE]
    down = [one for one in ordered if one.goes_down or one.state in ("shed", "unplaced")]
    losses = [one.loss_ms for one in stores if one.primary_ms is not None or one.in_doubt]
    congestion = [one for one in plan.congestion if before is None or one not in before.congestion]
    return PlanVerdict(
        digest,
        len(outcomes),
        len(down),
        sum(1 for one in back if one.goes_down),
        sum(1 for one in back if one.state == "degraded" and one.goes_down),
        sum(1 for one in back if one.meets_rto is False),
        sum(1 for one in ordered if one.meets_rto is False),
        tuple(one.service for one in ordered if one.state == "unplaced"),
        tuple(one.service for one in ordered if one.state == "shed"),
        tuple(one.service for one in ordered if one.state == "unknown"),
        max((one.people for one in ordered if one.state == "unplaced"), default=0),
        max((one.recovery_ms or 0 for one in back if one.goes_down), default=0),
        len(stores),
        sum(1 for one in plan.gone_stores if one in stores),
        None if None in losses else max((one for one in losses if one is not None), default=0),
        sum(1 for one in every if one not in outcomes and (one.goes_down or one.state in _GONE)),
        sum(1 for one in back if one.goes_down and one.recovery_ms is None),
        sum(1 for one in back if not one.goes_down),
        tuple(dict.fromkeys(one.name for one in congestion)),
        sum(1 for one in back if one.rto_unknown),
        any(one.is_certain for one in congestion),
        sum(1 for one in plan.open_stores if one in stores),
    )


def loss_by(loss: LossFacts, plan: PlanVerdict) -> LossFacts:
    """The loss as judged by the plan, which counts what is down already and no worse off on its own."""
    return replace(
        loss,
        verdict=plan.verdict,
        down=plan.down,
        down_before=min(plan.down, max(0, loss.down_before - plan.already)),
        recovers=plan.restored,
        degraded=plan.degraded + plan.kept,
        never_back=len(plan.unplaced),
        unknown=len(plan.unknown),
        not_proved=0,
        late=plan.late,
        worst_recovery_ms=plan.worst_ms,
        untimed=plan.untimed,
        rto_unknown=plan.rto_unknown,
        congested=bool(plan.congested),
        data_loss_ms=plan.data_loss_ms,
        stores_lost=plan.stores_lost,
        stores_gone=plan.stores_gone,
        stores_open=plan.stores_open,
        sheds=bool(plan.shed),
        text=f"{loss.domain}: {plan.words}",
        what=plan.words,
        because="by the plan that is ready",
        plan=plan.plan,
    )


def judged(facts: EstateFacts, plans: Mapping[str, PlanVerdict], before: str = "") -> EstateFacts:
    """The facts with the verdicts of plans. `plans`: domain -> verdict of its plan for the current estate;
    `before`: digest of the plan for what is already lost.
    """
    if not plans:
        return facts
    losses = tuple(loss_by(one, plans[one.domain]) if one.domain in plans else one for one in facts.losses)
    domains = tuple(
        replace(one, verdict=plans[one.id].verdict) if one.id in plans else one for one in facts.domains
    )
    used = tuple(sorted(one.plan for one in plans.values()))
    return replace(facts, losses=losses, domains=domains, plans=used, before=before)
