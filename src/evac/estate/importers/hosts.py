"""Turns listed hosts into an estate's servers: sites, halls, racks, feeds, pools, tables.

Facts are text by meaning, as in the servers table: amounts in base units, a state that evac knows. Names
within a site may include the site or not.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import field
from typing import Final

from evac.estate.format.kinds import ID, ID_MAX
from evac.estate.format.problems import Problems, shown
from evac.estate.importers.imported import Imported, Rows, Unknown, Unplaced, Value
from evac.model.diagnostic import Place
from evac.model.records import dataclass

AMOUNTS: Final = ("cpu", "memory", "disk", "accelerators", "watts")
NOWHERE: Final = "hosts without a site; left out"
_IN_SITE: Final = frozenset({"hall", "rack", "feed", "pool", "position"})
REACH: Final = ("serial", "position", "bmc")

_NOT_IN_IDS: Final = re.compile(r"[^\w.:@]+")
_FEEDS: Final = re.compile(r"[+&;,|]|\s+")


@dataclass(slots=True)
class Host:
    """One host: its known facts by meaning, and its services."""

    facts: dict[str, str] = field(default_factory=dict)
    """Keys: site, hall, rack, feed, class, state, pool, and those of AMOUNTS and REACH."""
    services: set[str] = field(default_factory=set)


def add_hosts(hosts: Mapping[str, Host], imported: Imported) -> Mapping[tuple[str, str], str]:
    """Adds the servers, and everything that contains them. A host without a site is left out and counted.

    Returns the pools: (name in the source, site) -> id.
    """
    servers: Rows = []
    halls: dict[str, str] = {}
    feeds: dict[str, set[str]] = {}
    pools = _pool_names(hosts)
    in_pools: dict[str, list[Mapping[str, str]]] = {}
    for name, host in hosts.items():
        facts = host.facts
        site = facts.get("site")
        if site is None:
            continue
        imported.add("sites", site)
        if "class" in facts:
            imported.add("classes", facts["class"])
        rack = _add_rack(facts, site, halls, feeds, imported)
        pool = pools.get((facts.get("pool", ""), site), "")
        if pool:
            in_pools.setdefault(pool, []).append(facts)
        servers.append(_row(name, facts, site, rack, pool))
    for pool, members in in_pools.items():
        imported.add("pools", pool, {"site": members[0]["site"], **_capacity(members)})
    imported.tables["servers"] = servers
    imported.tables["racks"] = [
        (rack, hall or "unknown", "+".join(sorted(feeds.get(rack, ())))) for rack, hall in halls.items()
    ]
    _add_replicas(hosts, imported)
    imported.elsewhere = {
        (service, name)
        for name, host in hosts.items()
        if "site" not in host.facts
        for service in _run_by(host)
    }
    nowhere = tuple(sorted(name for name, host in hosts.items() if "site" not in host.facts))
    if nowhere:
        imported.unknown.append(Unknown(NOWHERE, len(nowhere), nowhere))
    return pools


def _run_by(host: Host) -> set[str]:
    """The services that a host runs: none if it is off, spare or condemned."""
    return host.services if host.facts.get("state", "serving") == "serving" else set()


def _row(name: str, facts: Mapping[str, str], site: str, rack: str, pool: str) -> tuple[str, ...]:
    """The cells of a host in the servers table."""
    of_others = (facts.get(meaning, "") for meaning in (*AMOUNTS, *REACH))
    return (name, site, rack, facts.get("class", ""), facts.get("state", ""), pool, *of_others)


def unplaced_of(hosts: Mapping[str, Host], places: Mapping[str, Place]) -> dict[str, Unplaced]:
    """The hosts without a site, for a recipe in which another source says where they are."""
    return {
        name: Unplaced(
            _row(name, {key: text for key, text in host.facts.items() if key != "position"}, "", "", ""),
            tuple(sorted(_run_by(host))),
            ((name, places[name]),),
            not _IN_SITE.isdisjoint(host.facts),
        )
        for name, host in hosts.items()
        if "site" not in host.facts
    }


def id_of_text(text: str) -> str:
    """What people call a hardware model or a power panel, as an id: brackets, commas and other characters
    that ids cannot have become dashes. Empty if nothing is left.
    """
    name = "-".join(text.split())
    if "/" not in name and len(name) <= ID_MAX and ID.fullmatch(name):
        return name
    return _NOT_IN_IDS.sub("-", name).strip("_.:@-")[:ID_MAX]


@dataclass(slots=True)
class Renames:
    """Texts of a source that are other names here, each reported once."""

    seen: set[tuple[str, str]] = field(default_factory=set)
    first: dict[tuple[str, str], str] = field(default_factory=dict)
    """Kind of thing and its name here -> the first text that it was made of."""

    def note(self, what: str, text: str, name: str, place: Place, problems: Problems) -> None:
        """Reports it if the name of a class or feed is not its text, or was made of another text before."""
        text = " ".join(text.split())
        first = self.first.setdefault((what, name), text)
        if (what, text) in self.seen or name == text == first:
            return
        self.seen.add((what, text))
        hint = f"use that name for the {what} in the overlay"
        hint = hint if first == text else f"if they are two, change the name of one in the source, or {hint}"
        problems.add("import-name-changed", taken_as(what, text, name, first), place, hint)


def taken_as(what: str, text: str, name: str, first: str) -> str:
    """The message that a text is another name here. first: the first text of that name."""
    other = "" if first == text else f", as is {shown(first)}"
    return f"{shown(text)} is taken as the {what} {shown(name)}{other}"


def _capacity(members: list[Mapping[str, str]]) -> dict[str, Value]:
    """What the members of a pool have together; an amount that one does not state is unknown. Nothing if some
    may be booted later: what they have is then derived with them.
    """
    states = [facts.get("state", "serving") for facts in members]
    running = [facts for facts, state in zip(members, states, strict=True) if state in ("serving", "spare")]
    if not running or "dark" in states:
        return {}
    return {
        meaning: f"{sum(int(facts[meaning]) for facts in running)} {unit}"
        for meaning, unit in (("cpu", "mCPU"), ("memory", "MiB"))
        if all(meaning in facts for facts in running)
    }


def _add_rack(
    facts: Mapping[str, str],
    site: str,
    halls: dict[str, str],
    feeds: dict[str, set[str]],
    imported: Imported,
) -> str:
    """The path of a host's rack; empty if unknown."""
    rack, hall = facts.get("rack"), facts.get("hall")
    inside = f"{site}/{hall.removeprefix(f'{site}/')}" if hall is not None else ""
    if inside:
        imported.add("halls", inside)
    if rack is None:
        return ""
    named = rack.removeprefix(f"{site}/")
    if hall is not None:
        named = named.removeprefix(f"{inside.removeprefix(f'{site}/')}/")
    path = f"{inside or site}/{named}"
    halls[path] = inside
    for feed in _FEEDS.split(facts.get("feed", "")):
        if feed:
            name = f"{site}/{feed.removeprefix(f'{site}/')}"
            imported.add("feeds", name)
            feeds.setdefault(path, set()).add(name)
    return path


