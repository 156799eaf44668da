"""YAML text to a tree of nodes that know their place, in one pass over bounded parser events.

Scalars stay text: YAML 1.1 would make `off` a boolean and `1:30` a number. Depth, the number of
nodes and what aliases expand to are limited while events arrive, so a bomb is refused unexploded.
"""

from __future__ import annotations

from typing import Any, Final, NoReturn

import yaml
from yaml.cyaml import CParser  # type: ignore[attr-defined]

from evac.estate.format.problems import Problems, shown
from evac.model.diagnostic import Place

DEPTH_MAX: Final = 32
NODES_MAX: Final = 1_000_000
SCALAR_MAX: Final = 4_096
ALIASES_MAX: Final = 20_000
_TOO_DEEP: Final = f"nested more than {DEPTH_MAX} levels deep"
_ENOUGH: Final = "an estate needs seven"

SCALAR: Final = 0
LIST: Final = 1
MAP: Final = 2
KIND_WORDS: Final = ("a single value", "a list", "a mapping")


_NO_ITEMS: Final[list[Node]] = []
_NO_FIELDS: Final[dict[str, tuple[Node, Node]]] = {}


class Node:
    """One value of a document. text: of a scalar; items: of a list; fields: key -> (key, value).

    `plain`: written without quotes; `size`: nodes this one stands for, aliases expanded.
    Lines and columns count from 1.
    """

    __slots__ = ("column", "fields", "file", "items", "kind", "line", "plain", "size", "text")

    def __init__(
        self, kind: int, file: str, line: int, column: int, text: str = "", plain: bool = False
    ) -> None:
        self.kind = kind
        self.file = file
        self.line = line
        self.column = column
        self.text = text
        self.plain = plain
        self.size = 1
        self.items: list[Node] = _NO_ITEMS
        self.fields: dict[str, tuple[Node, Node]] = _NO_FIELDS

    @property
    def place(self) -> Place:
        return Place(self.file, self.line, self.column)

    @property
    def is_unknown(self) -> bool:
        """Whether it says in so many words that the value is not known."""
        return (
            self.kind == SCALAR and self.plain and self.text in ("", "~", "null", "Null", "NULL", "unknown")
        )


class _Refused(Exception):
    """The document is refused as a whole; its diagnostic has been recorded."""


def read_document(text: str, file: str, problems: Problems) -> Node | None:
    """The root of the one document of a YAML text; None, with diagnostics, where it is refused."""
    roots = read_documents(text, file, problems, several=False)
    if roots is None:
        return None
    return roots[0] if roots and not roots[0].is_unknown else Node(MAP, file, 1, 1)


def read_documents(
    text: str, file: str, problems: Problems, scalar_max: int = SCALAR_MAX, several: bool = True
) -> list[Node] | None:
    """The roots of every document of a YAML stream; None, with diagnostics, where it is refused."""
    try:
        return _Composer(text, file, problems, scalar_max).compose_all(several)
    except _Refused:
        return None
    except yaml.MarkedYAMLError as error:
        _syntax_problem(error, text, file, problems)
        return None
    except yaml.YAMLError as error:
        problems.add("yaml-syntax", f"this is not YAML: {str(error).splitlines()[0][:120]}", Place(file))
        return None


def _syntax_problem(error: yaml.MarkedYAMLError, text: str, file: str, problems: Problems) -> None:
    mark = error.problem_mark or error.context_mark
    line, column = (mark.line + 1, mark.column + 1) if mark is not None else (0, 0)
    rows = text.split("\n", line)[:line]
    hint = "quote a value that holds ': ', ' #' or starts with a sign such as % or @"
    if rows and "\t" in rows[-1]:
        hint = "a tab stands here; YAML wants spaces"
    words = " ".join(part for part in (error.context, error.problem) if part)
    if "exceeded maximum nesting depth" in words:
        problems.add("too-deep", _TOO_DEEP, Place(file, line, column), _ENOUGH)
        return
    problems.add("yaml-syntax", f"this is not YAML: {words[:160]}", Place(file, line, column), hint)


