"""What an object of Kubernetes shall be, and whether it is: plain values in, plain values out. Pure.

`Wanted` is the part of the object that an action decides, in the object's own shape: it is the merge patch,
and what it replaces is kept in an annotation, so that undo puts back exactly that.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Final

from evac.drivers import parameters as given
from evac.drivers.port import Action
from evac.model.errors import Permanent

WORKLOADS: Final = frozenset({"Deployment", "StatefulSet", "ReplicaSet"})
QUOTA: Final = "ResourceQuota"
PRIORITY: Final = "PriorityClass"
TOKEN: Final = "evac-fencing-token"
BEFORE: Final = "evac-before"
"""Annotations without a prefix are private to their user; these two are ours."""

Values = Mapping[str, Any]
Quantity = Callable[[str], Decimal | None]


NO_MATTER: Final = -1
AS_IT_SAYS: Final = -2
"""All pods that the object asks for, one at the least."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """part: what the object shall hold. ready: pods that must be ready then, or NO_MATTER, or AS_IT_SAYS."""

    part: Values
    ready: int = NO_MATTER


def wanted_of(action: Action, kind: str) -> Wanted:
    """What an action means for its kind of object. Raises `Permanent` where it means nothing."""
    parameters = action.parameters
    if kind in WORKLOADS and action.verb in ("scale", "start", "stop"):
        count = 0 if action.verb == "stop" else given.whole(parameters, "replicas", most=100_000)
        return Wanted({"spec": {"replicas": count}}, count)
    if kind in WORKLOADS and action.verb == "verify":
        expect = parameters.get("expect")
        return Wanted({}, AS_IT_SAYS if expect is None else given.whole(parameters, "expect", most=100_000))
    if kind in WORKLOADS and action.verb == "run" and "priority_class" in parameters:
        name = given.text(parameters, "priority_class")
        return Wanted({"spec": {"template": {"spec": {"priorityClassName": name}}}})
    if kind == QUOTA and action.verb in ("scale", "verify"):
        return Wanted({"spec": {"hard": _pairs(given.many(parameters, "hard"))}})
    if kind == PRIORITY and action.verb in ("run", "verify"):
        return Wanted({"value": given.whole(parameters, "value", most=1_000_000_000)})
    raise Permanent("verb-unknown", f"kubernetes cannot {action.verb} a {kind}")


def fits(found: Values, part: Values, quantity: Quantity) -> bool:
    """Whether all of `part` is so in `found`; amounts are equal when they mean the same (1000m is 1)."""
    for key, value in part.items():
        now = found.get(key)
        if isinstance(value, Mapping):
            if not fits(now if isinstance(now, Mapping) else {}, value, quantity):
                return False
        elif now != value and not _same_amount(now, value, quantity):
            return False
    return True


def is_ready(found: Values, wanted: Wanted) -> bool:
    """Whether the cluster has done what its object says: every wanted pod is ready, none is too many."""
    if wanted.ready == NO_MATTER:
        return True
    status, least = _table(found, "status"), wanted.ready
    if least == AS_IT_SAYS:
        least = max(1, int(_table(found, "spec").get("replicas") or 1))
    if wanted.part and int(status.get("observedGeneration") or 0) < int(
        _table(found, "metadata").get("generation") or 0
    ):
        return False
    ready, there = int(status.get("readyReplicas") or 0), int(status.get("replicas") or 0)
    return ready >= least and (not wanted.part or there == least)


def replaced(found: Values, part: Values) -> dict[str, Any]:
    """What `part` would replace, in its shape: the merge patch that takes it back (None removes a key)."""
    was: dict[str, Any] = {}
    for key, value in part.items():
        now = found.get(key)
        if isinstance(value, Mapping):
            was[key] = replaced(now if isinstance(now, Mapping) else {}, value)
        else:
            was[key] = now
    return was


def notes_of(found: Values) -> Mapping[str, str]:
    """Its annotations."""
    notes: Mapping[str, str] = _table(_table(found, "metadata"), "annotations")
    return notes


def seen_token(found: Values) -> int:
    """The highest token that changed this object; 0 for none. Raises `Permanent` for no number."""
    words = notes_of(found).get(TOKEN, "0")
    if not words.isdigit():
        raise Permanent("token-unreadable", f"the annotation {TOKEN} holds something that is not a token")
    return int(words)


def evidence(kind: str, name: str, found: Values) -> dict[str, str | int | bool]:
    """The few numbers of an object that say what it is now."""
    status, spec = _table(found, "status"), _table(found, "spec")
    said: dict[str, str | int | bool] = {"object": f"{kind}/{name}"}
    for key, value in (
        ("replicas", spec.get("replicas")),
        ("ready", status.get("readyReplicas")),
        ("value", found.get("value")),
        ("version", _table(found, "metadata").get("resourceVersion")),
    ):
        if isinstance(value, int | str):
            said[key] = value
    if isinstance(spec.get("hard"), Mapping):
        said["hard"] = ", ".join(f"{key}={value}" for key, value in sorted(spec["hard"].items()))[:400]
    return said


def _pairs(entries: tuple[str, ...]) -> dict[str, str]:
    found: dict[str, str] = {}
    for entry in entries:
        key, separator, value = entry.partition("=")
        if not (key and separator and value):
            raise Permanent("setting-wrong", f"hard: {entry!r} is not resource=amount")
        found[key.strip()] = value.strip()
    if not found:
        raise Permanent("setting-missing", "hard is not given", "write resource=amount for each limit")
    return found


def _same_amount(one: Any, other: Any, quantity: Quantity) -> bool:
    if not (isinstance(one, str) and isinstance(other, str)):
        return False
    try:
        return quantity(one) == quantity(other)
    except ValueError:
        return False


def _table(values: Values, key: str) -> Any:
    found = values.get(key)
    return found if isinstance(found, Mapping) else {}
