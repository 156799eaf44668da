"""Merges the sections of all documents into the tuples of an Estate; the overlay comes last, and its facts
win.

Owns what top-level keys mean and how files combine; entries are read by `reading`. An overlay is merged as
trees of nodes: every node keeps its own place, so a problem in a merged entry is reported in the file that
holds it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import field
from datetime import date
from types import MappingProxyType
from typing import Any, Final

from evac import __version__
from evac.estate.format.document import LIST, MAP, SCALAR, Node
from evac.estate.format.kinds import ID, ID_MAX, Field
from evac.estate.format.problems import Problems, shown
from evac.estate.format.reading import BAD, FactBook, Reader, _Bad
from evac.estate.format.spec import FACT, FORMAT_VERSION, HEAD, SECTIONS, TOOLS, TOP_KEYS, Section
from evac.model.diagnostic import OVERLAY
from evac.model.records import dataclass

OVERLAY_FILES: Final = (OVERLAY, "overlay.yml")

_SINGLE: Final = frozenset(field.key for field in HEAD)
_IDS: Final = frozenset(section.key for section in SECTIONS if section.style == "ids")
_BY_ENTRY: Final = _IDS | {"tools", "facts"}
_WHOLE: Final = frozenset(section.key for section in SECTIONS if section.style == "mapping")

_STANDS_BY_ITSELF: Final[Mapping[str, frozenset[str]]] = {
    "services": frozenset({"replicas", "sites", "external"}),
    "stores": frozenset({"members"}),
    "pools": frozenset({"site"}),
}
"""A new entry needs one of these keys to mean anything; without them its id is probably a typo."""

_FEW: Final = frozenset({"sites", "classes", "halls", "feeds"})
"""Sections with few, carefully chosen ids: near misses are worth a warning."""


def merge_overlay(documents: list[Node], problems: Problems) -> list[Node]:
    """The documents with every overlay merged into them; unchanged where there is none.

    A mapping is merged key by key, `needs`, `members` and `backups` entry by entry, anything else
    is replaced. A need that the overlay states again is hard unless the overlay says otherwise. An entry
    only the overlay has is kept, with a warning where it looks like a slip.
    """
    others = [document for document in documents if document.file not in OVERLAY_FILES]
    overlays = [document for document in documents if document.file in OVERLAY_FILES]
    if not others or any(document.kind != MAP for document in documents):
        return documents
    for overlay in overlays:
        known = {key: _ids_of(others, key) for key in _IDS}
        others, rest = _merge_one(others, overlay)
        _report_strays(rest, known, problems)
        others = [*others, rest]
    return others


def _merge_one(others: list[Node], overlay: Node) -> tuple[list[Node], Node]:
    """The other documents merged with the overlay's entries that they share, and the rest of the overlay."""
    merged = [_with_fields(document, dict(document.fields)) for document in others]
    rest = dict(overlay.fields)
    for key, (_, node) in overlay.fields.items():
        if key in _SINGLE:
            for document in merged:
                document.fields.pop(key, None)
        elif key in _BY_ENTRY and node.kind == MAP:
            left = _merge_entries(merged, key, node)
            rest[key] = (overlay.fields[key][0], left)
        elif key in _WHOLE and _merge_whole(merged, key, node):
            del rest[key]
    return merged, _with_fields(overlay, rest)


def _merge_entries(documents: list[Node], section: str, overlay: Node) -> Node:
    """Merge each entry into the document that has it; return the entries that none has."""
    left = dict(overlay.fields)
    for document in documents:
        pair = document.fields.get(section)
        if pair is None or pair[1].kind != MAP:
            continue
        shared = [name for name in overlay.fields if name in pair[1].fields]
        if not shared:
            continue
        fields = dict(pair[1].fields)
        for name in shared:
            key, base = fields[name]
            over = overlay.fields[name][1]
            fields[name] = (key, base if over.is_unknown and section in _IDS else _merged(base, over))
            left.pop(name, None)
        document.fields[section] = (pair[0], _with_fields(pair[1], fields))
    return _with_fields(overlay, left)


def _merge_whole(documents: list[Node], section: str, overlay: Node) -> bool:
    for document in documents:
        pair = document.fields.get(section)
        if pair is not None and pair[1].kind == MAP and overlay.kind == MAP:
            document.fields[section] = (pair[0], _merged(pair[1], overlay))
            return True
    return False