def _pool_names(hosts: Mapping[str, Host]) -> dict[tuple[str, str], str]:
    """(name in the source, site) -> pool id. A pool is at one site, so a name at several sites gives one for
    each.
    """
    sites: dict[str, set[str]] = {}
    for host in hosts.values():
        if "pool" in host.facts and "site" in host.facts:
            sites.setdefault(host.facts["pool"], set()).add(host.facts["site"])
    taken = {site for at in sites.values() for site in at} | hosts.keys()
    return {
        (pool, site): pool if len(at) == 1 and pool not in taken else f"{site}-{pool}"
        for pool, at in sites.items()
        for site in at
    }


def _add_replicas(hosts: Mapping[str, Host], imported: Imported) -> None:
    """One replica of each of a host's services on that host, however often the source states it. A server
    that is off, spare or condemned runs none.
    """
    rows: Rows = []
    idle: list[str] = []
    for name, host in hosts.items():
        for service in sorted(host.services):
            if service not in imported.sections.get("services", {}):
                imported.add("services", service)
            if "site" in host.facts and service in _run_by(host):
                rows.append((service, name, "1"))
        if host.services and not _run_by(host):
            idle.append(name)
    imported.tables["replicas"] = rows
    if idle:
        what = "servers that have a service but are not in service: they run no replica"
        imported.unknown.append(Unknown(what, len(idle), tuple(sorted(idle))))


def host_examples(imported: Imported) -> list[str]:
    """Lines for a first overlay, each valid once uncommented."""
    sites, services, classes = (
        sorted(imported.sections.get(section, {})) for section in ("sites", "services", "classes")
    )
    lines: list[str] = []
    if len(sites) > 1:
        lines += ["links:                       # the network between sites"]
        lines += [f"  - {{ends: [{sites[0]}, {sites[1]}], bandwidth: 100 Gbit/s}}"]
    if classes:
        lines += [
            "classes:",
            *(f"  {name}: {{watts: 350 W, boot: 6 min, boot_odds: 98 %}}" for name in classes),
        ]
    if services:
        lines += ["services:"]
        lines += [f"  {name}: {{tier: 1, people: 10 K, rto: 1 h, share: 50 %}}" for name in services]
    return lines
