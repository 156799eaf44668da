"""Kubernetes objects one by one, out of YAML and JSON of any size, each with its place.

YAML is split at its document marks, and a List at its items, before parsing: a broken object then affects
only itself, and irrelevant kinds are never parsed, however deep they are. JSON is read item by item.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any, Final, TextIO

from evac.estate.format.document import LIST, MAP, NODES_MAX, SCALAR, Node, read_documents
from evac.estate.format.problems import Problems, shown
from evac.estate.importers.json_stream import NESTED_MAX, JsonStream, TooDeep, tree_of
from evac.estate.importers.source_files import at, word
from evac.model.diagnostic import Diagnostic, Place

SCALAR_MAX: Final = 2**20
"""Longest text in a manifest: the size limit of a ConfigMap."""

NO_NAMESPACE: Final = "default"

DUMP_AGAIN: Final = "dump it again, and check that the disk had space: kubectl get ... -o json > FILE"

_MARK: Final = re.compile(r"^---(?=[ \t\r\n]|\Z)", re.MULTILINE)
_KIND: Final = re.compile(r"^kind:[ \t]*[\"']?([A-Za-z]\w*)[\"']?[ \t]*(?:#.*)?\r?$", re.MULTILINE)
_ITEM_KIND: Final = re.compile(r"^  kind:[ \t]*[\"']?([A-Za-z]\w*)[\"']?[ \t]*(?:#.*)?\r?$", re.MULTILINE)
_ITEMS: Final = re.compile(r"^items:[ \t]*\r?\n(?=- )", re.MULTILINE)
_ITEM: Final = re.compile(r"^- ", re.MULTILINE)
_AFTER_ITEMS: Final = re.compile(r"^(?![ \t#-]|\r?$)", re.MULTILINE)
_ANCHOR: Final = re.compile(r"[:-] +&\w")
_NOTHING: Final = re.compile(r"(?:[ \t]*(?:[#%].*|\.\.\.[ \t]*)?(?:\r?\n|\Z))*")


class Object:
    """One object. `node` and `raw` are the same values: a tree that knows its places, and plain data. `name`:
    empty if it has none.
    """

    __slots__ = ("_node", "_raw", "group", "kind", "name", "namespace", "place")

    def __init__(
        self, head: tuple[str, str, str, str], place: Place, node: Node | None = None, raw: Any = None
    ) -> None:
        self.group, self.kind, self.namespace, self.name = head
        self.place = place
        self._node = node
        self._raw = raw

    @property
    def node(self) -> Node:
        if self._node is None:
            self._node = tree_of(self._raw, self.place)
        return self._node

    @property
    def raw(self) -> Any:
        if self._raw is None and self._node is not None:
            self._raw = plain_of(self._node)
        return self._raw

    @property
    def key(self) -> tuple[str, str, str]:
        return self.kind, self.namespace, self.name


def plain_of(node: Node) -> Any:
    """A tree as plain data; single values stay text."""
    if node.kind == MAP:
        return {key: plain_of(value) for key, (_, value) in node.fields.items()}
    if node.kind == LIST:
        return [plain_of(item) for item in node.items]
    return None if node.is_unknown else node.text


def inside(raw: Any, *keys: str) -> Any:
    """The value under the keys of plain data; None if one is missing."""
    for key in keys:
        raw = raw.get(key) if isinstance(raw, dict) else None
    return raw


def text_in(raw: Any, *keys: str) -> str:
    """The text under the keys of plain data; empty if there is none."""
    found = inside(raw, *keys)
    return str(found) if isinstance(found, str | int | float) else ""


class Skipped:
    """Unusable objects. They are warnings, or errors if nothing else in the source is usable."""

    def __init__(self) -> None:
        self._found: list[tuple[str, Diagnostic]] = []
        self.may_be_pods = False
        """Whether a pod may be among them: then what runs on the nodes is not known."""

    def take(self, what: str, scratch: Problems, kind: str) -> None:
        """Records an object as skipped, with its first problem, an error if there is one. kind: empty if not
        known.
        """
        found = sorted(scratch.all(), key=lambda one: one.severity != "error")
        first = next(iter(found), None)
        if first is not None:
            self._found.append((what, first))
            self.may_be_pods = self.may_be_pods or kind in ("", "Pod") or kind.endswith("List")

    def report(self, problems: Problems, *, as_errors: bool) -> None:
        for what, one in self._found:
            if as_errors:
                problems.add(one.code, one.message, one.place, one.hint, "error")
            else:
                hint = one.hint or "fix it, or describe its contents in the overlay"
                problems.add("import-skipped", f"{what} is skipped: {one.message}", one.place, hint)


def yaml_objects(
    text: str, file: str, used: Callable[[str], bool], skipped: Skipped, problems: Problems
) -> Iterator[Object]:
    """The objects of a YAML stream. For unused kinds, only kind and place."""
    weight = 0
    for chunk, first_line, kind, kind_at in _documents(text, file, problems):
        if kind and not used(kind) and not kind.endswith("List"):
            line = first_line + chunk.count("\n", 0, kind_at)
            yield Object(("", kind, NO_NAMESPACE, ""), Place(file, line, 1))
            continue
        scratch = Problems()
        roots = read_documents(
            chunk, file, scratch, SCALAR_MAX, first_line=first_line, core_tags=True, last_wins=True
        )
        for one in scratch.all():
            if one.severity == "warning":
                problems.add(one.code, one.message, one.place, one.hint, one.severity)
        if scratch.has_errors:
            if "{{" in chunk:
                scratch = _is_template(chunk, file, first_line)
            skipped.take(f"one object of kind {kind}" if kind else "one document", scratch, kind)
            roots = None
        weight += sum(root.size for root in roots or ())
        if weight > NODES_MAX:
            problems.add(
                "too-many-values",
                f"more than {NODES_MAX:,} values, aliases expanded",
                Place(file, first_line, 1),
                "save the dump as JSON, which is read at any size: kubectl get ... -o json",
            )
            return
        for root in roots or ():
            yield from _of_document(root)


RENDER_FIRST: Final = "render it first, for example with: helm template RELEASE CHART > rendered.yaml"


def _is_template(chunk: str, file: str, first_line: int) -> Problems:
    found = Problems()
    found.add(
        "import-shape",
        f"{file} is a template, not a manifest",
        Place(file, first_line + chunk.count("\n", 0, chunk.index("{{")), 1),
        RENDER_FIRST,
    )
    return found


def _documents(text: str, file: str, problems: Problems) -> Iterator[tuple[str, int, str, int]]:
    """(text, first line, kind, its place) of every document, and of every item of a List as kubectl writes
    it. The kind is empty if only a parser can find it.
    """
    marks = list(_MARK.finditer(text))
    starts = [0, *(mark.end() for mark in marks)]
    ends = [*(mark.start() for mark in marks), len(text)]
    line, counted = 1, 0
    for start, end in zip(starts, ends, strict=True):
        line += text.count("\n", counted, start)
        counted = start
        chunk = text[start:end]
        if _NOTHING.fullmatch(chunk):
            continue
        items = _ITEMS.search(chunk)
        if items is not None and _ANCHOR.search(chunk) is None:
            if _KIND.search(chunk) is None:
                # kubectl writes the kind of a List after its items.
                last = line + chunk.rstrip().count("\n")
                problems.add(
                    "import-truncated", f"{file} ends inside a List", Place(file, last, 1), DUMP_AGAIN
                )
                return
            yield from _list_items(chunk, items.end(), line)
        else:
            kind = _KIND.search(chunk)
            yield (chunk, line, "", 0) if kind is None else (chunk, line, kind[1], kind.start())


def _list_items(chunk: str, start: int, line: int) -> Iterator[tuple[str, int, str, int]]:
    after = _AFTER_ITEMS.search(chunk, start)
    end = len(chunk) if after is None else after.start()
    starts = [match.start() for match in _ITEM.finditer(chunk, start, end)]
    line += chunk.count("\n", 0, start)
    for here, there in zip(starts, [*starts[1:], end], strict=True):
        item = f"  {chunk[here + 2 : there]}"
        kind = _ITEM_KIND.search(item)
        yield (item, line, "", 0) if kind is None else (item, line, kind[1], kind.start())
        line += item.count("\n")


def _of_document(document: Node) -> Iterator[Object]:
    """The objects of a document; a List holds several."""
    if document.kind != MAP:
        return
    kind, name = word(document, "kind"), at(document, "metadata", "name")
    items = at(document, "items")
    if kind is not None and kind.endswith("List") and items is not None and items.kind == LIST:
        for item in items.items:
            yield from _of_document(item)
    elif kind is not None:
        group = (word(document, "apiVersion") or "").rpartition("/")[0]
        namespace = word(document, "metadata", "namespace") or NO_NAMESPACE
        is_named = name is not None and name.kind == SCALAR and not name.is_unknown
        named, place = (name.text, name.place) if name is not None and is_named else ("", document.place)
        yield Object((group, kind, namespace, named), place, node=document)


class JsonObjects:
    """The objects of a JSON text: one object, a List, or several of them one after the other. An object that
    is nested too deeply is skipped; of one of an unused kind, only kind and place are of use.
    """

    def __init__(self, handle: TextIO, file: str, used: Callable[[str], bool], skipped: Skipped) -> None:
        self._stream = JsonStream(handle, file)
        self._used, self._skipped = used, skipped

    def __iter__(self) -> Iterator[Object]:
        while self._stream.next_sign():
            yield from self._root()

    def _root(self) -> Iterator[Object]:
        place = self._stream.place
        root: dict[str, Any] = {}
        had_items = is_deep = False
        for key in self._stream.members():
            if key == "items" and self._stream.next_sign() == "[":
                had_items = True
                kind, version = text_in(root, "kind").removesuffix("List"), text_in(root, "apiVersion")
                for at_item in self._stream.elements():
                    try:
                        yield from _of_plain(self._stream.value(), at_item, kind, version)
                    except TooDeep as error:
                        yield from self._deep(error.value, at_item, kind)
                        self._stream.pass_over()
            else:
                try:
                    root[key] = self._stream.value()
                except TooDeep:
                    self._stream.pass_over()
                    is_deep = True
        if not had_items:
            yield from self._deep(root, place, "") if is_deep else _of_plain(root, place, "", "")

    def _deep(self, value: Any, place: Place, kind: str) -> Iterator[Object]:
        """What is left of an object that is nested too deeply. value: None if it is not known."""
        kind, name = text_in(value, "kind") or kind, text_in(value, "metadata", "name")
        if kind and not self._used(kind) and not kind.endswith("List"):
            yield Object(("", kind, NO_NAMESPACE, ""), place)
            return
        scratch = Problems()
        message = f"nested more than {NESTED_MAX} levels deep"
        scratch.add("too-deep", message, place, "export the dump again without this object")
        what = f"{kind} {shown(name)}" if kind and name else f"one object of kind {kind}" if kind else ""
        self._skipped.take(what or "one object", scratch, kind)


def _of_plain(value: Any, place: Place, kind: str, version: str) -> Iterator[Object]:
    """The objects in plain data. Items of a list of one kind, as the API server gives them, name no kind."""
    if not isinstance(value, dict):
        return
    kind, name = text_in(value, "kind") or kind, text_in(value, "metadata", "name")
    items = value.get("items")
    if kind.endswith("List") and isinstance(items, list):
        for item in items:
            yield from _of_plain(item, place, kind.removesuffix("List"), text_in(value, "apiVersion"))
    elif kind:
        group = (text_in(value, "apiVersion") or version).rpartition("/")[0]
        namespace = text_in(value, "metadata", "namespace") or NO_NAMESPACE
        yield Object((group, kind, namespace, name), place, raw=value)
