"""The next command that is named goes the way that this one went: to the same server or store, as the same
person.

Options that this command was given are repeated; what the environment says holds for the next command as
well. An address in which a password may stand is not repeated, only named.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Final

COMMANDS: Final = ("status", "drawer", "what-if", "run", "approve", "apply", "incident", "hold")
"""Those that have the options."""
NAMES: Final = ("next: ", "to print: ", "error: ")
"""How lines begin that name a command; an error does it in brackets."""
_BEGINS: Final = r"^(?:\x1b\[[0-9;]*m|[ \t])*"
_NEXT: Final = re.compile(rf"{_BEGINS}(?:next|to print): .*$", re.MULTILINE)
_ERROR: Final = re.compile(rf"{_BEGINS}error: .*$", re.MULTILINE)
_NAMED: Final = rf"\bevac (?:{'|'.join(COMMANDS)})\b(?![-\w])"
_COMMAND: Final = re.compile(rf"{_NAMED}.*?(?=, or |, then |; |\)|\x1b|$)")
_IN_BRACKETS: Final = re.compile(rf"(?<=\(){_NAMED}[^()]*(?=\))")
_FILES: Final = re.compile(r" (?:--estate )?ESTATE\b")
_OWN: Final = re.compile(r" --(?:store|server)\b")


@dataclass(frozen=True, slots=True)
class Way:
    """options: words that are added, a space before each; server: one is asked, which takes no estate."""

    options: str
    server: bool


_way: ContextVar[Way | None] = ContextVar("way", default=None)


def forget() -> None:
    """At the beginning of a command."""
    _way.set(None)


def remember(given: Mapping[str, object], *, server: bool) -> None:
    """given: option -> what it was given; None and empty: it was not. server: one is asked."""
    words = [f" {name} {_shown(name, str(value))}" for name, value in given.items() if value]
    _way.set(Way("".join(words), server))


def _shown(name: str, value: str) -> str:
    if name in ("--store", "--server") and "@" in value:
        return "URL"
    return shlex.quote(value)


def with_way(text: str) -> str:
    """The text, in which the commands on such lines can be typed as they stand."""
    if _way.get() is None or not any(name in text for name in NAMES):
        return text
    text = _NEXT.sub(lambda line: _COMMAND.sub(_completed, line[0]), text)
    return _ERROR.sub(lambda line: _IN_BRACKETS.sub(_completed, line[0]), text)


def _completed(found: re.Match[str]) -> str:
    way, command = _way.get(), found[0].rstrip()
    if way is None or _OWN.search(command):
        return found[0]
    if way.server:
        command = _FILES.sub("", command)
    return command + way.options + found[0][len(found[0].rstrip()) :]
