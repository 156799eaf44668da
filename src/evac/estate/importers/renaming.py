"""Gives the facts of a source other names: those of the recipe, or those of another source."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Final

from evac.estate.importers.imported import TABLE_COLUMNS, Entry, Imported, Value


def renamed(imported: Imported, names: Mapping[str, str]) -> Imported:
    """The same facts with other names, in entries, needs, places and tables."""
    if not names:
        return imported
    unknown = [
        replace(fact, names=tuple(names.get(name, name) for name in fact.names)) for fact in imported.unknown
    ]
    made = Imported(unknown=unknown, examples=imported.examples)
    made.published = {host: names.get(service, service) for host, service in imported.published.items()}
    made.elsewhere = {
        (names.get(service, service), names.get(host, host)) for service, host in imported.elsewhere
    }
    for host, one in imported.unplaced.items():
        services = tuple(names.get(service, service) for service in one.services)
        mine = replace(one, row=_row_renamed("servers", one.row, names), services=services)
        known = made.unplaced.get(names.get(host, host))
        made.unplaced[names.get(host, host)] = mine if known is None else known.joined(mine)
    for section, entries in imported.sections.items():
        for name, entry in entries.items():
            values = {key: _renamed(value, names, section == "groups") for key, value in entry.values.items()}
            kept = replace(entry, values=values)
            new = _path_renamed(name, names) if section in _PATHS else names.get(name, name)
            made.sections.setdefault(section, {})[new] = kept
    for table, rows in imported.tables.items():
        made.tables[table] = [_row_renamed(table, row, names) for row in rows]
    return made


def servers_renamed(imported: Imported, names: Mapping[str, str]) -> Imported:
    """The same facts with other names of servers; a service of such a name keeps its own."""
    tables = dict(imported.tables)
    for table, column in (("servers", 0), ("replicas", 1)):
        tables[table] = [
            (*row[:column], names.get(row[column], row[column]), *row[column + 1 :])
            for row in tables.get(table, [])
        ]
    sections = dict(imported.sections)
    for section in ("services", "stores"):
        sections[section] = {
            name: _placed_on(entry, names) for name, entry in sections.get(section, {}).items()
        }
    made = replace(imported, tables=tables, sections=sections)
    made.elsewhere = {(service, names.get(host, host)) for service, host in imported.elsewhere}
    made.unplaced = {
        names.get(host, host): replace(one, row=(names.get(host, host), *one.row[1:]))
        for host, one in imported.unplaced.items()
    }
    made.unknown = [
        fact if fact.undescribed else replace(fact, names=tuple(names.get(name, name) for name in fact.names))
        for fact in imported.unknown
    ]
    return made


def _placed_on(entry: Entry, names: Mapping[str, str]) -> Entry:
    """An entry whose replicas and members are on servers of other names."""
    values = dict(entry.values)
    if isinstance(places := values.get("replicas"), dict):
        values["replicas"] = {names.get(place, place): count for place, count in places.items()}
    if isinstance(members := values.get("members"), list):
        values["members"] = [
            {**one, "at": names.get(at, at)}
            if isinstance(one, dict) and isinstance(at := one.get("at"), str)
            else one
            for one in members
        ]
    return replace(entry, values=values)


_PATHS: Final[Mapping[str, tuple[int, ...]]] = {
    "halls": (),
    "feeds": (),
    "racks": (0, 1, 2),
    "servers": (TABLE_COLUMNS["servers"].index("rack"),),
}
"""Sections whose names, and columns of tables whose cells, are paths that begin with a site."""


def _row_renamed(table: str, row: tuple[str, ...], names: Mapping[str, str]) -> tuple[str, ...]:
    width = 2 if table == "replicas" else 6
    paths = _PATHS.get(table, ())
    return tuple(
        _path_renamed(cell, names)
        if position in paths
        else names.get(cell, cell)
        if position < width
        else cell
        for position, cell in enumerate(row)
    )


def _path_renamed(text: str, names: Mapping[str, str]) -> str:
    """Paths joined by `+`, with the names of their sites replaced, and the names of whole halls: `fra/R1`
    also names the hall of the rack `fra/R1/r7`.
    """
    return "+".join(_one_renamed(path, names) for path in text.split("+"))


def _one_renamed(path: str, names: Mapping[str, str]) -> str:
    site, slash, rest = path.partition("/")
    there = f"{names.get(site, site)}{slash}{rest}"
    for known in (path, there):
        steps = known.split("/")
        for length in range(len(steps), 1, -1):
            if new := names.get("/".join(steps[:length])):
                return "/".join((new, *steps[length:]))
    return there


def _renamed(value: Value, names: Mapping[str, str], are_paths: bool = False) -> Value:
    if isinstance(value, list):
        return [_renamed(item, names, are_paths) for item in value]
    if isinstance(value, dict):
        return {names.get(key, key): _renamed(item, names, are_paths) for key, item in value.items()}
    if not isinstance(value, str):
        return value
    return _path_renamed(value, names) if are_paths else names.get(value, value)
