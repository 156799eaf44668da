"""Shapes of the documents that commands show: a server that says something else is found out before."""

from __future__ import annotations

from collections.abc import Mapping
from types import NoneType
from typing import Any, Final

from evac.control.server_calls import strange

Shape = type | tuple[Any, ...] | list[Any] | dict[str, Any]
"""A type; a tuple of shapes of which one fits; a list of one shape; named shapes, all of which are there."""

_TEXT_OR_NONE: Final = (str, NoneType)
_STEP: Final = {
    "id": str,
    "state": str,
    "attempts": int,
    "started_at": _TEXT_OR_NONE,
    "ended_at": _TEXT_OR_NONE,
    "evidence": dict,
    "error": ({"code": str, "message": str}, NoneType),
    "waits_for": str,
    "gate": str,
}
_FORECAST: Final = {
    "servers": int,
    "up": int,
    "to_the_floor": int,
    "all_on_at": _TEXT_OR_NONE,
    "planned_all_on_at": _TEXT_OR_NONE,
    "waits_for_a_person": bool,
    "services": dict,
}
RUN: Final = {
    "run": str,
    "incident": str,
    "question": str,
    "plan_digest": str,
    "state": str,
    "leader": str,
    "held_by": str,
    "why": str,
    "approved_by": [str],
    "approvals_needed": int,
    "envelope": {"sites": [str], "stores": [str], "most_lost_ms": int, "most_shed": int},
    "to_type": [str],
    "events": int,
    "waits_for": [str],
    "waits": ([{"kind": str, "step": str, "words": str, "next": str}], NoneType),
    "most_lost": [{"store": str, "candidate": str, "milliseconds": (int, NoneType), "words": str}],
    "forecast": (_FORECAST, NoneType),
    "limits_changed": ([{"limit": str, "now": int, "whole": int, "held": int}], NoneType),
    "started_at": _TEXT_OR_NONE,
    "ended_at": _TEXT_OR_NONE,
    "as_of": str,
    "in_doubt": int,
    "undo_failed": int,
    "counts": dict,
    "steps": [_STEP],
}
DRY_RUN: Final = {
    "plan_digest": str,
    "question": str,
    "ready": bool,
    "needs_approval": [str],
    "steps": [{"id": str, "actions": [str], "problems": [str], "manual": bool, "gate": str}],
}
PROOF: Final = {"stream": str, "segments": int, "records": int, "anchors": int, "problems": [str]}
WHAT_IF: Final = {
    "domains": [str],
    "services": [{"service": str, "fate": str, "recovery_ms": (int, NoneType), "chain": [str]}],
}


def checked(value: dict[str, Any], shape: Shape, what: str) -> dict[str, Any]:
    """The value. Raises EvacError where it has another shape."""
    place = _wrong(value, shape, what)
    if place:
        raise strange(f"{place} is not there, or of another kind")
    return value


def _wrong(value: Any, shape: Shape, place: str) -> str:
    """Where a value does not fit; empty where it does."""
    if isinstance(shape, tuple):
        found = [_wrong(value, one, place) for one in shape]
        return "" if "" in found else found[0]
    if isinstance(shape, list):
        rows = value if isinstance(value, list) else None
        if rows is None:
            return place
        return next((at for row in rows if (at := _wrong(row, shape[0], place))), "")
    if isinstance(shape, dict):
        if not isinstance(value, Mapping):
            return place
        return next((at for k, one in shape.items() if (at := _wrong(value.get(k), one, f"{place}.{k}"))), "")
    if isinstance(value, bool):
        return "" if shape is bool else place
    return "" if isinstance(value, shape) else place
