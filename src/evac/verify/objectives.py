"""Checks a plan's objectives: each rto, and each store's loss, by the class of the loss.

Rules F2 and F19. This package's own code finds the class from the estate: the number of lost sites, else the
largest named domain.
"""

from __future__ import annotations

from evac.model.estate import PROVIDER_PREFIX, Estate
from evac.model.objectives import LOSS_CLASSES, LossClass, rpo_for, rto_for
from evac.model.plan import Plan
from evac.verify.reading import Violation


def check_objectives(estate: Estate, plan: Plan) -> list[Violation]:
    """Linear in services, stores and outcomes."""
    of_class = _class_of(estate, plan.scenario.domains)
    rto_ms = {service.id: rto_for(service, of_class) for service in estate.services}
    found = []
    for outcome in plan.outcomes:
        wanted = rto_ms.get(outcome.service)
        if outcome.rto_ms != wanted:
            words = f"RTO is {wanted} ms, the plan says {outcome.rto_ms}"
            found.append(Violation("F19", outcome.service, words))
    rpo_ms = {store.id: rpo_for(store, of_class) for store in estate.stores}
    for store in plan.stores:
        most = rpo_ms.get(store.store)
        if most is None or not store.candidate or store.waiver:
            continue
        if store.loss_ms is None or store.loss_ms > most:
            words = f"loses {store.loss_ms} ms of data and may lose {most} ms after the loss of a {of_class}"
            found.append(Violation("F2", store.store, words))
    return found


def _class_of(estate: Estate, domains: tuple[str, ...]) -> LossClass:
    sites = {site.id for site in estate.sites}
    groups = {group.id: group.members for group in estate.groups}
    seen, work = set[str](), list(domains)
    while work:
        name = work.pop()
        if name not in seen:
            seen.add(name)
            work += groups.get(name, ())
    lost = len(seen & sites)
    if lost:
        return "region" if lost > 1 else "site"
    racks = {rack.id for rack in estate.racks}
    halls = {hall.id for hall in estate.halls} | {feed.id for feed in estate.feeds} | groups.keys()
    kinds: list[LossClass] = ["software"]
    for name in domains:
        if not name.startswith(PROVIDER_PREFIX):
            kinds.append("hall" if name in halls else "rack" if name in racks else "server")
    return max(kinds, key=LOSS_CLASSES.index)
