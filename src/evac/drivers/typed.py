"""What a person types to do what a driver does: the values, and what the drivers share to make them. Pure.

Only commands of the systems' own tools, with the settings of an endpoint filled in. Where no single command
does the same safely there is none, and the runbook says what has to be true instead. A secret is never
written: a reference to a file is, as the file.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from evac.drivers.port import Value


@dataclass(frozen=True, slots=True)
class ByHand:
    """do: the command; done_when: another one, with what it prints then. Empty where none is known."""

    do: str = ""
    done_when: str = ""


NOTHING: Final = ByHand()


def file_of(value: Value | None) -> str:
    """The path of a reference to a file; empty for any other."""
    return str(value).removeprefix("file:") if str(value).startswith("file:") else ""


def options(settings: Mapping[str, Value], names: Mapping[str, str]) -> list[str]:
    """names: setting -> option of the program, of those that are given."""
    parts = []
    for name, option in names.items():
        if name in settings:
            parts += [option, file_of(settings[name]) or str(settings[name])]
    return parts


def addresses(settings: Mapping[str, Value], to: str) -> list[tuple[str, str]]:
    """(name, address there) of an endpoint's `records`: `NAME=SITE:ADDRESS,SITE:ADDRESS`."""
    value, zone = settings.get("records"), str(settings.get("zone", "")).strip(".")
    found = []
    for row in value if isinstance(value, tuple) else (value,) if isinstance(value, str) else ():
        name, _, places = str(row).partition("=")
        there = dict(part.split(":", 1) for part in places.split(",") if ":" in part)
        if to in there:
            found.append((zone if name == "@" else f"{name}.{zone}", there[to]))
    return found


def dig(names: list[tuple[str, str]], server: str = "") -> str:
    """How the first of these names is asked for, and what is printed then."""
    name, address = names[0]
    return f"dig +short {f'@{server} ' if server else ''}{name} prints {address}"