def _merged(base: Node, over: Node) -> Node:
    """`over` wins. A value with its provenance is one fact, so it is replaced as a whole."""
    if base.kind != MAP or over.kind != MAP or "value" in over.fields:
        return over
    fields = dict(base.fields)
    for key, (key_node, value) in over.fields.items():
        known = base.fields.get(key)
        if known is None:
            fields[key] = (key_node, value)
        else:
            fields[key] = (key_node, _merged_field(key, known[1], value))
    return _with_fields(base, fields)


def _merged_field(key: str, base: Node, over: Node) -> Node:
    name_of = _ITEM_NAMES.get(key)
    if name_of is None or base.kind != LIST or over.kind != LIST:
        return _merged(base, over)
    rows = {name_of(item): item for item in base.items}
    for item in over.items:
        name = name_of(item)
        known = rows.get(name)
        if known is not None and key == "needs" and known.kind == MAP and "hard" not in item.fields:
            # A need is hard unless it says otherwise, so one that the overlay states again is hard.
            known = _with_fields(known, {k: pair for k, pair in known.fields.items() if k != "hard"})
        rows[name] = item if known is None else _merged(known, item)
    node = Node(LIST, over.file, over.line, over.column)
    node.items = list(rows.values())
    node.size = 1 + sum(item.size for item in node.items)
    return node


def _name_of_need(item: Node) -> tuple[str, str]:
    for kind in ("service", "store"):
        if item.kind == MAP and kind in item.fields:
            return kind, item.fields[kind][1].text
    if item.kind == MAP and "any_of" in item.fields:
        return "any_of", " ".join(one.text for one in item.fields["any_of"][1].items)
    return ("service", item.text) if item.kind == SCALAR else ("", f"{item.file}:{item.line}:{item.column}")


def _name_of_copy(item: Node) -> tuple[str, str]:
    if item.kind == MAP and "at" in item.fields:
        return "at", item.fields["at"][1].text
    return "", f"{item.file}:{item.line}:{item.column}"


_ITEM_NAMES: Final[Mapping[str, Callable[[Node], tuple[str, str]]]] = {
    "needs": _name_of_need,
    "members": _name_of_copy,
    "backups": _name_of_copy,
}
"""Lists whose items have names, so that one item can be changed without the others."""


def _with_fields(node: Node, fields: dict[str, tuple[Node, Node]]) -> Node:
    made = Node(MAP, node.file, node.line, node.column)
    made.fields = fields
    made.size = node.size
    return made


def _ids_of(documents: list[Node], section: str) -> dict[str, None]:
    found: dict[str, None] = {}
    for document in documents:
        pair = document.fields.get(section)
        if pair is not None and pair[1].kind == MAP:
            found |= dict.fromkeys(pair[1].fields)
    return found


def _report_strays(rest: Node, known: dict[str, dict[str, None]], problems: Problems) -> None:
    for section, (_, node) in rest.fields.items():
        if section not in _IDS or node.kind != MAP or not known[section]:
            continue
        for name, (key, entry) in node.fields.items():
            needed = _STANDS_BY_ITSELF.get(section, frozenset())
            alone = bool(needed & entry.fields.keys())
            if alone or (not needed and section not in _FEW):
                continue
            hint = problems.suggest(name, known[section])
            if needed or hint:
                message = f"only the overlay describes {shown(name)} in {section}"
                hint = hint or f"remove it, or add {' or '.join(sorted(needed))}"
                problems.add("overlay-only", message, key.place, hint, "warning")


@dataclass(slots=True)
class Assembly:
    """What the documents say: arguments of Estate, and the node of every entry by its path."""

    values: dict[str, Any] = field(default_factory=dict)
    entries: dict[str, Node] = field(default_factory=dict)
    as_of: date | None = None


_DAY: Final = next(f for f in HEAD if f.key == "as_of")


def day_of(documents: list[Node], given: date | None, problems: Problems) -> date | None:
    """The day that facts are judged by: the given one, else the one stated in a file."""
    if given is not None:
        return given
    reader = Reader(Problems(), FactBook(None, Problems()))
    for document in documents:
        pair = document.fields.get("as_of")
        if pair is not None:
            value = reader.value(_DAY, pair[1], "as_of")
            return value if isinstance(value, date) else None
    return None


