"""Reads JSON of any size through a window, value by value, so that it is never in memory as a whole."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from os import SEEK_END
from pathlib import Path
from typing import Any, Final, TextIO

from evac.estate.format.document import DEPTH_MAX, LIST, MAP, SCALAR, DeepValues, Node, open_text
from evac.estate.format.problems import Problems, shown
from evac.model.diagnostic import Place
from evac.model.records import dataclass

OBJECT_CHARACTERS_MAX: Final = 32 * 2**20
"""Longest JSON object. etcd's default limit for an object is 1.5 MiB."""
VALUES_MAX: Final = 5_000_000
"""Most values that are kept of one text."""
_LEVELS: Final = 2
"""Lists are read item by item in the root, and in the responses that it may hold."""
PARTS_FROM_BYTES: Final = 4 * 2**20
"""A larger file is read in parts."""
_HEAD: Final = 2**16
_WINDOW: Final = 2**22
_NEAR: Final = 40
_DEPTH_MAX: Final = 64
NESTED_MAX: Final = 256
"""Most levels of a value. The deepest objects of Kubernetes, definitions of resources, have about 50."""
_DIGITS_MAX: Final = 1_000
"""Longest whole number that becomes a number; a longer one stays text. Python refuses more than 4,300."""
_NUMBER_GOES_ON: Final = re.compile(r"[-+.0-9eE]*")
_BRACKET_OR_TEXT: Final = re.compile(r'[\[\]{}]|"(?:[^"\\]++|\\.)*+"|"', re.DOTALL)
_CLOSED_BY: Final = {"[": ord("]"), "{": ord("}")}
_SPACE: Final = re.compile(r"[ \t\r\n]*")


def tree_of(value: Any, place: Place, depth: int = 0) -> Node:
    """Plain data as a tree whose every node is at `place`."""
    if isinstance(value, dict) and depth < _DEPTH_MAX:
        node = Node(MAP, place.file, place.line, place.column)
        node.fields = {
            str(key): (
                Node(SCALAR, place.file, place.line, place.column, str(key)),
                tree_of(item, place, depth + 1),
            )
            for key, item in value.items()
        }
        return node
    if isinstance(value, list) and depth < _DEPTH_MAX:
        node = Node(LIST, place.file, place.line, place.column)
        node.items = [tree_of(item, place, depth + 1) for item in value]
        return node
    if value is None or isinstance(value, dict | list):
        return Node(SCALAR, place.file, place.line, place.column, "null", plain=True)
    text = str(value).lower() if isinstance(value, bool) else str(value)
    return Node(SCALAR, place.file, place.line, place.column, text)


class NotJson(Exception):
    """The text is not valid JSON; `place` is where that shows, `ended` whether at its end."""

    def __init__(self, words: str, place: Place, ended: bool, near: str) -> None:
        super().__init__(words)
        self.near = near
        """The text around the place, on its line."""
        self.words = words
        self.place = place
        self.ended = ended


class TooDeep(NotJson):
    """A value has too many levels. It can be passed over."""

    value: Any = None
    """The value, if there is memory for its levels."""


class KeyTwice(NotJson):
    """An object has a key twice; `words` is the key."""


class _Twice(Exception):
    """An object inside a value has this key twice."""


