"""Where runs and drivers send the users of services."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from evac.derive.domains import Topology, site_of_replicas
from evac.derive.placed import PlaceCounts
from evac.model.fleet import BoolColumn, np
from evac.model.observation import Observation
from evac.model.records import dataclass
from evac.model.situation import Cause, Counts, Moved

LEAVES: Final = frozenset({"lose", "evacuate"})
"""Scenarios that leave a site."""


@dataclass(frozen=True, slots=True)
class Sent:
    """Where users are sent."""

    sites: Mapping[str, tuple[str, ...]]
    """Service -> the sites, if a run or a driver says so; sorted."""
    causes: Mapping[str, Cause]
    """Of the same services."""
    runs: Mapping[str, str]
    """Service -> the run that sent its users to where runs left them; none if no run did."""

    @property
    def as_routed(self) -> tuple[str, ...]:
        """Services whose users no run sent anywhere, sorted."""
        return tuple(sorted(self.sites.keys() - self.runs.keys()))


def sent_to(
    top: Topology, placed: Mapping[str, Mapping[str, int]], moved: Sequence[Moved], seen: Observation
) -> Sent:
    """placed: service -> replicas by place, of those that are not where the files place them.

    What drivers report counts if the service runs at each of these sites: what is at other sites, such as
    proxies in front of it, is not in the estate. If it is what the files say, they say it.
    """
    names = {service.id for service in top.estate.services}
    found: dict[str, tuple[str, ...]] = {}
    causes: dict[str, Cause] = {}
    runs: dict[str, str] = {}
    for one in moved:
        for service, sites in one.traffic.items():
            to = tuple(sorted(site for site in sites if site in top.site_index))
            # Only a failback decides again about users whom it leaves where they are.
            if service in names and (found.get(service) != to or one.scenario == "failback"):
                found[service] = to
                causes[service] = Cause("run", one.run, one.steps.get(service, ("", 0))[0], one.ended_ms)
                if service not in one.stayed or (one.scenario == "failback" and service in runs):
                    runs[service] = one.run
    declared, at = (
        sites_by_service(top, top.estate.replicas.count > 0) if seen.traffic else {},
        PlaceCounts(top),
    )
    for sent in seen.traffic:
        if sent.service not in names:
            continue
        there = declared.get(sent.service, set())
        if sent.service in placed:
            there = {at.site(place) for place, count in placed[sent.service].items() if count}
        sites, known = tuple(sorted(sent.sites)), found.get(sent.service)
        if known is None and sent.service not in placed:
            known = tuple(sorted(there))
        if sites and sites != known and there.issuperset(sites):
            found[sent.service] = sites
            causes[sent.service] = Cause("observed", sent.driver, at_ms=sent.at_ms)
    return Sent(dict(sorted(found.items())), causes, runs)


def sent_away(top: Topology, sent: Sent, moved: Sequence[Moved]) -> tuple[str, ...]:
    """Services whose users a run that left a part of home sent to the rest of it, and none sent back."""
    leaving, found = {one.run for one in moved if one.scenario in LEAVES}, []
    gone = {service for service, run in sent.runs.items() if run in leaving}
    home = sites_by_service(top, np.ones(len(top.estate.replicas), np.bool_)) if gone else {}
    for service in sorted(gone):
        users = {*sent.sites[service]}
        found += [service] if users and users < home.get(service, set()) else []
    return tuple(found)


def sites_by_service(top: Topology, rows: BoolColumn) -> dict[str, set[str]]:
    """Service -> sites of some rows of the table of replicas, if known."""
    estate, found = top.estate, dict[str, set[str]]()
    table = np.stack([estate.replicas.service, site_of_replicas(top)], axis=1)[rows]
    for service, site in np.unique(table[table[:, 1] >= 0], axis=0).tolist():
        found.setdefault(estate.services[service].id, set()).add(estate.sites[site].id)
    return found


def per_site(counts: PlaceCounts, service: str) -> Counts:
    """(site, replicas) of a service, sorted."""
    found: dict[str, int] = {}
    for place, count in counts.of(service).items():
        site = counts.site(place)
        found[site] = found.get(site, 0) + count
    return tuple(sorted(found.items()))
