"""Puts the example company together, flawed as in October 2022 or mended."""

from __future__ import annotations

from dataclasses import replace
from datetime import date, timedelta
from typing import Final

from numpy.random import PCG64, Generator, SeedSequence

from evac.estate.examples import operations
from evac.estate.examples.company import Blueprint, catalogue, service_target
from evac.estate.examples.datastores import draw_stores, recovery_groups
from evac.estate.examples.dependencies import Needs, add_flaws, draw_needs
from evac.estate.examples.grounds import FULL_SERVERS, boot_servers, classes, groups, lay_out
from evac.estate.examples.layout import site_counts
from evac.estate.examples.machines import Machines, fleet_of, stand_up, with_budgets
from evac.estate.examples.origins import facts
from evac.estate.examples.placing import Wanted, place
from evac.estate.examples.services import Kit, services, spread_rules
from evac.estate.examples.sizes import Sizes, draw_sizes
from evac.model.errors import InvalidInput
from evac.model.estate import Estate
from evac.model.fleet import SERVING, IntColumn, Replicas

LEAST_SERVERS: Final = 1_000
MOST_SERVERS: Final = 1_000_000
DEFAULT_AS_OF: Final = date(2026, 11, 1)
DEFAULT_SEED: Final = 20_221_015


def pangyo(
    *,
    servers: int = FULL_SERVERS,
    seed: int = DEFAULT_SEED,
    mended: bool = False,
    as_of: date = DEFAULT_AS_OF,
) -> Estate:
    """A company like the one of October 2022, or the same company after the cure.

    Same arguments, same estate. `servers`: 1,000 to 1,000,000, of which Pangyo has 32 in 90;
    services, their sizes and the servers are the same in both companies. Raises InvalidInput
    for a size out of range.
    """
    if not LEAST_SERVERS <= servers <= MOST_SERVERS:
        raise InvalidInput(
            "example-size",
            f"the example has no company of {servers:,} servers",
            f"ask for {LEAST_SERVERS:,} to {MOST_SERVERS:,} servers",
        )
    ground = lay_out(servers)
    machines = stand_up(ground)
    blueprints = catalogue(service_target(servers))
    sizes = draw_sizes(blueprints, machines, _draw(seed, 1))
    counts = site_counts(blueprints, sizes, machines, mended, _draw(seed, 2))
    needs = _needs(blueprints, mended, seed)
    conflicts = _conflicts(blueprints)
    huddled = frozenset() if mended else _huddled(blueprints, sizes, counts)
    spread = spread_rules(blueprints, machines, mended, huddled)
    replicas = place(ground, machines, Wanted(blueprints, sizes, counts, spread, conflicts, huddled))
    machines = _lit(machines, replicas)
    found = services(blueprints, sizes, needs, Kit(mended, as_of, spread, conflicts), _draw(seed, 4))
    stores = draw_stores(blueprints, counts, mended, as_of, _draw(seed, 5))
    fleet = fleet_of(ground, machines, mended)
    bare_sites, links = operations.sites_and_links(found, mended)
    grounded = with_budgets(ground, fleet, bare_sites, mended)
    fates = groups(mended)
    estate = Estate(
        name="pangyo-mended" if mended else "pangyo",
        as_of=as_of,
        changed=as_of - timedelta(days=31),
        detection_ms=60_000 if mended else 600_000,
        approval_ms=300_000 if mended else 1_800_000,
        sites=grounded.sites,
        halls=grounded.halls,
        feeds=grounded.feeds,
        racks=grounded.racks,
        groups=fates,
        classes=classes(mended),
        boot_servers=boot_servers(servers),
        links=links,
        services=found,
        stores=stores,
        recovery_groups=recovery_groups(stores),
        tools=operations.tools(blueprints),
        limits=operations.limits(servers, mended),
        expiring=operations.expiring(blueprints, mended, as_of),
        automations=operations.automations(blueprints, mended),
        rehearsals=operations.rehearsals(grounded.halls, fates, mended, as_of),
        fleet=fleet,
        replicas=replicas,
    )
    return replace(estate, facts=facts(estate, blueprints, mended, as_of - timedelta(days=30)))


def _draw(seed: int, part: int) -> Generator:
    """An own stream per part, so that mending one part leaves the draws of the others alone."""
    return Generator(PCG64(SeedSequence([seed, part])))


def _needs(blueprints: tuple[Blueprint, ...], mended: bool, seed: int) -> Needs:
    needs = draw_needs(blueprints, _draw(seed, 3))
    if not mended:
        add_flaws(needs, blueprints, _draw(seed, 6))
    return needs


def _conflicts(blueprints: tuple[Blueprint, ...]) -> frozenset[int]:
    """Three stores with heavy disk use that must not share a server."""
    heavy = [row for row, b in enumerate(blueprints) if b.component == "data" and b.rank == 0]
    return frozenset(heavy[:3])


def _huddled(blueprints: tuple[Blueprint, ...], sizes: Sizes, counts: IntColumn) -> frozenset[int]:
    """A flaw: one in four small services that stand at one site only share a rack as well."""
    rows = [
        row
        for row, b in enumerate(blueprints)
        if b.level >= 2 and int(sizes.replicas[row]) <= 16 and int((counts[row] > 0).sum()) == 1
    ]
    return frozenset(rows[::4])


def _lit(machines: Machines, replicas: Replicas) -> Machines:
    """Spare and reserve servers that had to take replicas are serving."""
    state = machines.state.copy()
    state[replicas.target] = SERVING
    return replace(machines, state=state)
