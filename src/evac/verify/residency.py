"""Checks that data stays where it may be: no step starts a service, promotes a copy or restores a backup
elsewhere.

Rules F2 and F10. This package's own code looks up names in the estate.
"""

from __future__ import annotations

from collections.abc import Iterator

from evac.model.estate import Estate
from evac.model.plan import Plan
from evac.steps.registry import kind_of
from evac.verify.reading import Violation


def check_residency(estate: Estate, plan: Plan) -> list[Violation]:
    """Linear in steps and their servers."""
    stated = [(service.id, service.data_in) for service in estate.services]
    stated += [(store.id, store.data_in) for store in estate.stores]
    bounds = {name: _sites(estate, names) for name, names in stated if names is not None}
    if not bounds:
        return []
    found = []
    where = _Where(estate)
    for step in plan.steps:
        allowed = bounds.get(step.target)
        if allowed is None:
            continue
        kind = kind_of(step.kind)
        names = [name for name, _ in step.servers] if kind.replicas > 0 else []
        places = [step.candidate] if kind.makes_primary or kind.restores else names
        for site in sorted({where.site(place) for place in places} - allowed):
            rule = "F10" if places is names else "F2"
            words = f"moves its data to {site or 'an unknown place'}, where it may not be kept"
            found.append(Violation(rule, step.id, words))
    for outcome in plan.stores:
        allowed = bounds.get(outcome.store)
        if allowed is not None and outcome.candidate and where.site(outcome.candidate) not in allowed:
            words = f"has its primary at {outcome.candidate}, where its data may not be kept"
            found.append(Violation("F2", outcome.store, words))
    return found


def _sites(estate: Estate, names: tuple[str, ...]) -> set[str]:
    """Sites by name, and the sites of regions and groups, recursively."""
    inside = {group.id: set(group.members) for group in estate.groups}
    for site in estate.sites:
        if site.region is not None:
            inside.setdefault(site.region, set()).add(site.id)
    seen: set[str] = set()

    def names_in(some: set[str]) -> Iterator[str]:
        for name in sorted(some - seen):
            seen.add(name)
            yield name
            yield from names_in(inside.get(name, set()))

    return set(names_in(set(names))) & {site.id for site in estate.sites}


class _Where:
    """Finds the site of a pool, server, domain path, or `site:NAME`."""

    def __init__(self, estate: Estate) -> None:
        self._pools = {pool.id: pool.site for pool in estate.pools}
        self._sites = [site.id for site in estate.sites]
        self._fleet = estate.fleet
        self._rows: dict[str, int] | None = None

    def site(self, place: str) -> str:
        """Empty if nothing has that name."""
        name = place.removeprefix("site:")
        if name in self._pools:
            return self._pools[name]
        if name.split("/", 1)[0] in self._sites and (name in self._sites or "/" in name):
            return name.split("/", 1)[0]
        if self._rows is None:
            names = (raw.decode() for raw in self._fleet.name.tolist())
            self._rows = {name: row for row, name in enumerate(names)}
        row = self._rows.get(name.rsplit("/", 1)[-1], -1)
        return self._sites[int(self._fleet.site[row])] if row >= 0 else ""
