"""Places hosts whose site their source does not say where another source of the recipe has these servers, and
counts the replicas on those that stay without a site.

An inventory says what runs on a host, and a list of devices says where the host is: together they say both.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Final

from evac.estate.format.problems import Problems, shown
from evac.estate.importers.combining import replicas_elsewhere
from evac.estate.importers.hosts import NOWHERE
from evac.estate.importers.imported import TABLE_COLUMNS, Entry, Imported, Rows, SourcePart, Unknown
from evac.model.fleet import SERVER_STATES, SERVING

_IN_RACK: Final = (
    "hosts whose rack, hall, feed, pool or position is not used: another source states their site"
)
_CLASS: Final = TABLE_COLUMNS["servers"].index("class")
_STATE: Final = TABLE_COLUMNS["servers"].index("state")


def with_places(parts: list[SourcePart], problems: Problems) -> list[SourcePart]:
    """The parts, with such hosts as servers without a place of their own, and with the services that run on
    them. A server that another source does not call serving runs none.
    """
    states: dict[str, set[str]] = {}
    for part in parts:
        for row in part.imported.tables.get("servers", []):
            states.setdefault(row[0], set()).add(row[_STATE] or SERVER_STATES[SERVING])
    unplaced = {name for part in parts for name in part.imported.unplaced}
    alike: dict[str, list[str]] = {}
    for server in sorted(states):
        alike.setdefault(server.partition("@")[0], []).append(server)
    several = {name: found for name, found in alike.items() if len(found) > 1}
    placed = (unplaced & states.keys()) - several.keys()
    for part in parts:
        report_nowhere(part.imported, problems, placed, several)
    return [_with_hosts(part, placed, states) for part in parts]


def _with_hosts(part: SourcePart, placed: set[str], states: dict[str, set[str]]) -> SourcePart:
    whole = part.imported
    found = {name: one for name, one in whole.unplaced.items() if name in placed}
    if not found:
        return part
    replicas = [
        (service, name, "1")
        for name, one in found.items()
        for service in one.services
        if states[name] == {SERVER_STATES[SERVING]}
    ]
    tables = {
        **whole.tables,
        "servers": [*whole.tables.get("servers", []), *(one.row for one in found.values())],
        "replicas": [*whole.tables.get("replicas", []), *replicas],
    }
    classes = {row[_CLASS]: Entry() for row in (one.row for one in found.values()) if row[_CLASS]}
    sections = {**whole.sections, "classes": {**classes, **whole.sections.get("classes", {})}}
    unknown = [_left(fact, placed) for fact in whole.unknown]
    left = [fact for fact in unknown if fact.what != NOWHERE or fact.names]
    if in_rack := tuple(sorted(name for name, one in found.items() if one.has_rack)):
        left.append(Unknown(_IN_RACK, len(in_rack), in_rack))
    made = replace(whole, sections=sections, tables=tables, unknown=left)
    made.elsewhere = {(service, name) for service, name in whole.elsewhere if name not in placed}
    return replace(part, imported=made)


def report_nowhere(
    imported: Imported,
    problems: Problems,
    placed: Collection[str] = (),
    several: Mapping[str, list[str]] | None = None,
) -> None:
    """Reports each host without a site, but for those that are placed. several: name -> the servers that it
    may be.
    """
    for name, one in imported.unplaced.items():
        if name in placed:
            continue
        known = "" if several is None else ", ".join(several.get(name, [])[:4])
        for own, place in one.named:
            called = shown(own) if own == name else f"{shown(own)}, which is {shown(name)} here,"
            message = f"{called} has no site; it and its replicas are left out"
            hint = "give it a variable such as datacenter, put it in a group such as site_fra, or use --site"
            if known:
                message = f"{called} has no site, and may be any of {known}; it and its replicas are left out"
                hint = "say in the recipe which one it is, under names:, or state its site in the inventory"
            problems.add("import-host-nowhere", message, place, hint)


def _left(fact: Unknown, placed: set[str]) -> Unknown:
    """The hosts that are still left out."""
    if fact.what != NOWHERE:
        return fact
    names = tuple(name for name in fact.names if name not in placed)
    return replace(fact, count=len(names), names=names)


def with_all_replicas(imported: Imported) -> Imported:
    """The facts, with the number of all replicas of a service that has some on hosts without a site, or the
    number that a source states, if that is larger. Without it, those whose place is known would pass for all
    of the service.
    """
    rows = imported.tables.get("replicas", [])
    left = replicas_elsewhere(imported)
    services = dict(imported.sections.get("services", {}))
    placed = Counter(dict.fromkeys(left, 0))
    for service, _, count in rows:
        placed[service] += int(count)
    more: Rows = []
    for service in sorted(left.keys() & services.keys()):
        values = dict(services[service].values)
        if isinstance(places := values.get("replicas"), dict):
            more += [(service, target, str(count)) for target, count in places.items()]
            placed[service] += sum(count for count in places.values() if isinstance(count, int))
        if placed[service]:
            stated, counted = values.get("replicas"), placed[service] + left[service]
            values["replicas"] = max(stated, counted) if isinstance(stated, int) else counted
            services[service] = replace(services[service], values=values)
    tables = {**imported.tables, "replicas": [*rows, *more]}
    return replace(imported, sections={**imported.sections, "services": services}, tables=tables)
