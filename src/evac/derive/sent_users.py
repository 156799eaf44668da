"""Where runs and drivers send the users of services."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from evac.derive.domains import Topology
from evac.derive.placed import PlaceCounts
from evac.model.observation import Observation
from evac.model.situation import Cause, Counts, Moved

LEAVES: Final = frozenset({"lose", "evacuate"})
"""Scenarios that leave a site."""


def sent_to(
    top: Topology, moved: Sequence[Moved], seen: Observation
) -> tuple[dict[str, tuple[str, ...]], dict[str, Cause]]:
    """Service -> sites that its users are sent to, and the source."""
    names = {service.id for service in top.estate.services}
    found: dict[str, tuple[str, ...]] = {}
    causes: dict[str, Cause] = {}
    for one in moved:
        for service, sites in one.traffic.items():
            to = tuple(sorted(site for site in sites if site in top.site_index))
            # Only a failback decides again about users whom it leaves where they are.
            if service in names and (found.get(service) != to or one.scenario == "failback"):
                found[service] = to
                causes[service] = Cause("run", one.run, one.steps.get(service, ("", 0))[0], one.ended_ms)
    for sent in seen.traffic:
        sites = tuple(sorted(site for site in sent.sites if site in top.site_index))
        if sent.service in names and found.get(sent.service) != sites:
            found[sent.service] = sites
            causes[sent.service] = Cause("observed", sent.driver, at_ms=sent.at_ms)
    return dict(sorted(found.items())), causes


def sent_away(
    top: Topology,
    traffic: Mapping[str, tuple[str, ...]],
    sent: Mapping[str, Cause],
    moved: Sequence[Moved],
) -> tuple[str, ...]:
    """Services whose users a run that left a part of home sent to the rest of it, and none sent back."""
    leaving, home = {one.run for one in moved if one.scenario in LEAVES}, PlaceCounts(top)
    found = []
    for service, users in sorted(traffic.items()):
        if users and sent[service].by in leaving:
            homes = {site for site, _ in per_site(home, service)}
            found += [service] if set(users) < homes else []
    return tuple(found)


def per_site(counts: PlaceCounts, service: str) -> Counts:
    """(site, replicas) of a service, sorted."""
    found: dict[str, int] = {}
    for place, count in counts.of(service).items():
        site = counts.site(place)
        found[site] = found.get(site, 0) + count
    return tuple(sorted(found.items()))
