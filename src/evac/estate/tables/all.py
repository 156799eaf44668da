"""All tables of an estate, in the order in which they refer to each other: racks, servers, replicas."""

from __future__ import annotations

from pathlib import Path

from evac.estate.format.assembling import Assembly
from evac.estate.format.bindings import ReplicaRows, ServerRows, bindings, no_servers, stated_in_yaml
from evac.estate.format.reading import Reader
from evac.estate.format.sources import EstateFiles
from evac.estate.tables import (
    racks as tables_racks,
)
from evac.estate.tables import (
    replicas as tables_replicas,
)
from evac.estate.tables import (
    servers as tables_servers,
)
from evac.estate.tables.reading import Table, read_table


def read_all(
    assembly: Assembly, files: EstateFiles, root: Path, reader: Reader
) -> tuple[ServerRows, ReplicaRows]:
    """Servers and bindings; racks are added to the assembly. Problems go to the reader's."""
    racks = _table("racks", tables_racks.COLUMNS, ("rack",), files, root, reader)
    if racks is not None:
        tables_racks.add_racks(racks, assembly, reader)
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
