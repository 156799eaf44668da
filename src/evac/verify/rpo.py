"""How much data stores may lose, found again from the estate: the strictest RPO of the store and of the
services that need it. If no one states one, what needs a store that loses data cannot be judged.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

from evac.model.estate import Estate, Service, Store
from evac.model.objectives import LossClass, backups_fact, lag_fact, rpo_fact, rpo_for
from evac.model.plan import Plan
from evac.model.units import UNLIMITED
from evac.verify.needs import falling, with_members
from evac.verify.places import Where, sites_in
from evac.verify.reading import Violation
from evac.verify.unknown_places import lost_feeds, lost_racks, lost_servers


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


def check_unknown_losses(estate: Estate, plan: Plan, of_class: LossClass) -> list[Violation]:
    """F1: a loss of unknown data is neither within an RPO nor above it. So a store that no copy or backup
    certainly restores, but one may, is in doubt, and the plan names the fact. Linear in members.
    """
    if plan.scenario.kind != "lose":
        return []
    found, limits, said = list[Violation](), strictest_rpos(estate, of_class), set(plan.unknown)
    chosen = {*plan.waivers, *(name for name, _ in plan.scenario.moments)}
    down = {one.store: one.in_doubt for one in plan.stores if not one.candidate and one.store not in chosen}
    if down:
        gone = _Gone(estate, with_members(estate, {*plan.scenario.domains, *estate.lost}))
    for store in estate.stores if down else ():
        if store.id not in down:
            continue
        allowed = None if store.data_in is None else sites_in(estate, store.data_in)
        losses, most = dict(_losses(store, gone, allowed)), limits.get(store.id, UNLIMITED)
        unknown = {fact for fact, ms in losses.items() if None in ms} if most < UNLIMITED else set[str]()
        within = any(ms is not None and ms <= most for some in losses.values() for ms in some)
        if unknown and not within and (not down[store.id] or said.isdisjoint(unknown)):
            words = "may come back if what its copies lack is little, but the plan does not name that fact"
            found.append(Violation("F1", store.id, words))
        if down[store.id] and not unknown:
            found.append(Violation("F1", store.id, "certainly does not come back, the plan leaves it open"))
    for outcome in plan.outcomes:
        if outcome.why is not None and outcome.why.kind == "loss-unknown" and outcome.state != "unknown":
            words = f"needs a store that may come back, the plan says {outcome.state}"
            found.append(Violation("F1", outcome.service, words))
    return found


class _Gone:
    """Whether a place is in what is lost."""

    def __init__(self, estate: Estate, names: set[str]) -> None:
        self._sites, self._where = names, Where(estate)
        halls = {hall.id for hall in estate.halls if hall.id in names or hall.site in names}
        self._names = {*names, *halls, *lost_racks(estate, names), *lost_feeds(estate, names)}
        self._names |= {raw.decode() for raw in estate.fleet.name[lost_servers(estate, names)].tolist()}

    def site(self, place: str) -> str:
        return self._where.site(place)

    def __call__(self, place: str) -> bool:
        names = {place, place.rsplit("/", 1)[-1]}
        return not self._names.isdisjoint(names) or self.site(place) in self._sites


def _losses(store: Store, gone: _Gone, allowed: set[str] | None) -> Iterator[tuple[str, list[int | None]]]:
    """By the fact that states them: what is lost with each copy, and with each backup, that is left. allowed:
    the sites where the data may be; None for all.
    """

    def usable(place: str) -> bool:
        return not gone(place) and (allowed is None or gone.site(place) in allowed)

    left = [member for member in store.members if not gone(member.at)]
    votes, every = (sum(member.votes for member in some) for some in (left, store.members))
    if not store.quorum or 2 * votes > every:
        copies = [member for member in left if member.mode != "none" and usable(member.at)]
        yield lag_fact(store.id), [0 if m.mode in ("sync", "primary") else m.lag_ms for m in copies]
    timed = (
        one
        for one in store.backups
        if one.restore_ms is not None or (one.size_gib is not None and one.restore_mbps)
    )
    kept = [one for one in timed if usable(one.at) and not one.unusable]
    yield backups_fact(store.id), [one.age_ms for one in kept]


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
