"""Loads an Estate from a path: every problem at once, within bounds of time and memory.

The public entries are `load` and `check`, which call the other modules in turn. Finally it resolves where the
Estate holds the worse ends of intervals, and compares today's load with the declared budgets of power and
cooling.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

from evac.estate.codecs.policy import load_policy, policy_beside
from evac.estate.coverage import coverage
from evac.estate.format import bindings
from evac.estate.format.assembling import Assembly, assemble, day_of, merge_overlay
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
from evac.estate.format.problems import Problems
from evac.estate.format.reading import Ends, FactBook, PlaceIndex, Reader
from evac.estate.format.residency import check_residency
from evac.estate.format.spec import HEAD, SECTIONS, Section
from evac.estate.format.store_checks import check_stores
from evac.estate.format.versions import as_newest
from evac.model.collector import collector_at_rest
from evac.model.coverage import Coverage
from evac.model.diagnostic import Diagnostic, Place
from evac.model.errors import EstateError
from evac.model.estate import ASSUMED_APPROVAL_MS, Estate, Interval
from evac.model.fleet import SERVING, SPARE, np
from evac.model.records import dataclass


def check_loads(estate: Estate, problems: Problems) -> None:
    """An error for each exceeded budget; unknown watts are left out."""
    for name, key, what, load, budget in _loads(estate):
        if budget is None or load <= budget:
            continue
        path = f"{name}/{key}"
        place = next((estate.places[p] for p in (path, name) if p in estate.places), Place(""))
        problems.add(
            "load-above-budget",
            f"{name.partition('/')[2]} carries {load:,} W today, but its {what} is {budget:,} W",
            place,
            "correct the budget or the watts of its servers, or move servers elsewhere",
        )


def _loads(estate: Estate) -> Iterator[tuple[str, str, str, int, int | None]]:
    """(path, key, description, watts today, watts declared). A rack draws evenly from its feeds."""
    fleet = estate.fleet
    on = ((fleet.state == SERVING) | (fleet.state == SPARE)) & fleet.watts_known
    in_rack = on & (fleet.rack >= 0)
    racks = (
        np.bincount(fleet.rack[in_rack], fleet.watts[in_rack], len(estate.racks)).astype(np.int64).tolist()
    )
    sites = np.bincount(fleet.site[on], fleet.watts[on], len(estate.sites)).astype(np.int64).tolist()
    of_hall, of_feed = dict[str, int](), dict[str, int]()
    for rack, watts in zip(estate.racks, racks, strict=True):
        yield f"racks/{rack.id}", "power_budget", "power budget", watts, rack.power_budget_watts
        of_hall[rack.hall or ""] = of_hall.get(rack.hall or "", 0) + watts
        for name in rack.feeds:
            of_feed[name] = of_feed.get(name, 0) + watts // len(rack.feeds)
    for feed in estate.feeds:
        yield (
            f"feeds/{feed.id}",
            "power_budget",
            "power budget",
            of_feed.get(feed.id, 0),
            feed.power_budget_watts,
        )
    for hall in estate.halls:
        load = of_hall.get(hall.id, 0)
        yield f"halls/{hall.id}", "power_budget", "power budget", load, hall.power_budget_watts
        yield f"halls/{hall.id}", "cooling", "cooling", load, hall.cooling_watts
    for site, watts in zip(estate.sites, sites, strict=True):
        yield f"sites/{site.id}", "power_budget", "power budget", watts, site.power_budget_watts


Where = tuple[str | int, ...]


def intervals_of(read: Mapping[str, Ends]) -> tuple[Interval, ...]:
    """Sorted by path. Every path came from the table of the format, so it resolves."""
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
    """Ids may be paths, so the longest id that leaves meaningful keys is chosen."""
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
    """Result of a check: the estate and its coverage, unless there is an error."""

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

    Budgets exceeded today are errors here, but `load` still reads the estate.
    """
    estate, problems = _read(Path(path), as_of)
    if estate is not None:
        check_loads(estate, problems)
    return CheckResult(estate, problems.all(), None if estate is None else coverage(estate))


def _read(path: Path, as_of: date | None) -> tuple[Estate | None, Problems]:
    problems = Problems()
    with collector_at_rest():
        files = find_files(path, problems)
        documents = [_document(file, path, problems) for file in files.documents]
        if not documents or None in documents:
            return None, problems
        estate = _assemble([d for d in documents if d is not None], files, path, as_of, problems)
        if _waits_for_people(path):
            estate = replace(estate, waits_for_people=True)
            if estate.approval_ms == 0:
                minutes = ASSUMED_APPROVAL_MS // 60_000
                problems.add(
                    "approval-not-believed",
                    f"approval is 0 s, but the policy waits for a person; {minutes} min is assumed",
                    estate.place("approval"),
                    "set how long people take to approve, or set mode: act in policy.yaml",
                )
    return (None if problems.has_errors else estate), problems


def _waits_for_people(path: Path) -> bool:
    """Whether the policy next to an estate requires approval of every plan; an unreadable one may."""
    policy = policy_beside(path)
    try:
        return policy is not None and load_policy(policy).mode != "act"
    except EstateError:
        return True


def _document(file: Path, root: Path, problems: Problems) -> Node | None:
    data = read_bytes(file, root, YAML_BYTES_MAX, True, problems)
    text = None if data is None else decode(data, file.name, problems)
    return None if text is None else read_document(text, file.name, problems)


def _assemble(
    documents: list[Node], files: EstateFiles, root: Path, as_of: date | None, problems: Problems
) -> Estate:
    documents = merge_overlay(as_newest(documents), problems)
    day = day_of(documents, as_of, problems)
    reader = Reader(problems, FactBook(day, problems))
    reader.places[""] = (files.documents[0].name, 1, 1)
    assembly = assemble(documents, reader, day)
    servers, replicas = _read_tables(assembly, files, root, reader)
    known = known_names(assembly, bindings.ServerNames(servers.fleet.name))
    check_references(reader, known, assembly)
    check_sense(assembly, reader, known)
    check_extremes(assembly, servers.fleet, replicas, reader)
    check_residency(assembly, servers.fleet, replicas, reader)
    check_stores(assembly, servers.fleet, reader)
    values = assembly.values
    values["services"] = bindings.with_counts(values["services"], replicas, reader)
    bindings.check_room(values["services"], values["pools"], servers, replicas, reader)
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
) -> tuple[bindings.ServerRows, bindings.ReplicaRows]:
    """The columns; the module that reads tables is imported only if there are any."""
    in_yaml = bindings.stated_in_yaml(assembly.values, reader)
    if not files.tables:
        return bindings.no_servers(), bindings.bindings([in_yaml], None)
    from evac.estate.tables.all import read_all

    return read_all(assembly, files, root, reader)
