"""Combines several sources: merges their facts under the estate's names, and reports where two disagree.

If two sources state a fact differently, the one listed first in the recipe counts, and the conflict is
reported with both. A service in several clusters is one service with its replicas in all of them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import field, replace
from typing import Final, TypeAlias

from evac.estate.format.problems import Problems
from evac.estate.importers.alike import hint_at_data, hint_at_names, hint_at_sites
from evac.estate.importers.containers import is_internal
from evac.estate.importers.imported import (
    TABLE_COLUMNS,
    Entry,
    Imported,
    Rows,
    Sections,
    SourcePart,
    Unknown,
    Value,
    value_text,
)
from evac.estate.importers.renaming import renamed
from evac.estate.importers.same_servers import first_label
from evac.estate.importers.services import combined_examples
from evac.model.records import dataclass

_SITE: Final = TABLE_COLUMNS["servers"].index("site")
_AT_SITE: Final = {TABLE_COLUMNS["servers"].index(name) for name in ("site", "rack", "pool", "position")}
_ADDED_UP: Final = {"needs": ("service", "store"), "members": ("at",), "backups": ("at",)}
"""Keys whose lists are joined, and the name key of an item."""


@dataclass(slots=True)
class _Known:
    """An entry so far, and the source of each of its values."""

    entry: Entry
    by: SourcePart
    values: dict[str, Value]
    origin: dict[str, SourcePart] = field(default_factory=dict)


def combine(parts: list[SourcePart], problems: Problems) -> Imported:
    """All sources as one; conflicts are added to the problems."""
    made = Imported()
    parts = _in_halls(_on_servers(_at_home(parts, problems), problems))
    known: dict[tuple[str, str], _Known] = {}
    described = {
        name
        for part in parts
        for name, entry in part.imported.sections.get("services", {}).items()
        if entry.described
    }
    stores = {name for part in parts for name in part.imported.sections.get("stores", {})} - described
    problems.settle("import-dangling", described | stores)
    differing: _Differing = {}
    for part in parts:
        for section, entries in part.imported.sections.items():
            for name, entry in entries.items():
                if not (section == "services" and name in stores and not entry.described):
                    firm = _firm(entry, part, described, stores)
                    _add_entry(section, name, firm, part, known, differing)
        open_facts = _still(part.imported.unknown, described | stores)
        made.elsewhere |= part.imported.elsewhere
        made.unknown += [replace(fact, what=f"{part.name}: {fact.what}") for fact in open_facts]
    said = _add_tables(parts, made, differing, problems)
    said |= _report_differing(differing, problems)
    hint_at_sites(parts, said, problems)
    hint_at_names(parts, said, problems)
    hint_at_data(parts, problems)
    left = replicas_elsewhere(made)
    placed = _replicas(known, made)
    placing = {id(part): {row[0] for row in part.imported.tables.get("replicas", [])} for part in parts}
    for (section, name), one in known.items():
        values = dict(one.values)
        if section == "services" and name in placed:
            stated = _plain(values.get("replicas"))
            if isinstance(stated, int):
                by, counted = _part_of(one, "replicas"), placed[name] + left[name]
                if stated != counted and name not in placing[id(by)]:
                    _report_replicas(name, stated, counted, by, problems)
            values["replicas"] = max(stated, placed[name]) if isinstance(stated, int) else placed[name]
        made.add(section, name, values, one.entry.comment)
    made.facts = _provenance(known, parts)
    made.examples = combined_examples(made)
    return made


def _still(unknown: list[Unknown], described: Collection[str]) -> list[Unknown]:
    """What is still unknown once other sources describe these names."""
    found = []
    for one in unknown:
        left = tuple(name for name in one.names if not (one.undescribed and name in described))
        if left or not one.names:
            found.append(replace(one, count=one.count - len(one.names) + len(left), names=left))
    return found


def _at_home(parts: list[SourcePart], problems: Problems) -> list[SourcePart]:
    """The parts, with hosts that another part publishes replaced by the service behind them."""
    behind: dict[str, set[str]] = {}
    by: dict[str, str] = {}
    for part in parts:
        for host, service in part.imported.published.items():
            behind.setdefault(host, set()).add(service)
            by[host] = part.name
    found = []
    for part in parts:
        own = part.imported.sections.get("services", {})
        hosts = {name: name.removeprefix("external:") for name, entry in own.items() if not entry.described}
        names = {name: min(behind[host]) for name, host in hosts.items() if len(behind.get(host, ())) == 1}
        for name, service in names.items():
            message = f"{hosts[name]}, which {part.name} calls, is {service}: {by[hosts[name]]} publishes it"
            problems.add(
                "import-name-changed", message, part.place, "if that is wrong, correct it under names:"
            )
        problems.settle("import-dangling", {hosts[name] for name in names})
        if not names:
            found.append(part)
            continue
        kept = {name: one for name, one in own.items() if names.get(name) not in own}
        whole = replace(part.imported, sections={**part.imported.sections, "services": kept})
        moved = renamed(whole, names)
        moved.unknown = _still(whole.unknown, names)
        for name, entry in moved.sections["services"].items():
            if isinstance(needs := entry.values.get("needs"), list):
                other = [one for one in needs if not isinstance(one, dict) or one.get("service") != name]
                values = {**entry.values, "needs": _joined("needs", other, [])}
                moved.sections["services"][name] = replace(entry, values=values)
        found.append(replace(part, imported=moved))
    return found


def _on_servers(parts: list[SourcePart], problems: Problems) -> list[SourcePart]:
    """The parts, with the names of servers that another part needs as services on these servers."""
    servers: dict[str, set[str]] = {}
    by: dict[str, SourcePart] = {}
    for part in parts:
        for row in part.imported.tables.get("servers", []):
            for name in {row[0].lower(), first_label(row[0])} - {""}:
                servers.setdefault(name, set()).add(row[0])
            by.setdefault(row[0], part)
    entries = [
        (part, name, entry)
        for part in parts
        for name, entry in part.imported.sections.get("services", {}).items()
    ]
    described = {name for _, name, entry in entries if entry.described}
    described |= {name for part in parts for name in part.imported.sections.get("stores", {})}
    added: dict[str, list[tuple[str, str]]] = {}
    for part, name, entry in entries:
        host, is_own = name.lower(), "external" not in entry.values and ".svc" not in name
        found = servers.get(host, set())
        if not found and is_own and "." in host and is_internal(host):
            same = servers.get(first_label(host), set())
            found = same if not any("." in server for server in same) else found
        if entry.described or name in described or len(found) != 1:
            continue
        server = min(found)
        owner = by[server]
        message = f"{name}, which {part.name} needs, is on server {server} of {owner.name}"
        hint = "if that is wrong, or if it means a service, correct it under names:"
        problems.add("import-name-changed", message, part.place, hint)
        if (name, server) not in added.setdefault(owner.name, []):
            added[owner.name].append((name, server))
    found_parts = []
    for part in parts:
        whole = part.imported
        if new := added.get(part.name, []):
            own = {name: Entry({}, f"the address of server {server}") for name, server in new}
            rows = [*whole.tables.get("replicas", []), *((name, server, "1") for name, server in new)]
            services = {**whole.sections.get("services", {}), **own}
            whole = replace(
                whole,
                sections={**whole.sections, "services": services},
                tables={**whole.tables, "replicas": rows},
            )
        found_parts.append(replace(part, imported=whole))
    return found_parts


def _in_halls(parts: list[SourcePart]) -> list[SourcePart]:
    """The parts, with a rack whose hall only one of them knows in that hall for all. That it is one rack is
    certain if a server is in it by both, and no other hall of the site has a rack of that name.
    """
    halls = {row[0]: row[1] for part in parts for row in part.imported.tables.get("racks", [])}
    whole: dict[str, set[str]] = {}
    for path, hall in halls.items():
        short = f"{path.partition('/')[0]}/{path.removeprefix(f'{hall}/')}"
        if short != path:
            whole.setdefault(short, set()).add(path)
    placed: dict[str, set[str]] = {}
    for part in parts:
        for row in part.imported.tables.get("servers", []):
            placed.setdefault(row[0], set()).add(row[2])
    together = [paths for paths in placed.values() if len(paths) > 1]
    names = {
        short: min(whole[short])
        for paths in together
        for short in paths
        if len(whole.get(short, ())) == 1 and whole[short] <= paths
    }
    found = []
    for part in parts:
        tables = dict(part.imported.tables)
        for table, column in (("racks", 0), ("servers", 2)):
            if names and table in tables:
                rows = [
                    (*row[:column], names.get(row[column], row[column]), *row[column + 1 :])
                    for row in tables[table]
                ]
                tables[table] = rows
        found.append(replace(part, imported=replace(part.imported, tables=tables)))
    return found


def _part_of(one: _Known, key: str) -> SourcePart:
    """The source that a value of an entry comes from."""
    return one.origin.get(key, one.by)


def _add_entry(
    section: str,
    name: str,
    entry: Entry,
    part: SourcePart,
    known: dict[tuple[str, str], _Known],
    differing: _Differing,
) -> None:
    found = known.get((section, name))
    if found is None or (entry.described and not found.entry.described):
        known[section, name] = _Known(entry, part, dict(entry.values))
        return
    if found.entry.described and not entry.described:
        return
    if not found.entry.comment and entry.described:
        found.entry = replace(found.entry, comment=entry.comment)
    for key, value in entry.values.items():
        if key not in found.values or found.values[key] is None:
            found.values[key] = value
            found.origin[key] = part
        elif key in _ADDED_UP:
            found.values[key] = _joined(key, found.values[key], value)
        elif key == "replicas":
            found.values[key] = _added(found.values[key], value)
        elif key == "spread":
            found.values[key] = _widest(found.values[key], value)
        elif key == "demand":
            _add_demand(name, value, part, found, differing)
        elif _plain(found.values[key]) != _plain(value):
            row = _Row(name, value_text(_plain(found.values[key])), value_text(_plain(value)))
            _differ(differing, section, key, row, _part_of(found, key), part)


def _add_demand(name: str, value: Value, part: SourcePart, found: _Known, differing: _Differing) -> None:
    """Adds the amounts that no source before this one states: CPU and memory are facts of their own."""
    known = found.values["demand"]
    amounts = dict(known) if isinstance(known, dict) else {}
    for what, amount in value.items() if isinstance(value, dict) else ():
        if amounts.get(what) is None:
            amounts[what] = amount
            found.origin[f"demand/{what}"] = part
        elif amounts[what] != amount:
            by = found.origin.get(f"demand/{what}", _part_of(found, "demand"))
            row = _Row(name, value_text(amounts[what]), value_text(amount))
            _differ(differing, "services", f"{what} demand", row, by, part)
    found.values["demand"] = amounts


def _plain(value: Value) -> Value:
    """A value without its source."""
    return value["value"] if isinstance(value, dict) and "value" in value else value


def _joined(key: str, first: Value, second: Value) -> Value:
    """Joins two lists; of two items with one name the first counts, but a hard need stays hard."""
    items = [item for value in (first, second) for item in (value if isinstance(value, list) else [value])]
    made: dict[str, Value] = {}
    for item in items:
        names = item if isinstance(item, dict) else {}
        called = value_text({name: names[name] for name in _ADDED_UP[key] if name in names})
        before = made.get(called)
        if isinstance(before, dict) and key == "needs" and "hard" not in names:
            made[called] = {name: value for name, value in before.items() if name != "hard"}
        else:
            made.setdefault(called, item)
    return list(made.values())


def _added(first: Value, second: Value) -> Value:
    """Replicas of two sources: by place if both state places, else the first."""
    if isinstance(first, dict) and isinstance(second, dict):
        return {**second, **first}
    return second if isinstance(second, dict) else first


def _widest(first: Value, second: Value) -> Value:
    """The most replicas allowed on one server in any of the clusters."""
    found = [one.get("per_server") for one in (first, second) if isinstance(one, dict)]
    most = [count for count in found if isinstance(count, int)]
    return {"per_server": max(most)} if most else first


def _firm(entry: Entry, part: SourcePart, described: set[str], stores: set[str]) -> Entry:
    """An entry in which needs of services or stores described only by other sources are as hard as any."""
    needs = entry.values.get("needs")
    if not isinstance(needs, list):
        return entry
    own = part.imported.sections.get("services", {})
    outside = {name for name, one in own.items() if not one.described}
    firm: list[Value] = []
    for need in needs:
        name = need.get("service") if isinstance(need, dict) else None
        if name in outside & described:
            firm.append({"service": name})
        elif name in outside & stores:
            firm.append({"store": name})
        else:
            firm.append(need)
    return replace(entry, values={**entry.values, "needs": firm})


def _add_tables(
    parts: list[SourcePart], made: Imported, differing: _Differing, problems: Problems
) -> set[frozenset[str]]:
    """Adds the rows of all sources. Returns the pairs of sites that are reported, because both have a
    server.
    """
    elsewhere: dict[tuple[str, str, str, str], list[str]] = {}
    for table in TABLE_COLUMNS:
        rows: dict[tuple[str, ...], list[str]] = {}
        origin: dict[tuple[str, ...], SourcePart] = {}
        keys = 2 if table == "replicas" else 1
        for part in parts:
            for row in part.imported.tables.get(table, []):
                cells = [*row, *("" for _ in TABLE_COLUMNS[table][len(row) :])]
                known = rows.setdefault(tuple(cells[:keys]), cells)
                by = origin.setdefault(tuple(cells[:keys]), part)
                if known is cells:
                    continue
                here, there = known[_SITE], cells[_SITE]
                if table == "servers" and here and there and here != there:
                    # A rack, a position in it and a pool are where their site is.
                    elsewhere.setdefault((by.name, here, part.name, there), []).append(cells[0])
                    cells = ["" if place in _AT_SITE else cell for place, cell in enumerate(cells)]
                _add_cells(table, known, cells, by, part, differing)
        if rows:
            made.tables[table] = [tuple(row) for row in rows.values()]
    _report_sites(elsewhere, {part.name: part for part in parts}, problems)
    return {frozenset((here, there)) for _, here, _, there in elsewhere}


def _report_sites(
    elsewhere: Mapping[tuple[str, str, str, str], list[str]],
    parts: Mapping[str, SourcePart],
    problems: Problems,
) -> None:
    """Servers whose site two sources name differently: (source, site, other source, its site) -> servers.
    If the first divides a site of the other into several, these are one place, or none of them.
    """
    divided: dict[tuple[str, str, str], list[str]] = {}
    for by, here, other, there in sorted(elsewhere):
        divided.setdefault((by, other, there), []).append(here)
    for (by, here, other, there), servers in sorted(elsewhere.items()):
        count = f"{len(servers)} server{'' if len(servers) == 1 else 's'}"
        message = (
            f"{count} at {value_text(here)} in {by}, but at {value_text(there)} in {other}:"
            f" {', '.join(sorted(servers)[:4])}{' ...' if len(servers) > 4 else ''}"
        )
        zones = divided[by, other, there]
        names: dict[str, Value] = {other: {there: here}}
        if len(zones) > 1:
            names = {by: dict.fromkeys(zones, there)}
        hint = (
            f"if they are the same place, add to the recipe: names: {value_text(names)}; "
            f"if not, {by} is used, because it is listed first; the overlay can override this"
        )
        problems.add("import-conflict", message, parts[other].place, hint)


@dataclass(frozen=True, slots=True)
class _Row:
    """What two sources state differently about one thing, as text."""

    name: str
    here: str
    there: str


_Differing: TypeAlias = "dict[tuple[str, str, str, str], tuple[SourcePart, SourcePart, list[_Row]]]"
"""Section or table, key or column, and the names of two sources -> the two, and what they state."""


def _differ(
    differing: _Differing, section: str, key: str, row: _Row, by: SourcePart, part: SourcePart
) -> None:
    differing.setdefault((section, key, by.name, part.name), (by, part, []))[2].append(row)


def _add_cells(
    table: str, known: list[str], cells: list[str], by: SourcePart, part: SourcePart, differing: _Differing
) -> None:
    for position, cell in enumerate(cells):
        if known[position] in ("", "unknown"):
            known[position] = cell or known[position]
        elif cell not in ("", "unknown", known[position]):
            row = _Row(known[0], known[position], cell)
            _differ(differing, table, TABLE_COLUMNS[table][position], row, by, part)


def _report_differing(differing: _Differing, problems: Problems) -> set[frozenset[str]]:
    """One conflict for each kind of fact and two sources, with the first thing and the names of others.
    Returns the pairs of halls in which the two put the same servers.
    """
    said: set[frozenset[str]] = set()
    for (section, key, _, _), (by, part, rows) in differing.items():
        first, others = rows[0], [row.name for row in rows[1:]]
        more = f" and {len(others) - 3} more" if len(others) > 3 else ""
        also = f"; the two also differ about {', '.join(others[:3])}{more}" if others else ""
        kind = "class" if section == "classes" else section[:-1]
        message = (
            f"{key} of {kind} {first.name} is {first.here} in {by.name}, but {first.there} in {part.name}"
        )
        hint = (
            f"{by.name} is used, because the recipe lists it first; to decide "
            "otherwise, set the fact in the overlay"
        )
        if halls := _halls(rows) if (section, key) == ("servers", "rack") else {}:
            said |= {frozenset(pair) for pair in halls.items()}
            names = value_text({part.name: dict(sorted(halls.items()))})
            hint = f"if these halls are the same, add to the recipe: names: {names}; if not, {hint}"
        problems.add("import-conflict", f"{message}{also}", part.place, hint)
    return said


def _halls(rows: list[_Row]) -> dict[str, str]:
    """Hall of the second source -> the hall in which the first puts its servers; only if that is one."""
    found: dict[str, set[str]] = {}
    for row in rows:
        here, there = row.here.rpartition("/")[0], row.there.rpartition("/")[0]
        if here != there and here.count("/") == there.count("/") == 1:
            found.setdefault(there, set()).add(here)
    return {there: min(halls) for there, halls in found.items() if len(halls) == 1}


def replicas_elsewhere(imported: Imported) -> Counter[str]:
    """Service -> how many of its replicas are on hosts without a site."""
    known = {(service, target) for service, target, _ in imported.tables.get("replicas", [])}
    return Counter(service for service, _ in imported.elsewhere - known)


def _report_replicas(service: str, stated: int, counted: int, by: SourcePart, problems: Problems) -> None:
    """A conflict: a source states another number of replicas than the sources with its hosts. What a source
    places itself is none: a cluster states how many replicas should run, and where those that run are.
    """
    message = f"replicas of service {service} is {stated} in {by.name}, but other sources have {counted}"
    hint = "the larger number is used; to decide otherwise, set the fact in the overlay"
    problems.add("import-conflict", message, by.place, hint)


def _replicas(known: Mapping[tuple[str, str], _Known], made: Imported) -> dict[str, int]:
    """Service -> its number of replicas placed by the table; places in entries go there too."""
    rows: Rows = made.tables.get("replicas", [])
    in_table: dict[str, set[str]] = {}
    for row in rows:
        in_table.setdefault(row[0], set()).add(row[1])
    for name, seen in sorted(in_table.items()):
        one = known.get(("services", name))
        places = one.values.get("replicas") if one is not None else None
        if isinstance(places, dict):
            rows += [(name, place, str(count)) for place, count in places.items() if place not in seen]
    totals: dict[str, int] = {}
    for service, _, count in rows:
        totals[service] = totals.get(service, 0) + int(count)
    return totals


def _provenance(
    known: Mapping[tuple[str, str], _Known], parts: list[SourcePart]
) -> dict[str, dict[str, Value]]:
    """Path of a fact -> its source and day: for every entry, and for what other sources added to it."""
    found: dict[str, dict[str, Value]] = {}
    sections: Sections = {}
    for (section, name), one in known.items():
        if section not in ("services", "stores"):
            continue
        sections.setdefault(section, {})[name] = one.entry
        found[f"{section}/{name}"] = _fact(one.by)
        for key, part in one.origin.items():
            value = one.values.get(key)
            if part is not one.by and key in one.values and not isinstance(value, list | dict):
                found[f"{section}/{name}/{key}"] = _fact(part)
    for table in TABLE_COLUMNS:
        of = [part for part in parts if part.imported.tables.get(table)]
        if len(of) == 1:
            found[table] = _fact(of[0])
        elif of:
            found[table] = {"source": ", ".join(part.name for part in of)}
    return found


def _fact(part: SourcePart) -> dict[str, Value]:
    fact: dict[str, Value] = {"source": part.name}
    if part.observed is not None:
        fact["observed"] = part.observed
    if part.good_for is not None and part.observed is not None:
        fact["good_for"] = part.good_for
    return fact
