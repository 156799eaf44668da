"""How much data stores may lose, found again from the estate: the strictest RPO of the store and of the
services that need it. If no one states one, what needs a store that loses data cannot be judged.
"""

from __future__ import annotations

from collections import defaultdict

from evac.model.estate import Estate, Service, Store
from evac.model.objectives import LossClass, rpo_fact, rpo_for
from evac.model.plan import Plan
from evac.verify.needs import falling
from evac.verify.reading import Violation


def strictest_rpos(estate: Estate, of_class: LossClass) -> dict[str, int]:
    """Store -> the least that it or a service which cannot serve without it states; stores without one are
    left out. Data that is rebuilt instead follows the store alone.
    """
    of_services: dict[str, int] = {}
    for service in estate.services:
        wanted = rpo_for(service, of_class)
        if wanted is not None:
            for family in _hard_stores(service):
                of_services[family] = min(wanted, of_services.get(family, wanted))
    found: dict[str, int] = {}
    for store in estate.stores:
        asked = None if store.rebuilt_from is not None else of_services.get(store.family)
        stated = [ms for ms in (rpo_for(store, of_class), asked) if ms is not None]
        if stated:
            found[store.id] = min(stated)
    return found


def _hard_stores(service: Service) -> set[str]:
    """Families of stores that a service cannot serve without."""
    return {need.target for need in service.needs if need.kind == "store" and need.hard}


def check_unstated_rpos(estate: Estate, plan: Plan, of_class: LossClass) -> list[Violation]:
    """F1: a plan judges nothing whose only data may be lost to an extent that nobody accepted, and names the
    fact. Linear in stores and needs.
    """
    if plan.scenario.kind == "failback":
        return []
    said = {one.store: one for one in plan.stores}
    chosen = {*plan.waivers, *(name for name, _ in plan.scenario.moments)}
    of_family, found = defaultdict[str, list[Store]](list), list[Violation]()
    is_open, silent, needed = set[str](), set[str](), set[str]()
    for service in estate.services:
        families = _hard_stores(service)
        needed |= families
        silent |= families if rpo_for(service, of_class) is None else set()
    for store in estate.stores:
        of_family[store.family].append(store)
        one = said.get(store.id)
        loses = one is not None and one.candidate and one.loss_ms != 0
        states_none = store.rebuilt_from is None and rpo_for(store, of_class) is None
        states_none = states_none and (store.family in silent or store.family not in needed)
        if loses and states_none and store.id not in chosen:
            is_open.add(store.id)
            if rpo_fact(store.id) not in plan.unknown:
                words = "loses data, or may, and states no rpo, but the plan does not name that fact"
                found.append(Violation("F1", store.id, words))
    doubtful = set[str]()
    for family, stores in of_family.items():
        back = [store.id for store in stores if store.id in said and said[store.id].candidate]
        if back and is_open.issuperset(back) and all(store.id in said for store in stores):
            doubtful.add(family)
    users = {service.id for service in estate.services if not doubtful.isdisjoint(_hard_stores(service))}
    states = {outcome.service: outcome.state for outcome in plan.outcomes}
    for name in sorted(falling({service.id: service for service in estate.services}, users)):
        if states.get(name) not in ("unknown", "unplaced"):
            words = f"needs a store that loses data and states no rpo, the plan says {states.get(name)}"
            found.append(Violation("F1", name, words))
    return found
