"""What differs between the impacts of two audits: after which losses, and for which services.

Both audits try the same losses on estates with the same services. Whatever is found about a service
by itself follows from its own facts, from how it and all that it hard-needs are hit, from whether it is
back in time, and for some findings from when; so only services with a difference in any of these need
another look.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np

from evac.audit.capacity import Shortfall
from evac.audit.closure import Pairs, spread
from evac.audit.facets import changed_families, other_services
from evac.audit.impacts import LOST, Impacts
from evac.audit.stores import NEVER
from evac.model.fleet import BoolColumn, IntColumn


@dataclass(frozen=True, slots=True, eq=False)
class Differences:
    """losses (L,): after which anything is different; fates (S,): services about which findings may be,
    whose times aside; times (S,): with them; tables: names of what is different at all (see `_TABLES`)."""

    losses: BoolColumn
    fates: BoolColumn
    times: BoolColumn
    tables: frozenset[str]


_TABLES: Final[dict[str, Callable[[Impacts], object]]] = {
    "down": lambda found: found.hit,
    "fate": lambda found: found.fate,
    "ready": lambda found: found.ready_ms,
    "recovery": lambda found: found.chains,
}
"""Parts of impacts that rules read. What comes out as it was is the same object (see `kept`)."""


def differences(old: Impacts, new: Impacts, moved: BoolColumn | None = None) -> Differences:
    """Differences of two impacts of the same losses and services. Never too few.

    moved (S,): services of which other replicas stand somewhere; None where none is.
    """
    own = other_services(old.estate, new.estate)
    losses: BoolColumn = np.asarray((new.down[:, own] | old.down[:, own]).any(axis=1))
    hit = _other_fates(old, new, losses) | _rewired(old, new) | _without_room(old, new, losses)
    hit |= _unstarted(old, new)
    if moved is not None and moved.any():
        hit |= moved
        _mark_moved(old, new, moved, losses)
    later, late = own.copy(), own | _judged_otherwise(old, new)
    tables = ((old.direct, new.direct), (old.moved, new.moved))
    for pairs in (old.damage.pairs, new.damage.pairs):
        others = [pairs.of(one) != pairs.of(other) for one, other in tables if one is not other]
        _mark(pairs, others, losses, hit)
        if old.untimed is not new.untimed:
            _mark(pairs, [pairs.of(old.untimed) != pairs.of(new.untimed)], losses, later)
        if old.ready_ms is not new.ready_ms:
            before, after, rto = pairs.of(old.ready_ms), pairs.of(new.ready_ms), new.rto_ms[pairs.service]
            _mark(pairs, [before != after], losses, later)
            _mark(pairs, [(before > rto) != (after > rto)], losses, late)
    for part in {*old.stores.parts} ^ {*new.stores.parts}:
        losses[part.losses] = True
    if hit.any():
        late |= np.array(spread(new.order, hit.astype(np.int64).tolist()), np.bool_)
    changed = frozenset(name for name, table in _TABLES.items() if table(old) is not table(new))
    return Differences(losses, late, late | later, changed)


def _other_fates(old: Impacts, new: Impacts, losses: BoolColumn) -> BoolColumn:
    """(S,) services with another fate after some loss; marks those losses."""
    if old.fate is new.fate:
        return np.zeros(len(new.estate.services), np.bool_)
    fates = old.fate != new.fate
    losses |= fates.any(axis=1)
    return np.asarray(fates.any(axis=0))


def _rewired(old: Impacts, new: Impacts) -> BoolColumn:
    """(S,) services that need something else, or a store that is another."""
    if old.graph is new.graph and old.estate.stores is new.estate.stores:
        return np.zeros(len(new.estate.services), np.bool_)
    stores = changed_families(old.estate, new.estate) if old.estate.stores != new.estate.stores else set()
    both = zip(old.graph.hard, new.graph.hard, old.graph.families, new.graph.families, strict=True)
    return np.array(
        [hard != more or names != other or not stores.isdisjoint(other) for hard, more, names, other in both],
        np.bool_,
    )


def _without_room(old: Impacts, new: Impacts, losses: BoolColumn) -> BoolColumn:
    """(S,) services that find more or less room after some loss; marks those losses."""
    found = np.zeros(len(new.estate.services), np.bool_)
    before, after = old.capacity.short, new.capacity.short
    for number in before.keys() | after.keys():
        if before.get(number) is not after.get(number):
            losses[number] = True
            found |= _missing(before.get(number)) != _missing(after.get(number))
    losses |= old.capacity.placed != new.capacity.placed
    losses |= old.capacity.to_place != new.capacity.to_place
    if old.capacity.room_known is not new.capacity.room_known:
        found |= (old.capacity.room_known != new.capacity.room_known).any(axis=0)
    return found


def _mark_moved(old: Impacts, new: Impacts, moved: BoolColumn, losses: BoolColumn) -> None:
    """Marks losses that take more or fewer replicas of some services."""
    before, after = old.ground.standing, new.ground.standing
    losses |= (before.lost[:, moved] != after.lost[:, moved]).any(axis=1)
    losses |= (before.loose[:, moved] != after.loose[:, moved]).any(axis=1)


def _missing(short: Shortfall | None) -> IntColumn | int:
    return 0 if short is None else short.for_good


def _mark(pairs: Pairs, differs: list[BoolColumn], losses: BoolColumn, services: BoolColumn) -> None:
    for different in differs:
        losses[pairs.loss[different]] = True
        services[pairs.service[different]] = True


def _unstarted(old: Impacts, new: Impacts) -> BoolColumn:
    """(S,) services lost where nothing starts replicas any more, or does so again: another reason for it."""
    services = np.zeros(len(new.estate.services), np.bool_)
    if old.chains is not new.chains:
        before, after = (found.chains.tool_ready["start"] >= NEVER for found in (old, new))
        pairs = new.damage.pairs.only(new.damage.pairs.of(new.fate) == LOST)
        services[pairs.service[(before != after)[pairs.loss]]] = True
    return services


def _judged_otherwise(old: Impacts, new: Impacts) -> bool:
    """Whether there is a way by hand where there was none or no longer, or another number of tiers."""
    by_hand = ("start" in old.times.manual) != ("start" in new.times.manual)
    return by_hand or len(old.estate.tier_weights) != len(new.estate.tier_weights)
