"""All tables of an estate, in the order in which they refer to each other: racks, servers, replicas.

The table `racks`: rack, hall, feeds joined by +, power budget in watts.

Racks are entries of the estate like any other, so each row becomes one value.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import numpy as np

from evac.estate.format.assembling import Assembly
from evac.estate.format.bindings import ReplicaRows, ServerRows, bindings, no_servers, stated_in_yaml
from evac.estate.format.kinds import ID, ID_MAX
from evac.estate.format.problems import Problems, shown
from evac.estate.format.reading import Reader
from evac.estate.format.sources import EstateFiles
from evac.estate.format.spec import hall_of
from evac.estate.tables import (
    replicas as tables_replicas,
)
from evac.estate.tables import (
    servers as tables_servers,
)
from evac.estate.tables.reading import LISTED_MAX, UNKNOWN, Table, mask_of, read_table, text_of, whole_numbers
from evac.model.estate import Rack

COLUMNS: Final = ("rack", "hall", "feeds", "power_budget_watts")


def add_racks(table: Table, assembly: Assembly, reader: Reader) -> None:
    """Add the rows of the table to the racks of the estate; problems go to the reader's."""
    problems = reader.problems
    ids = text_of(table, "rack")
    empty = mask_of(ids.is_null())
    table.report(problems, empty, "rack", "cell-missing", "a rack without a name", "every row names a rack")
    twice = mask_of(ids.is_duplicated() & ~ids.is_first_distinct()) & ~empty
    table.report(problems, twice, "rack", "row-twice", "a second row for rack {}", "keep one of the two")
    watts, watts_known, _ = whole_numbers(table, "power_budget_watts", problems)
    if reader.facts.is_expired("racks") or reader.facts.is_expired("racks/power_budget_watts"):
        watts_known = np.zeros_like(watts_known)
    names, halls, feeds = (text_of(table, column).to_list() for column in COLUMNS[:3])
    racks = [
        _rack(name, hall, feed, watt if known else None)
        for name, hall, feed, watt, known in zip(
            names, halls, feeds, watts.tolist(), watts_known.tolist(), strict=True
        )
    ]
    _check(table, racks, assembly, problems)
    _note_places(table, racks, reader)
    assembly.values["racks"] = tuple(sorted((*assembly.values["racks"], *racks), key=lambda rack: rack.id))


def _rack(name: str | None, hall: str | None, feeds: str | None, watts: int | None) -> Rack:
    name = name or ""
    listed = () if feeds is None or feeds == UNKNOWN else tuple(sorted(set(feeds.split("+"))))
    stands = hall_of(name) if hall is None else (None if hall == UNKNOWN else hall)
    return Rack(name, name.split("/", 1)[0], stands, listed, watts)


def _check(table: Table, racks: list[Rack], assembly: Assembly, problems: Problems) -> None:
    sites, halls, feeds = (
        {entry.id: None for entry in assembly.values[section]} for section in ("sites", "halls", "feeds")
    )
    stated = {rack.id for rack in assembly.values["racks"]}
    bad_ids = [len(r.id) > ID_MAX or not ID.fullmatch(r.id) or "/" not in r.id for r in racks]
    table.report(
        problems, _mask(bad_ids), "rack", "id-invalid", "{} is no path of a rack", "write SITE/HALL/RACK"
    )
    twice = [r.id in stated for r in racks]
    table.report(
        problems, _mask(twice), "rack", "id-twice", "rack {} is described in YAML too", "keep one of the two"
    )
    no_site = [r.site not in sites and not bad for r, bad in zip(racks, bad_ids, strict=True)]
    table.report(
        problems,
        _mask(no_site),
        "rack",
        "domain-path-invalid",
        "{} begins with no site",
        "write SITE/HALL/RACK",
    )
    no_hall = [r.hall is not None and r.hall not in halls for r in racks]
    column = "hall" if "hall" in table.columns else "rack"
    hint = "describe the hall under halls:, or write unknown in the column hall"
    table.report(
        problems, _mask(no_hall), column, "hall-unknown", "{} stands in a hall that is not described", hint
    )
    _check_feeds(table, racks, feeds, problems)


def _check_feeds(table: Table, racks: list[Rack], feeds: dict[str, None], problems: Problems) -> None:
    dangling = [(row, feed) for row, rack in enumerate(racks) for feed in rack.feeds if feed not in feeds]
    for row, feed in dangling[:LISTED_MAX]:
        hint = problems.suggest(feed, feeds) or "describe it under feeds:"
        problems.add("name-unknown", f"no feed is named {shown(feed)}", table.place(row, "feeds"), hint)
    if len(dangling) > LISTED_MAX:
        message = f"and {len(dangling) - LISTED_MAX:,} more rows like this in {table.file}"
        problems.add("name-unknown", message, table.place(dangling[LISTED_MAX][0], "feeds"))


def _mask(flags: list[bool]) -> np.ndarray[Any, np.dtype[np.bool_]]:
    return np.array(flags, np.bool_)


def _note_places(table: Table, racks: list[Rack], reader: Reader) -> None:
    lines = range(2, len(racks) + 2) if table.lines is None else table.lines.tolist()
    if table.raw is None:
        lines = range(1, len(racks) + 1)
    for rack, line in zip(racks, lines, strict=True):
        reader.places[f"racks/{rack.id}"] = (table.file, line, 1)
    reader.places.setdefault("racks", (table.file, 1, 1))


def read_all(
    assembly: Assembly, files: EstateFiles, root: Path, reader: Reader
) -> tuple[ServerRows, ReplicaRows]:
    """Servers and bindings; racks are added to the assembly. Problems go to the reader's."""
    racks = _table("racks", COLUMNS, ("rack",), files, root, reader)
    if racks is not None:
        add_racks(racks, assembly, reader)
    table = _table("servers", tables_servers.COLUMNS, ("server",), files, root, reader)
    servers: ServerRows | None = no_servers()
    if table is not None:
        servers = tables_servers.read_servers(table, assembly.values, reader.facts, reader.problems)
    in_yaml = stated_in_yaml(assembly.values, reader)
    replicas = _table("replicas", tables_replicas.COLUMNS, tables_replicas.COLUMNS, files, root, reader)
    if servers is None or replicas is None or (table is None and "servers" in files.tables):
        # Without its servers, every row of the table would dangle: those problems would not be news.
        return servers or no_servers(), bindings([in_yaml], None)
    if reader.facts.is_expired("replicas"):
        return servers, bindings([in_yaml], replicas)
    placed = tables_replicas.stated_in_table(
        replicas, assembly.values, servers.fleet, in_yaml, reader.problems
    )
    return servers, bindings([in_yaml, placed], replicas)


def _table(
    name: str,
    columns: tuple[str, ...],
    required: tuple[str, ...],
    files: EstateFiles,
    root: Path,
    reader: Reader,
) -> Table | None:
    path = files.tables.get(name)
    if path is None:
        return None
    reader.places.setdefault(name, (path.name, 1, 1))
    return read_table(path, root, columns, required, reader.problems)
