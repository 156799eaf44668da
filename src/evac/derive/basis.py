"""The inputs of a plan as three digests: plans with equal inputs are equal.

The digest of an estate changes with every fact, but most facts do not affect most plans: the start time of a
service is irrelevant to the loss of a feed that takes none of its replicas. So a basis is computed from the
planning instance, and includes only the demand of services that a loss does not affect.

core         what is lost, dependencies, durations, and every limit
capacity     what runs where, and what is free there
sheds        who may be stopped to free capacity, and the cost; `-` for a plan that stops no one

A plan with the same core but another capacity may still be allowed; to keep it, ask the checker.

whole        all input of planner and checker, except the names at the head of a plan

A plan made or checked for the same whole has the same result, so it need not be checked again.

To make this fast, an instance has two parts: rows, which take long to derive and which few estate changes
affect, so that their digests can be kept, and the rest.
"""

from __future__ import annotations

import hashlib
from dataclasses import fields, replace
from typing import Any, Final

import numpy as np

from evac.derive.domains import Topology
from evac.derive.rows import RowSet, demand_of
from evac.model.estate import Estate, Service
from evac.model.fleet import BoolColumn
from evac.model.instance import Instance, Present, Rows
from evac.model.records import dataclass
from evac.model.units import RESOURCE_COUNT

OF_TOUCHED: Final = ("start", "verify", "change", "settle")
"""Ticks of a service that no step uses unless the service is affected, or shed and started elsewhere."""


def read_by_rows(estate: Estate) -> Estate:
    """The estate reduced to the input of its rows: the demand of one replica of each service and where it may
    run, and no stores. Both have the same rows.
    """
    services = tuple(
        Service(
            s.id,
            demand=s.demand,
            eligible_sites=s.eligible_sites,
            eligible_classes=s.eligible_classes,
            data_in=s.data_in,
        )
        for s in estate.services
    )
    return replace(estate, services=services, stores=())


def no_rows(top: Topology) -> RowSet:
    """Placeholder for the rows of an instance when only the rest is needed."""
    index, flags, amounts = np.zeros(0, np.int32), np.zeros(0, np.bool_), np.zeros(0, np.int64)
    capacity, power = np.zeros((0, RESOURCE_COUNT), np.int64), np.zeros((0, 0), np.int32)
    rows = Rows(index, index, index, index, index, flags, flags, capacity, capacity, amounts, index, power)
    eligible = np.zeros((len(top.estate.services), 0), np.bool_)
    return RowSet(rows, (), Present(index, index, amounts), (), eligible, (), (), demand_of(top), ())


def only_touched(instance: Instance) -> Instance:
    """The same instance without start, verify and traffic times of services that the loss does not affect,
    nor any other in their component, and that stay on their servers. Plans, bounds and the checker's
    messages are the same.
    """
    s = instance.services
    touched = np.zeros(int(s.component.max(initial=-1)) + 1, np.bool_)
    touched[s.component[s.base_lost | s.top_lost]] = True
    mine = touched[s.component] | s.loose  # what leaves a server may start elsewhere
    ticks: dict[str, Any] = {name: np.where(mine, getattr(s, name), 0) for name in OF_TOUCHED}
    uses = tuple(own if here else () for own, here in zip(s.shift_uses, mine.tolist(), strict=True))
    return replace(instance, services=replace(s, **ticks, shift_uses=uses))


NOBODY: Final = "-"
_ALWAYS: Final = ("conflict", "base_lost", "top_lost", "shift", "blocked")
_IN_PLAY: Final = (
    "tier",
    "people",
    "n",
    "m",
    "surviving",
    "demand",
    "start",
    "verify",
    "change",
    "settle",
    "shed",
    "per_server",
    "rack_cap",
    "feed_cap",
    "site_cap",
    "base_weight",
    "top_weight",
)
_STOPPED: Final = ("tier", "people", "shed", "start", "verify", "base_weight", "top_weight")
_TAKES: Final = ("n", "m", "surviving", "demand", "per_server", "rack_cap", "feed_cap", "site_cap")
_LENGTH: Final = 24


