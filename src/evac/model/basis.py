"""What a plan was made of, as three digests: a plan that was made of the same is the same plan.

The digest of an estate changes with every fact. Most facts do not touch most plans: how long a service takes
to start says nothing about the loss of a feed that takes none of its replicas. So a basis is made of the
planning instance, and of services that a loss does not touch only of what they take.

    core     what is lost, who waits for whom, how long things take, and every limit
    room     what stands where, and what is free there
    sheds    who may be stopped to make room, and what that costs; `-` for a plan that stops nobody

A plan whose core is the same and whose room is not may still be allowed; whoever keeps it asks the checker.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, fields
from typing import Any, Final

import numpy as np

from evac.model.fleet import BoolColumn
from evac.model.instance import Instance

NOBODY: Final = "-"
_ALWAYS: Final = ("conflict", "base_lost", "top_lost", "shift", "blocked")
_IN_PLAY: Final = (
    "tier", "people", "n", "m", "surviving", "demand", "start", "verify", "change", "settle", "shed",
    "per_server", "rack_cap", "feed_cap", "site_cap", "base_weight", "top_weight",
)  # fmt: skip
_STOPPED: Final = ("tier", "people", "shed", "base_weight", "top_weight")
_TAKES: Final = ("n", "m", "surviving", "demand", "per_server", "rack_cap", "feed_cap", "site_cap")
_LENGTH: Final = 24


@dataclass(frozen=True, slots=True)
class Basis:
    """Digests in hexadecimal."""

    core: str
    room: str
    sheds: str

    def __str__(self) -> str:
        return f"{self.core}.{self.room}.{self.sheds}"


def of_plan(basis: str, sheds: bool) -> str:
    """The basis of one plan of an instance; sheds: whether it stops anybody to make room."""
    core, room, stopped = basis.split(".")
    return f"{core}.{room}.{stopped if sheds else NOBODY}"


def may_keep(before: str, now: str) -> bool:
    """Whether a plan of one basis may be one of another; where the room differs, the checker has to say."""
    old, new = before.split("."), now.split(".")
    return len(old) == len(new) == 3 and old[0] == new[0] and old[2] in (NOBODY, new[2])


def basis_of(instance: Instance, more: tuple[Any, ...] = ()) -> Basis:
    """Of an instance; more: whatever else a plan is made of, such as times to detect a loss."""
    s, rows = instance.services, instance.rows
    play = np.asarray(s.base_lost | s.top_lost, np.bool_)
    core, room, sheds = hashlib.sha256(), hashlib.sha256(), hashlib.sha256()
    _say(core, more)
    for field in fields(instance):
        value = getattr(instance, field.name)
        if field.name not in ("services", "rows", "row_names", "present"):
            _say(core, field.name, value)
    _say(core, s.id, *(getattr(s, name) for name in _ALWAYS))
    _say(core, *(getattr(s, name)[play] for name in _IN_PLAY))
    _say(core, _chosen(s.hard, play), _chosen(s.soft, play), _chosen(s.shift_uses, play), s.lost_stores)
    _say(core, rows.boot_kind, rows.power, rows.dark, rows.watts)
    _say(room, *(getattr(rows, field.name) for field in fields(rows)))
    room.update("\n".join(instance.row_names).encode())
    _say(room, instance.present.service, instance.present.row, instance.present.count)
    _say(room, *(getattr(s, name) for name in _TAKES))
    _say(sheds, s.sheddable, *(getattr(s, name)[s.sheddable] for name in _STOPPED))
    return Basis(*(state.hexdigest()[:_LENGTH] for state in (core, room, sheds)))


def _chosen(values: tuple[Any, ...], rows: BoolColumn) -> tuple[Any, ...]:
    return tuple(values[row] for row in np.flatnonzero(rows).tolist())


def _say(state: Any, *values: Any) -> None:
    """Adds values in a form that says where each ends. Frozen values write themselves the same way always."""
    for value in values:
        if isinstance(value, np.ndarray):
            data = np.ascontiguousarray(value)
            state.update(f"{data.dtype.str}{data.shape}:".encode())
            state.update(data.tobytes())
        else:
            state.update(f"{value!r};".encode())
