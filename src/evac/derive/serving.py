"""Where services run and serve after a plan: the targets of traffic shifts."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from functools import cached_property

from evac.derive.domains import Topology, loss, site_of, site_of_replicas
from evac.derive.pools import replicas_lost, replicas_off
from evac.derive.sent_users import sites_by_service
from evac.derive.stores import primary_site
from evac.model.fleet import np
from evac.model.plan import Plan
from evac.steps.registry import kind_of


class Serving:
    """For one plan. live: (service, site) -> replicas already there, except those that it restarts: in what
    is lost, left or coming back; leaving: those in what an evacuation leaves.
    """

    def __init__(self, top: Topology, plan: Plan) -> None:
        self._top, self._plan = top, plan
        kind, gone = plan.scenario.kind, {*plan.scenario.domains, *top.estate.lost}
        if kind == "failback" and top.estate.home is not None:
            gone = {*top.estate.lost}
        self.live: Mapping[tuple[str, str], int] = self._outside(gone)
        leaves = self._outside({*top.estate.lost}) if kind == "evacuate" else {}
        left = {key: count - self.live.get(key, 0) for key, count in leaves.items()}
        self.leaving = {key: count for key, count in left.items() if count > 0}
        self._changes = self._changed()
        estate = top.estate
        self._families = {
            s.id: [d.target for d in s.needs if d.kind == "store" and d.hard] for s in estate.services
        }
        self._candidates = {s.store: site_of(top, s.candidate) or "" for s in plan.stores if s.candidate}

    def _outside(self, domains: Collection[str]) -> dict[tuple[str, str], int]:
        """(service, site) -> replicas that run and are in none of these domains."""
        top, estate = self._top, self._top.estate
        lost = replicas_lost(top, loss(top, domains))
        found: dict[tuple[str, str], int] = {}
        left = estate.replicas.count - np.maximum(lost, replicas_off(top))
        sites = site_of_replicas(top)
        rows = np.flatnonzero((left > 0) & (sites >= 0))
        columns = (column[rows].tolist() for column in (estate.replicas.service, sites, left))
        for service, site, count in zip(*columns, strict=True):
            key = (estate.services[service].id, estate.sites[site].id)
            found[key] = found.get(key, 0) + count
        return found

    def _changed(self) -> dict[str, dict[str, int]]:
        """Service -> site -> change in its number of replicas after the plan."""
        found: dict[str, dict[str, int]] = {}
        for step in self._plan.steps:
            sign = kind_of(step.kind).replicas
            for name, count in step.servers if sign else ():
                sites = found.setdefault(step.target, {})
                site = self.site_named(name)
                sites[site] = sites.get(site, 0) + sign * count
        return found

    def site_named(self, name: str) -> str:
        """The site of a pool, a server, or of `site:` and a site."""
        top = self._top
        if name in top.pool_index:
            return top.estate.pools[top.pool_index[name]].site
        return site_of(top, name.removeprefix("site:")) or ""

    @property
    def changed(self) -> Collection[str]:
        """Services whose replicas the plan starts or stops."""
        return self._changes.keys()

    def running(self, service: str) -> dict[str, int]:
        """Site -> its replicas there after the plan, where there are any."""
        counts = dict(self._changes.get(service, {}))
        left = set(self._plan.scenario.domains) if self._plan.scenario.kind in ("lose", "evacuate") else set()
        for site in (site.id for site in self._top.estate.sites if site.id not in left):
            if (service, site) in self.live:
                counts[site] = counts.get(site, 0) + self.live[service, site]
        return {site: count for site, count in counts.items() if count > 0 and site not in left}

    @cached_property
    def _before(self) -> Mapping[str, set[str]]:
        """Service -> sites where it runs before the plan, also those that the plan loses or leaves."""
        return sites_by_service(self._top, np.ones(len(self._top.estate.replicas), np.bool_))

    def users(self, service: str) -> set[str]:
        """Sites that its users are sent to before the plan: those that run it if nothing else is known. The
        digest of an estate does not tell these two apart, so neither may what a plan is bound to: the next
        leader, which may know only the files, would refuse to take the run over.
        """
        sent = self._top.estate.traffic.get(service)
        return self._before.get(service, set()) if sent is None else set(sent)

    def sites(self, service: str) -> tuple[str, ...]:
        """Site of its data first, then most replicas, then by name."""
        counts, near = self.running(service), self._data_sites(service)
        return tuple(sorted(counts, key=lambda site: (site not in near, -counts[site], site)))

    def _data_sites(self, service: str) -> frozenset[str]:
        """Sites of the primaries of its stores: traffic goes to its data first."""
        families = self._families.get(service, ())
        stores = (store for store in self._top.estate.stores if store.family in families)
        return frozenset(self._candidates.get(s.id) or primary_site(self._top, s) for s in stores)