@dataclass(frozen=True, slots=True)
class RowsSaid:
    """Contribution of a loss's rows to core and capacity, as digests. key: of everything these rows depend
    on.
    """

    key: str
    core: str
    capacity: str


@dataclass(frozen=True, slots=True)
class Basis:
    """Digests in hexadecimal."""

    core: str
    capacity: str
    sheds: str
    whole: str

    def __str__(self) -> str:
        """The text stored with a plan."""
        return ".".join(part[:_LENGTH] for part in (self.core, self.capacity, self.sheds))


def of_plan(basis: str, sheds: bool) -> str:
    """The basis of one plan of an instance; sheds: whether it stops anyone to free capacity."""
    core, capacity, stopped = basis.split(".")
    return f"{core}.{capacity}.{stopped if sheds else NOBODY}"


def may_keep(before: str, now: str) -> bool:
    """Whether a plan of one basis may be valid for another; if the capacity differs, the checker decides."""
    old, new = before.split("."), now.split(".")
    return len(old) == len(new) == 3 and old[0] == new[0] and old[2] in (NOBODY, new[2])


def rows_said(found: RowSet, key: str) -> RowsSaid:
    """Digests of the rows of a loss; key: of everything they depend on."""
    rows, core, capacity = found.rows, hashlib.sha256(), hashlib.sha256()
    for field in fields(found):
        if field.name not in ("rows", "names", "present", "demand", "unknown"):
            _say(core, field.name, getattr(found, field.name))
    _say(core, sorted(found.unknown), rows.boot_kind, rows.power, rows.dark, rows.watts)
    _say(capacity, *(getattr(rows, field.name) for field in fields(rows)))
    capacity.update("\n".join(found.names).encode())
    _say(capacity, found.present.service, found.present.row, found.present.count)
    return RowsSaid(key, core.hexdigest(), capacity.hexdigest())


def basis_of(
    instance: Instance, rows: RowsSaid, more: tuple[Any, ...] = (), about: tuple[Any, ...] = ()
) -> Basis:
    """The basis of an instance without its rows, and of their digests; more: other inputs of a plan, such as
    times to detect a loss; about: other inputs of planner and checker.
    """
    s = instance.services
    play = np.asarray(s.base_lost | s.top_lost, np.bool_)
    core, capacity, sheds, whole = (hashlib.sha256() for _ in range(4))
    _say(core, more, rows.core)
    for field in fields(instance):
        value = getattr(instance, field.name)
        if field.name not in ("services", "rows", "row_names", "present"):
            _say(core, field.name, value)
    _say(core, s.id, *(getattr(s, name) for name in _ALWAYS))
    _say(core, *(getattr(s, name)[play] for name in _IN_PLAY))
    _say(core, _chosen(s.hard, play), _chosen(s.soft, play), _chosen(s.shift_uses, play), s.lost_stores)
    _say(core, _chosen(s.hard_start, play), s.start_stores, sorted(s.down_before), sorted(s.short_before))
    _say(capacity, rows.capacity, *(getattr(s, name) for name in _TAKES))
    _say(sheds, s.sheddable, s.movable, *(getattr(s, name)[s.loose] for name in _STOPPED))
    parts = core.hexdigest(), capacity.hexdigest(), sheds.hexdigest()
    _say(whole, parts, about, *(getattr(s, field.name) for field in fields(s)))
    return Basis(*parts, whole.hexdigest())


def _chosen(values: tuple[Any, ...], rows: BoolColumn) -> tuple[Any, ...]:
    return tuple(values[row] for row in np.flatnonzero(rows).tolist())


def _say(state: Any, *values: Any) -> None:
    """Add values in an unambiguous encoding. Frozen values always encode the same way."""
    for value in values:
        if isinstance(value, np.ndarray):
            data = np.ascontiguousarray(value)
            state.update(f"{data.dtype.str}{data.shape}:".encode())
            state.update(data.tobytes())
        else:
            state.update(f"{value!r};".encode())
