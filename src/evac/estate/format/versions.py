"""Versions of the format: upgrades documents of older versions, and the text of their files.

Version 2 gives two keys names that say what they mean, and changes no value and no default. Version 1 stays
readable forever. Files of an estate may have different versions, so that a hand-written overlay stays valid
after an import rewrites its own file.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from evac.estate.format.document import (
    MAP,
    SCALAR,
    YAML_BYTES_MAX,
    Node,
    decode,
    find_files,
    read_bytes,
    read_document,
)
from evac.estate.format.problems import Problems, shown
from evac.estate.format.spec import FORMAT_VERSION, SECTIONS
from evac.model.diagnostic import Place
from evac.model.records import dataclass

_FIRST: Final = "1"
_NEWEST: Final = str(FORMAT_VERSION)
_RENAMED: Final = {
    section.key: (section.style, names)
    for section in SECTIONS
    if (names := {spec.was: spec.key for spec in section.fields if spec.was})
}
"""Section -> its style, and version 1 key -> present key."""
_LINE_END: Final = re.compile("\r\n|[\n\r\x85\u2028\u2029]")


@dataclass(frozen=True, slots=True)
class Change:
    """A replacement of one word of a file."""

    place: Place
    old: str
    new: str


@dataclass(frozen=True, slots=True)
class Upgraded:
    """A file of an estate in the newest version. changes: in the order of the file."""

    path: Path
    data: bytes
    changes: tuple[Change, ...]


def as_newest(documents: list[Node]) -> list[Node]:
    """The documents of an estate with the keys of the newest version."""
    return [_converted(document)[0] if is_old else document for document, is_old in _ages(documents)]


def upgrade(path: Path, problems: Problems) -> tuple[Upgraded, ...]:
    """The files below `path` of an older version, upgraded but not written. Comments, order and quotes stay.
    If problems are added, nothing must be written.
    """
    read: list[tuple[Path, bytes, str, Node]] = []
    for file in find_files(path, problems).documents:
        data = read_bytes(file, path, YAML_BYTES_MAX, True, problems)
        text = None if data is None else decode(data, file.name, problems)
        node = None if text is None else read_document(text, file.name, problems)
        if data is not None and text is not None and node is not None:
            read.append((file, data, text, node))
    if problems.has_errors:
        return ()
    found = []
    ages = _ages([node for *_, node in read])
    for (file, data, text, node), (_, is_old) in zip(read, ages, strict=True):
        document, changes = _converted(node)
        version = node.fields.get("evac") if node.kind == MAP else None
        if version is not None and version[1].text == _FIRST:
            changes.append(Change(version[1].place, _FIRST, _NEWEST))
            number = Node(SCALAR, node.file, 0, 0, _NEWEST, version[1].plain)
            document.fields["evac"] = (version[0], number)
        if not is_old or not changes:
            continue
        changes.sort(key=lambda one: (one.place.line, one.place.column))
        changed = _changed(text, changes, problems)
        again = None if changed is None else read_document(changed, file.name, problems)
        if changed is None or again is None:
            continue
        if not _same(document, again):
            message = f"{file.name} cannot be upgraded: an alias reuses text in several sections"
            problems.add("not-upgraded", message, changes[0].place, "write its anchors and aliases out")
            continue
        mark = codecs.BOM_UTF8 if data.startswith(codecs.BOM_UTF8) else b""
        found.append(Upgraded(file, mark + changed.encode(), tuple(changes)))
    refused = any(one.severity == "error" for one in problems.all())
    return () if refused else tuple(found)


def _ages(documents: list[Node]) -> Iterator[tuple[Node, bool]]:
    """Each document, and whether it is of version 1. One without a version has the oldest version of the
    others.
    """
    stated = [
        pair[1].text if document.kind == MAP and (pair := document.fields.get("evac")) else None
        for document in documents
    ]
    others = _FIRST if _FIRST in stated else _NEWEST
    for document, version in zip(documents, stated, strict=True):
        yield document, document.kind == MAP and (version or others) == _FIRST


def _converted(document: Node) -> tuple[Node, list[Change]]:
    """A document of version 1 with present keys, and the words (all keys) to change."""
    if document.kind != MAP:
        return document, []
    places: dict[Place, Change] = {}

    def renamed(node: Node, names: dict[str, str]) -> Node:
        if node.kind != MAP or not any(old in node.fields and names[old] not in node.fields for old in names):
            return node
        fields: dict[str, tuple[Node, Node]] = {}
        for text, (key, value) in node.fields.items():
            new = names.get(text, text)
            if new in node.fields:
                fields[text] = key, value
                continue
            places[key.place] = Change(key.place, text, new)
            fields[new] = Node(SCALAR, key.file, key.line, key.column, new, key.plain), value
        return _with_fields(node, fields)

    fields = dict(document.fields)
    for section, (style, names) in _RENAMED.items():
        pair = fields.get(section)
        if pair is None or pair[1].kind != MAP:
            continue
        node = pair[1]
        if style == "mapping":
            fields[section] = pair[0], renamed(node, names)
        else:
            entries = {name: (key, renamed(entry, names)) for name, (key, entry) in node.fields.items()}
            fields[section] = pair[0], _with_fields(node, entries)
    if "facts" in fields and fields["facts"][1].kind == MAP:
        key, facts = fields["facts"]
        paths = {path: _path_now(path) for path in facts.fields}
        fields["facts"] = key, renamed(facts, {old: new for old, new in paths.items() if old != new})
    return _with_fields(document, fields), list(places.values())


def _path_now(path: str) -> str:
    section, _, rest = path.partition("/")
    entry, parted, key = rest.rpartition("/")
    style, names = _RENAMED.get(section, ("", {}))
    if key not in names or bool(entry) == (style == "mapping"):
        return path
    return f"{section}/{entry}{parted}{names[key]}"


def _with_fields(node: Node, fields: dict[str, tuple[Node, Node]]) -> Node:
    made = Node(MAP, node.file, node.line, node.column)
    made.fields, made.size = fields, node.size
    return made


def _changed(text: str, changes: list[Change], problems: Problems) -> str | None:
    """The text with every change made; None, with a problem, if a word is not written as it is read."""
    starts = [0, *(match.end() for match in _LINE_END.finditer(text))]
    parts, done = [], 0
    for change in changes:
        at = starts[change.place.line - 1] + change.place.column - 1
        quote = text[at] if text[at] in "'\"" else ""
        if not text.startswith(f"{quote}{change.old}{quote}", at):
            message = (
                f"{shown(change.old)} cannot be changed automatically: it is not written in the usual form"
            )
            problems.add("not-upgraded", message, change.place, f"write {change.new} here yourself")
            return None
        parts += [text[done:at], quote, change.new, quote]
        done = at + len(change.old) + 2 * len(quote)
    return "".join([*parts, text[done:]])


def _same(one: Node, other: Node) -> bool:
    """Whether two trees have the same content in the same order, wherever it is written."""
    return (
        (one.kind, one.text, one.plain) == (other.kind, other.text, other.plain)
        and len(one.items) == len(other.items)
        and list(one.fields) == list(other.fields)
        and all(_same(a, b) for a, b in zip(one.items, other.items, strict=True))
        and all(_same(one.fields[key][1], other.fields[key][1]) for key in one.fields)
    )
