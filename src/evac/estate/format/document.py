"""Finds, opens and reads the files of an estate within bounds, and parses their YAML into nodes that know
their place.

Refuses anything that is not a regular file, is outside the folder, is too large, has too long a line, is not
UTF-8 or contains NUL bytes. Memory use is constant until a file has passed. YAML is read in one pass over
parser events. Scalars stay text: YAML 1.1 would make `off` a boolean and `1:30` a number. Depth, the number
of nodes and what aliases expand to are limited while events arrive, so a bomb is refused before it expands.
"""

from __future__ import annotations

import codecs
import os
import re
import stat
from pathlib import Path
from typing import Any, Final, NoReturn, TextIO

import yaml
from yaml.cyaml import CParser  # type: ignore[attr-defined]

from evac.estate.format.problems import Problems, shown
from evac.model.diagnostic import Place
from evac.model.records import dataclass

YAML_BYTES_MAX: Final = 32 * 2**20
TABLE_BYTES_MAX: Final = 2 * 2**30
LINE_BYTES_MAX: Final = 2**16
ENCODING_BYTES: Final = 2**16
FILES_MAX: Final = 1_000
_LET_IN: Final = "give this user read permission; if it is a link, replace it with the file itself"
POLICY_FILE: Final = "policy.yaml"
ACCESS_FILE: Final = "access.yaml"
NOTICES_FILE: Final = "notices.yaml"
"""Files in an estate's folder that are not part of it."""

TABLES: Final = ("racks", "replicas", "servers")
_YAML_ENDINGS: Final = (".yaml", ".yml")
_TABLE_ENDINGS: Final = (".csv", ".parquet")


@dataclass(frozen=True, slots=True)
class EstateFiles:
    """What an estate consists of: `documents` sorted by name, `tables` by table name."""

    documents: tuple[Path, ...]
    tables: dict[str, Path]


def beside(estate_path: Path, name: str) -> Path | None:
    """A file of that name in an estate's folder, or next to an estate that is a single file; None only if
    nothing has that name. Broken links, folders and unreadable entries are returned, and refused when read.
    """
    found = (estate_path if estate_path.is_dir() else estate_path.parent) / name
    try:
        found.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError:
        pass
    return found


def find_files(path: Path, problems: Problems) -> EstateFiles:
    """The files of a folder, or the one file that is the estate."""
    if not os.path.lexists(path):
        problems.add(
            "estate-not-found",
            f"not found: {path.name or path}",
            Place(str(path)),
            "give a folder or a YAML file",
        )
        return EstateFiles((), {})
    if not path.is_dir():
        return EstateFiles((path,), {})
    try:
        names = sorted(entry.name for entry in path.iterdir() if not entry.name.startswith("."))
    except OSError as error:
        message = f"cannot read the folder: {error.strerror}"
        problems.add("file-unreadable", message, Place(str(path)), _LET_IN)
        return EstateFiles((), {})
    apart = (POLICY_FILE, ACCESS_FILE, NOTICES_FILE)
    documents = [path / name for name in names if name.endswith(_YAML_ENDINGS) and name not in apart]
    if not documents:
        problems.add(
            "estate-empty",
            "there are no YAML files in this folder",
            Place(str(path)),
            "create one: evac example pangyo -o DIR",
        )
    if len(documents) > FILES_MAX:
        problems.add(
            "too-many-files",
            f"{len(documents):,} YAML files; at most {FILES_MAX:,} are read",
            Place(str(path)),
        )
    return EstateFiles(tuple(documents[:FILES_MAX]), _tables(path, names, problems))


def _tables(folder: Path, names: list[str], problems: Problems) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for table in TABLES:
        files = [table + ending for ending in _TABLE_ENDINGS if table + ending in names]
        if len(files) > 1:
            problems.add(
                "table-twice",
                f"{' and '.join(files)} contain the same data",
                Place(files[0]),
                "keep one of them",
            )
        if files:
            found[table] = folder / files[0]
    return found


def read_bytes(path: Path, root: Path, limit: int, lines_checked: bool, problems: Problems) -> bytes | None:
    """The bytes of a regular file inside `root`; otherwise None, with a diagnostic."""
    handle = open_inside(path, root, problems)
    if handle is None:
        return None
    try:
        return _read_open(handle, Place(path.name or str(path)), limit, lines_checked, problems)
    except OSError as error:
        _unreadable(path, error, problems)
        return None
    finally:
        os.close(handle)