class JsonStream:
    """A JSON text, of which only a window is in memory; it grows to hold one value, OBJECT_CHARACTERS_MAX at
    most. keys_once: whether to refuse an object inside a value that has a key twice; else the last counts.
    """

    def __init__(self, handle: TextIO, file: str, *, keys_once: bool = False) -> None:
        self._handle = handle
        self._file = file
        self._keys_once = keys_once
        hook = _keys_once if keys_once else None
        self._decoder = json.JSONDecoder(object_pairs_hook=hook, parse_int=_whole)
        self._text = ""
        self._at = 0
        self._ended = False
        self._line = 1
        self._column = 1

    def items(self, levels: int = NESTED_MAX, deep: DeepValues | None = None) -> Iterator[tuple[Place, Any]]:
        """The values of a list that begins here, each with its place. levels: most that each may have; what
        is nested deeper raises TooDeep, or goes to `deep` and is None.
        """
        for place in self.elements():
            yield place, self.value(levels) if deep is None else self.value_within(levels, deep)

    def elements(self) -> Iterator[Place]:
        """The places of the values of a list that begins here; the caller reads each before the next."""
        self.expect("[")
        while self.next_sign() != "]":
            yield self.place
            if self.next_sign() == ",":
                self.expect(",")
            elif self.next_sign() != "]":
                raise self.wrong("a comma or ] is missing")
        self.expect("]")

    def members(self) -> Iterator[str]:
        """The keys of an object that begins here; the caller reads the value of each before the next."""
        self.expect("{")
        while self.next_sign() != "}":
            key = str(self.value())
            self.expect(":")
            yield key
            if self.next_sign() == ",":
                self.expect(",")
            elif self.next_sign() != "}":
                raise self.wrong("a comma or } is missing")
        self.expect("}")

    @property
    def place(self) -> Place:
        return Place(self._file, self._line, self._column)

    def next_sign(self) -> str:
        """The next non-space character; empty at the end of the text."""
        while True:
            match = _SPACE.match(self._text, self._at)
            self._advance(match.end() if match is not None else self._at)
            if self._at < len(self._text):
                return self._text[self._at]
            if not self._more(_WINDOW):
                return ""

    def expect(self, sign: str) -> None:
        if self.next_sign() != sign:
            raise self.wrong(f"{sign} is missing")
        self._advance(self._at + 1)

    def value(self, levels: int = NESTED_MAX) -> Any:
        """The value that begins here. levels: most that it may have."""
        self.next_sign()
        window = _WINDOW
        while True:
            try:
                value, end = self._decoder.raw_decode(self._text, self._at)
            except json.JSONDecodeError as error:
                if self._ended or len(self._text) - self._at > OBJECT_CHARACTERS_MAX:
                    raise self.wrong(error.msg, error.pos) from None
            except RecursionError:
                raise self.wrong("nested too deeply", kind=TooDeep) from None
            except _Twice as error:
                raise self.wrong(str(error), kind=KeyTwice) from None
            else:
                # A number at the end of the window may continue after it.
                if self._ended or _NUMBER_GOES_ON.fullmatch(self._text, end) is None:
                    opened = sum(self._text.count(sign, self._at, end) for sign in "[{")
                    if opened > levels and _is_deeper(value, levels):
                        too_deep = TooDeep("nested too deeply", self.place, False, "")
                        too_deep.value = value
                        raise too_deep
                    self._advance(end)
                    return value
            self._more(window)
            window *= 2

    def value_within(self, levels: int, deep: DeepValues) -> Any:
        """The value that begins here; what in it is nested deeper is None, and goes to `deep`."""
        if levels < 0:
            levels = 0
        try:
            return self.value(levels)
        except TooDeep as error:
            if error.value is None:
                return self._in_pieces(levels, deep)
            place = error.place
            self.pass_over()
            return _cut(error.value, levels, place, deep)

    def _in_pieces(self, levels: int, deep: DeepValues) -> Any:
        """A list or object that has too many levels to be read at once."""
        if levels == 0:
            deep.add(self.place)
            self.pass_over()
            return None
        if self.next_sign() == "[":
            return [self.value_within(levels - 1, deep) for _ in self.elements()]
        found: dict[str, Any] = {}
        for key in self.members():
            if key in found and self._keys_once:
                raise self.wrong(key, kind=KeyTwice)
            found[key] = self.value_within(levels - 1, deep)
        return found

    def pass_over(self) -> None:
        """Pass over the list or object that begins here, however deep and long it is. Only its brackets are
        checked, so that what comes after it can be read.
        """
        self.next_sign()
        open_ones = bytearray()
        while True:
            match = _BRACKET_OR_TEXT.search(self._text, self._at)
            if match is None or match[0] == '"':
                # No bracket in the window, or a text that goes on after it.
                self._advance(len(self._text) if match is None else match.start())
                if len(self._text) - self._at > OBJECT_CHARACTERS_MAX or not self._more(_WINDOW):
                    raise self.wrong("a bracket is not closed", len(self._text))
                continue
            self._advance(match.end())
            sign = match[0]
            if sign in _CLOSED_BY:
                open_ones.append(_CLOSED_BY[sign])
                if len(open_ones) > OBJECT_CHARACTERS_MAX:
                    raise self.wrong("nested too deeply to be passed over")
            elif sign in ("]", "}") and (not open_ones or open_ones.pop() != ord(sign)):
                raise self.wrong("a bracket is closed by another kind of bracket")
            if not open_ones:
                return

    def _more(self, size: int) -> bool:
        chunk = "" if self._ended else self._handle.read(size)
        self._ended = not chunk
        self._text = self._text[self._at :] + chunk
        self._at = 0
        return bool(chunk)

    def _advance(self, to: int) -> None:
        lines = self._text.count("\n", self._at, to)
        if lines:
            self._line += lines
            self._column = to - self._text.rindex("\n", self._at, to)
        else:
            self._column += to - self._at
        self._at = to

    def wrong(self, words: str, position: int | None = None, kind: type[NotJson] = NotJson) -> NotJson:
        ended = self._ended and (position or self._at) >= len(self._text.rstrip())
        if position is not None:
            self._advance(min(max(position, self._at), len(self._text)))
        before = self._text[max(0, self._at - _NEAR) : self._at].rpartition("\n")[2]
        near = before + self._text[self._at : self._at + _NEAR].partition("\n")[0]
        # An open quote is reported where it opens, and reaches to the end of the text.
        ended = ended or "Unterminated string" in words
        return kind(words, self.place, ended, near)


