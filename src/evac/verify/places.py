"""The site of a place that a plan names, read from the estate alone."""

from __future__ import annotations

from collections.abc import Iterator

from evac.model.estate import Estate


class Where:
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


def sites_in(estate: Estate, names: tuple[str, ...]) -> set[str]:
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
