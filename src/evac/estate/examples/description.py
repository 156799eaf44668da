"""What stands in an estate, in a few counts that a person can check at a glance."""

from __future__ import annotations

import numpy as np

from evac.model.estate import Estate
from evac.model.fleet import ON_SERVER, SERVER_STATES


def describe(estate: Estate) -> tuple[str, ...]:
    """Lines of counts: sites and fault domains, servers by state, services, replicas, stores, tools."""
    domains = sum(map(len, (estate.sites, estate.halls, estate.feeds, estate.racks, estate.groups)))
    families = {service.family for service in estate.services}
    counted = (
        (len(estate.sites), "sites"),
        (len(estate.halls), "halls"),
        (len(estate.feeds), "feeds"),
        (len(estate.racks), "racks"),
        (len(estate.groups), "shared fates"),
    )
    sites, witnesses = _sites_of(estate, "full"), _sites_of(estate, "witness")
    replicas, needs = int(estate.replicas.count.sum()), _dependencies(estate)
    return (
        f"{estate.name}: {len(estate.fleet):,} servers at {sites} sites, {witnesses} more only vote",
        *_site_lines(estate),
        f"{domains:,} fault domains: " + ", ".join(f"{count:,} {word}" for count, word in counted),
        f"{len(estate.services):,} services in {len(families)} families, {replicas:,} replicas,"
        f" {needs:,} dependencies",
        f"{len(estate.stores):,} stores, {_stores_inside(estate):,} of them with no copy outside one site",
        f"{_single_site(estate):,} services stand at one site only",
        f"{len(estate.tools)} recovery tools named, {len(estate.rehearsals)} losses rehearsed",
    )


def _sites_of(estate: Estate, role: str) -> int:
    return sum(site.role == role for site in estate.sites)


def _site_lines(estate: Estate) -> list[str]:
    lines = []
    for index, site in enumerate(estate.sites):
        states = np.bincount(estate.fleet.state[estate.fleet.site == index], minlength=len(SERVER_STATES))
        if states.sum():
            parts = ", ".join(
                f"{count:,} {word}" for count, word in zip(states, SERVER_STATES, strict=True) if count
            )
            lines.append(f"  {site.id}: {int(states.sum()):,} servers ({parts})")
    return lines


def _dependencies(estate: Estate) -> int:
    return sum(len(service.needs) for service in estate.services)


def _stores_inside(estate: Estate) -> int:
    holds = [{m.at.split("/")[0] for m in store.members if m.mode != "none"} for store in estate.stores]
    return sum(len(sites) == 1 for sites in holds)


def _single_site(estate: Estate) -> int:
    bound = estate.replicas.kind == ON_SERVER
    pairs = np.unique(
        np.stack((estate.replicas.service[bound], estate.fleet.site[estate.replicas.target[bound]])), axis=1
    )
    return int((np.bincount(pairs[0]) == 1).sum())