class _Composer:
    """Builds the tree. The invariant: `size` of every finished node counts its aliases expanded."""

    def __init__(self, text: str, file: str, problems: Problems, scalar_max: int = SCALAR_MAX) -> None:
        self._parser = CParser(text)
        self._scalar_max = scalar_max
        self._file = file
        self._problems = problems
        self._anchors: dict[str, Node] = {}
        self._open: set[int] = set()
        self._nodes = 0
        self._aliases = 0

    def compose_all(self, several: bool) -> list[Node]:
        roots: list[Node] = []
        weight = 0
        next_event = self._parser.get_event
        next_event()
        while (event := next_event()).__class__ is not yaml.StreamEndEvent:
            if roots and not several:
                message = "a second document starts here"
                self._refuse("several-documents", message, event, "keep one document in a file")
            self._anchors.clear()
            root = self._node(next_event(), 0)
            roots.append(root)
            weight += root.size
            if weight > NODES_MAX:
                self._refuse_weight(root)
            next_event()
        return roots

    def _node(self, event: Any, depth: int) -> Node:
        kind = event.__class__
        if kind is yaml.AliasEvent:
            return self._alias(event)
        mark = event.start_mark
        self._count(event)
        node = Node(_KINDS[kind], self._file, mark.line + 1, mark.column + 1)
        if event.tag is not None:
            self._refuse(
                "yaml-tag", f"the tag {shown(event.tag)} is not used here", event, "write the plain value"
            )
        if event.anchor is not None:
            self._anchors[event.anchor] = node
        if kind is yaml.ScalarEvent:
            node.text = event.value
            node.plain = event.implicit[0]
            if len(node.text) > self._scalar_max:
                self._refuse(
                    "value-too-long",
                    f"a value of {len(node.text):,} characters",
                    event,
                    f"at most {self._scalar_max:,}",
                )
            return node
        if depth >= DEPTH_MAX:
            self._refuse("too-deep", _TOO_DEEP, event, _ENOUGH)
        if kind is yaml.MappingStartEvent:
            node.fields = {}
        else:
            node.items = []
        self._open.add(id(node))
        (self._fill_map if kind is yaml.MappingStartEvent else self._fill_list)(node, depth + 1)
        self._open.discard(id(node))
        return node

    def _fill_list(self, node: Node, depth: int) -> None:
        next_event = self._parser.get_event
        while (event := next_event()).__class__ is not yaml.SequenceEndEvent:
            item = self._node(event, depth)
            node.items.append(item)
            node.size += item.size
            self._weigh(node)

    def _fill_map(self, node: Node, depth: int) -> None:
        next_event = self._parser.get_event
        fields = node.fields
        merged: list[Node] = []
        while (event := next_event()).__class__ is not yaml.MappingEndEvent:
            key = self._node(event, depth)
            value = self._node(next_event(), depth)
            node.size += 1 + value.size
            self._weigh(node)
            if key.kind != SCALAR:
                self._refuse(
                    "key-not-text", "a key must be a single word", event, "put the braces after the colon"
                )
            if key.text == "<<" and key.plain:
                merged.append(value)
            elif key.text in fields:
                first = fields[key.text][0]
                message = f"{shown(key.text)} stands twice in one mapping, first at {first.place}"
                self._problems.add("key-twice", message, key.place, "keep one of the two")
            else:
                fields[key.text] = (key, value)
        for other in merged:
            self._merge(node, other)

    def _merge(self, node: Node, other: Node) -> None:
        """`<<: *anchor` fills in the keys that the mapping does not say itself."""
        sources = other.items if other.kind == LIST else [other]
        for source in sources:
            if source.kind != MAP:
                self._problems.add(
                    "merge-not-mapping", "only a mapping can be merged in", other.place, "write <<: *anchor"
                )
                continue
            for key, pair in source.fields.items():
                node.fields.setdefault(key, pair)

    def _alias(self, event: Any) -> Node:
        self._aliases += 1
        node = self._anchors.get(event.anchor)
        if node is None:
            self._refuse("yaml-syntax", f"no anchor &{event.anchor[:40]} before this alias", event)
        if id(node) in self._open:
            self._refuse("alias-loop", f"*{event.anchor[:40]} contains itself", event, "write the value out")
        if self._aliases > ALIASES_MAX:
            self._refuse(
                "too-many-aliases", f"more than {ALIASES_MAX:,} aliases", event, "write the values out"
            )
        return node

    def _count(self, event: Any) -> None:
        self._nodes += 1
        if self._nodes > NODES_MAX:
            self._refuse(
                "too-many-values", f"more than {NODES_MAX:,} values", event, "use a table for servers"
            )

    def _weigh(self, node: Node) -> None:
        if node.size > NODES_MAX:
            self._refuse_weight(node)

    def _refuse_weight(self, node: Node) -> NoReturn:
        message = f"aliases expand to more than {NODES_MAX:,} values"
        self._problems.add(
            "too-many-values", message, node.place, "write the values out, without nested aliases"
        )
        raise _Refused

    def _refuse(self, code: str, message: str, event: Any, hint: str = "") -> NoReturn:
        mark = event.start_mark
        self._problems.add(code, message, Place(self._file, mark.line + 1, mark.column + 1), hint)
        raise _Refused


_KINDS: Final = {yaml.ScalarEvent: SCALAR, yaml.SequenceStartEvent: LIST, yaml.MappingStartEvent: MAP}
