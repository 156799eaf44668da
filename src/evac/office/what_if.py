"""The answer to a what-if: what each service comes to, the chain behind it, and room before and after.

Owned here: the values, and how they follow from an audit. No HTTP, no store, no clock. Names of fields are
the names that the API shows. Times in milliseconds, capacities in base units of `units.RESOURCES`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from evac.audit import AuditReport, LossRow, audit_together
from evac.audit.context import Context, why_degraded, why_down, why_lost
from evac.audit.impacts.capacity import taken_by_placing
from evac.audit.impacts.free_capacity import pool_capacity
from evac.model.fleet import BoolColumn, IntColumn
from evac.model.units import RESOURCE_COUNT, RESOURCES
from evac.office.facts import LossFacts, loss_facts


@dataclass(frozen=True, slots=True)
class FateOf:
    """What a loss does to one service that is not unaffected. chain: from its name along what it needs to
    the reason, in words. needs: services it cannot do without that are down as well; wants: services it
    likes to use that are down; stores: families of stores it needs of which nothing is left.
    """

    service: str
    tier: int | None
    people: int | None
    fate: str
    recovery_ms: int | None
    rto_ms: int | None
    chain: tuple[str, ...]
    needs: tuple[str, ...] = ()
    wants: tuple[str, ...] = ()
    stores: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class CapacityOf:
    """One resource of one site, of servers and pools that may take replicas. total, used: before the loss.
    total_left, used_left: right after it. moved_in: what replicas that find a place there take of the rest,
    by first fit and before anything is shed.
    """

    site: str
    resource: str
    total: int
    used: int
    total_left: int
    used_left: int
    moved_in: int


@dataclass(frozen=True, slots=True)
class WhatIf:
    """The answer to the loss of some domains at once. estate: the digest that it was worked out from.
    capacity: by site and resource, where there is any.
    """

    domains: tuple[str, ...]
    estate: str
    loss: LossFacts
    services: tuple[FateOf, ...]
    capacity: tuple[CapacityOf, ...] = ()


def what_if_of(report: AuditReport, wanted: tuple[str, ...]) -> WhatIf:
    """What the loss of some domains at once does. A single domain is in the audit already. Raises
    UnknownDomain.
    """
    known = {row.domain: row for row in report.rows} if len(wanted) == 1 else {}
    if wanted[0] not in known:
        report = audit_together(report, wanted)
        known = {wanted[0]: report.rows[0]}
    row = known[wanted[0]]
    return WhatIf(
        wanted,
        report.digest or "",
        loss_facts(report, row),
        tuple(_fates(report, row)),
        tuple(_capacity(report, report.impacts.losses.index[row.domain])),
    )


def _fates(report: AuditReport, row: LossRow) -> Iterator[FateOf]:
    impacts, graph = report.impacts, report.impacts.graph
    context = Context(impacts.estate, impacts, report.as_of, report.digest)
    number = impacts.losses.index[row.domain]
    names = [service.id for service in impacts.estate.services]
    down = impacts.down[number].tolist()
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
            service.rto_ms,
            why[one.fate](context, place, number).words if one.fate in why else (),
            tuple(names[other] for other in graph.hard[place] if down[other]),
            tuple(names[other] for other in graph.soft[place] if down[other]),
            tuple(family for family in graph.families[place] if family in gone),
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
    """(sites, R) in all and used, of usable servers and pools among some."""
    impacts = report.impacts
    top, supply, fleet = impacts.top, impacts.capacity.supply, impacts.estate.fleet
    total, used = (np.zeros((len(impacts.estate.sites), RESOURCE_COUNT), np.int64) for _ in range(2))
    rows = np.flatnonzero(supply.found.usable & servers)
    site, known = fleet.site[rows], np.where(fleet.capacity_known[rows], fleet.capacity[rows], 0)
    for n in range(RESOURCE_COUNT):
        total[:, n] += np.bincount(site, known[:, n], len(total)).astype(np.int64)
        used[:, n] += np.bincount(site, supply.stock.used.servers[rows, n], len(total)).astype(np.int64)
    for number in np.flatnonzero(pools).tolist():
        quota = impacts.estate.pools[number].quota_permille
        place = int(top.pool_site[number])
        for n, amount in enumerate(pool_capacity(top, number)):
            if amount is not None:
                total[place, n] += amount * quota // 1_000
                used[place, n] += int(supply.stock.used.pools[number, n])
    return total, used