def open_inside(path: Path, root: Path, problems: Problems) -> int | None:
    """A regular file inside `root`, opened for reading; otherwise None, with a diagnostic. What was opened is
    judged, not its name: no link at any part of the path leads outside, whenever it was made.
    """
    place = Place(path.name or str(path))
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        _unreadable(path, error, problems)
        return None
    try:
        if path != root and not Path(_real(handle, path)).is_relative_to(os.path.realpath(root)):
            message = f"{path.name} is reached through a link that points outside the folder"
            problems.add("file-outside", message, place, "copy the file into the folder")
        elif not stat.S_ISREG(os.fstat(handle).st_mode):
            message = f"{place.file} is not a regular file"
            problems.add("file-special", message, place, "only regular files are read")
        else:
            return handle
    except OSError as error:
        _unreadable(path, error, problems)
    os.close(handle)
    return None


def open_text(path: Path, root: Path, problems: Problems) -> TextIO | None:
    """A regular file inside `root`, opened for reading in pieces; otherwise None, with diagnostics."""
    handle = open_inside(path, root, problems)
    return None if handle is None else os.fdopen(handle, encoding="utf-8-sig", errors="strict", newline="")


def _unreadable(path: Path, error: OSError, problems: Problems) -> None:
    hint = "check its name" if isinstance(error, FileNotFoundError) else _LET_IN
    message = f"{path.name} cannot be read: {error.strerror}"
    problems.add("file-unreadable", message, Place(path.name or str(path)), hint)


def _real(handle: int, path: Path) -> str:
    """The path of an open file without links; where the system does not tell, that of its name."""
    opened = f"/proc/self/fd/{handle}"
    return os.path.realpath(opened if os.path.lexists(opened) else path)


def _read_open(
    handle: int, place: Place, limit: int, lines_checked: bool, problems: Problems
) -> bytes | None:
    parts: list[bytes] = []
    size = line = 0
    while chunk := os.read(handle, LINE_BYTES_MAX):
        # a full block without a line end is inside one line that is at least as long
        full = len(chunk) == LINE_BYTES_MAX
        if lines_checked and full and b"\n" not in chunk and b"\r" not in chunk:
            message = f"a line is longer than {LINE_BYTES_MAX:,} bytes"
            problems.add("line-too-long", message, Place(place.file, line + 1, 1), "split the line")
            return None
        size += len(chunk)
        line += chunk.count(b"\n")
        if size > limit:
            problems.add(
                "file-too-large", f"more than {limit:,} bytes", place, "split it, or use a table for servers"
            )
            return None
        parts.append(chunk)
    return b"".join(parts)


def decode(data: bytes, name: str, problems: Problems) -> str | None:
    """The text of UTF-8 bytes without NUL; otherwise None, with a diagnostic and its place."""
    nul, encoding = data.find(b"\0"), _encoding_of(data)
    if nul >= 0 and encoding != "UTF-16":
        problems.add(
            "nul-byte",
            "contains a NUL byte, so it is not a text file",
            _place_of_byte(data, nul, name),
            "save it as UTF-8 text",
        )
        return None
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        place = _place_of_byte(data, error.start, name)
        problems.add(
            "not-utf-8",
            "this is not UTF-8 text",
            place,
            f"save the file as UTF-8; if it is {encoding}: iconv -f {encoding} -t UTF-8",
        )
        return None


def _encoding_of(data: bytes) -> str:
    """The most likely encoding of text that is not UTF-8. Hangul are pairs of bytes beyond ASCII; accented
    letters are seldom adjacent.
    """
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "UTF-16"
    beyond = sum(byte > 0x7F for byte in data[:ENCODING_BYTES])
    hangul = len(re.findall(rb"[\xb0-\xc8][\xa1-\xfe]", data[:ENCODING_BYTES]))
    return "CP949" if 4 * hangul > beyond else "WINDOWS-1252"


def read_text(path: Path, root: Path, limit: int, lines_checked: bool, problems: Problems) -> str | None:
    """`read_bytes` and `decode` in one."""
    data = read_bytes(path, root, limit, lines_checked, problems)
    return None if data is None else decode(data, path.name, problems)


def _place_of_byte(data: bytes, offset: int, name: str) -> Place:
    start = data.rfind(b"\n", 0, offset) + 1
    column = len(data[start:offset].decode("utf-8", "replace")) + 1
    return Place(name, data.count(b"\n", 0, offset) + 1, column)


