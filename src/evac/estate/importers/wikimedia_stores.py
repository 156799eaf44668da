"""Stores of the Wikimedia estate: instances of store families, and the database sections.

An instance is named FAMILY-SITE; instances of one family are alternatives, and a service needs one
of each family it names. An instance whose name ends in no site stands nowhere we know of.
"""

from __future__ import annotations

from typing import Final, TypeAlias

from evac.estate.format.problems import Problems, shown
from evac.estate.importers.imported import Imported, Value
from evac.estate.importers.result import Unknown
from evac.estate.importers.source_files import is_id
from evac.estate.importers.wikimedia_source import WikimediaSource

DATABASE_ENGINE: Final = "mariadb"

Needs: TypeAlias = dict[str, dict[tuple[str, str], dict[str, Value]]]
"""Service -> (kind, target) -> the need as an estate file states it."""


def add_stores(
    found: WikimediaSource,
    sites: tuple[str, ...],
    needs: Needs,
    imported: Imported,
    problems: Problems,
) -> dict[str, list[str]]:
    """Add store instances and who needs their families; return service -> sites it is deployed in."""
    deployed: dict[str, list[str]] = {}
    for edge in found.store_edges:
        service, kind, instance = (edge.cells[c] for c in ("source_service", "store_kind", "store_instance"))
        place = edge.places["store_instance"]
        if not (
            is_id(service, edge.places["source_service"], problems)
            and is_id(f"{kind}-{instance}", place, problems)
        ):
            continue
        site = edge.cells["deployed_in"]
        if site in sites:
            deployed.setdefault(service, []).append(site)
        else:
            message = f"{shown(service)} is deployed in {shown(site)}, which is no site"
            problems.add("import-dangling", message, edge.places["deployed_in"], "correct the site")
            deployed.setdefault(service, [])
        family, where = _parted(instance, sites)
        needs[service][("store", f"{kind}-{family}")] = {"store": f"{kind}-{family}"}
        _add_instance(f"{kind}-{instance}", f"{kind}-{family}", kind, where, imported)
    return deployed


def _parted(instance: str, sites: tuple[str, ...]) -> tuple[str, str | None]:
    """(family, site) of an instance; the longest site name that fits."""
    for site in sorted(sites, key=len, reverse=True):
        if instance.endswith(f"-{site}"):
            return instance.removesuffix(f"-{site}"), site
    return instance, None


def _add_instance(name: str, family: str, kind: str, site: str | None, imported: Imported) -> None:
    engine = kind.partition("-")[0]
    values: dict[str, Value] = {"family": family, "engine": engine}
    if site is None:
        imported.add("stores", name, values, "the source names no site for it")
        return
    imported.add("stores", name, {**values, "members": [{"at": site, "mode": "primary"}]})


def add_database_sections(found: WikimediaSource, imported: Imported) -> None:
    """One store for each database section, with a copy in each site that lists it.

    One copy takes the writes and the others follow it; how far behind they are is not known. Which
    one it is, is known only where the source states the primary site; else every copy is entered
    as one that follows, so that no primary is made up.
    """
    copies: dict[str, list[str]] = {}
    for site, names in found.sections.items():
        for name in names:
            copies.setdefault(name, []).append(site)
    for name, sites in copies.items():
        members: list[Value] = [
            {"at": site, "mode": "primary" if site == found.primary_site else "async"}
            for site in sorted(sites)
        ]
        known = found.primary_site in sites
        comment = (
            ""
            if known
            else "database section; one of its copies is the primary, the source does not say which"
        )
        imported.add("stores", name, {"engine": DATABASE_ENGINE, "members": members}, comment)
    if copies and found.primary_site is None:
        what = "database sections whose primary site the source does not state"
        imported.unknown.append(Unknown(what, len(copies), tuple(sorted(copies))))
