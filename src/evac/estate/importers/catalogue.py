"""Maps a plain catalogue of services to an estate: the list of names, owners and needs that every company
has, as a table, YAML or JSON.

In YAML it is a mapping of names to their facts or a list of entries with a name, also below one key such as
`services`. A need may be a store: an entry whose `type` or `kind` is a database, or a need written
`store:orders`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from evac.estate.format.document import LIST, MAP, SCALAR, Node
from evac.estate.format.problems import Problems, shown
from evac.estate.importers.containers import engine_of_image
from evac.estate.importers.csv import HOST_COLUMNS, bare
from evac.estate.importers.host_words import NAMES, time_unit, unit_named, without_unit
from evac.estate.importers.imported import Imported, Options, Sign, Unknown
from evac.estate.importers.services import Catalogue, Need, Refused, fill_in, note_refused, service_examples
from evac.estate.importers.source_files import entries, header_of, read_cells, read_table, read_values
from evac.model.diagnostic import Place

_BYTES_MAX: Final = 32 * 2**20
_NAMES: Final[Mapping[str, tuple[str, ...]]] = {
    meaning: tuple(words.split())
    for meaning, words in {
        "name": "name service servicename id component application app system dienst anwendung système "
        "서비스 서비스명",
        "tier": "tier criticality importance servicetier priority stufe kritikalität priorität criticité "
        "priorité 등급 중요도",
        "owner": "owner team ownedby contact responsible squad verantwortlich verantwortlicher eigentümer "
        "responsable équipe propriétaire 담당자 담당팀",
        "people": "people users customers peopleaffected benutzer nutzer kunden utilisateurs 사용자 사용자수",
        "rto": "rto recoverytime recoverytimeobjective wiederanlaufzeit",
        "rpo": "rpo recoverypoint recoverypointobjective",
        "cpu": "cpu cpus cores cpudemand demandcpu kerne cœurs coeurs",
        "memory": "memory mem ram memorydemand demandmemory arbeitsspeicher mémoire",
        "replicas": "replicas instances count replikate instanzen anzahl 인스턴스",
        "family": "family product domain group",
        "needs": "needs dependson dependencies requires uses upstreams benötigt braucht hängtabvon "
        "abhängigkeit abhängigkeiten dépendances dépendde besoins 의존성 의존서비스",
        "type": "type kind engine typ art",
    }.items()
}
"""Meaning of a column or key -> its known names, surest first."""

_BARE: Final = re.compile(r"[\d.,' ]+", re.ASCII)
_NO_NEEDS: Final = "services whose needs the source does not state"
_STRANGE_MOST: Final = 50
"""Maximum keys of a YAML catalogue that are named as unknown."""
_PARTED: Final = re.compile(r"[;,|\s]+")
_STORE_WORDS: Final = frozenset({"database", "db", "store", "datastore", "queue", "cache"})
_EMPTY: Final = frozenset({"", "-", "n/a", "none", "null", "unknown", "?", "tbd"})
_WRAPPERS: Final = ("services", "catalogue", "catalog", "components", "applications")

_OTHERS: Final[Mapping[str, tuple[str, str]]] = {
    "openapi": ("an OpenAPI description of one API", "give a list of services"),
    "swagger": ("an OpenAPI description of one API", "give a list of services"),
    "asyncapi": ("an AsyncAPI description of one API", "give a list of services"),
    "$schema": ("a JSON schema", "give a list of services"),
    "recipe": ("a recipe", "run it: evac import FILE"),
    "evac": ("a file of an estate", "check it: evac check FOLDER"),
    "apiversion": (
        "a file of Kubernetes or Backstage",
        "use evac import kubernetes, or evac import backstage",
    ),
}
"""Keys that no catalogue has at its top, unless a service of that name -> what has them, and what to do."""
_EDITORS: Final = "$schema"
"""Also tells editors which schema a file is to be checked by."""

Facts = dict[str, list[tuple[str, Place]]]
"""Meaning -> the texts that state it, with their places."""


_IN_JSON: Final = re.compile(r"\s*\{\s*\"services\"\s*:\s*[\[{]")
_OF_OTHERS: Final = re.compile(r"\"(?:image|build|apiVersion|_meta)\"\s*:")
_KEY: Final = re.compile(r"[\"'{,\s](\w[\w -]*)[\"']?\s*:", re.ASCII)
_SURE: Final = frozenset({"tier", "rto", "rpo", "needs"})
"""A list of entries with a name and one of these is a catalogue: other lists have names, too."""


def looks_like(name: str, head: str) -> Sign | None:
    """What a file that begins like this contains, if it is a source of this kind."""
    if name.endswith((".csv", ".tsv")):
        columns = {_understand(cell)[0] for cell in header_of(head, name)}
        hosts = {bare(cell) for cell in header_of(head, name)} & HOST_COLUMNS
        return "names" if "name" in columns and not hosts else None
    if _IN_JSON.match(head):
        return None if _OF_OTHERS.search(head) else "names"
    is_other = re.search(r"^(?:evac|recipe|apiVersion):|^\s+(?:image|build):", head, re.MULTILINE)
    if is_other or _OF_OTHERS.search(head):
        return None
    if re.search(r"^services:\s*$", head, re.MULTILINE):
        return "names"
    return "names" if _is_list(head) else None


def _is_list(head: str) -> bool:
    """Whether a text begins with a list of services."""
    lines = (line for line in head.splitlines() if line.strip() and line.strip() != "---")
    if not next((line for line in lines if line[0] != "#"), "").lstrip().startswith(("[", "- ")):
        return False
    found = {_meaning(key) for key in _KEY.findall(head)}
    return "name" in found and bool(found & _SURE)


def read(source: Path, problems: Problems, options: Options) -> Imported:
    """The facts of a catalogue; problems are added."""
    imported = Imported()
    catalogue = Catalogue()
    is_table = source.suffix.lower() in (".csv", ".tsv", ".txt")
    found = list(_table(source, problems) if is_table else _values(source, problems))
    refused: Refused = {}
    for facts, place in found:
        _add(facts, place, catalogue, problems, refused, in_table=is_table)
    note_refused(refused, problems)
    if found and not any("needs" in facts for facts, _ in found):
        imported.unknown.append(Unknown(_NO_NEEDS, len(found)))
    if not catalogue.services and not catalogue.stores and not problems.has_errors:
        problems.add(
            "import-shape",
            f"no services in {source.name}",
            Place(source.name),
            "give a table with a column such as service, or YAML such as: services: {shop: {tier: 1}}",
        )
    if options.site is not None:
        imported.add("sites", options.site)
        for values in catalogue.services.values():
            count = values.pop("replicas", None)
            values |= {"sites": [options.site]} if count is None else {"replicas": {options.site: count}}
    catalogue.add_to(imported, problems)
    imported.examples = service_examples(imported)
    return imported


def _meaning(name: str) -> str | None:
    plain = bare(name)
    return next((meaning for meaning, names in _NAMES.items() if plain in names), None)


def _understand(name: str) -> tuple[str | None, str | None]:
    """Meaning of a column, and the unit in its name."""
    meaning = _meaning(name)
    if meaning is not None:
        return meaning, None
    rest, word = without_unit(name)
    meaning = _meaning(rest)
    if meaning in ("rto", "rpo"):
        unit = time_unit(word)
    elif meaning == "cpu":
        unit = "cores" if bare(word) in NAMES["cpu"] else None
    else:
        unit = unit_named(word) if meaning == "memory" else None
    return (meaning, unit) if unit is not None else (None, None)


def _with_unit(cell: str, unit: str | None) -> str:
    """A cell with the unit of its column, unless it states one itself."""
    return f"{cell} {unit}" if unit is not None and _BARE.fullmatch(cell) else cell


def _table(source: Path, problems: Problems) -> Iterator[tuple[Facts, Place]]:
    text = read_table(source, source, _BYTES_MAX, problems)
    table = None if text is None else read_cells(text, source.name, problems, all_rows=True)
    if table is None:
        return
    columns: dict[str, int] = {}
    units: dict[str, str] = {}
    for position, name in enumerate(table.header.cells):
        meaning, unit = _understand(name)
        if meaning is None or meaning in columns:
            problems.add(
                "import-ignored",
                f"the column {shown(name)} is unknown to evac",
                table.header.place(position, table.delimiter),
                f"rename it if it is one of: {', '.join(_NAMES)}",
            )
        else:
            columns[meaning] = position
            units |= {meaning: unit} if unit is not None else {}
    if "name" not in columns:
        hint = f"name the column one of: {', '.join(_NAMES['name'][:4])}"
        problems.add("import-column-missing", "no column contains service names", table.header.place(), hint)
        return
    for row in table.rows:
        facts: Facts = {}
        for meaning, position in columns.items():
            cell = row.cells[position]
            if cell.lower() not in _EMPTY:
                place = row.place(position, table.delimiter)
                parts = _PARTED.split(cell) if meaning == "needs" else [_with_unit(cell, units.get(meaning))]
                facts[meaning] = [(part, place) for part in parts if part]
        yield facts, row.place()


def _values(source: Path, problems: Problems) -> Iterator[tuple[Facts, Place]]:
    tree: Node | None = read_values(source, problems)
    is_wrapped = any(bare(name) in _WRAPPERS for name, _, _ in entries(tree))
    for name, key, value in entries(tree):
        is_ours = value.kind == MAP or (name == _EDITORS and is_wrapped)
        if name.lower() in _OTHERS and not is_ours:
            what, hint = _OTHERS[name.lower()]
            words = f"{source.name} is {what}, not a catalogue of services"
            problems.add("import-shape", words, key.place, hint)
            return
    for _ in range(2):
        wrapped = {bare(name): value for name, _, value in entries(tree)}
        tree = next((wrapped[name] for name in _WRAPPERS if name in wrapped), tree)
    strange: dict[str, Place] = {}
    for name, key, node in entries(tree):
        if node.kind == MAP:
            facts = _facts(node, strange)
            facts.setdefault("name", [(name, key.place)])
            yield facts, key.place
        elif not node.is_unknown:
            message = f"{shown(name)} is skipped: its facts are not a mapping"
            problems.add("import-skipped", message, node.place, "use a value like {tier: 1, needs: [orders]}")
        else:
            yield {"name": [(name, key.place)]}, key.place
    for node in tree.items if tree is not None and tree.kind == LIST else ():
        yield _facts(node, strange), node.place
    for name, place in list(strange.items())[:_STRANGE_MOST]:
        hint = f"rename it if it is one of: {', '.join(_NAMES)}"
        problems.add("import-ignored", f"the key {shown(name)} is unknown to evac", place, hint)


def _facts(node: Node, strange: dict[str, Place]) -> Facts:
    """What an entry states. strange: keys that evac does not know are added, each at its first place."""
    found: Facts = {}
    for name, key, value in entries(node):
        meaning = _meaning(name)
        if meaning is None or meaning in found:
            strange.setdefault(name, key.place)
            continue
        if value.kind == LIST or (meaning == "needs" and value.kind == MAP):
            items = value.items or [key for _, key, _ in entries(value)]
            texts = [(_name_in(item), item.place) for item in items]
            found[meaning] = [(text, place) for text, place in texts if text]
        elif value.kind == SCALAR and not value.is_unknown and value.text.lower() not in _EMPTY:
            parts = _PARTED.split(value.text) if meaning == "needs" else [value.text]
            found[meaning] = [(part, value.place) for part in parts if part]
    return found


def _name_in(item: Node) -> str:
    """The name in an item of a list of needs: the item, or the value of a known key."""
    if item.kind == SCALAR:
        return "" if item.is_unknown else item.text
    for key in ("name", "service", "store", "id"):
        for name, _, value in entries(item):
            if name == key and value.kind == SCALAR:
                return f"store:{value.text}" if key == "store" else value.text
    return ""


def _add(
    facts: Facts,
    place: Place,
    catalogue: Catalogue,
    problems: Problems,
    refused: Refused,
    *,
    in_table: bool,
) -> None:
    name, name_place = next(iter(facts.get("name", ())), ("", place))
    if not name:
        problems.add("import-skipped", "an entry without a name is skipped", place, "name it")
        return
    name = "-".join(name.split())
    kind = next(iter(facts.get("type", ())), ("", place))[0]
    engine = engine_of_image(kind.lower())
    is_store = engine is not None or kind.lower() in _STORE_WORDS
    values = catalogue.take("stores" if is_store else "services", name, name_place, problems)
    if values is None:
        return
    if engine is not None:
        values["engine"] = engine
    for key, texts in facts.items():
        if key in ("name", "type", "needs") or (is_store and key != "rpo") or not texts:
            continue
        fill_in(values, key, *texts[0], problems, refused, in_table=in_table)
    for text, where in facts.get("needs", ()):
        kind, colon, needed = text.partition(":")
        is_said = bool(colon) and kind in ("store", "service")
        need = Need(needed, where, kind) if is_said else Need(text, where)
        catalogue.needs.setdefault(name, []).append(need)
