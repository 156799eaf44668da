"""The overlay: a file of facts that people keep, merged last over all others, its facts winning.

Owns the merge of trees of nodes, before anybody reads values from them. Every node keeps its own
place, so a problem in a merged entry is reported in the file where it stands.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from evac.estate.format.document import LIST, MAP, SCALAR, Node
from evac.estate.format.problems import Problems, shown
from evac.estate.format.spec import HEAD, SECTIONS

OVERLAY_FILES: Final = ("overlay.yaml", "overlay.yml")

_SINGLE: Final = frozenset(field.key for field in HEAD)
_IDS: Final = frozenset(section.key for section in SECTIONS if section.style == "ids")
_BY_ENTRY: Final = _IDS | {"tools", "facts"}
_WHOLE: Final = frozenset(section.key for section in SECTIONS if section.style == "mapping")

_STANDS_BY_ITSELF: Final[Mapping[str, frozenset[str]]] = {
    "services": frozenset({"replicas", "sites"}),
    "stores": frozenset({"members"}),
    "pools": frozenset({"site"}),
}
"""Keys one of which a new entry needs to mean anything; without them its id is probably a slip."""

_FEW: Final = frozenset({"sites", "classes", "halls", "feeds"})
"""Sections whose ids are few and chosen with care: a near miss is worth a word."""


def merge_overlay(documents: list[Node], problems: Problems) -> list[Node]:
    """The documents with every overlay merged into them; unchanged where there is none.

    A mapping is merged key by key, `needs`, `members` and `backups` entry by entry, anything else
    is replaced. An entry only the overlay has is kept, with a warning where it looks like a slip.
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
    """The other documents with what they share with the overlay, and the rest of the overlay."""
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
        rows[name] = _merged(rows[name], item) if name in rows else item
    node = Node(LIST, over.file, over.line, over.column)
    node.items = list(rows.values())
    node.size = 1 + sum(item.size for item in node.items)
    return node


def _name_of_need(item: Node) -> tuple[str, str]:
    for kind in ("service", "store"):
        if item.kind == MAP and kind in item.fields:
            return kind, item.fields[kind][1].text
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
"""Lists whose items have a name of their own, so that one item can be mended without the others."""


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
                hint = hint or f"take it out, or say {' or '.join(sorted(needed))}"
                problems.add("overlay-only", message, key.place, hint, "warning")
