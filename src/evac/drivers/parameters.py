"""Read settings and parameters of an action as typed values, or raise an error that names the key.

Independent of drivers. Values are validated here because they come from files that people write.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Final

from evac.drivers.port import Action, Order, Value, Verb
from evac.model.errors import Permanent
from evac.model.generation import SUPERSEDED, generation_of

PERMILLE: Final = 1_000
_OPPOSITES: Final[Mapping[Verb, Verb]] = {
    "drain": "ready",
    "ready": "drain",
    "fence": "unfence",
    "unfence": "fence",
}
_PLAIN_NAME: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.:\-]{0,127}")


def text(values: Mapping[str, Value], key: str, default: str | None = None) -> str:
    """A text, or a number as text. Raises `Permanent` if it is missing without a default."""
    value = values.get(key)
    if isinstance(value, bool | tuple):
        raise Permanent("setting-wrong", f"{key} must be text")
    if value is None or value == "":
        if default is None:
            raise Permanent("setting-missing", f"{key} is not set", f"set {key} on the endpoint")
        return default
    return str(value)


def whole(values: Mapping[str, Value], key: str, default: int | None = None, most: int = 2**53) -> int:
    """An integer from 0 to `most`."""
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
    """Several texts; none if the key is missing. A single text counts as one."""
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
    """The name, if it is safe in a command of a line protocol: no space, newline or separator."""
    if not _PLAIN_NAME.fullmatch(name):
        raise Permanent(
            "setting-wrong", f"{what} {name!r} contains a character that is not allowed in a name"
        )
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


def sites(values: Mapping[str, Value], key: str) -> tuple[str, ...]:
    """Names of sites: several texts, or one separated by commas."""
    return tuple(name.strip() for entry in many(values, key) for name in entry.split(",") if name.strip())


def shares(action: Action) -> tuple[tuple[str, ...], tuple[str, ...], int]:
    """For a shift: sites that get the traffic, sites that lose it, and the former's share in permille."""
    to, away = sites(action.parameters, "to"), sites(action.parameters, "away")
    if not to:
        raise Permanent("setting-missing", "a shift must name the site to move to")
    if set(to) & set(away):
        raise Permanent("setting-wrong", f"a shift from {', '.join(away)} to itself")
    return to, away, whole(action.parameters, "share", PERMILLE, PERMILLE)


def reversed_traffic(action: Action) -> Action:
    """The action that reverses a shift, drain or ready; `from_share` is the share moved before. Raises
    `Permanent` if the previous state was not recorded.
    """
    parameters: dict[str, Value] = dict(action.parameters)
    verb = action.verb
    if verb == "shift":
        to, away, _ = shares(action)
        if len(to) != 1 or len(away) != 1:
            raise Permanent(
                "undo-unknown",
                "the shift was not from one site to another, and the previous state was not recorded",
            )
        before = whole(parameters, "from_share", 0, PERMILLE)
        parameters |= {"to": away, "away": to, "share": PERMILLE - before}
    elif verb in _OPPOSITES:
        verb = _OPPOSITES[verb]
    else:
        raise Permanent("undo-nothing", f"{verb} changes nothing that can be rolled back")
    return Action(verb, action.target, action.driver, action.at, action.settings, parameters)


def refuse_proof(action: Action, proofs: Sequence[str]) -> None:
    """Raise `Permanent` for a fence with a proof that the driver does not declare, because its confirmation
    would count.
    """
    proof = text(action.parameters, "proof", "") if action.verb == "fence" else ""
    if proof and proof not in proofs:
        raise Permanent("proof-unknown", f"the driver {action.driver} cannot prove a fence by {proof}")


def proof_of(action: Action) -> dict[str, str | int | bool]:
    """For the evidence of a fence: the proof for which policy accepted this driver's confirmation."""
    return {"proof": text(action.parameters, "proof", "")} if action.verb == "fence" else {}


def stale_token(target: str, seen: int, order: Order) -> Permanent:
    """The error for a leader that was replaced: a greater token was seen before. Its code says whether the
    new leader has the same store, or a store of a newer generation.
    """
    newer, own = generation_of(seen), generation_of(order.token)
    if newer > own:
        return Permanent(
            SUPERSEDED,
            f"{target} has already seen generation {newer}; {order.token} is from "
            f"a leader of generation {own}",
            "stop: a controller of a newer generation acts",
        )
    return lower_token(target, seen, order.token)


def lower_token(target: str, seen: int, token: int) -> Permanent:
    """The refusal of a token below one that was obeyed, in the same generation: another controller leads, or
    this one has a new store in place of a lost one.
    """
    return Permanent(
        "stale-token",
        f"{target} has already obeyed token {seen}; {token} is from an older leader, or from a new store in "
        "place of a lost one",
        "if another controller leads, stop this one; if its store is lost: "
        f"evac serve --generation {generation_of(seen) + 1}",
    )


def refuse_stale(target: str, token: int, epoch: int, order: Order, *, own_hand: bool = False) -> None:
    """Raise `Permanent` for an order of an older leader, or for an epoch that has ended. token, epoch: of the
    newest order that the server obeyed. own_hand: a site that fences itself after its lease expired has no
    leader's token, 0; its epoch still counts.
    """
    if order.token < token and not (own_hand and order.token == 0):
        raise stale_token(target, token, order)
    if order.epoch and order.epoch < epoch:
        raise Permanent(
            "stale-epoch",
            f"{target} has seen epoch {epoch}; {order.epoch} is no longer valid",
            "stop: the data set has moved on",
        )
