"""From a path to an Estate: every problem at once, within bounds of time and memory.

The public entries are `load` and `check`; the work is done by the modules they call in turn.

Intervals as they were read, by path, to the places in the Estate that hold their worse ends.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

from evac.estate.coverage import Coverage, coverage
from evac.estate.format.assembling import Assembly, assemble, day_of, merge_overlay
from evac.estate.format.bindings import (
    ReplicaRows,
    ServerNames,
    ServerRows,
    bindings,
    check_room,
    no_servers,
    stated_in_yaml,
    with_counts,
)
from evac.estate.format.checks import check_extremes, check_references, check_sense, known_names
from evac.estate.format.document import (
    YAML_BYTES_MAX,
    EstateFiles,
    Node,
    decode,
    find_files,
    read_bytes,
    read_document,
)
from evac.estate.format.kinds import Field, Mapped, Record, Records
from evac.estate.format.loads import check_loads
from evac.estate.format.problems import Problems
from evac.estate.format.reading import Ends, FactBook, PlaceIndex, Reader
from evac.estate.format.spec import HEAD, SECTIONS, Section
from evac.model.diagnostic import Diagnostic
from evac.model.errors import EstateError
from evac.model.estate import Estate, Interval

Where = tuple[str | int, ...]


def intervals_of(read: Mapping[str, Ends]) -> tuple[Interval, ...]:
    """Sorted by path. Every path was read by the table of the format, so it leads somewhere."""
    found = []
    for path, (worse, better) in sorted(read.items()):
        where = _where(path.split("/"))
        assert where is not None, path
        found.append(Interval(path, where, worse, better))
    return tuple(found)


def _where(parts: list[str]) -> Where | None:
    for spec in HEAD:
        if parts == [spec.key]:
            return (spec.attr,)
    section = next(s for s in SECTIONS if s.key == parts[0])
    inner = _in_section(section, parts[1:])
    return None if inner is None else (section.attr, *inner)


def _in_section(section: Section, parts: list[str]) -> Where | None:
    """Ids may be paths themselves, so the longest id behind which the keys make sense is the one."""
    if section.style == "mapping":
        return _in_record(section.record, parts)
    for cut in range(len(parts) - 1, 0, -1):
        inner = _in_record(section.record, parts[cut:])
        if inner is not None:
            name = "/".join(parts[:cut])
            return (int(name) if section.style == "list" else name, *inner)
    return None


def _in_record(record: Record, parts: list[str]) -> Where | None:
    spec = record.by_key.get(parts[0]) if parts else None
    if spec is None:
        return None
    inner = _in_kind(spec.kind, parts[1:])
    return None if inner is None else (*_step(spec), *inner)


def _step(spec: Field) -> Where:
    attribute: Where = (spec.attr,) if spec.attr else ()
    return attribute if spec.slot is None else (*attribute, spec.slot)


def _in_kind(kind: Any, parts: list[str]) -> Where | None:
    if isinstance(kind, Record):
        return _in_record(kind, parts)
    if isinstance(kind, Records):
        inner = _in_record(kind.item, parts[1:])
        return None if inner is None else (int(parts[0]), *inner)
    if isinstance(kind, Mapped):
        return tuple(parts) if len(parts) == 1 else None
    return None if parts else ()


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
    """The estate, every diagnostic, and how much of what matters is known. Raises nothing.

    Budgets that are exceeded today are errors here, and do not keep `load` from reading the estate.
    """
    estate, problems = _read(Path(path), as_of)
    if estate is not None:
        check_loads(estate, problems)
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
    documents = merge_overlay(documents, problems)
    day = day_of(documents, as_of, problems)
    reader = Reader(problems, FactBook(day, problems))
    reader.places[""] = (files.documents[0].name, 1, 1)
    assembly = assemble(documents, reader, day)
    servers, replicas = _read_tables(assembly, files, root, reader)
    known = known_names(assembly, ServerNames(servers.fleet.name))
    check_references(reader, known, assembly)
    check_sense(assembly, reader, known)
    check_extremes(assembly, servers.fleet, replicas, reader)
    values = assembly.values
    values["services"] = with_counts(values["services"], replicas, reader)
    check_room(values["services"], values["pools"], servers, replicas, reader)
    return Estate(
        **values,
        facts=reader.facts.all(),
        intervals=intervals_of(reader.intervals),
        fleet=servers.fleet,
        replicas=replicas.replicas,
        places=PlaceIndex(reader.places),
    )


def _read_tables(
    assembly: Assembly, files: EstateFiles, root: Path, reader: Reader
) -> tuple[ServerRows, ReplicaRows]:
    """The columns; where there are tables, they are read by a module that is loaded only then."""
    in_yaml = stated_in_yaml(assembly.values, reader)
    if not files.tables:
        return no_servers(), bindings([in_yaml], None)
    from evac.estate.tables.all import read_all

    return read_all(assembly, files, root, reader)