def assemble(documents: list[Node], reader: Reader, as_of: date | None) -> Assembly:
    """Every section of every document. Problems go to the reader's."""
    assembly = Assembly(as_of=as_of)
    top = _merge(documents, reader.problems)
    _check_version(top, documents, reader.problems)
    stated = _facts(top.get("facts", []), reader)
    _head(top, reader, assembly)
    for section in SECTIONS:
        nodes = top.get(section.key, [])
        _SECTION_READERS[section.style](section, nodes, reader, assembly)
    assembly.values["tools"] = _tools(top.get("tools", []), reader)
    reader.facts.check_paths(reader.places, stated)
    return assembly


def _merge(documents: list[Node], problems: Problems) -> dict[str, list[Node]]:
    """Top-level key -> its value in each document that has it."""
    top: dict[str, list[Node]] = {}
    for document in documents:
        if document.kind != MAP:
            problems.add(
                "wrong-type",
                "an estate file must be a mapping of sections",
                document.place,
                f"keys: {', '.join(TOP_KEYS)}",
            )
            continue
        for key, (key_node, node) in document.fields.items():
            if key not in TOP_KEYS:
                hint = problems.suggest(key, TOP_KEYS) or f"keys: {', '.join(TOP_KEYS)}"
                if key in ("schema_version", "version"):
                    hint = f"the version of the format is stated as evac: {FORMAT_VERSION}"
                problems.add("key-unknown", f"unknown key {shown(key)}", key_node.place, hint)
            elif not (node.kind == SCALAR and node.is_unknown):
                top.setdefault(key, []).append(node)
    return top


def _check_version(top: dict[str, list[Node]], documents: list[Node], problems: Problems) -> None:
    if documents and "evac" not in top:
        problems.add(
            "version-missing",
            "no file states the format version",
            documents[0].place,
            f"add evac: {FORMAT_VERSION}",
        )
    for node in top.get("evac", []):
        if node.text not in {str(version) for version in range(1, FORMAT_VERSION + 1)}:
            message = f"version {shown(node.text)} of the format is unknown"
            hint = f"this program reads versions 1 to {FORMAT_VERSION}"
            if node.text.isascii() and node.text.isdigit() and int(node.text[:9]) > FORMAT_VERSION:
                message = f"version {node.text[:9]} of the format is newer than this program"
                hint = f"update evac: {__version__} reads versions 1 to {FORMAT_VERSION}"
            problems.add("version-unknown", message, node.place, hint)


def _facts(nodes: list[Node], reader: Reader) -> set[str]:
    stated = set()
    for node in nodes:
        if node.kind != MAP:
            reader.problems.add(
                "wrong-type",
                "facts must be a mapping of paths",
                node.place,
                "services/pay/rto: {source: ...}",
            )
            continue
        for path, (key, value) in node.fields.items():
            arguments = reader.arguments(FACT, value, f"facts/{path}")
            if not isinstance(arguments, _Bad):
                stated.add(path)
                reader.facts.record(path, arguments, key.place)
    return stated


def _head(top: dict[str, list[Node]], reader: Reader, assembly: Assembly) -> None:
    for spec in HEAD:
        nodes = top.get(spec.key, [])
        _only_once(spec.key, nodes, reader.problems)
        if not nodes:
            assembly.values[spec.attr] = spec.default
            continue
        value = reader.value(spec, nodes[0], spec.key)
        assembly.values[spec.attr] = spec.default if value is BAD or value is None else value
    assembly.values["as_of"] = assembly.as_of
    weights = assembly.values["tier_weights"]
    if not weights and top.get("tier_weights"):
        reader.problems.add("out-of-range", "at least one weight is required", top["tier_weights"][0].place)


def _only_once(key: str, nodes: list[Node], problems: Problems) -> None:
    for node in nodes[1:]:
        problems.add(
            "key-twice",
            f"{key} is stated in two files, first at {nodes[0].place}",
            node.place,
            "keep one of the two",
        )


def _ids(section: Section, nodes: list[Node], reader: Reader, assembly: Assembly) -> None:
    found: dict[str, Any] = {}
    for node in nodes:
        if node.kind != MAP:
            reader.problems.add(
                "wrong-type", f"{section.key} must be a mapping of IDs", node.place, "write ID: {...}"
            )
            continue
        for name, (key, value) in node.fields.items():
            path = f"{section.key}/{name}"
            first = assembly.entries.get(path)
            if first is not None:
                message = f"{shown(name)} is described twice in {section.key}, first at {first.place}"
                reader.problems.add("id-twice", message, key.place, "rename one, or merge the two")
                continue
            assembly.entries[path] = key
            made = _entry(section, name, key, value, path, reader)
            if made is not BAD:
                found[name] = made
    assembly.values[section.attr] = tuple(found[name] for name in sorted(found))


