"""What a loss of one site takes, worked out from an Estate alone, by two plain rules.

A service runs where it is declared or has replicas; a store family is there while one instance is.
"""

from evac.derive.domains import topology
from evac.model.estate import Estate
from evac.model.fleet import AT_SITE, ON_POOL, ON_SERVER


def core_sites(estate: Estate) -> set[str]:
    return {site.id for site in estate.sites if site.role == "full"}


def sites_by_service(estate: Estate) -> dict[str, set[str]]:
    """Service -> core sites it runs at."""
    top = topology(estate)
    site_of = {ON_SERVER: estate.fleet.site, ON_POOL: top.pool_site, AT_SITE: range(len(estate.sites))}
    found = {service.id: set(service.sites) for service in estate.services}
    rows = estate.replicas
    for service, kind, target in zip(rows.service, rows.kind, rows.target, strict=True):
        site = estate.sites[int(site_of[int(kind)][int(target)])].id
        found[estate.services[int(service)].id].add(site)
    return {service: sites & core_sites(estate) for service, sites in found.items()}


def without_other_site(estate: Estate, lost: str) -> set[str]:
    """Services that run at the lost site and at no other core site."""
    return {service for service, sites in sites_by_service(estate).items() if sites == {lost}}


def families_only_at(estate: Estate, lost: str) -> set[str]:
    """Store families each of whose instances stands at the lost site, and nowhere else."""
    standing: dict[str, set[str]] = {}
    for store in estate.stores:
        standing.setdefault(store.family, set()).update(member.at for member in store.members)
    return {family for family, sites in standing.items() if sites == {lost}}


def hidden_behind_stores(estate: Estate, lost: str) -> set[str]:
    """Services that run elsewhere too, but need a store family that is at the lost site only."""
    families = families_only_at(estate, lost)
    plain = without_other_site(estate, lost)
    return {
        service.id
        for service in estate.services
        if service.id not in plain
        and any(need.kind == "store" and need.hard and need.target in families for need in service.needs)
    }
