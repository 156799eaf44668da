"""Reads and writes all tables of an estate (racks, servers, replicas) in the order in which they refer to
each other.

Racks are entries of the estate like any other, so each row becomes one value. A cell is written empty if
the reader comes to the same value by itself.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import polars as pl

from evac.estate.format.assembling import Assembly
from evac.estate.format.bindings import ReplicaRows, ServerRows, bindings, no_servers, stated_in_yaml
from evac.estate.format.document import EstateFiles
from evac.estate.format.kinds import ID, ID_MAX
from evac.estate.format.problems import Problems, more_rows, shown
from evac.estate.format.reading import Reader
from evac.estate.format.spec import hall_of
from evac.estate.tables import (
    servers as tables_servers,
)
from evac.estate.tables.reading import LISTED_MAX, UNKNOWN, Table, mask_of, read_table, text_of, whole_numbers
from evac.estate.tables.servers import bmc_columns, lookup
from evac.model.errors import InvalidInput
from evac.model.estate import Estate, Rack
from evac.model.fleet import (
    AT_SITE,
    BMC_UNKNOWN,
    ON_POOL,
    ON_SERVER,
    SERVER_STATES,
    BoolColumn,
    Fleet,
    IndexColumn,
    IntColumn,
    NameColumn,
)
from evac.model.units import RESOURCES

REPLICA_COLUMNS: Final = ("service", "target", "count")
_NAMES_COMPARED: Final = 5_000


def stated_in_table(
    table: Table, values: dict[str, Any], fleet: Fleet, in_yaml: IntColumn, problems: Problems
) -> IntColumn:
    """(5, K) service, kind, target, count, row of the table. Invalid rows are noted and left out.

    `in_yaml`: the same from the YAML files; a service may not be placed in both.
    """
    for column in ("service", "target", "count"):
        empty = mask_of(table.frame[column].is_null())
        table.report(
            problems,
            empty,
            column,
            "cell-missing",
            f"a row without {column}",
            "every row needs a service, a target and a count",
        )
    service, _ = lookup(table, "service", [s.id for s in values["services"]], problems)
    kind, target = _targets(table, values, fleet, problems)
    count, known, _ = whole_numbers(table, "count", problems)
    later = _said_before(service, kind, target, len(fleet) + len(values["pools"]) + len(values["sites"]))
    table.report(
        problems, later, "target", "row-twice", "a second row for the same service on {}", "merge the rows"
    )
    usable = (service >= 0) & (target >= 0) & known & (count > 0) & ~later
    rows = np.flatnonzero(usable)
    placed = np.stack([service[rows], kind[rows], target[rows], count[rows], rows]).astype(np.int64)
    _note_stated_twice(table, placed, in_yaml, problems)
    return placed


def _said_before(service: IndexColumn, kind: IntColumn, target: IntColumn, targets: int) -> BoolColumn:
    """(V,) rows whose service and target occur in an earlier row; rows with unknown names are left out."""
    named = np.flatnonzero((service >= 0) & (target >= 0))
    key = (service[named].astype(np.int64) * 3 + kind[named]) * max(targets, 1) + target[named]
    order = np.argsort(key, kind="stable")
    later = np.zeros(len(service), np.bool_)
    later[named[order[1:]]] = key[order[1:]] == key[order[:-1]]
    return later


def _targets(
    table: Table, values: dict[str, Any], fleet: Fleet, problems: Problems
) -> tuple[IntColumn, IntColumn]:
    """(V,) kind and index of each target; -1, with a note, for unknown names."""
    pools = _rows_of([pool.id.encode() for pool in values["pools"]], ON_POOL)
    sites = _rows_of([site.id.encode() for site in values["sites"]], AT_SITE)
    known = pl.concat([_rows_of(fleet.name.tolist(), ON_SERVER), pools, sites]).unique("name", keep="first")
    cells = text_of(table, "target")
    found = cells.cast(pl.Binary).to_frame("name").join(known, on="name", how="left", maintain_order="left")
    bad = mask_of(found["row"].is_null() & cells.is_not_null())
    if bad.any():
        names = [*sites["name"], *pools["name"], *fleet.name[:_NAMES_COMPARED].tolist()]
        first = str(cells[int(np.flatnonzero(bad)[0])])
        near = problems.suggest(first, [name.decode() for name in names])
        table.report(problems, bad, "target", "name-unknown", "no such server, pool or site: {}", near)
    return found["kind"].fill_null(-1).to_numpy(), found["row"].fill_null(-1).to_numpy()


def _rows_of(names: list[bytes], kind: int) -> pl.DataFrame:
    count = len(names)
    columns = {"name": names, "kind": np.full(count, kind, np.int64), "row": np.arange(count, dtype=np.int64)}
    return pl.DataFrame(columns, schema={"name": pl.Binary, "kind": pl.Int64, "row": pl.Int64})


def _note_stated_twice(table: Table, placed: IntColumn, in_yaml: IntColumn, problems: Problems) -> None:
    stated = np.zeros(len(table), np.bool_)
    stated[placed[4][np.isin(placed[0], in_yaml[0])]] = True
    hint = "place them in the table, and write only a number, or nothing, in YAML"
    message = "replicas of {} are also placed in YAML"
    table.report(problems, stated, "service", "replicas-stated-twice", message, hint)


TableFormat = Literal["csv", "parquet"]


def write_table(frame: pl.DataFrame, path: Path, kind: TableFormat) -> None:
    """Writes a table to `path` plus its file ending."""
    if kind == "csv":
        frame.write_csv(path.with_suffix(".csv"), line_terminator="\n")
    else:
        frame.write_parquet(path.with_suffix(".parquet"), compression="zstd", statistics=False)


def servers_frame(estate: Estate) -> pl.DataFrame:
    """One row a server. Raises InvalidInput for a server whose site is not known."""
    fleet = estate.fleet
    if len(fleet) and int(fleet.site.min()) < 0:
        name = fleet.server_name(int(fleet.site.argmin()))
        raise InvalidInput("server-without-site", f"server {name} has no site", "give every server a site")
    columns = {
        "server": names_of(fleet.name),
        "site": _named(fleet.site, [s.id for s in estate.sites]),
        "rack": _named(fleet.rack, [r.id for r in estate.racks]),
        "class": _named(fleet.server_class, [c.id for c in estate.classes]),
        "state": _named(fleet.state.astype(np.int32), list(SERVER_STATES)),
        "pool": _named(fleet.pool, [p.id for p in estate.pools]),
    }
    for resource, name in enumerate(RESOURCES):
        of_class = [c.capacity[resource] for c in estate.classes]
        known = fleet.capacity_known[:, resource]
        columns[name] = _beside_class(fleet.capacity[:, resource], known, fleet.server_class, of_class)
    of_class = [c.watts for c in estate.classes]
    columns["watts"] = _beside_class(fleet.watts, fleet.watts_known, fleet.server_class, of_class)
    columns["boot_server"] = _named(fleet.boot_server, [b.id for b in estate.boot_servers])
    bmc = np.where(fleet.bmc == BMC_UNKNOWN, -1, fleet.bmc.astype(np.int32)).astype(np.int32)
    columns["bmc"] = _named(bmc, ["no", "yes"])
    for name, texts in bmc_columns(fleet).items():
        if texts.any():
            columns[name] = names_of(texts).replace("", None)
    return pl.DataFrame([series.alias(name) for name, series in columns.items()])


def names_of(names: NameColumn) -> pl.Series:
    """UTF-8 bytes as text."""
    return pl.Series(names.tolist(), dtype=pl.Binary).cast(pl.String)


def _named(rows: IndexColumn, names: list[str]) -> pl.Series:
    """Names for indices; null for -1."""
    table = pl.Series([*names, None], dtype=pl.String)
    return table.gather(np.where(rows < 0, len(names), rows).astype(np.uint32))


def _beside_class(
    values: IntColumn, known: BoolColumn, classes: IndexColumn, of_class: list[int | None]
) -> pl.Series:
    """Numbers that differ from the class's; the word `unknown` where the class would give one."""
    defaults = np.array([*(v or 0 for v in of_class), 0], np.int64)[classes]
    has_default = np.array([*(v is not None for v in of_class), False], np.bool_)[classes]
    stated = known & ~(has_default & (defaults == values))
    numbers = pl.DataFrame({"v": values, "k": stated}).select(pl.when("k").then("v")).to_series()
    unsaid = ~known & has_default
    if not unsaid.any():
        return numbers
    words = pl.DataFrame({"n": numbers.cast(pl.String), "u": unsaid})
    return words.select(pl.when("u").then(pl.lit(UNKNOWN)).otherwise("n")).to_series()


