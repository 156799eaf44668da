"""What the steps of a plan are bound against: what it leaves, what is lost, and which endpoint is where."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from evac.derive.domains import Loss, Topology, is_lost, loss, lost_now, site_of, topology
from evac.derive.serving import Serving
from evac.engine.boots.binding import Boots, boots_of
from evac.model.estate import Endpoint, Estate, Store
from evac.model.plan import Plan
from evac.model.records import dataclass
from evac.model.run_policy import RunPolicy


@dataclass(frozen=True, slots=True, eq=False)
class Ground:
    """Context for binding every step."""

    estate: Estate
    plan: Plan
    policy: RunPolicy
    top: Topology
    left: frozenset[str]
    """Sites that the plan leaves."""
    lost: frozenset[str]
    """Those plus all lost before."""
    dead: frozenset[tuple[str, str]]
    """(store, site) of lost members, even if their site lives."""
    healthy: bool
    """Sites being left still answer."""
    endpoints: Mapping[tuple[str, str], tuple[Endpoint, ...]]
    stores: Mapping[str, Store]
    serving: Serving
    candidates: Mapping[str, str]
    """Store -> site of its next primary."""
    families: Mapping[str, tuple[str, ...]]
    by_family: Mapping[str, tuple[Store, ...]]
    boots: Boots | None = None


def ground_of(estate: Estate, plan: Plan, policy: RunPolicy) -> Ground:
    top = topology(estate)
    named = sites_of(top, loss(top, plan.scenario.domains))
    left = named if plan.scenario.kind in ("lose", "evacuate") else frozenset()
    by_key: dict[tuple[str, str], tuple[Endpoint, ...]] = {}
    for endpoint in estate.endpoints:
        key = (endpoint.subject, endpoint.at)
        by_key[key] = (*by_key.get(key, ()), endpoint)
    by_family: dict[str, tuple[Store, ...]] = {}
    for store in estate.stores:
        by_family[store.family] = (*by_family.get(store.family, ()), store)
    return Ground(
        estate=estate,
        plan=plan,
        policy=policy,
        top=top,
        left=left,
        lost=left | (sites_of(top, lost_now(top)) - named),
        dead=_dead(top, plan),
        healthy=plan.scenario.kind != "lose",
        endpoints=MappingProxyType(by_key),
        stores=MappingProxyType({store.id: store for store in estate.stores}),
        serving=Serving(top, plan),
        candidates=MappingProxyType(
            {s.store: site_of(top, s.candidate) or "" for s in plan.stores if s.candidate}
        ),
        families=MappingProxyType(
            {s.id: tuple(d.target for d in s.needs if d.kind == "store" and d.hard) for s in estate.services}
        ),
        by_family=MappingProxyType(by_family),
        boots=boots_of(top, plan),
    )


def _dead(top: Topology, plan: Plan) -> frozenset[tuple[str, str]]:
    asked, before = loss(top, plan.scenario.domains), lost_now(top)
    lost, found = plan.scenario.kind in ("lose", "evacuate"), set[tuple[str, str]]()
    for store in top.estate.stores:
        for member in store.members:
            named = is_lost(top, asked, member.at)
            gone = is_lost(top, before, member.at)
            if (named or gone) if lost else (gone and not named):
                found.add((store.id, site_of(top, member.at) or ""))
    return frozenset(found)


def sites_of(top: Topology, gone: Loss) -> frozenset[str]:
    """The sites of a loss, by id."""
    return frozenset(site.id for site, dead in zip(top.estate.sites, gone.sites, strict=True) if dead)
