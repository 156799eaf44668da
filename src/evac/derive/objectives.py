"""How a loss is judged: its class, for which services and stores may state different objectives, and how many
users each service counts for.

The largest loss decides: several sites are a region; a feed or a group within a site counts as a hall, and a
provider as software, because nothing of ours is lost.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Final

from evac.derive.domains import DomainKind, Topology, loss, resolve_each, topology
from evac.model.estate import Estate, Service
from evac.model.fleet import IntColumn, np
from evac.model.objectives import LOSS_CLASSES, LossClass, rpo_for, rto_for
from evac.model.records import dataclass
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


@dataclass(frozen=True, slots=True)
class Rpo:
    """How much data a store may lose with a loss of some class."""

    limit_ms: int | None
    """The strictest that it or a service which hard-needs it states; None if no one states any."""
    whose: str = ""
    """The service that states it; empty for the store itself."""
    is_open: bool = False
    """Whether the store states none and neither does every service that needs it: a loss within the limit is
    then still for people to accept. Data that can be rebuilt needs no RPO.
    """

    @property
    def words(self) -> str:
        """Whose it is: `its RPO`, `the RPO of shop`."""
        return f"the RPO of {self.whose}" if self.whose else "its RPO"


def rpos(top: Topology, of_class: LossClass) -> tuple[Rpo, ...]:
    """(D,) what each store may lose. A service loses what the stores that it hard-needs lose, so its RPO
    limits theirs; not that of a store which is rebuilt instead. Linear in stores and needs.
    """
    return top.once(("rpos", of_class), lambda: _rpos(top.estate, of_class))


def _rpos(estate: Estate, of_class: LossClass) -> tuple[Rpo, ...]:
    users = _store_users(estate)
    found = []
    for store in estate.stores:
        own = rpo_for(store, of_class)
        if store.rebuilt_from is not None:
            found.append(Rpo(own))
            continue
        needed = [(rpo_for(service, of_class), service.id) for service in users.get(store.family, ())]
        stated = [(ms, name) for ms, name in needed if ms is not None]
        is_open = own is None and (not needed or len(stated) < len(needed))
        limit, whose = min([*stated, *([] if own is None else [(own, "")])], default=(None, ""))
        found.append(Rpo(limit, whose, is_open))
    return tuple(found)


def may_lose_nothing(top: Topology) -> frozenset[str]:
    """Stores that may lose no data with a loss of some class, by their own RPO or that of a service."""
    return top.once("may lose nothing", lambda: _may_lose_nothing(top))


def _may_lose_nothing(top: Topology) -> frozenset[str]:
    limits = (zip(top.estate.stores, rpos(top, of_class), strict=True) for of_class in LOSS_CLASSES)
    return frozenset(store.id for pairs in limits for store, rpo in pairs if rpo.limit_ms == 0)


def _store_users(estate: Estate) -> dict[str, list[Service]]:
    """Store family -> the services that hard-need it."""
    found: dict[str, list[Service]] = {}
    for service in estate.services:
        for family in {need.target for need in service.needs if need.kind == "store" and need.hard}:
            found.setdefault(family, []).append(service)
    return found


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