def replicas_frame(estate: Estate) -> pl.DataFrame:
    """One row a binding."""
    replicas = estate.replicas
    names = (
        names_of(estate.fleet.name),
        pl.Series([p.id for p in estate.pools], dtype=pl.String),
        pl.Series([s.id for s in estate.sites], dtype=pl.String),
    )
    starts = np.cumsum([0, len(names[0]), len(names[1])])
    offset = np.where(
        replicas.kind == ON_SERVER, starts[0], np.where(replicas.kind == ON_POOL, starts[1], starts[2])
    )
    targets = pl.concat(names).gather((replicas.target + offset).astype(np.uint32))
    services = _named(replicas.service, [s.id for s in estate.services])
    return pl.DataFrame(
        [services.alias("service"), targets.alias("target"), pl.Series("count", replicas.count)]
    )


def racks_frame(racks: tuple[Rack, ...]) -> pl.DataFrame:
    """One row a rack."""
    halls = [None if r.hall == hall_of(r.id) else (r.hall or UNKNOWN) for r in racks]
    columns = {
        "rack": [r.id for r in racks],
        "hall": halls,
        "feeds": ["+".join(r.feeds) or None for r in racks],
        "power_budget_watts": [r.power_budget_watts for r in racks],
    }
    kinds = {"rack": pl.String, "hall": pl.String, "feeds": pl.String, "power_budget_watts": pl.Int64}
    return pl.DataFrame(columns, schema=kinds)