def _keys_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise _Twice(key)
            seen.add(key)
    return found


def _whole(text: str) -> int | str:
    return int(text) if len(text) <= _DIGITS_MAX else text


def _is_deeper(value: Any, levels: int) -> bool:
    """Whether a value has more levels of lists and objects."""
    open_ones = [value] if isinstance(value, dict | list) else []
    for _ in range(levels):
        open_ones = [
            inner
            for one in open_ones
            for inner in (one.values() if isinstance(one, dict) else one)
            if isinstance(inner, dict | list)
        ]
    return bool(open_ones)


def _cut(value: Any, levels: int, place: Place, deep: DeepValues) -> Any:
    """A value without what in it has more levels of lists and objects; that is None."""
    if not isinstance(value, dict | list):
        return value
    if levels == 0:
        deep.add(place)
        return None
    if isinstance(value, dict):
        return {key: _cut(inner, levels - 1, place, deep) for key, inner in value.items()}
    return [_cut(inner, levels - 1, place, deep) for inner in value]


@dataclass(frozen=True, slots=True)
class Parts:
    """How a large value is read in parts, so that only what is needed of it is ever in memory."""

    inside: frozenset[str]
    """Keys whose objects and lists are read member by member, at any depth. So is the value itself."""
    is_kept: Callable[[str], bool]
    """Whether the value of a key in these objects is of use. All others are passed over."""
    prune: Callable[[str, Any], Any]
    """What is kept of a value in them, by the key of its list or object."""


def is_large(path: Path, from_bytes: int) -> bool:
    """Whether a file is JSON of more bytes. False for a pipe: opening it would wait for its writer."""
    if not path.is_file():
        return False
    try:
        with path.open("rb") as file:
            size = file.seek(0, SEEK_END)
            file.seek(0)
            return size > from_bytes and file.read(_HEAD).lstrip(b"\xef\xbb\xbf \t\r\n")[:1] in (b"{", b"[")
    except OSError:
        return False


def read_pruned(path: Path, prune: Callable[[Any], Any], problems: Problems) -> Node | None:
    """The value in a JSON file of any size, with the items of its lists pruned as they are read; None, with
    diagnostics, if unreadable. Each item is a tree whose every node is where the item begins. What is nested
    too deeply is unknown.
    """
    return _read(path, lambda stream, deep: _Pruned(stream, deep, prune).read(), problems)


def read_in_parts(path: Path, parts: Parts, problems: Problems) -> Node | None:
    """The value in a JSON file of any size, read in parts; None, with diagnostics, if unreadable. What is
    nested too deeply is unknown.
    """
    return _read(path, lambda stream, deep: _InParts(stream, deep, parts).read(), problems)


def _read(path: Path, read: Callable[[JsonStream, DeepValues], Node], problems: Problems) -> Node | None:
    handle = open_text(path, path, problems)
    if handle is None:
        return None
    with handle:
        try:
            stream = JsonStream(handle, path.name, keys_once=True)
            deep = DeepValues()
            tree = read(stream, deep)
            if stream.next_sign():
                raise stream.wrong("Extra data")
            deep.report(problems)
            return tree
        except KeyTwice as error:
            message = f"{shown(error.words)} appears twice in one object"
            problems.add("key-twice", message, error.place, "keep one of the two")
        except NotJson as error:
            if error.ended:
                hint = "export the file again, and check that the disk is not full"
                message = f"{path.name} ends in the middle"
                problems.add("import-truncated", message, error.place, hint)
            else:
                message = f"{path.name} is not JSON: {error.words}"
                problems.add("import-shape", message, error.place, "export the file again")
        except UnicodeDecodeError:
            hint = "save the file as UTF-8; if it is UTF-16: iconv -f UTF-16 -t UTF-8"
            problems.add("not-utf-8", f"{path.name} is not UTF-8 text", Place(path.name), hint)
        except OverflowError:
            message = f"{path.name} has more than {VALUES_MAX:,} values that evac reads"
            problems.add("too-many-values", message, Place(path.name), "split it, and import the parts")
    return None


