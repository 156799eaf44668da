"""Heads: ticks before which no milestone can hold, whatever the plan (section 4, rule R1)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np

from evac.model.fleet import IntColumn
from evac.model.instance import Instance
from evac.planning.bound.passes import KINDS, Tables, run_passes
from evac.planning.bound.room import Needs, Room
from evac.planning.bound.waves import Waves

_PASSES = 64

Entry = TypeVar("Entry")


@dataclass(slots=True, eq=False)
class Heads:
    """Earliest ticks, cut to the horizon.

    base, top, store: heads of milestones (0 for running ones). begin (S): when the first start of
    a service can begin; verified (S): when its base is verified; shifting (S): when its traffic can
    begin to move; fenced: when a store is. tail (S): ticks from the last start's end to base, of its
    component. base_wave, top_wave (S). boot_wait: tick of the first possible boot. components:
    members of each, what is needed first.
    """

    base: list[int]
    top: list[int]
    store: list[int]
    begin: list[int]
    verified: list[int]
    shifting: list[int]
    fenced: list[int]
    tail: list[int]
    base_wave: list[int]
    top_wave: list[int]
    components: list[list[int]]
    pools: list[tuple[int, ...]]
    boot_wait: int = 0
    waits: dict[str, int] = field(default_factory=dict)


def needs_tools(instance: Instance, kind: str) -> bool:
    need = instance.tools.get(kind)
    return need is not None and bool(need.services)


def by_hand(instance: Instance, kind: str) -> bool:
    """Whether people may do a step of this kind because its tools are lost."""
    need = instance.tools.get(kind)
    return need is not None and bool(need.services) and need.manual is not None


def heads_of(instance: Instance, needs: Needs, room: Room) -> Heads:
    """Passes over the components until no head changes; every pass is a true statement."""
    count = len(instance.services)
    members: dict[int, list[int]] = {}
    for s, component in enumerate(instance.services.component.tolist()):
        members.setdefault(component, []).append(s)
    heads = Heads(
        [0] * count,
        [0] * count,
        [0] * len(instance.stores),
        [0] * count,
        [0] * count,
        [0] * count,
        [0] * len(instance.stores),
        [0] * count,
        [0] * count,
        [0] * count,
        [members[c] for c in sorted(members)],
        pools_of(room),
    )
    _set_waves_and_tails(instance, needs, heads)
    tables = _tables(instance, needs, room, heads)
    longest = max((b.duration for b in instance.boot_kinds), default=0)
    heads.boot_wait = int(
        run_passes(tables, instance.horizon, instance.first_boot, instance.boots_by_hand, longest, _PASSES)
    )
    for name in ("base", "top", "store", "begin", "verified", "shifting", "fenced"):
        setattr(heads, name, getattr(tables, name).tolist())
    kinds = [kind for kind, need in instance.tools.items() if need.services]
    heads.waits = dict(zip(kinds, tables.waits.tolist(), strict=True))
    return heads


def pools_of(room: Room) -> list[tuple[int, ...]]:
    """Of each service the pools in which any of it fits."""
    return [tuple(p for p, n in enumerate(row) if n > 0) for row in room.per_pool.tolist()]


def outside(instance: Instance, members: list[int]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Lost services and stores that members of a component hard-need and that are none of them."""
    services = instance.services
    needed = {j for s in members for j in services.hard[s]} - set(members)
    stores = {d for s in members for d in services.lost_stores[s]}
    return tuple(sorted(j for j in needed if services.base_lost[j])), tuple(sorted(stores))


def _set_waves_and_tails(instance: Instance, needs: Needs, heads: Heads) -> None:
    services, waves = instance.services, Waves(instance)
    for s in range(len(services)):
        base, both = int(needs.base_starts[s]), int(needs.base_starts[s] + needs.top_starts[s])
        start = int(services.start[s])
        heads.base_wave[s] = waves.wave(heads.pools[s], start, base)
        heads.top_wave[s] = waves.wave(heads.pools[s], start, both)
    for members in heads.components:
        longest = max(after_start(instance, s) for s in members)
        for s in members:
            heads.tail[s] = longest


def after_start(instance: Instance, s: int) -> int:
    """Ticks of verify, change and settle of one service."""
    services = instance.services
    shift = int(services.change[s] + services.settle[s]) if services.shift[s] else 0
    return int(services.verify[s]) + shift


def _tables(instance: Instance, needs: Needs, room: Room, heads: Heads) -> Tables:
    """What passes are made of. Kinds of steps whose tools are lost come in the order of the instance."""
    s, stores = instance.services, instance.stores
    around = [outside(instance, members) for members in heads.components]
    kinds = [kind for kind, need in instance.tools.items() if need.services]
    tools = [instance.tools[kind] for kind in kinds]
    found = {name: np.zeros(len(s), np.int64) for name in ("base", "top", "begin", "verified", "shifting")}
    option_first, options = _ragged([store.allowed for store in stores])
    return Tables(
        *_columns(heads.components),
        *_columns([services for services, _ in around]),
        *_columns([lost for _, lost in around]),
        *_columns(s.soft),
        option_first,
        _column(c.duration for c in options),
        np.array([c.kind == "promote" for c in options], np.bool_),
        *_columns([need.services for need in tools]),
        manual=_column(-1 if need.manual is None else need.manual for need in tools),
        place=_column(kinds.index(kind) if kind in kinds else -1 for kind in KINDS),
        fence=_column(store.fence for store in stores),
        base_lost=s.base_lost,
        blocked=s.blocked,
        shifts=s.shift,
        start=s.start,
        verify=s.verify,
        shift=s.change + s.settle,
        base_starts=needs.base_starts,
        top_starts=needs.top_starts,
        base_total=needs.base_total,
        both_total=needs.base_total + needs.top_total,
        fits=room.per_site.sum(axis=1),
        base_wave=_column(heads.base_wave),
        top_wave=_column(heads.top_wave),
        base_tick=room.base_tick,
        top_tick=room.top_tick,
        top_lost=np.flatnonzero(s.top_lost),
        **found,
        store=np.zeros(len(stores), np.int64),
        fenced=np.zeros(len(stores), np.int64),
        entered=np.full(len(heads.components), -1, np.int64),
        waits=np.zeros(len(kinds), np.int64),
    )


def _column(values: Iterable[int]) -> IntColumn:
    return np.array(list(values), np.int64)


def _ragged(lists: Iterable[Sequence[Entry]]) -> tuple[IntColumn, list[Entry]]:
    """Where each list begins among the entries of all, and these."""
    rows = list(lists)
    ends = np.cumsum([0, *(len(row) for row in rows)], dtype=np.int64)
    return ends, [entry for row in rows for entry in row]


def _columns(lists: Iterable[Sequence[int]]) -> tuple[IntColumn, IntColumn]:
    first, entries = _ragged(lists)
    return first, _column(entries)