DEPTH_MAX: Final = 32
NODES_MAX: Final = 1_000_000
SCALAR_MAX: Final = 4_096
ALIASES_MAX: Final = 20_000
_TOO_DEEP: Final = f"nested more than {DEPTH_MAX} levels deep"
_ENOUGH: Final = "nothing that evac reads needs that many"

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
        """Whether it explicitly says that the value is unknown."""
        return (
            self.kind == SCALAR and self.plain and self.text in ("", "~", "null", "Null", "NULL", "unknown")
        )


class Tagged(Node):
    """A value with a tag that its reader accepts, such as `!reset` of Compose."""

    __slots__ = ("tag",)
    tag: str


class DeepValues:
    """Values nested too deeply, which are read as unknown; the rest of their source is read."""

    def __init__(self) -> None:
        self._count = 0
        self._first = Place("")

    def add(self, place: Place) -> None:
        self._first = self._first if self._count else place
        self._count += 1

    def report(self, problems: Problems) -> None:
        if self._count:
            one = self._count == 1
            message = (
                f"{self._count:,} value{' is' if one else 's are'} nested more than {DEPTH_MAX} levels deep: "
                f"{'it is' if one else 'they are'} skipped"
            )
            hint = "if evac needs what it says, describe that in the overlay"
            problems.add("import-skipped", message, self._first, hint)


class _Refused(Exception):
    """The document is refused as a whole; its diagnostic has been recorded."""


def read_document(
    text: str,
    file: str,
    problems: Problems,
    kept_tags: frozenset[str] = frozenset(),
    *,
    skip_deep: bool = False,
) -> Node | None:
    """The root of a YAML text with one document; None, with diagnostics, if refused."""
    roots = read_documents(text, file, problems, several=False, kept_tags=kept_tags, skip_deep=skip_deep)
    if roots is None:
        return None
    return roots[0] if roots and not roots[0].is_unknown else Node(MAP, file, 1, 1)


def read_root(path: Path, problems: Problems) -> Node | None:
    """The root of a YAML file named by a user; None, with diagnostics, if refused."""
    text = read_text(path, path, YAML_BYTES_MAX, True, problems)
    return None if text is None else read_document(text, path.name, problems)


def read_documents(
    text: str,
    file: str,
    problems: Problems,
    scalar_max: int = SCALAR_MAX,
    several: bool = True,
    *,
    first_line: int = 1,
    core_tags: bool = False,
    last_wins: bool = False,
    kept_tags: frozenset[str] = frozenset(),
    skip_deep: bool = False,
) -> list[Node] | None:
    """The roots of every document of a YAML stream; None, with diagnostics, if refused.

    first_line: line of the file at which the text begins; core_tags: whether to accept tags that only repeat
    a value's type (`!!str`, `!!merge`); last_wins: whether a repeated key is a warning and its last value
    counts; kept_tags: other accepted tags, whose nodes are `Tagged`; skip_deep: whether a value nested too
    deeply is a warning and unknown, for sources that others wrote.
    """
    deep = DeepValues() if skip_deep else None
    try:
        composer = _Composer(
            text, file, problems, scalar_max, first_line, core_tags, last_wins, kept_tags, deep
        )
        roots = composer.compose_all(several)
        if deep is not None:
            deep.report(problems)
        return roots
    except _Refused:
        return None
    except yaml.MarkedYAMLError as error:
        _syntax_problem(error, text, file, problems, first_line)
        return None
    except yaml.YAMLError as error:
        problems.add("yaml-syntax", f"this is not YAML: {str(error).splitlines()[0][:120]}", Place(file))
        return None


def _syntax_problem(
    error: yaml.MarkedYAMLError, text: str, file: str, problems: Problems, first_line: int
) -> None:
    mark = error.problem_mark or error.context_mark
    line, column = (mark.line + first_line, mark.column + 1) if mark is not None else (0, 0)
    count = mark.line + 1 if mark is not None else 0
    rows = text.split("\n", count)[:count]
    hint = "quote values that contain ': ' or ' #', or that start with a character such as % or @"
    if rows and "\t" in rows[-1]:
        hint = "found a tab; YAML requires spaces"
    words = " ".join(part for part in (error.context, error.problem) if part)
    if "exceeded maximum nesting depth" in words:
        problems.add("too-deep", _TOO_DEEP, Place(file, line, column), _ENOUGH)
        return
    problems.add("yaml-syntax", f"this is not YAML: {words[:160]}", Place(file, line, column), hint)