class _Kept:
    """Counts what is kept of a text. Raises OverflowError if that is too much."""

    def __init__(self, stream: JsonStream, deep: DeepValues) -> None:
        self._stream, self._deep, self._left = stream, deep, VALUES_MAX

    def _kept(self, value: Any, place: Place) -> Node:
        self._left -= _count(value)
        if self._left < 0:
            raise OverflowError
        return tree_of(value, place)


class _Pruned(_Kept):
    """A text as a tree, pruned."""

    def __init__(self, stream: JsonStream, deep: DeepValues, prune: Callable[[Any], Any]) -> None:
        super().__init__(stream, deep)
        self._prune = prune

    def read(self, level: int = 0) -> Node:
        stream, place = self._stream, self._stream.place
        sign = stream.next_sign()
        if sign == "[":
            node = Node(LIST, place.file, place.line, place.column)
            items = stream.items(DEPTH_MAX - level - 1, self._deep)
            node.items = [self._kept(self._prune(item), at) for at, item in items]
            return node
        if sign == "{" and level < _LEVELS:
            node, fields = Node(MAP, place.file, place.line, place.column), {}
            for key in stream.members():
                here = stream.place
                if key in fields:
                    raise stream.wrong(key, kind=KeyTwice)
                fields[key] = (
                    Node(SCALAR, here.file, here.line, here.column, key),
                    self.read(level + 1),
                )
            node.fields = fields
            return node
        return self._kept(stream.value_within(DEPTH_MAX - level, self._deep), place)


class _InParts(_Kept):
    """A text as a tree, read in parts."""

    def __init__(self, stream: JsonStream, deep: DeepValues, parts: Parts) -> None:
        super().__init__(stream, deep)
        self._parts = parts

    def read(self, key: str = "", around: str = "", level: int = 0) -> Node:
        """The value of a key in the object of another key."""
        stream, parts = self._stream, self._parts
        sign, place = stream.next_sign(), stream.place
        is_inside = (level == 0 or key in parts.inside) and level < DEPTH_MAX
        if sign == "[" and level < DEPTH_MAX:
            node = Node(LIST, place.file, place.line, place.column)
            if is_inside:
                node.items = [self.read(key, key, level + 1) for _ in stream.elements()]
            else:
                items = stream.items(DEPTH_MAX - level - 1, self._deep)
                node.items = [self._kept(parts.prune(key, item), at) for at, item in items]
            return node
        if sign != "{" or not is_inside:
            value = stream.value_within(DEPTH_MAX - level, self._deep)
            return self._kept(parts.prune(around, value), place)
        fields: dict[str, tuple[Node, Node]] = {}
        seen: set[str] = set()
        for name in stream.members():
            here = stream.place
            if name in seen:
                raise stream.wrong(name, kind=KeyTwice)
            seen.add(name)
            if parts.is_kept(name):
                at_key = Node(SCALAR, here.file, here.line, here.column, name)
                fields[name] = (at_key, self.read(name, key, level + 1))
            else:
                self._pass_over(name, level + 1)
        node = Node(MAP, place.file, place.line, place.column)
        node.fields = fields
        return node

    def _pass_over(self, key: str, level: int) -> None:
        """Passes over a value of any size; the items of most lists are read whole, which is much faster."""
        stream = self._stream
        sign = stream.next_sign()
        if sign and sign in "[{" and level >= DEPTH_MAX:
            self._deep.add(stream.place)
            stream.pass_over()
        elif sign == "{":
            for name in stream.members():
                self._pass_over(name, level + 1)
        elif sign == "[" and key in self._parts.inside:
            for _ in stream.elements():
                self._pass_over(key, level + 1)
        elif sign == "[":
            for _ in stream.items(DEPTH_MAX - level - 1, self._deep):
                pass
        else:
            stream.value()


def _count(value: Any) -> int:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return 1 + sum(map(_count, inner))
