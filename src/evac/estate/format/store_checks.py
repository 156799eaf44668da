"""Checks that the members of each store are possible: primaries, votes, and data only where data may be."""

from __future__ import annotations

from collections.abc import Iterable

from evac.estate.format.assembling import Assembly
from evac.estate.format.problems import shown
from evac.estate.format.reading import Reader
from evac.estate.format.residency import site_of_place
from evac.model.estate import Site, Store
from evac.model.fleet import Fleet


def witness_sites(sites: Iterable[Site]) -> frozenset[str]:
    """Sites that only vote."""
    return frozenset(site.id for site in sites if site.role == "witness")


def check_stores(assembly: Assembly, fleet: Fleet, reader: Reader) -> None:
    """Notes stores that cannot work as stated."""
    sites = [site.id for site in assembly.values["sites"]]
    witnesses = witness_sites(assembly.values["sites"])
    for store in assembly.values["stores"]:
        _check_primary(store, reader)
        _check_votes(store, reader)
        for row, member in enumerate(store.members):
            site = site_of_place(member.at, fleet, sites) if member.mode != "none" else ""
            if site in witnesses:
                reader.problems.add(
                    "data-at-witness",
                    f"store {shown(store.id)} has a copy at {shown(member.at)}, but {site} is a witness site:"
                    " it only votes",
                    reader.place(f"stores/{store.id}/members/{row}", f"stores/{store.id}"),
                    "write mode: none if the member only votes, or remove role: witness from the site",
                )


def _check_primary(store: Store, reader: Reader) -> None:
    path = f"stores/{store.id}"
    primaries = [row for row, member in enumerate(store.members) if member.mode == "primary"]
    if len(primaries) > 1:
        message = f"store {shown(store.id)} has {len(primaries)} primaries"
        place = reader.place(f"{path}/members/{primaries[1]}")
        reader.problems.add(
            "two-primaries", message, place, "make one member primary and the others sync, async or none"
        )
    if not store.members or primaries:
        return
    place = reader.place(f"{path}/members", path)
    if all(member.mode == "none" for member in store.members):
        message = f"store {shown(store.id)} has no member with data"
        reader.problems.add("store-without-data", message, place, "add the member that is primary now")
    else:
        message = f"store {shown(store.id)} has no primary"
        reader.problems.add(
            "store-without-primary", message, place, "write mode: primary at the member that accepts writes"
        )


def _check_votes(store: Store, reader: Reader) -> None:
    if store.quorum and store.members and not any(member.votes for member in store.members):
        reader.problems.add(
            "quorum-without-votes",
            f"store {shown(store.id)} needs a majority of votes, but its members have none",
            reader.place(f"stores/{store.id}/members", f"stores/{store.id}"),
            "give members votes: 1, or write quorum: false",
        )
