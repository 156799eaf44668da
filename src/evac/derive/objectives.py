"""How a loss is judged: its class, for which services and stores may state different objectives, and how many
users each service counts for.

The largest loss decides: several sites are a region; a feed or a group within a site counts as a hall, and a
provider as software, because nothing of ours is lost.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Final

from evac.derive.domains import DomainKind, Topology, loss, resolve_each, topology
from evac.model.estate import Estate, Store
from evac.model.fleet import IntColumn, np
from evac.model.objectives import LOSS_CLASSES, LossClass, rpo_for, rto_for
from evac.model.scenario import Scenario

OF_KIND: Final[Mapping[DomainKind, LossClass]] = MappingProxyType(
    {
        "provider": "software",
        "server": "server",
        "rack": "rack",
        "hall": "hall",
        "feed": "hall",
        "group": "hall",
        "site": "site",
    }
)


def loss_class(top: Topology, domains: Iterable[str]) -> LossClass:
    """The class of the simultaneous loss of some domains. Raises UnknownDomain."""
    names = tuple(domains)
    sites = int(loss(top, names).sites.sum())
    if sites:
        return "region" if sites > 1 else "site"
    found = (OF_KIND[domain.kind] for domain in resolve_each(top, names))
    return max(found, key=LOSS_CLASSES.index, default="software")


def rto_of(estate: Estate, scenario: Scenario) -> dict[str, int | None]:
    """Service -> the longest accepted outage in a scenario. Raises UnknownDomain."""
    if not any(service.objectives for service in estate.services):
        return {service.id: service.rto_ms for service in estate.services}
    of_class = loss_class(topology(estate), scenario.domains)
    return {service.id: rto_for(service, of_class) for service in estate.services}


def judged_as(store: Store, loss: LossClass) -> Store:
    """The store with the RPO for a class of loss."""
    return store if store.objectives is None else replace(store, rpo_ms=rpo_for(store, loss))


def audience(estate: Estate) -> IntColumn:
    """(S,) users that a service counts for in every ordering, as stated. An unstated number is not zero: it
    is the median of its tier, or of all others if its tier has none, or one if no service states it.
    """
    services, by_tier = estate.services, dict[int | None, list[int]]()
    for service in services:
        if service.people:
            by_tier.setdefault(service.tier, []).append(service.people)
    everyone = sorted(value for values in by_tier.values() for value in values) or [1]
    middle = {tier: sorted(values)[len(values) // 2] for tier, values in by_tier.items()}
    other = everyone[len(everyone) // 2]
    counted = [
        middle.get(s.tier, other) if s.people is None and not s.external else s.people or 0 for s in services
    ]
    return np.array(counted, np.int64)
