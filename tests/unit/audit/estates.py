"""Small estates built in code, and ways to add one flaw to an estate."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import date
from fractions import Fraction
from types import MappingProxyType

import numpy as np

from evac.audit import AuditReport, Finding
from evac.model.backup_policy import BackupPolicy
from evac.model.estate import Dependency, Estate, Pool, Rehearsal, Service, Site, Store, StoreMember, Traffic
from evac.model.fleet import AT_SITE, ON_POOL, Replicas
from evac.model.step_id import TOOL_ROLES

TODAY = date(2026, 11, 25)
HOUR = 3_600_000
SITES = ("north", "south", "west")


def bindings(estate: Estate, rows: Sequence[tuple[str, int, str, int]]) -> Replicas:
    """Rows of (service, kind, target, count), sorted as the estate wants them."""
    services = {s.id: i for i, s in enumerate(estate.services)}
    pools = {p.id: i for i, p in enumerate(estate.pools)}
    sites = {s.id: i for i, s in enumerate(estate.sites)}
    found = sorted(
        (services[s], kind, (pools if kind == ON_POOL else sites)[t], count) for s, kind, t, count in rows
    )
    return Replicas(
        service=np.array([r[0] for r in found], np.int32),
        kind=np.array([r[1] for r in found], np.uint8),
        target=np.array([r[2] for r in found], np.int32),
        count=np.array([r[3] for r in found], np.int64),
    )


def service(name: str, **facts: object) -> Service:
    """A service with everything known."""
    plain: dict[str, object] = {
        "family": name,
        "tier": 0,
        "people": 1_000,
        "rto_ms": HOUR,
        "demand": (1_000, 1_024, 10, 0),
        "replicas": 6,
        "share": 0.5,
        "start_ms": 30_000,
        "traffic": Traffic("none"),
    }
    plain |= facts
    plain["share"] = Fraction(plain["share"])  # type: ignore[arg-type]
    return Service(name, **plain)  # type: ignore[arg-type]


def sound(cores: int = 100) -> Estate:
    """Three sites with a pool each; two services and a store that survive any one loss; nothing unknown."""
    services = (
        service("deploy", people=0),
        service("shop", needs=(Dependency("orders", "store"),)),
    )
    estate = Estate(
        name="sound",
        as_of=TODAY,
        changed=date(2026, 6, 1),
        detection_ms=60_000,
        approval_ms=60_000,
        sites=tuple(Site(name) for name in SITES),
        pools=tuple(Pool(f"{name}-pool", name, (cores * 1_000, cores * 4_096, 10_000, 0)) for name in SITES),
        services=services,
        stores=(
            Store(
                "orders",
                "orders",
                "postgresql",
                tuple(StoreMember(s, m, 0) for s, m in zip(SITES, ("primary", "sync", "sync"), strict=True)),
                automatic=True,
                rpo_ms=0,
                fence_ms=5_000,
                promote_ms=10_000,
                sync_timeout_ms=0,
                backup_policy=BackupPolicy(waived="the tests of backups have their own"),
            ),
        ),
        tools=MappingProxyType(dict.fromkeys(TOOL_ROLES, ("deploy",))),
        rehearsals=tuple(Rehearsal(name, date(2026, 9, 1)) for name in SITES),
    )
    rows = [(s.id, ON_POOL, f"{site}-pool", 2) for s in services for site in SITES]
    return replace(estate, replicas=bindings(estate, rows))


def with_service(estate: Estate, added: Service, at: Sequence[tuple[str, int]]) -> Estate:
    """The estate with one more service, its replicas at sites: as many as are placed."""
    added = replace(added, replicas=sum(count for _, count in at) or added.replicas)
    rows = _rows(estate) + [(added.id, AT_SITE, site, count) for site, count in at]
    more = replace(estate, services=tuple(sorted((*estate.services, added), key=lambda s: s.id)))
    return replace(more, replicas=bindings(more, rows))


def _rows(estate: Estate) -> list[tuple[str, int, str, int]]:
    names = {ON_POOL: [p.id for p in estate.pools], AT_SITE: [s.id for s in estate.sites]}
    columns = (estate.replicas.service, estate.replicas.kind, estate.replicas.target, estate.replicas.count)
    return [
        (estate.services[s].id, k, names[k][t], c)
        for s, k, t, c in zip(*(column.tolist() for column in columns), strict=True)
    ]


def with_store(estate: Estate, added: Store, user: str | None = None) -> Estate:
    """The estate with one more store, needed by a service."""
    more = replace(estate, stores=tuple(sorted((*estate.stores, added), key=lambda d: d.id)))
    return more if user is None else change(more, user, needs=(Dependency(added.family, "store"),))


def change(estate: Estate, name: str, **facts: object) -> Estate:
    """The estate with facts of one service changed."""
    services = tuple(replace(s, **facts) if s.id == name else s for s in estate.services)
    return replace(estate, services=services)


def manual(estate: Estate, **times: int) -> Estate:
    """The estate with ways by hand."""
    return replace(estate, limits=replace(estate.limits, manual_ms=MappingProxyType(times)))


def found(report: AuditReport, rule: str) -> list[Finding]:
    """Findings of a rule."""
    return [f for f in report.findings if f.rule == rule]