COLUMNS: Final = ("rack", "hall", "feeds", "power_budget_watts")


def add_racks(table: Table, assembly: Assembly, reader: Reader) -> None:
    """Add the rows of the table to the racks of the estate; problems go to the reader's."""
    problems = reader.problems
    ids = text_of(table, "rack")
    empty = mask_of(ids.is_null())
    table.report(problems, empty, "rack", "cell-missing", "a rack without a name", "every row needs a rack")
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
        problems, _mask(bad_ids), "rack", "id-invalid", "{} is not a rack path", "write SITE/HALL/RACK"
    )
    twice = [r.id in stated for r in racks]
    table.report(
        problems, _mask(twice), "rack", "id-twice", "rack {} is also described in YAML", "keep one of the two"
    )
    no_site = [r.site not in sites and not bad for r, bad in zip(racks, bad_ids, strict=True)]
    table.report(
        problems,
        _mask(no_site),
        "rack",
        "domain-path-invalid",
        "{} does not start with a site",
        "write SITE/HALL/RACK",
    )
    no_hall = [r.hall is not None and r.hall not in halls for r in racks]
    column = "hall" if "hall" in table.columns else "rack"
    hint = "define the hall under halls:, or write unknown in the column hall"
    table.report(
        problems, _mask(no_hall), column, "hall-unknown", "{} is in a hall that is not defined", hint
    )
    _check_feeds(table, racks, feeds, problems)


def _check_feeds(table: Table, racks: list[Rack], feeds: dict[str, None], problems: Problems) -> None:
    dangling = [(row, feed) for row, rack in enumerate(racks) for feed in rack.feeds if feed not in feeds]
    for row, feed in dangling[:LISTED_MAX]:
        parts = re.split(r"[\s,;|]+", feed)
        hint = problems.suggest(feed, feeds) or "define it under feeds:"
        if len(parts) > 1 and feeds.keys() >= set(parts):
            hint = f"join the names with +: {'+'.join(parts)}"
        problems.add("name-unknown", f"no such feed: {shown(feed)}", table.place(row, "feeds"), hint)
    if len(dangling) > LISTED_MAX:
        message = f"{more_rows(len(dangling) - LISTED_MAX)} in {table.file}"
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
    replicas = _table("replicas", REPLICA_COLUMNS, REPLICA_COLUMNS, files, root, reader)
    if servers is None or replicas is None or (table is None and "servers" in files.tables):
        # Without its servers, every row of the table would dangle: those problems would not be news.
        return servers or no_servers(), bindings([in_yaml], None)
    if reader.facts.is_expired("replicas"):
        return servers, bindings([in_yaml], replicas)
    placed = stated_in_table(replicas, assembly.values, servers.fleet, in_yaml, reader.problems)
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
