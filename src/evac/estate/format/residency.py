"""Checks that declared replicas, copies and backups keep data where it may be."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from evac.estate.format.assembling import Assembly
from evac.estate.format.bindings import ReplicaRows
from evac.estate.format.problems import shown
from evac.estate.format.reading import Reader
from evac.model.estate import DataSet, Store
from evac.model.fleet import AT_SITE, ON_POOL, ON_SERVER, Fleet, np

_HINT: Final = "move it, or add its site to data_in"


def check_residency(assembly: Assembly, fleet: Fleet, rows: ReplicaRows, reader: Reader) -> None:
    """Notes each replica, copy and backup outside the sites in `data_in`."""
    values = assembly.values
    groups: dict[str, tuple[str, ...]] = {group.id: group.members for group in values["groups"]}
    for site in values["sites"]:
        if site.region is not None:
            groups[site.region] = (*groups.get(site.region, ()), site.id)
    sites = [site.id for site in values["sites"]]
    known = {*groups, *sites}
    for row, service in enumerate(values["services"]):
        if service.data_in is None or not known.issuperset(service.data_in):
            continue
        allowed = _sites(service.data_in, groups, sites)
        found = {site for site in _runs_at(values, fleet, rows, row) if site not in allowed}
        for site in sorted(found | (set(service.sites) - allowed)):
            key = "replicas" if site in found else "sites"
            _note(reader, f"{shown(service.id)} runs at {site}", f"services/{service.id}/{key}")
    for section in ("stores", "data_sets"):
        for data in values[section]:
            if data.data_in is not None and known.issuperset(data.data_in):
                allowed = _sites(data.data_in, groups, sites)
                for words, path in _outside(data, allowed, fleet, sites):
                    _note(reader, f"{shown(data.id)} {words}", f"{section}/{data.id}/{path}")


def _outside(
    data: Store | DataSet, allowed: set[str], fleet: Fleet, sites: list[str]
) -> Iterator[tuple[str, str]]:
    """Copies of some data at sites where it may not be, in words and by path."""
    places = [("has a backup", backup.at, f"backups/{n}") for n, backup in enumerate(data.backups)]
    if isinstance(data, DataSet):
        places += [("is", data.at, "at")] if data.at is not None else []
    else:
        held = [(n, member) for n, member in enumerate(data.members) if member.mode != "none"]
        places = [("has a copy", member.at, f"members/{n}") for n, member in held] + places
    for words, at, path in places:
        site = site_of_place(at, fleet, sites)
        if site and site not in allowed:
            yield f"{words} at {at}", path


def _note(reader: Reader, words: str, path: str) -> None:
    place = reader.place(path, "/".join(path.split("/")[:2]))
    reader.problems.add("data-outside", f"{words}, where its data must not be", place, _HINT)


def _sites(names: tuple[str, ...], groups: dict[str, tuple[str, ...]], sites: list[str]) -> set[str]:
    found, work = set[str](), list(names)
    while work:
        name = work.pop()
        if name not in found:
            found.add(name)
            work += groups.get(name, ())
    return found.intersection(sites)


def _runs_at(values: dict[str, Any], fleet: Fleet, rows: ReplicaRows, service: int) -> set[str]:
    """Sites with replicas of a service."""
    replicas, sites = rows.replicas, [site.id for site in values["sites"]]
    mine = replicas.service == service
    found = {values["pools"][p].site for p in replicas.target[mine & (replicas.kind == ON_POOL)].tolist()}
    found |= {sites[s] for s in replicas.target[mine & (replicas.kind == AT_SITE)].tolist()}
    servers = replicas.target[mine & (replicas.kind == ON_SERVER)]
    return found | {sites[s] for s in np.unique(fleet.site[servers]).tolist()}


def site_of_place(at: str, fleet: Fleet, sites: list[str]) -> str:
    """The site of a path or server; empty if nothing has that name."""
    first = at.split("/", 1)[0]
    if first in sites:
        return first
    key = np.bytes_(at.encode())
    row = int(np.searchsorted(fleet.name, key))
    return sites[int(fleet.site[row])] if row < len(fleet) and fleet.name[row] == key else ""
