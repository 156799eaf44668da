"""Stores that lose data and do not say how much they may lose: what needs them cannot be judged. Found again
from the estate and the outcomes of the stores.
"""

from __future__ import annotations

from collections import defaultdict

from evac.model.estate import Estate, Store
from evac.model.objectives import LossClass, rpo_fact, rpo_for
from evac.model.plan import Plan
from evac.verify.needs import falling
from evac.verify.reading import Violation


def check_unstated_rpos(estate: Estate, plan: Plan, of_class: LossClass) -> list[Violation]:
    """F1: a plan judges nothing whose only data may be lost to an extent that nobody accepted, and names the
    fact. Linear in stores and needs.
    """
    if plan.scenario.kind == "failback":
        return []
    said = {one.store: one for one in plan.stores}
    chosen = {*plan.waivers, *(name for name, _ in plan.scenario.moments)}
    families, found = defaultdict[str, list[Store]](list), list[Violation]()
    is_open = set[str]()
    for store in estate.stores:
        families[store.family].append(store)
        one = said.get(store.id)
        loses = one is not None and one.candidate and one.loss_ms != 0
        states_none = store.rebuilt_from is None and rpo_for(store, of_class) is None
        if loses and states_none and store.id not in chosen:
            is_open.add(store.id)
            if rpo_fact(store.id) not in plan.unknown:
                words = "loses data, or may, and states no rpo, but the plan does not name that fact"
                found.append(Violation("F1", store.id, words))
    doubtful = set[str]()
    for family, stores in families.items():
        back = [store.id for store in stores if store.id in said and said[store.id].candidate]
        if back and is_open.issuperset(back) and all(store.id in said for store in stores):
            doubtful.add(family)
    users = {
        service.id
        for service in estate.services
        if any(need.kind == "store" and need.hard and need.target in doubtful for need in service.needs)
    }
    states = {outcome.service: outcome.state for outcome in plan.outcomes}
    for name in sorted(falling({service.id: service for service in estate.services}, users)):
        if states.get(name) not in ("unknown", "unplaced"):
            words = f"needs a store that loses data and states no rpo, the plan says {states.get(name)}"
            found.append(Violation("F1", name, words))
    return found
