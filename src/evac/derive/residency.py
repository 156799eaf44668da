"""Where data may be: the sites that a service or a store names, directly or through regions and groups."""

from __future__ import annotations

from collections.abc import Iterable

from evac.model.estate import Estate, Service


def sites_of(estate: Estate, names: Iterable[str]) -> tuple[str, ...]:
    """The named sites and those in named regions and groups, sorted. Groups may be nested."""
    groups, sites = {group.id: group.members for group in estate.groups}, {site.id for site in estate.sites}
    found, work = set[str](), list(names)
    work += [site.id for site in estate.sites if site.region in work]
    while work:
        name = work.pop()
        if name not in found:
            found.add(name)
            work += groups.get(name, ())
    return tuple(sorted(found & sites))


def may_run_at(estate: Estate, service: Service) -> tuple[str, ...] | None:
    """The sites where a service may run, by `eligible_sites` and by where its data may be; None for all."""
    if service.data_in is None:
        return service.eligible_sites
    found = sites_of(estate, service.data_in)
    return found if service.eligible_sites is None else tuple(s for s in found if s in service.eligible_sites)