def _entry(section: Section, name: str, key: Node, value: Node, path: str, reader: Reader) -> Any:
    reader.places[path] = (key.file, key.line, key.column)
    if len(name) > ID_MAX or not ID.fullmatch(name):
        hint = (
            "IDs start with a letter or digit and contain letters, digits and . _ "
            "- : @, with / between path parts"
        )
        reader.problems.add("id-invalid", f"{shown(name)} is not a valid ID", key.place, hint)
        return BAD
    if section.path_id and "/" not in name:
        message = f"{shown(name)} has no site"
        reader.problems.add("domain-path-invalid", message, key.place, f"write SITE/{name}")
        return BAD
    gone = reader.facts.any_expired and reader.facts.is_expired(path)
    arguments = reader.arguments(section.record, value, path, gone)
    return BAD if isinstance(arguments, _Bad) else section.make(id=name, **arguments)


def _list(section: Section, nodes: list[Node], reader: Reader, assembly: Assembly) -> None:
    """Entries sorted by value, so that the order of files and lines does not matter."""
    items: list[Node] = []
    for node in nodes:
        if node.kind == LIST:
            items += node.items
        else:
            reader.problems.add(
                "wrong-type", f"{section.key} must be a list", node.place, "begin each entry with - "
            )
    made: list[Any] = []
    for item in sorted(items, key=_order_of):
        path = f"{section.key}/{len(made)}"
        value = _link_or_other(section, item, reader, path)
        if value is not BAD:
            made.append(value)
            assembly.entries[path] = item
            reader.places[path] = (item.file, item.line, item.column)
    assembly.values[section.attr] = tuple(made)


def _order_of(item: Node) -> tuple[str, ...]:
    """Sort key of a list item: the ends of a link; domain, day and kind of a rehearsal."""
    if "ends" in item.fields:
        return tuple(sorted(end.text for end in item.fields["ends"][1].items))
    defaults = {"kind": "live"}
    keys = ("domain", "done", "kind", "estate_digest")
    return tuple(item.fields[key][1].text if key in item.fields else defaults.get(key, "") for key in keys)


def _link_or_other(section: Section, item: Node, reader: Reader, path: str) -> Any:
    if section.key == "links" and item.kind == MAP and "ends" in item.fields:
        ends = item.fields["ends"][1]
        if ends.kind == LIST and (len(ends.items) != 2 or len({end.text for end in ends.items}) != 2):
            reader.problems.add(
                "same-ends",
                "a link must have two different ends",
                ends.place,
                "write ends: [SITE, OTHER-SITE]",
            )
            return BAD
    arguments = reader.arguments(section.record, item, path)
    if isinstance(arguments, _Bad) or len(arguments.get("ends", (1, 2))) != 2:
        return BAD
    return section.make(**arguments)


def _mapping(section: Section, nodes: list[Node], reader: Reader, assembly: Assembly) -> None:
    _only_once(section.key, nodes, reader.problems)
    arguments = reader.arguments(section.record, nodes[0], section.key) if nodes else {}
    if nodes:
        reader.places[section.key] = (nodes[0].file, nodes[0].line, nodes[0].column)
    assembly.values[section.attr] = section.make(**({} if isinstance(arguments, _Bad) else arguments))


def _tools(nodes: list[Node], reader: Reader) -> Mapping[str, tuple[str | tuple[str, ...], ...]]:
    found: dict[str, tuple[str | tuple[str, ...], ...]] = {}
    for node in nodes:
        value = reader.value(Field("tools", "tools", TOOLS, ""), node, "tools")
        for role, services in (value if isinstance(value, dict) else {}).items():
            if role in found:
                reader.problems.add(
                    "key-twice", f"the tool {role} is stated in two files", node.place, "keep one of the two"
                )
            else:
                found[role] = services
    return MappingProxyType(dict(sorted(found.items())))


_SECTION_READERS: Final = {"ids": _ids, "list": _list, "mapping": _mapping}