class _Composer:
    """Builds the tree. The invariant: `size` of every finished node counts its aliases expanded."""

    def __init__(
        self,
        text: str,
        file: str,
        problems: Problems,
        scalar_max: int,
        first_line: int,
        core_tags: bool,
        last_wins: bool,
        kept_tags: frozenset[str],
        deep: DeepValues | None,
    ) -> None:
        self._deep = deep
        self._parser = CParser(text)
        self._first_line = first_line
        self._core_tags = core_tags
        self._last_wins = last_wins
        self._kept_tags = kept_tags
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
                self._refuse("several-documents", message, event, "use one document per file")
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
        node = Node(_KINDS[kind], self._file, mark.line + self._first_line, mark.column + 1)
        if event.tag is not None and event.tag in self._kept_tags:
            node = Tagged(node.kind, node.file, node.line, node.column)
            node.tag = event.tag
        elif event.tag is not None and not (self._core_tags and event.tag in _CORE_TAGS):
            self._refuse(
                "yaml-tag", f"the tag {shown(event.tag)} is not supported", event, "write the plain value"
            )
        if event.anchor is not None:
            self._anchors[event.anchor] = node
        if kind is yaml.ScalarEvent:
            node.text = event.value
            node.plain = event.implicit[0] or event.tag == _MERGE_TAG or isinstance(node, Tagged)
            if len(node.text) > self._scalar_max:
                self._refuse(
                    "value-too-long",
                    f"a value of {len(node.text):,} characters",
                    event,
                    f"at most {self._scalar_max:,}",
                )
            return node
        if depth >= DEPTH_MAX:
            return self._skip_deep(node, event)
        if kind is yaml.MappingStartEvent:
            node.fields = {}
        else:
            node.items = []
        self._open.add(id(node))
        (self._fill_map if kind is yaml.MappingStartEvent else self._fill_list)(node, depth + 1)
        self._open.discard(id(node))
        return node

    def _skip_deep(self, node: Node, event: Any) -> Node:
        """Passes over a list or mapping that is nested too deeply. Anchors in it are unknown too."""
        if self._deep is None:
            self._refuse("too-deep", _TOO_DEEP, event, _ENOUGH)
        self._deep.add(node.place)
        node.kind, node.text, node.plain = SCALAR, "null", True
        is_open = 1
        while is_open:
            event = self._parser.get_event()
            if event.__class__ in (yaml.SequenceEndEvent, yaml.MappingEndEvent):
                is_open -= 1
                continue
            self._count(event)
            is_open += event.__class__ in (yaml.SequenceStartEvent, yaml.MappingStartEvent)
            if event.__class__ is not yaml.AliasEvent and event.anchor is not None:
                self._anchors[event.anchor] = node
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
                hint = "put lists and mappings after the colon"
                self._refuse("key-not-text", "a key must be a single word", event, hint)
            if key.text == "<<" and key.plain:
                merged.append(value)
            elif key.text in fields:
                first = fields[key.text][0]
                message = f"{shown(key.text)} appears twice in one mapping, first at {first.place}"
                if self._last_wins:
                    hint = "the last one counts; keep one of the two"
                    self._problems.add("key-twice", message, key.place, hint, "warning")
                    fields[key.text] = (key, value)
                else:
                    self._problems.add("key-twice", message, key.place, "keep one of the two")
            else:
                fields[key.text] = (key, value)
        for other in merged:
            self._merge(node, other)

    def _merge(self, node: Node, other: Node) -> None:
        """`<<: *anchor` adds the keys that the mapping does not set itself."""
        sources = other.items if other.kind == LIST else [other]
        for source in sources:
            if source.kind != MAP:
                self._problems.add(
                    "merge-not-mapping", "only a mapping can be merged", other.place, "write <<: *anchor"
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
            self._refuse("alias-loop", f"*{event.anchor[:40]} contains itself", event, "write out the value")
        if self._aliases > ALIASES_MAX:
            self._refuse(
                "too-many-aliases", f"more than {ALIASES_MAX:,} aliases", event, "write out the values"
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
            "too-many-values", message, node.place, "write out the values, without nested aliases"
        )
        raise _Refused

    def _refuse(self, code: str, message: str, event: Any, hint: str = "") -> NoReturn:
        mark = event.start_mark
        place = Place(self._file, mark.line + self._first_line, mark.column + 1)
        self._problems.add(code, message, place, hint)
        raise _Refused


_MERGE_TAG: Final = "tag:yaml.org,2002:merge"
_CORE_TAGS: Final = frozenset(
    f"tag:yaml.org,2002:{name}"
    for name in ("binary", "bool", "float", "int", "map", "merge", "null", "seq", "str", "timestamp")
)
_KINDS: Final = {yaml.ScalarEvent: SCALAR, yaml.SequenceStartEvent: LIST, yaml.MappingStartEvent: MAP}
