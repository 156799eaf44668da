"""Reads what an action was given: settings and parameters as typed values, or an error that names the key.

Knows no driver by name. Values are checked here, because they come from files that people write.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from evac.actions.port import Action, Order, Value
from evac.model.errors import Permanent

PERMILLE: Final = 1_000
_PLAIN_NAME: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.:\-]{0,127}")


def text(values: Mapping[str, Value], key: str, default: str | None = None) -> str:
    """A text, or a number as text. Raises `Permanent` where it is missing without a default."""
    value = values.get(key)
    if isinstance(value, bool | tuple):
        raise Permanent("setting-wrong", f"{key} must be a text")
    if value is None or value == "":
        if default is None:
            raise Permanent("setting-missing", f"{key} is not given", f"write {key} into the endpoint")
        return default
    return str(value)


def whole(values: Mapping[str, Value], key: str, default: int | None = None, most: int = 2**53) -> int:
    """A whole number from 0 to `most`."""
    value = values.get(key)
    if value is None and default is not None:
        return default
    if isinstance(value, str) and re.fullmatch(r"[0-9]{1,16}", value):
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int):
        raise Permanent("setting-missing" if value is None else "setting-wrong", f"{key} must be a number")
    if not 0 <= value <= most:
        raise Permanent("setting-wrong", f"{key} must be between 0 and {most}")
    return value


def many(values: Mapping[str, Value], key: str) -> tuple[str, ...]:
    """Several texts; none where the key is missing. A single text counts as one."""
    value = values.get(key)
    if value is None or value == "":
        return ()
    if isinstance(value, tuple):
        return tuple(str(part) for part in value)
    return (str(value),)


def flag(values: Mapping[str, Value], key: str, default: bool = False) -> bool:
    value = values.get(key, default)
    if not isinstance(value, bool):
        raise Permanent("setting-wrong", f"{key} must be true or false")
    return value


def plain_name(name: str, what: str) -> str:
    """The name itself, if it can stand in a command of a line protocol: no space, newline or separator."""
    if not _PLAIN_NAME.fullmatch(name):
        raise Permanent("setting-wrong", f"{what} {name!r} holds a character that a name may not have")
    return name


def by_site(entries: tuple[str, ...], what: str, between: str) -> dict[str, tuple[str, ...]]:
    """`pangyo=a,anyang=b` (or a list of such parts) as site -> values, in order. between: `=` or `:`."""
    found: dict[str, tuple[str, ...]] = {}
    for part in (part.strip() for entry in entries for part in entry.split(",")):
        site, separator, value = part.partition(between)
        if not (site and separator and value):
            raise Permanent("setting-wrong", f"{what}: {part!r} is not site{between}value")
        found[site] = (*found.get(site, ()), *value.split("+"))
    return found


def shares(action: Action) -> tuple[str, str, int]:
    """Of a shift: to, away, and the share in permille that `to` shall have."""
    to = text(action.parameters, "to")
    away = text(action.parameters, "away")
    if to == away:
        raise Permanent("setting-wrong", f"a shift from {to} to itself")
    return to, away, whole(action.parameters, "share", PERMILLE, PERMILLE)


def stale_token(target: str, seen: int, order: Order) -> Permanent:
    """The answer to a leader that was replaced: somebody with a greater token was here before."""
    return Permanent(
        "stale-token",
        f"{target} has seen the token {seen}; {order.token} is of an older leader",
        "stop: another controller leads",
    )
