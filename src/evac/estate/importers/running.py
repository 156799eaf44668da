"""Runs an import from start to end: the register of importers, reading the source, the folder, changes and
open facts.

An importer is a module or package with `read(source, problems)`, which returns the facts of a source as
`Imported` and adds problems with their places. Changes are found by comparing the texts of two imports, so no
other memory is needed. Imported files have a mark in their first lines; a file without it belongs to a person
and stays. The overlay is written once, if there is none.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import field
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import numpy as np

from evac.estate.format.assembling import OVERLAY_FILES
from evac.estate.format.document import (
    LIST,
    MAP,
    TABLE_BYTES_MAX,
    YAML_BYTES_MAX,
    Node,
    decode,
    read_bytes,
    read_document,
)
from evac.estate.format.problems import Problems
from evac.estate.format.spec import FORMAT_VERSION
from evac.estate.importers.combining import combine
from evac.estate.importers.imported import (
    HEADER_MARK,
    TABLE_COLUMNS,
    TABLES_MARK,
    Fetch,
    Imported,
    ImportResult,
    Options,
    SourceError,
    SourcePart,
    Unknown,
    document_text,
    scalar_text,
    table_text,
)
from evac.estate.importers.placing import report_nowhere, with_all_replicas, with_places
from evac.estate.importers.recipe import RecipeSource, read_recipe
from evac.estate.importers.renaming import renamed
from evac.estate.importers.same_servers import with_same_servers
from evac.estate.loading import check
from evac.model.diagnostic import IMPORTED, Place
from evac.model.errors import EvacError, InvalidInput
from evac.model.estate import Estate, Service, Store
from evac.model.records import dataclass
from evac.model.units import RESOURCE_WORDS

IMPORTERS: Final[Mapping[str, str]] = {
    "ansible": "evac.estate.importers.ansible",
    "backstage": "evac.estate.importers.backstage",
    "catalogue": "evac.estate.importers.catalogue",
    "compose": "evac.estate.importers.compose.reader",
    "csv": "evac.estate.importers.csv",
    "kubernetes": "evac.estate.importers.kubernetes.reader",
    "netbox": "evac.estate.importers.netbox",
    "prometheus": "evac.estate.importers.prometheus",
    "terraform": "evac.estate.importers.terraform",
    "wikimedia": "evac.estate.importers.wikimedia.reader",
}
"""Kind of source on the command line -> the module that reads it."""

KINDS: Final = tuple(sorted(IMPORTERS))


def read_source(kind: str, source: Path, problems: Problems, options: Options) -> Imported:
    """The facts of a source of a known kind; adds problems."""
    read: Callable[[Path, Problems, Options], Imported] = import_module(IMPORTERS[kind]).read
    return read(source, problems, options)


_SERVICE_FACTS: Final[tuple[tuple[str, Callable[[Service], bool]], ...]] = (
    ("services without a replica count", lambda s: s.replicas is None),
    ("services without a CPU or memory demand", lambda s: s.demand[0] is None or s.demand[1] is None),
    ("services without a tier", lambda s: s.tier is None),
    ("services whose number of users is not known", lambda s: s.people is None),
    ("services without an RTO", lambda s: s.rto_ms is None),
    ("services without a start time", lambda s: s.start_ms is None),
    ("services whose way of moving traffic is not known", lambda s: s.traffic.kind is None),
    ("services for which it is not stated whether they may be shed", lambda s: s.sheddable is None),
)
_STORE_FACTS: Final[tuple[tuple[str, Callable[[Store], bool]], ...]] = (
    ("stores without a location", lambda s: not s.members),
    ("stores whose primary is not known", lambda s: bool(s.members) and s.primary is None),
    (
        "stores with a copy whose lag is not known",
        lambda s: any(m.mode == "async" and m.lag_ms is None for m in s.members),
    ),
    ("stores without a backup", lambda s: not s.backups),
)

_RESOURCE_WORDS: Final = {"accelerators": "number of accelerators"}


def open_facts(estate: Estate) -> tuple[Unknown, ...]:
    """Groups of facts that no one states, those that hide most first; empty groups left out."""
    found = [
        *_of_sites(estate),
        *_of_services(estate),
        *(_group(what, (s.id for s in estate.stores if is_open(s))) for what, is_open in _STORE_FACTS),
        *_of_servers(estate),
    ]
    return tuple(group for group in found if group.count)


def _group(what: str, names: Iterable[str]) -> Unknown:
    listed = tuple(sorted(names))
    return Unknown(what, len(listed), listed)


def _of_sites(estate: Estate) -> list[Unknown]:
    pools = [p.id for p in estate.pools if p.capacity[0] is None or p.capacity[1] is None]
    nowhere = [] if estate.sites else [Unknown("sites: none described", 1)]
    return [*nowhere, _group("pools without a capacity", pools)]


def _of_services(estate: Estate) -> list[Unknown]:
    own = [s for s in estate.services if not s.external]  # another company knows these facts of its own
    placed = {estate.services[row].id for row in np.unique(estate.replicas.service).tolist()}
    nowhere = [s.id for s in own if s.id not in placed and not s.sites]
    groups = [_group("services that run nowhere, as far as the source shows", nowhere)]
    for what, is_open in _SERVICE_FACTS:
        groups.append(_group(what, (s.id for s in own if is_open(s))))
    return groups


def _of_servers(estate: Estate) -> list[Unknown]:
    fleet = estate.fleet
    masks: list[tuple[str, Any]] = [
        ("servers whose site is not known", fleet.site < 0),
        ("servers whose rack is not known", fleet.rack < 0),
    ]
    masks += [
        (f"servers whose {_RESOURCE_WORDS.get(word, word)} is not known", ~fleet.capacity_known[:, row])
        for row, word in enumerate(RESOURCE_WORDS)
    ]
    masks.append(("servers whose power is not known", ~fleet.watts_known))
    return [
        _group(what, (fleet.server_name(row) for row in np.flatnonzero(mask).tolist()))
        for what, mask in masks
    ]


_HEADER_LINES: Final = 4


@dataclass(frozen=True, slots=True)
class Before:
    """The previous import: its document, and its tables by name. Empty at first."""

    document: str = ""
    tables: dict[str, str] = field(default_factory=dict)


def document_name(kind: str) -> str:
    return f"{IMPORTED}{kind}.yaml"


def read_before(target: Path, kind: str) -> Before:
    """The last import of this kind in the folder. Raises InvalidInput if a file of that name belongs to a
    person.
    """
    document = _text(target / document_name(kind), YAML_BYTES_MAX)
    if document is None:
        return Before()
    if not document.startswith(f"{HEADER_MARK}{kind}\n"):
        raise InvalidInput(
            "import-would-overwrite",
            f"{document_name(kind)} was not written by an import",
            "rename it, or import into another folder",
        )
    tables = {}
    for name in _tables_of(document):
        text = _text(target / f"{name}.csv", TABLE_BYTES_MAX)
        if text is not None:
            tables[name] = text
    return Before(document, tables)


def _tables_of(document: str) -> list[str]:
    for line in document.split("\n", _HEADER_LINES)[:_HEADER_LINES]:
        if line.startswith(TABLES_MARK):
            names = [part.strip().removesuffix(".csv") for part in line.removeprefix(TABLES_MARK).split(",")]
            return [name for name in names if name in TABLE_COLUMNS]
    return []


def _text(path: Path, limit: int) -> str | None:
    """The text of a file; None if there is none. Raises InvalidInput if it cannot be read."""
    if not os.path.lexists(path):
        return None
    problems = Problems()
    data = read_bytes(path, path, limit, False, problems)
    text = None if data is None else decode(data, path.name, problems)
    if text is None:
        raise InvalidInput(
            "import-unreadable", problems.all()[0].message, f"check {path.name} in the target folder"
        )
    return text


def check_free(target: Path, before: Before, texts: dict[str, str]) -> None:
    """Raises InvalidInput if a file about to be written belongs to a person."""
    if os.path.lexists(target) and not target.is_dir():
        raise InvalidInput(
            "import-target-not-folder", f"{target.name} is not a folder", "choose a folder with -o"
        )
    own = {f"{name}.csv" for name in before.tables}
    for name in sorted(texts):
        stem, _, ending = name.rpartition(".")
        if ending != "csv" or name in own:
            continue
        taken = [n for n in (name, f"{stem}.parquet") if os.path.lexists(target / n)]
        if taken:
            raise InvalidInput(
                "import-would-overwrite",
                f"{taken[0]} already exists and was not written by this import",
                "move it away, or import into another folder",
            )


def overlay_in(target: Path) -> Path | None:
    """The overlay of the folder, if there is one."""
    return next((target / name for name in OVERLAY_FILES if os.path.lexists(target / name)), None)


def overlay_text(target: Path, given: Path | None, example: str) -> str | None:
    """What to write as overlay.yaml; None if the folder has one, which is never changed.

    Raises InvalidInput if `given` differs from the one in the folder.
    """
    there = overlay_in(target)
    wanted = example if given is None else _given_overlay(given)
    if there is None:
        return wanted
    if given is not None and given.resolve() != there.resolve() and _text(there, YAML_BYTES_MAX) != wanted:
        raise InvalidInput(
            "overlay-exists",
            f"{there.name} already exists in the folder and differs from {given.name}",
            "evac never overwrites an overlay: merge the two by hand, then import without --overlay",
        )
    return None


def _given_overlay(given: Path) -> str:
    text = _text(given, YAML_BYTES_MAX)
    if text is None:
        raise InvalidInput(
            "overlay-not-found", f"overlay not found: {given.name}", "check the path after --overlay"
        )
    return text


def write_all(target: Path, texts: dict[str, str], gone: list[str]) -> None:
    """Writes all files or none, the document last, and deletes obsolete tables.

    All are written under temporary names before the first is renamed. Raises OSError; the folder is then
    unchanged, or absent if it was.
    """
    was_there = target.exists()
    target.mkdir(parents=True, exist_ok=True)
    names = sorted(texts, key=lambda n: (n.startswith(IMPORTED), n))
    drafts = {name: target / f".{name}.new" for name in names}
    try:
        for name, draft in drafts.items():
            draft.write_text(texts[name], encoding="utf-8", newline="\n")
        for name, draft in drafts.items():
            draft.replace(target / name)
    finally:
        for draft in drafts.values():
            draft.unlink(missing_ok=True)
        if not was_there and not any(target.iterdir()):
            target.rmdir()
    for name in gone:
        (target / name).unlink(missing_ok=True)


_OF_FACTS: Final = "facts"
"""The section with the provenance of facts, which changes with each of them."""
_SHOWN_MAX: Final = 80


def facts_of(document: str, tables: Mapping[str, str]) -> dict[str, str]:
    """Name of a fact -> its value as text. `document`: an imported YAML file; `tables`: CSV texts by name.

    Names are `service pay`, `service pay: tier`, `need pay -> store ledger`, `replica pay on web-1`.
    """
    facts: dict[str, str] = {}
    root = read_document(document, "before", Problems())
    for section, (_, node) in root.fields.items() if root is not None and root.kind == MAP else ():
        if section != _OF_FACTS and node.kind == MAP:
            noun = "class" if section == "classes" else section.removesuffix("s")
            for name, (_, entry) in node.fields.items():
                _add_entry(noun, name, entry, facts)
    for table in ("racks", "servers"):
        _add_rows(table.removesuffix("s"), tables.get(table, ""), facts)
    for line in tables.get("replicas", "").splitlines()[1:]:
        service, _, rest = line.partition(",")
        target, _, count = rest.partition(",")
        facts[f"replica {service} on {target}"] = count
    return facts


def _add_entry(noun: str, name: str, entry: Node, facts: dict[str, str]) -> None:
    facts[f"{noun} {name}"] = ""
    for key, (_, value) in entry.fields.items():
        if key == "needs" and value.kind == LIST:
            for item in value.items:
                kind = "store" if item.kind == MAP and "store" in item.fields else "service"
                target, words = _parts(item, kind)
                facts[f"need {name} -> {kind} {target}"] = words
        elif key == "members" and value.kind == LIST:
            for item in value.items:
                at, words = _parts(item, "at")
                facts[f"copy of {name} at {at}"] = words
        elif key == "replicas" and value.kind == MAP:
            for target, (_, count) in value.fields.items():
                facts[f"replica {name} on {target}"] = _flow(count)
        else:
            facts[f"{noun} {name}: {key}"] = _flow(value)


def _parts(item: Node, key: str) -> tuple[str, str]:
    """The value of one key, and all others as text."""
    if item.kind != MAP:
        return item.text, ""
    others = [f"{k} {_flow(v)}" for k, (_, v) in item.fields.items() if k != key]
    return (_flow(item.fields[key][1]) if key in item.fields else "?"), ", ".join(others)


def _flow(node: Node) -> str:
    if node.kind == LIST:
        return f"[{', '.join(_flow(item) for item in node.items)}]"
    if node.kind == MAP:
        return "{" + ", ".join(f"{key}: {_flow(value)}" for key, (_, value) in node.fields.items()) + "}"
    return node.text


def _add_rows(noun: str, table: str, facts: dict[str, str]) -> None:
    """Imported tables have no quotes, so a comma always separates two cells."""
    lines = table.splitlines()
    columns = lines[0].split(",") if lines else []
    for line in lines[1:]:
        cells = line.split(",")
        facts[f"{noun} {cells[0]}"] = ""
        facts |= {
            f"{noun} {cells[0]}: {column}": cell
            for column, cell in zip(columns[1:], cells[1:], strict=False)
            if cell
        }


def difference(before: Mapping[str, str], after: Mapping[str, str]) -> tuple[str, ...]:
    """`+` added, `-` removed, `~` changed; facts of added or removed things are not listed separately."""
    lines = []
    for name in sorted(before.keys() | after.keys()):
        thing = name.partition(": ")[0]
        if thing != name and (thing in before) != (thing in after):
            continue
        if name not in before:
            lines.append(f"+ {name}{_tail(after[name])}")
        elif name not in after:
            lines.append(f"- {name}{_tail(before[name])}")
        elif before[name] != after[name]:
            lines.append(f"~ {name}: {_cut(before[name])} -> {_cut(after[name])}")
    return tuple(lines)


def _tail(value: str) -> str:
    return f" ({_cut(value)})" if value else ""


def _cut(value: str) -> str:
    return value if len(value) <= _SHOWN_MAX else value[: _SHOWN_MAX - 3] + "..."


_LEFT_OUT: Final = frozenset(
    {
        *("import-forbidden", "import-skipped", "import-twice"),
        *("import-cell", "import-unit-missing", "import-row-length", "import-name", "import-host-twice"),
        *("import-host-nowhere", "import-word-unknown"),
    }
)
"""Codes of objects that are skipped, and of facts that are stated but cannot be used."""


def import_estate(
    kind: str,
    source: Path,
    target: Path,
    *,
    overlay: Path | None = None,
    options: Options | None = None,
    strict: bool = False,
    problems: Problems | None = None,
) -> ImportResult:
    """Makes an estate in folder `target` from `source`, or updates it.

    `overlay`: a file to start the folder's overlay from; otherwise a commented one is made. `strict`:
    unusable objects are errors. `problems`: found while the source was fetched. Raises SourceError with every
    problem of the source, and InvalidInput if the folder or overlay conflicts; nothing is written then.
    """
    if kind not in KINDS:
        raise InvalidInput(
            "import-kind-unknown", f"unknown kind of source: '{kind[:40]}'", f"kinds: {', '.join(KINDS)}"
        )
    problems = Problems() if problems is None else problems
    imported = read_source(kind, source, problems, options or Options())
    report_nowhere(imported, problems)
    with_same_servers([SourcePart(kind, imported, Place(source.name))], problems)
    name = source.resolve().name.split(".")[0] or kind
    return _write(kind, imported, problems, target, name, overlay, strict)


RECIPE_KIND: Final = "recipe"


def import_recipe(
    path: Path,
    target: Path | None = None,
    *,
    strict: bool = False,
    update: bool = False,
    name: str | None = None,
    stated: tuple[str, ...] = (),
    fetch: Fetch | None = None,
) -> tuple[Path, ImportResult]:
    """Makes or updates the estate of a recipe; returns its folder and the result.

    `target`: replaces the recipe's folder; `update`: refuse if there is nothing to update; `name` and
    `stated`: of the estate, and lines of YAML for its first overlay; `fetch`: queries live sources. Raises
    like `import_estate`, also for errors in the recipe.
    """
    problems = Problems()
    recipe = read_recipe(path, KINDS, problems)
    if recipe is None:
        raise SourceError(problems.all())
    into = target or recipe.into
    if update and not (into / document_name(RECIPE_KIND)).exists():
        raise InvalidInput(
            "import-nothing-before",
            f"{into.name} contains no import of {path.name} to update",
            f"run it without --update first: evac import {path.name}",
        )
    imported = _combined(_read_sources(recipe.sources, fetch, problems), problems)
    usual = path.resolve().parent.name if path.stem in ("estate", "recipe") else path.stem
    name = name or usual or "estate"
    return into, _write(RECIPE_KIND, imported, problems, into, name, None, strict, stated)


def import_live(
    kind: str,
    sources: Sequence[RecipeSource],
    target: Path,
    fetch: Fetch,
    *,
    overlay: Path | None = None,
    strict: bool = False,
) -> ImportResult:
    """Makes or updates an estate from live sources of one kind, such as several clusters. Raises like
    `import_estate`.
    """
    problems = Problems()
    parts = _read_sources(sources, fetch, problems)
    imported = parts[0].imported if len(parts) == 1 else _combined(parts, problems)
    name = sources[0].name if len(sources) == 1 else target.resolve().name
    return _write(kind, imported, problems, target, name, overlay, strict)


def _combined(parts: list[SourcePart], problems: Problems) -> Imported:
    return combine(with_places(with_same_servers(parts, problems), problems), problems)


def _read_sources(
    sources: Iterable[RecipeSource], fetch: Fetch | None, problems: Problems
) -> list[SourcePart]:
    """The facts of each source. After asking all, raises SourceError if a live one did not answer."""
    parts, silent = [], False
    with TemporaryDirectory() as folder:
        for number, source in enumerate(sources):
            if source.live is not None:
                if fetch is None:
                    message = f"{source.name} would be read over the network"
                    raise InvalidInput("import-unreachable", message, "use a file: from: FILE")
                into = Path(folder) / str(number)
                into.mkdir()
                try:
                    path = fetch(source.kind, source.live, source.options, into, problems)
                except EvacError as error:
                    message = f"{source.name}: {error.message}"
                    problems.add("import-unreachable", message, source.place, error.hint)
                    silent = True
                    continue
                source = source.fetched(path)
            facts = read_source(source.kind, source.path, problems, source.options)
            made = renamed(facts, source.names)
            parts.append(SourcePart(source.name, made, source.place, source.observed, source.good_for))
    if silent:
        raise SourceError(problems.all())
    return parts


def _write(
    kind: str,
    imported: Imported,
    problems: Problems,
    target: Path,
    name: str,
    overlay: Path | None,
    strict: bool,
    stated: tuple[str, ...] = (),
) -> ImportResult:
    """Write what was read, or nothing."""
    if strict:
        problems.sharpen(_LEFT_OUT)
    if problems.has_errors:
        raise SourceError(problems.all())
    imported = with_all_replicas(imported)
    before = read_before(target, kind)
    tables = {name: table_text(name, rows) for name, rows in imported.tables.items() if rows}
    document = document_text(kind, imported)
    texts = {document_name(kind): document} | {f"{name}.csv": text for name, text in tables.items()}
    check_free(target, before, texts)
    own_words = overlay_text(target, overlay, _example_overlay(name, stated, imported))
    gone = [f"{name}.csv" for name in before.tables if name not in tables]
    write_all(target, texts | ({"overlay.yaml": own_words} if own_words is not None else {}), gone)
    diff = (
        difference(facts_of(before.document, before.tables), facts_of(document, tables))
        if before.document
        else ()
    )
    written = tuple(sorted([*texts, *(["overlay.yaml"] if own_words is not None else [])]))
    return _result(target, imported, problems, written, diff)


def _result(
    target: Path, imported: Imported, problems: Problems, written: tuple[str, ...], diff: tuple[str, ...]
) -> ImportResult:
    checked = check(target)
    found = sorted({*problems.all(), *checked.diagnostics}, key=lambda d: d.sort_key)
    estate = checked.estate
    if estate is None:
        services, stores, servers = (
            len(imported.sections.get("services", {})),
            len(imported.sections.get("stores", {})),
            len(imported.tables.get("servers", [])),
        )
        still_open: tuple[Unknown, ...] = ()
    else:
        services, stores, servers = len(estate.services), len(estate.stores), len(estate.fleet)
        still_open = open_facts(estate)
    known = checked.coverage
    worth, left_out = (known.missing, known.left_out) if known is not None else ((), 0)
    unknown = (*imported.unknown, *still_open)
    partial = any(one.code in _LEFT_OUT for one in problems.all())
    return ImportResult(
        written, services, stores, servers, unknown, tuple(found), diff, worth, left_out, partial
    )


def _example_overlay(name: str, stated: tuple[str, ...], imported: Imported) -> str:
    lines = [
        "# Facts that only you know. This file is yours: evac creates "
        "it once and never changes it afterwards.",
        "# It is merged over the imported facts, and what it says wins. Remove the # where you know",
        "# the answer; what stays unknown is treated as unknown, never guessed.",
        f"evac: {FORMAT_VERSION}",
        f"name: {scalar_text(name[:100])}",
        *stated,
        "",
        *(f"# {line}".rstrip() for line in imported.examples),
    ]
    return "\n".join(lines).rstrip("\n") + "\n"


__all__ = ["import_estate", "import_live", "import_recipe", "overlay_in", "read_source"]
