"""libpq connection strings and member lists of PostgreSQL: read and written exactly, knowing no server.

Formats: "Connection Strings" of libpq and `synchronous_standby_names` of the PostgreSQL manual.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

from evac.model.errors import Permanent

_PAIR = re.compile(r"\s*([A-Za-z_]+)\s*=\s*(?:'((?:[^'\\]|\\.)*)'|((?:[^\s'\\]|\\.)*))", re.DOTALL)
_TOKEN = re.compile(r'\s*(?:"((?:[^"]|"")*)"|([A-Za-z_\x80-\xff][\w$\x80-\xff]*|\*)|(\d+)|([(),]))')


def parse_conninfo(text: str) -> dict[str, str]:
    """Keyword and value pairs. Raises `Permanent`; its message leaves the string out: it has a password."""
    pairs: dict[str, str] = {}
    position = 0
    stripped = text.rstrip()
    while position < len(stripped):
        match = _PAIR.match(stripped, position)
        if match is None:
            raise Permanent("conninfo-unreadable", "primary_conninfo is not made of keywords and values")
        value = match[2] if match[2] is not None else match[3]
        pairs[match[1]] = re.sub(r"\\(.)", r"\1", value, flags=re.DOTALL)
        position = match.end()
    return pairs


def format_conninfo(pairs: Mapping[str, str]) -> str:
    """The string libpq reads back as `pairs`, every value quoted."""
    quoted = {key: value.replace("\\", "\\\\").replace("'", "\\'") for key, value in pairs.items()}
    return " ".join(f"{key}='{value}'" for key, value in quoted.items())


PASSFILE: Final = ".evac-pgpass"
"""End of the name of the password file that evac writes beside a data folder."""


def passfile_line(user: str, password: str) -> str:
    """A password file of libpq: this password for this user, whatever the server and the database."""
    escaped = [text.replace("\\", "\\\\").replace(":", "\\:") for text in (user, password)]
    return f"*:*:*:{escaped[0]}:{escaped[1]}\n"


def literal(text: str) -> str:
    """An SQL string literal under standard_conforming_strings. Commands such as ALTER SYSTEM take no
    arguments, so their values are written into the text.
    """
    if "\0" in text:
        raise Permanent("setting-wrong", "a text holds a zero byte")
    return "'" + text.replace("'", "''") + "'"


@dataclass(frozen=True, slots=True)
class SyncSet:
    """synchronous_standby_names. count: how many of `names` must confirm; 0 names: nobody must."""

    method: Literal["first", "any"] = "first"
    count: int = 0
    names: tuple[str, ...] = ()

    @property
    def every_one(self) -> bool:
        """Whether each of the named must confirm each commit, so that cutting off any of them stops all."""
        return bool(self.names) and self.count >= len(self.names) and "*" not in self.names

    def text(self) -> str:
        """The value of the setting. Names are quoted, so that `any` and `first` may begin them."""
        if not self.names:
            return ""
        quoted = ", ".join('"' + name.replace('"', '""') + '"' for name in self.names)
        return f"{self.method.upper()} {self.count} ({quoted})"


def all_of(names: tuple[str, ...]) -> SyncSet:
    """The strict set: every one of `names` confirms every commit."""
    return SyncSet("first", len(names), names)


def parse_sync_set(text: str) -> SyncSet:
    """Reads the setting in each of its three forms. Raises `Permanent`."""
    tokens = _tokens(text)
    if not tokens:
        return SyncSet()
    method: Literal["first", "any"] = "first"
    kinds = [kind for kind, _ in tokens]
    head = tokens[0][1].lower() if tokens[0][0] == "word" else ""
    if head in ("first", "any") and kinds[1:3] == ["number", "mark"]:
        method = "any" if head == "any" else "first"
        return SyncSet(method, int(tokens[1][1]), _names(tokens[2:], text, bracketed=True))
    if kinds[0] == "number" and kinds[1:2] == ["mark"]:
        return SyncSet("first", int(tokens[0][1]), _names(tokens[1:], text, bracketed=True))
    return SyncSet("first", 1, _names(tokens, text, bracketed=False))


def _tokens(text: str) -> list[tuple[str, str]]:
    tokens: list[tuple[str, str]] = []
    position, stripped = 0, text.rstrip()
    while position < len(stripped):
        match = _TOKEN.match(stripped, position)
        if match is None:
            raise _unreadable(text)
        kinds = ("quoted", "word", "number", "mark")
        index = next(number for number in range(4) if match[number + 1] is not None)
        tokens.append((kinds[index], match[index + 1].replace('""', '"')))
        position = match.end()
    return tokens


def _names(tokens: list[tuple[str, str]], text: str, *, bracketed: bool) -> tuple[str, ...]:
    if bracketed:
        if tokens[0] != ("mark", "(") or tokens[-1] != ("mark", ")"):
            raise _unreadable(text)
        tokens = tokens[1:-1]
    names = tokens[::2]
    if any(kind == "mark" for kind, _ in names) or any(token != ("mark", ",") for token in tokens[1::2]):
        raise _unreadable(text)
    if len(tokens) % 2 == 0:
        raise _unreadable(text)
    return tuple(name for _, name in names)


def _unreadable(text: str) -> Permanent:
    return Permanent("sync-set-unreadable", f"synchronous_standby_names cannot be read: {text[:200]}")
