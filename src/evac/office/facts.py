"""What the war room shows about an estate: one frozen value, computed once per digest.

This module has the values and derives them from an estate and its audit. No HTTP, no store, no clock. Field
names are those of the API. Times are in milliseconds, capacities in base units of `units.RESOURCES`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from datetime import date
from typing import Final

import numpy as np

from evac.audit import AuditReport, Finding, LossRow, headline
from evac.audit.auditing import proof_command
from evac.audit.context import counted
from evac.audit.impacts.all_losses import PLANNED
from evac.derive.domains import domains, site_of
from evac.derive.stores import primary_site
from evac.model.estate import Estate, Store
from evac.model.fleet import SERVER_STATES
from evac.model.objectives import open_rpo_words
from evac.model.plan import Congestion
from evac.model.records import dataclass
from evac.model.situation import Away, LostNow, Routed, Situation, StoreAway
from evac.model.units import RESOURCE_COUNT, amount
from evac.office.headroom import (
    Amount,
    Room,
    joined,
    rooms_of,
    unclear_amounts,
    unclear_pools,
    unclear_servers,
)
from evac.views.audit_view import Root, fix_first
from evac.views.situation_view import next_of

REASONED_MOST: Final = 1_000
"""Number of rack losses for which a reason is computed; larger domains all get one."""
FIXES_MOST: Final = 5
"""Things to fix first."""


@dataclass(frozen=True, slots=True)
class SiteFacts:
    """A site as declared in the files."""

    id: str
    role: str
    people: str | None
    servers: int
    states: Mapping[str, int]
    halls: int
    racks: int
    services: int
    headroom: tuple[Amount, ...]
    """Of all servers and pools whose load is known."""
    drilled: date | None
    """Date of its last drill; None: none is known."""
    drill_kind: str
    unclear_servers: int = 0
    """Servers that may take replicas, but it is unknown what runs on them: not in `headroom`."""
    unclear_pools: tuple[str, ...] = ()
    """Pools with an amount that is not in `headroom`, because it is unknown how much of it is free."""
    unclear: tuple[int | None, ...] = (0,) * RESOURCE_COUNT
    """How much capacity these have, in the order of `headroom`; None: not known."""


@dataclass(frozen=True, slots=True)
class ServiceAt:
    """A service at a site."""

    site: str
    replicas: int
    role: str
    """`primary` or `copy`, by its stores there; empty if it has none."""
    fate: str
    recovery_ms: int | None
    """`fate` and `recovery_ms`: what losing only this site does to the service."""


@dataclass(frozen=True, slots=True)
class ServiceFacts:
    id: str
    family: str
    owner: str | None
    tier: int | None
    people: int | None
    rto_ms: int | None
    rpo_ms: int | None
    replicas: int
    stores: tuple[str, ...]
    needs: tuple[str, ...]
    sites: tuple[ServiceAt, ...]
    public_name: str | None = None


@dataclass(frozen=True, slots=True)
class CopyFacts:
    site: str
    at: str
    mode: str
    lag_ms: int | None


@dataclass(frozen=True, slots=True)
class StoreFacts:
    """A store as declared in the files."""

    id: str
    family: str
    engine: str
    primary: str
    home: str
    rpo_ms: int | None
    copies: tuple[CopyFacts, ...]
    backups: int
    restored: date | None
    """Date of the last verified restore of a backup; None: none is known."""


@dataclass(frozen=True, slots=True)
class DomainFacts:
    id: str
    kind: str
    site: str | None
    verdict: str
    drilled: date | None


@dataclass(frozen=True, slots=True)
class LossFacts:
    """What one loss does."""

    domain: str
    kind: str
    verdict: str
    down: int
    recovers: int
    degraded: int
    never_back: int
    unknown: int
    late: int
    people_down: int
    worst_recovery_ms: int
    data_loss_ms: int | None
    stores_lost: int
    stores_gone: int
    to_place: int
    placed: int
    sheds: bool
    text: str
    """One sentence."""
    because: str
    """The reason that delays most services."""
    what: str = ""
    """`text` without the name of the domain and without the reason."""
    not_proved: int = 0
    """Services whose fate the estimate cannot prove; a plan can."""
    untimed: int = 0
    """Services that return at an unknown time."""
    rto_unknown: int = 0
    """Services that may or may not be back within their `rto`; not in `late`."""
    congested: bool = False
    """Whether a link or an ingress may be too small for the traffic after the loss."""
    plan: str = ""
    """The standby plan that this verdict comes from; empty: it is the estimate of the audit."""
    down_before: int = 0
    """How many of `down` are down before the loss, because servers are off."""
    people_unstated: int = 0
    """Services that are down and do not state their number of users; not in `people_down`."""
    stores_open: int = 0
    """Stores that come back with a loss of data, or maybe one, and do not say how much they may lose."""


@dataclass(frozen=True, slots=True)
class FindingFacts:
    fingerprint: str
    rule: str
    code: str
    severity: str
    subject: str
    message: str
    fix: str
    domains: tuple[str, ...]
    chain: tuple[str, ...]
    path: str
    place: str


@dataclass(frozen=True, slots=True)
class FixFacts:
    """One thing to change first."""

    name: str
    severity: str
    findings: int
    """How many go away with it."""
    about: str
    """Their subjects; their message where it is one finding."""
    key: str
    """What to change: `services.mail.replicas`."""
    place: str
    fix: str


@dataclass(frozen=True, slots=True)
class EstateFacts:
    """All of the above for one estate."""

    name: str
    as_of: date | None
    digest: str
    """Of the estate with the roles of stores as last seen."""
    files: str
    """For the estate as declared in its files."""
    counts: Mapping[str, int]
    sites: tuple[SiteFacts, ...]
    rooms: tuple[Room, ...]
    services: tuple[ServiceFacts, ...]
    stores: tuple[StoreFacts, ...]
    domains: tuple[DomainFacts, ...]
    losses: tuple[LossFacts, ...]
    findings: tuple[FindingFacts, ...]
    fixes: tuple[FixFacts, ...] = ()
    """What to fix first, as `evac audit` groups it."""
    lost: tuple[LostNow, ...] = ()
    """What is lost or evacuated now: its capacity does not count."""
    services_away: tuple[Away, ...] = ()
    stores_away: tuple[StoreAway, ...] = ()
    """What is not where the files declare it, and why."""
    services_routed: tuple[Routed, ...] = ()
    """Services at home whose users drivers send to only some of the sites where they run."""
    way_home: str = ""
    """The command that makes the plan to bring the next of it home; empty if none does."""
    plans: tuple[str, ...] = ()
    """Plans whose verdicts are in `losses`."""
    crowded_today: tuple[str, ...] = ()
    """Links and ingress that are too small, or may be, for the traffic of today."""
    unclear_today: tuple[str, ...] = ()
    """Those for which this is unknown, because a peak or a limit is not stated."""
    before: str = ""
    """The plan for what is lost already: verdicts leave out what a loss makes no worse. Empty: none."""
    newly_lost: tuple[str, ...] = ()
    """What has been lost since these facts were computed: the verdicts of other losses are unknown."""

    @property
    def stamp(self) -> tuple[object, ...]:
        """The same for the same facts."""
        away = self.services_away, self.services_routed, self.stores_away
        return self.digest, self.plans, self.before, self.lost, self.newly_lost, away


def facts_of(report: AuditReport, files: str, now: Situation | None = None) -> EstateFacts:
    """The facts of an audited estate. files: digest of the estate without observations; now: the situation it
    was audited in, None if it is as the files declare.
    """
    estate = report.impacts.estate
    drilled = _drills(estate)
    rooms = tuple(rooms_of(report))
    losses, today = tuple(_losses(report)), report.impacts.crowding.today
    return EstateFacts(
        name=estate.name,
        as_of=report.as_of,
        digest=report.digest or "",
        files=files,
        counts=_counts(estate),
        sites=tuple(_sites(report, rooms, drilled)),
        rooms=rooms,
        services=tuple(_services(report)),
        stores=tuple(_store(report, store) for store in estate.stores),
        domains=tuple(_domains(report, drilled, now is not None and bool(now.lost))),
        losses=losses,
        findings=tuple(finding_facts(finding) for finding in report.findings),
        fixes=tuple(_fix(root) for root in fix_first(report.findings, FIXES_MOST)),
        crowded_today=_named(one for one in today if one.is_too_small),
        unclear_today=_named(one for one in today if not one.is_too_small),
        lost=() if now is None else now.lost,
        services_away=() if now is None else now.services,
        services_routed=() if now is None else now.routed,
        stores_away=() if now is None else now.stores,
        way_home=""
        if now is None or now.lost
        else next_of(replace(now, rivals=(), silent=()), "ESTATE --observe"),
    )


def _named(found: Iterable[Congestion]) -> tuple[str, ...]:
    """Each link or ingress once, although bandwidth and connections count apart."""
    return tuple(dict.fromkeys(one.name for one in found))


def _counts(estate: Estate) -> dict[str, int]:
    return {
        "sites": len(estate.sites),
        "halls": len(estate.halls),
        "feeds": len(estate.feeds),
        "racks": len(estate.racks),
        "groups": len(estate.groups),
        "providers": len(estate.providers),
        "servers": len(estate.fleet),
        "pools": len(estate.pools),
        "services": len(estate.services),
        "stores": len(estate.stores),
        "replicas": int(estate.replicas.count.sum()),
    }


def _drills(estate: Estate) -> dict[str, tuple[date, str]]:
    """Domain -> date and kind of its last drill."""
    found: dict[str, tuple[date, str]] = {}
    for one in estate.rehearsals:
        if one.domain not in found or one.done > found[one.domain][0]:
            found[one.domain] = (one.done, one.kind)
    return found


def _sites(
    report: AuditReport, rooms: tuple[Room, ...], drilled: Mapping[str, tuple[date, str]]
) -> Iterator[SiteFacts]:
    impacts = report.impacts
    estate, fleet = impacts.estate, impacts.estate.fleet
    beside, pools = unclear_servers(report), unclear_pools(report)
    hidden = unclear_amounts(report)
    for number, site in enumerate(estate.sites):
        mine = fleet.site == number
        states = np.bincount(fleet.state[mine], minlength=len(SERVER_STATES)).tolist()
        day, kind = drilled.get(site.id, (None, ""))
        yield SiteFacts(
            id=site.id,
            role=site.role,
            people=site.people,
            servers=int(mine.sum()),
            states=dict(zip(SERVER_STATES, states, strict=True)),
            halls=sum(1 for hall in estate.halls if hall.site == site.id),
            racks=int((impacts.top.rack_site == number).sum()),
            services=int((impacts.presence.per_site[number] > 0).sum()),
            headroom=joined([room.amounts for room in rooms if room.site == site.id]),
            drilled=day,
            drill_kind=kind,
            unclear_servers=int((mine & beside).sum()),
            unclear_pools=tuple(pool.id for pool in pools if pool.site == site.id),
            unclear=hidden[number],
        )


def _services(report: AuditReport) -> Iterator[ServiceFacts]:
    impacts = report.impacts
    estate, per_site = impacts.estate, impacts.presence.per_site
    fates = _fates_by_site(report)
    roles = _roles_of_families(report)
    for row, service in enumerate(estate.services):
        families = [need.target for need in service.needs if need.kind == "store"]
        places = []
        for number, site in enumerate(estate.sites):
            role = max((roles.get((family, site.id), "") for family in families), default="")
            replicas = int(per_site[number, row])
            fate, ready = fates.get((site.id, row), ("unaffected", None))
            if replicas or role or fate != "unaffected":
                places.append(ServiceAt(site.id, replicas, role, fate, ready))
        yield ServiceFacts(
            id=service.id,
            family=service.family,
            owner=service.owner,
            tier=service.tier,
            people=service.people,
            rto_ms=service.rto_ms,
            rpo_ms=service.rpo_ms,
            replicas=int(impacts.presence.n[row]),
            stores=tuple(families),
            needs=tuple(t for need in service.needs if need.kind == "service" for t in need.targets),
            sites=tuple(places),
            public_name=service.public_name,
        )


def _fates_by_site(report: AuditReport) -> dict[tuple[str, int], tuple[str, int | None]]:
    index = report.impacts.graph.index
    found: dict[tuple[str, int], tuple[str, int | None]] = {}
    for row in report.rows:
        if row.kind == "site":
            for fate in row.fates(report.services):
                found[row.domain, index[fate.service]] = (fate.fate, fate.recovery_ms)
    return found


def _roles_of_families(report: AuditReport) -> dict[tuple[str, str], str]:
    """(store family, site) -> `primary` if one of its stores has its primary there, else `copy`."""
    top, found = report.impacts.top, {}
    for store in report.impacts.estate.stores:
        for member in store.members:
            site = site_of(top, member.at)
            if site is None or member.mode == "none":
                continue
            if member.mode == "primary" or (store.family, site) not in found:
                found[store.family, site] = "primary" if member.mode == "primary" else "copy"
    return found


def _store(report: AuditReport, store: Store) -> StoreFacts:
    top = report.impacts.top
    verified = [backup.verified for backup in store.backups if backup.verified is not None]
    return StoreFacts(
        id=store.id,
        family=store.family,
        engine=store.engine,
        primary=primary_site(top, store),
        home=(site_of(top, store.home) or "") if store.home else "",
        rpo_ms=store.rpo_ms,
        copies=tuple(
            CopyFacts(site_of(top, m.at) or "", m.at, m.mode, None if m.mode == "primary" else m.lag_ms)
            for m in store.members
        ),
        backups=len(store.backups),
        restored=max(verified, default=None),
    )


def _domains(
    report: AuditReport, drilled: Mapping[str, tuple[date, str]], lost: bool
) -> Iterator[DomainFacts]:
    """lost: whether something is lost already."""
    verdicts = {row.domain: row.verdict for row in report.rows}
    for one in domains(report.impacts.estate):
        if lost and one.id not in verdicts:
            continue  # what is lost cannot be lost again
        day, _ = drilled.get(one.id, (None, ""))
        yield DomainFacts(one.id, one.kind, one.site, verdicts.get(one.id, "unknown"), day)


def _losses(report: AuditReport) -> Iterator[LossFacts]:
    reasoned = 0
    for row in report.rows:
        wanted = row.kind != "rack" or row.verdict == "ok" or reasoned < REASONED_MOST
        reasoned += row.kind == "rack" and row.verdict != "ok"
        yield loss_facts(report, row, wanted)


def loss_facts(report: AuditReport, row: LossRow, reasoned: bool = True) -> LossFacts:
    """One row of an audit in the words of the API."""
    text, what, because = "", "", ""
    if reasoned:
        said = headline(report, row)
        text, what = said.text, said.what
        because = said.because[0][0].words if said.because else _why(report, row)
    return LossFacts(
        domain=row.domain,
        kind=row.kind,
        verdict=row.verdict,
        down=row.down,
        down_before=row.down_before,
        recovers=row.recovered,
        degraded=row.degraded,
        never_back=row.lost,
        unknown=row.unknown,
        late=row.late,
        people_down=row.people_down,
        people_unstated=row.people_unstated,
        worst_recovery_ms=row.worst_ready_ms,
        data_loss_ms=row.data_loss_ms,
        stores_lost=row.stores_lost,
        stores_gone=row.stores_gone,
        to_place=row.to_place,
        placed=row.placed,
        sheds=row.sheds,
        text=text,
        because=because,
        what=what,
        not_proved=row.not_proved,
        untimed=row.untimed,
        rto_unknown=row.rto_unknown,
        congested=row.congested,
        stores_open=row.stores_open,
    )


def _why(report: AuditReport, row: LossRow) -> str:
    """Further reasons for a verdict: data without a copy, missing capacity or missing facts."""
    if row.stores_gone:
        be = "is" if row.stores_gone == 1 else "are"
        return f"{counted(row.stores_gone, 'store')} {be} not restored"
    if row.short:
        first = row.short[0]
        if not first.missing:
            return f"no single server has capacity for {counted(first.replicas, 'replica')}"
        return f"{amount(first.resource, first.missing)} short of capacity for every replica"
    if row.late:
        return f"{counted(row.late, 'service')} {'is' if row.late == 1 else 'are'} back later than promised"
    if row.unknown:
        return "facts are missing"
    if row.stores_open:
        return open_rpo_words(row.stores_open)
    if row.not_proved:
        if row.method == PLANNED:
            return f"a longer search may restore or keep them: {proof_command(row)}"
        return f"the estimate proves it for none of them; {proof_command(row)} can"
    impacts = report.impacts
    after = impacts.crowding.of(impacts.losses.index[row.domain])
    for one in after.certain[:1]:
        return one.words
    for one in after.possible[:1]:
        if not one.is_too_small:
            return one.words
        return f"it depends on the plan whether traffic gets through: {one.words}"
    if row.untimed or row.rto_unknown:
        return "it is not known whether every service comes back in time"
    if row.congested:
        return "the traffic may be too much for a link or an ingress"
    return "every service comes back in time" if row.down else "nothing stops"


def _fix(root: Root) -> FixFacts:
    top = root.top
    alone = len(root.findings) == 1
    line = f":{top.key_place.line}" if top.key_place.line else ""
    return FixFacts(
        name=top.subject if alone else root.name,
        severity=top.severity,
        findings=len(root.findings),
        about=top.message if alone else root.about,
        key=top.key,
        place=f"{top.key_place.name}{line}" if top.key_place.file else "",
        fix=top.fix,
    )


def finding_facts(finding: Finding) -> FindingFacts:
    """One finding in the words of the API."""
    return FindingFacts(
        finding.fingerprint,
        finding.rule,
        finding.code,
        finding.severity,
        finding.subject,
        finding.message,
        finding.fix,
        finding.domains,
        finding.chain,
        finding.path,
        str(finding.place) if finding.place.file and finding.place.line else "",
    )
