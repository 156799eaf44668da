"""Maps a Backstage catalogue to an estate: components become services, resources become stores or services.

The source is a catalogue file, a folder of them, or the JSON of the API (`/api/catalog/entities`). An API is
not a service: its consumers need the component that provides it. Source of the rules: the descriptor format
of Backstage (entity references, spec of each kind).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from evac.estate.format.document import LIST, MAP, SCALAR, YAML_BYTES_MAX, Node, read_documents
from evac.estate.format.problems import Problems, shown
from evac.estate.importers.containers import engine_of_image
from evac.estate.importers.imported import Imported, Options, Sign
from evac.estate.importers.services import Catalogue, Need, service_examples, tier_of
from evac.estate.importers.source_files import (
    at,
    entries,
    explain,
    files_below,
    items_in,
    read_text,
    without_pairs,
    word,
)
from evac.model.diagnostic import Place

_TEXT_MAX: Final = 2**20
SAME_EVERYWHERE: Final = frozenset({"catalog-info"})
"""Names of files that do not say what they describe; their folders do."""
_DEFAULT: Final = "default"
_STORE_TYPES: Final = frozenset(
    ("database", "db", "datastore", "bucket", "s3-bucket", "storage", "cache", "queue", "topic")
)


def looks_like(name: str, head: str) -> Sign | None:
    """What a file that begins like this contains, if it is a source of this kind."""
    return "names" if re.search(r"apiVersion[\"']?:\s*[\"']?backstage\.io/", head) else None


def read(source: Path, problems: Problems, options: Options) -> Imported:
    """The facts of a catalogue; problems are added."""
    imported = Imported()
    entities = list(_entities(source, problems))
    catalogue = Catalogue()
    providers = {
        _reference(item.text, "api", _namespace(entity)): entity
        for entity in entities
        for item in items_in(entity, "spec", "providesApis")
    }
    for entity in entities:
        kind, name = (word(entity, "kind") or "").lower(), word(entity, "metadata", "name")
        if kind == "location":
            stated = [*items_in(entity, "spec", "targets"), at(entity, "spec", "target")]
            for target in (one for one in stated if one is not None and one.kind == SCALAR):
                message = f"the location {shown(target.text)} is not followed"
                hint = "it is read if it is in the imported folder"
                problems.add("import-ignored", message, target.place, hint)
        if name is None or kind not in ("component", "resource"):
            continue
        _add(kind, _id(name, _namespace(entity)), entity, catalogue, problems)
    for entity in entities:
        if (word(entity, "kind") or "").lower() in ("component", "resource"):
            _add_needs(entity, providers, catalogue)
    if not catalogue.services and not catalogue.stores and not problems.has_errors:
        problems.add(
            "import-shape",
            f"no components in {source.name}",
            Place(source.name),
            "give catalog-info.yaml files, or the JSON of /api/catalog/entities",
        )
    if options.site is not None:
        imported.add("sites", options.site)
        for values in catalogue.services.values():
            values["sites"] = [options.site]
    catalogue.add_to(imported, problems)
    imported.examples = service_examples(imported)
    return imported


def _entities(source: Path, problems: Problems) -> Iterator[Node]:
    """Every entity; unreadable documents are skipped with a note."""
    for path, name in _files(source, problems):
        text = read_text(path, source, YAML_BYTES_MAX, problems, lines_checked=False)
        if text is None:
            continue
        scratch = Problems()
        roots = read_documents(without_pairs(text), name, scratch, _TEXT_MAX, core_tags=True, skip_deep=True)
        explained = Problems()
        explain(scratch, text, name, explained)
        for one in explained.all():
            if source.is_dir() and one.severity == "error":
                message = f"{name} is skipped: {one.message}"
                problems.add("import-skipped", message, one.place, one.hint)
            else:
                problems.add(one.code, one.message, one.place, one.hint)
        for root in roots or () if not scratch.has_errors else ():
            for entity in root.items if root.kind == LIST else items_in(root, "items") or [root]:
                if entity.kind == MAP and (word(entity, "apiVersion") or "").startswith("backstage.io/"):
                    yield entity


def _files(source: Path, problems: Problems) -> list[tuple[Path, str]]:
    if not source.is_dir():
        return [(source, source.name)]
    found = files_below(source, (".yaml", ".yml", ".json"), problems)
    return [(path, path.relative_to(source).as_posix()) for path in found]


def _namespace(entity: Node) -> str:
    return (word(entity, "metadata", "namespace") or _DEFAULT).lower()


def _id(name: str, namespace: str) -> str:
    return name if namespace == _DEFAULT else f"{namespace}.{name}"


def _reference(text: str, kind: str, namespace: str) -> tuple[str, str]:
    """Kind and id in a reference `[kind:][namespace/]name`."""
    head, colon, tail = text.partition(":")
    kind, rest = (head.lower(), tail) if colon else (kind, text)
    where, slash, name = rest.partition("/")
    return kind, _id(name, where.lower()) if slash else _id(rest, namespace)


def _add(kind: str, name: str, entity: Node, catalogue: Catalogue, problems: Problems) -> None:
    sort = (word(entity, "spec", "type") or "").lower()
    engine = engine_of_image(sort)
    is_store = kind == "resource" and (sort in _STORE_TYPES or engine is not None)
    place = entity.place
    for key, _, value in entries(entity, "metadata"):
        place = value.place if key == "name" else place
    values = catalogue.take("stores" if is_store else "services", name, place, problems)
    if values is None:
        return
    notes = [f"{sort or 'untyped'} {kind}"]
    lifecycle = word(entity, "spec", "lifecycle")
    if lifecycle is not None:
        notes.append(lifecycle)
    catalogue.comments[name] = ", ".join(notes)
    if is_store:
        values |= {"engine": engine} if engine is not None else {}
        return
    for key, found in (("owner", word(entity, "spec", "owner")), ("family", word(entity, "spec", "system"))):
        if found is not None:
            values[key] = _reference(found, "", _DEFAULT)[1][:200]
    for part in ("labels", "annotations"):
        for key, _, value in entries(entity, "metadata", part):
            tier = tier_of(value.text) if key.rpartition("/")[2].lower() in ("tier", "service-tier") else None
            if tier is not None:
                values["tier"] = tier


def _add_needs(entity: Node, providers: dict[tuple[str, str], Node], catalogue: Catalogue) -> None:
    namespace = _namespace(entity)
    name = _id(word(entity, "metadata", "name") or "", namespace)
    needs = catalogue.needs.setdefault(name, [])
    for item in items_in(entity, "spec", "dependsOn"):
        kind, target = _reference(item.text, "component", namespace)
        if kind == "api":
            provider = providers.get((kind, target))
            target = target if provider is None else _name_of(provider)
        needs.append(Need(target, item.place))
    for item in items_in(entity, "spec", "consumesApis"):
        provider = providers.get(_reference(item.text, "api", namespace))
        target = _reference(item.text, "api", namespace)[1] if provider is None else _name_of(provider)
        needs.append(Need(target, item.place))


def _name_of(entity: Node) -> str:
    return _id(word(entity, "metadata", "name") or "", _namespace(entity))
