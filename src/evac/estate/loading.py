"""From a path to an Estate: every problem at once, within bounds of time and memory.

The public entries are `load` and `check`; the work is done by the modules they call in turn.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date
from pathlib import Path

from evac.estate import tables_racks, tables_replicas, tables_servers
from evac.estate.assembling import Assembly, assemble, day_of
from evac.estate.coverage import Coverage, coverage
from evac.estate.document import Node, read_document
from evac.estate.names import check_references, check_sense, known_names
from evac.estate.problems import Problems
from evac.estate.provenance import FactBook
from evac.estate.reading import PlaceIndex, Reader
from evac.estate.sources import YAML_BYTES_MAX, EstateFiles, decode, find_files, read_bytes
from evac.estate.tables import Table, read_table
from evac.estate.tables_servers import ServerNames, ServerRows, no_servers
from evac.model.diagnostic import Diagnostic
from evac.model.errors import EstateError
from evac.model.estate import Estate


@dataclass(frozen=True, slots=True)
class CheckResult:
    """What a check found: the estate and its coverage, unless an error stands in the way."""

    estate: Estate | None
    diagnostics: tuple[Diagnostic, ...]
    coverage: Coverage | None


def load(path: Path | str, as_of: date | None = None) -> Estate:
    """The estate in a folder or a YAML file. Raises EstateError with every diagnostic."""
    estate, problems = _read(Path(path), as_of)
    if estate is None:
        raise EstateError(problems.all())
    return estate


def check(path: Path | str, as_of: date | None = None) -> CheckResult:
    """The estate, every diagnostic, and how much of what matters is known. Raises nothing."""
    estate, problems = _read(Path(path), as_of)
    return CheckResult(estate, problems.all(), None if estate is None else coverage(estate))


@contextmanager
def _no_collection() -> Iterator[None]:
    """Many small values that all stay: looking for garbage among them costs most of the time."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def _read(path: Path, as_of: date | None) -> tuple[Estate | None, Problems]:
    problems = Problems()
    with _no_collection():
        files = find_files(path, problems)
        documents = [_document(file, path, problems) for file in files.documents]
        if not documents or None in documents:
            return None, problems
        estate = _assemble([d for d in documents if d is not None], files, path, as_of, problems)
    return (None if problems.has_errors else estate), problems


def _document(file: Path, root: Path, problems: Problems) -> Node | None:
    data = read_bytes(file, root, YAML_BYTES_MAX, True, problems)
    text = None if data is None else decode(data, file.name, problems)
    return None if text is None else read_document(text, file.name, problems)


def _assemble(
    documents: list[Node], files: EstateFiles, root: Path, as_of: date | None, problems: Problems
) -> Estate:
    day = day_of(documents, as_of, problems)
    reader = Reader(problems, FactBook(day, problems))
    reader.places[""] = (files.documents[0].name, 1, 1)
    assembly = assemble(documents, reader, day)
    servers, replicas = _read_tables(assembly, files, root, reader)
    known = known_names(assembly, ServerNames(servers.fleet.name))
    check_references(reader, known, assembly)
    check_sense(assembly, reader, known)
    values = assembly.values
    values["services"] = tables_replicas.with_counts(values["services"], replicas, reader)
    tables_replicas.check_room(values["services"], values["pools"], servers, replicas, reader)
    return Estate(
        **values, facts=reader.facts.all(), fleet=servers.fleet, replicas=replicas.replicas,
        places=PlaceIndex(reader.places),
    )  # fmt: skip


def _read_tables(
    assembly: Assembly, files: EstateFiles, root: Path, reader: Reader
) -> tuple[ServerRows, tables_replicas.ReplicaRows]:
    racks = _table("racks", tables_racks.COLUMNS, ("rack",), files, root, reader)
    if racks is not None:
        tables_racks.add_racks(racks, assembly, reader)
    table = _table("servers", tables_servers.COLUMNS, ("server",), files, root, reader)
    servers = no_servers()
    if table is not None:
        servers = (
            tables_servers.read_servers(table, assembly.values, reader.facts, reader.problems) or servers
        )
    rows = _table("replicas", tables_replicas.COLUMNS, tables_replicas.COLUMNS, files, root, reader)
    if (
        rows is not None
        and "servers" in files.tables
        and not len(servers.fleet)
        and reader.problems.has_errors
    ):
        rows = None
    return servers, tables_replicas.read_replicas(rows, assembly.values, servers, reader)


def _table(name: str, columns: tuple[str, ...], required: tuple[str, ...], files: EstateFiles, root: Path,
           reader: Reader) -> Table | None:  # fmt: skip
    path = files.tables.get(name)
    if path is None:
        return None
    reader.places.setdefault(name, (path.name, 1, 1))
    return read_table(path, root, columns, required, reader.problems)
